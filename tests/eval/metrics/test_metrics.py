import json
import math
import random
import shutil
from pathlib import Path

import evaluate
import pytest

from openpali.data.files import renamed
from openpali.eval.answering.evaluate_task import load_metric

FIXTURES = Path(__file__).parents[2] / "fixtures"
METRICS = Path(__file__).parents[3] / "eval" / "metrics"
CAPTIONS = json.loads((FIXTURES / "caption_metrics.json").read_text())


def box(x0, y0, x1, y1, label="dog", **score):
    return {"box": [x0, y0, x1, y1], "label": label, **score}


@pytest.mark.parametrize("folder", sorted(path.parent for path in METRICS.glob("*/*.py")), ids=lambda p: p.name)
def test_every_metric_loads_by_folder_without_a_network(folder, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("a metric used the network"))
    assert evaluate.load(str(folder)).inputs_description.strip().startswith("Args:")


def test_unknown_metric_names_the_known_ones():
    with pytest.raises(ValueError, match="no metric 'ciderr'; there are anls, captions, cider"):
        load_metric("ciderr")


def test_the_old_name_of_detection_loads_it_with_a_line(capsys):
    renamed._announce.cache_clear()
    metric = load_metric("box_f1")
    assert type(metric).__name__ == "Detection"
    assert "box_f1 is called detection now" in capsys.readouterr().err


def test_exact_match_takes_any_reference_and_an_empty_answer():
    result = load_metric("exact_match").compute(
        predictions=["A  Dog ", "", "", "cat"],
        references=[["hound", "a dog"], ["dog"], ["dog", ""], ["ca t"]],
        return_scores=True,
    )
    assert result == {"exact_match": 0.5, "scores": [1.0, 0.0, 1.0, 0.0]}


def test_exact_match_can_mind_case_and_space():
    data = {"predictions": ["Dog", " dog"], "references": ["dog", "dog"]}
    metric = load_metric("exact_match")
    assert metric.compute(**data)["exact_match"] == 1.0
    assert metric.compute(**data, lower=False)["exact_match"] == 0.5
    assert metric.compute(**data, strip=False)["exact_match"] == 0.5


@pytest.mark.parametrize("name", ["exact_match", "count_accuracy", "cider"])
def test_a_missing_reference_is_named(name):
    with pytest.raises(ValueError, match="prediction 1 has no reference"):
        load_metric(name).compute(predictions=["a", "b"], references=[["a"], []])


def test_number_words_become_digits_as_in_the_reference():
    words = json.loads((FIXTURES / "metric_cases.json").read_text())["number_words"]
    data = {"predictions": list(words), "references": list(words.values())}
    assert load_metric("count_accuracy").compute(**data)["count_accuracy"] == 1.0


def test_counts_are_exact():
    result = load_metric("count_accuracy").compute(
        predictions=["two", "3", "twenty", "2.0", ""],
        references=[["2"], ["three"], ["20", "twelve"], ["2"], ["0"]],
        return_scores=True,
    )
    assert result["scores"] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert result["count_accuracy"] == pytest.approx(0.6)


@pytest.mark.parametrize("tokenizer", ["auto", "plain"])
def test_cider_equals_the_reference(tokenizer):
    result = load_metric("cider").compute(
        predictions=list(CAPTIONS["preds"].values()),
        references=list(CAPTIONS["gts"].values()),
        tokenizer=tokenizer,
        return_scores=True,
    )
    assert result["cider"] == pytest.approx(100 * CAPTIONS["scores"]["cider"], abs=1e-9)
    assert sum(result["scores"]) / 4 == pytest.approx(result["cider"])


def test_cider_without_java_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = load_metric("cider").compute(predictions=["a dog", "a cat"], references=["a dog", "two cats"])
    assert result["tokenizer"] == "plain (not comparable with published numbers)"


def test_cider_keeps_captions_apart_whatever_they_hold():
    """A line separator in one caption must not shift the captions after it."""
    clean = ["a red dog", "two blue cats", "one green bus", "été 猫"]
    odd = ["a red\u2028dog", "two\rblue\ncats", "one \x0cgreen bus", "été 猫"]
    cider = load_metric("cider")
    expected = cider.compute(predictions=clean, references=clean, return_scores=True)
    assert cider.compute(predictions=odd, references=clean, return_scores=True) == expected
    assert expected["cider"] > 400


def test_cider_takes_empty_answers():
    result = load_metric("cider").compute(
        predictions=["", "two cats", ""], references=["a dog", "two cats", "x"], return_scores=True
    )
    assert result["scores"][0] == result["scores"][2] == 0.0
    assert result["scores"][1] > 100


def test_boxes_by_hand():
    result = load_metric("detection").compute(
        predictions=[[box(0, 0, 0.5, 0.5), box(0, 0, 0.5, 0.4), box(0.6, 0, 1, 1, "Cat ")], [], []],
        references=[[box(0, 0, 0.5, 0.45)], [box(0, 0, 1, 1, "cat")], []],
        return_scores=True,
    )
    # one of the two dogs matches, the cat is on the wrong image
    assert result["precision"] == pytest.approx(1 / 3)
    assert result["recall"] == pytest.approx(1 / 2)
    assert result["f1"] == pytest.approx(0.4)
    assert result["scores"] == [0.5, 0.0, 1.0]


@pytest.mark.parametrize(("right", "f1"), [(0.5, 1.0), (0.49, 0.0)])
def test_the_threshold_is_one_half(right, f1):
    result = load_metric("detection").compute(predictions=[[box(0, 0, right, 1)]], references=[[box(0, 0, 1, 1)]])
    assert result["f1"] == f1


def test_map_rises_with_overlap_and_order():
    metric = load_metric("detection")
    # IoU 0.8 passes the thresholds 0.50 … 0.80: seven of ten
    result = metric.compute(predictions=[[box(0, 0, 0.8, 1)]], references=[[box(0, 0, 1, 1)]])
    assert result["map"] == pytest.approx(0.7)
    assert result["map50"] == pytest.approx(1.0)
    truth = [[box(0, 0, 100, 100)]]
    for score, expected in ((0.1, 1.0), (0.9, 0.5)):
        wrong = box(200, 200, 300, 300, score=score)
        result = metric.compute(predictions=[[wrong, box(0, 0, 100, 100, score=0.5)]], references=truth)
        assert result["map50"] == pytest.approx(expected)


def test_map_does_not_depend_on_the_unit():
    """COCO counts boxes beyond 1e5 pixels a side as too large."""
    values = []
    for unit in (1e-3, 1.0, 1e6):
        true = [[box(0, 0, unit, unit)], [box(0, 0, unit, unit, "cat")]]
        found = [[box(0, 0, unit, 0.7 * unit)], [box(0, 0, unit, unit, "cat")]]
        values.append(load_metric("detection").compute(predictions=found, references=true))
    assert values[0] == pytest.approx(values[1])
    assert values[2] == pytest.approx(values[1])
    assert values[0]["map"] == pytest.approx(0.75)


def test_map_equals_pycocotools_on_random_boxes():
    import contextlib
    import io

    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    true, found = [], []
    for _ in range(30):
        corners = rng.uniform(0, 200, (3, 2))
        sizes = rng.uniform(20, 150, (3, 2))
        labels = rng.choice(["a", "b"], 3)
        true.append([box(*c, *(c + s), str(name)) for c, s, name in zip(corners, sizes, labels)])
        moved = corners + rng.normal(0, 8, (3, 2))
        found.append([box(*c, *(c + s), str(n), score=rng.random()) for c, s, n in zip(moved, sizes, labels)])
    rows = {"true": [], "found": []}
    for kind, images in (("true", true), ("found", found)):
        for i, boxes in enumerate(images):
            for b in boxes:
                x0, y0, x1, y1 = b["box"]
                area = (x1 - x0) * (y1 - y0)
                row = {"image_id": i + 1, "category_id": "ab".index(b["label"]) + 1, "area": area, "iscrowd": 0}
                row |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "id": len(rows[kind]) + 1, "score": b.get("score")}
                rows[kind].append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(30)],
            "categories": [{"id": 1}, {"id": 2}],
            "annotations": rows["true"],
            "info": {},
        }
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(rows["found"]), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    result = load_metric("detection").compute(predictions=found, references=true)
    assert 0.2 < result["map"] < 0.9
    assert result["map"] == pytest.approx(evaluator.stats[0], abs=1e-6)
    assert result["map50"] == pytest.approx(evaluator.stats[1], abs=1e-6)


@pytest.mark.parametrize("found", [[[], []], [[box(0, 0, 1, 1)], []]])
def test_without_a_true_box_there_is_no_score(found):
    """Silence is neither perfect nor worthless there."""
    result = load_metric("detection").compute(predictions=found, references=[[], []], return_scores=True)
    assert result.pop("scores") == [float(not boxes) for boxes in found]
    assert set(result) == {"f1", "precision", "recall", "map", "map50"}
    assert all(map(math.isnan, result.values()))


def test_silence_where_there_are_boxes_is_zero():
    result = load_metric("detection").compute(predictions=[[], []], references=[[box(0, 0, 1, 1)], []])
    assert result == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "map": 0.0, "map50": 0.0}


def test_map_does_not_depend_on_the_order_of_images():
    """Boxes without scores tie: half of these images are right."""
    rng = random.Random(0)
    true = [[box(0, 0, 10 + n, 10), box(20, 20, 30, 30 + n)] for n in range(12)]
    found = [boxes if n % 2 else [box(50, 50, 60 + n, 60), boxes[1]] for n, boxes in enumerate(true)]
    values = set()
    for _ in range(5):
        order = rng.sample(range(12), 12)
        images = {"predictions": [found[n] for n in order], "references": [true[n] for n in order]}
        values.add(load_metric("detection").compute(**images)["map"])
    assert len(values) == 1
    assert 0.3 < values.pop() < 0.9


def test_a_malformed_box_is_named():
    with pytest.raises(ValueError, match="prediction 0: a box is four finite numbers"):
        load_metric("detection").compute(predictions=[[{"box": [0, 1], "label": "dog"}]], references=[[]])
