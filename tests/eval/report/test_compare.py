"""Models of four families side by side: one command, one page."""

import json
import re

import pytest
from PIL import Image
from tiny_models import COLOURS, tiny_paligemma
from tiny_peers import tiny_chameleon, tiny_florence, tiny_idefics

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.report.compare import (
    compare_models,
    comparison_card,
    comparison_images,
    comparison_kinds,
    select_examples,
    write_comparison,
)
from openpali.eval.run import main

FAMILIES = {
    "paligemma": tiny_paligemma,
    "florence": tiny_florence,
    "chameleon": tiny_chameleon,
    "idefics": tiny_idefics,
}
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, make in FAMILIES.items():
        model, processor = make()
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


def records(folder, answers):
    lines = []
    for i, answer in enumerate(answers):
        Image.new("RGB", (24 + 4 * i, 24), COLOURS[i % len(COLOURS)]).save(folder / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "prefix": "answer en what is this?", "suffix": answer}))
    (folder / "my.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder / "my.jsonl")


def command(checkpoints, source, output, *more):
    models = [word for name in FAMILIES for word in ("--model", str(checkpoints / name))]
    options = ["--task", "plain", "--task_options", "{max_new_tokens: 5}", "--batch_size", "3", "--device", "cpu"]
    return [*models, *options, "--source", source, "--output", str(output), *more]


def test_four_families_end_to_end(checkpoints, tmp_path, capsys):
    """The same command again answers nothing, and the answers make up the page."""
    output = tmp_path / "out"
    source = records(tmp_path, ["dog"] * 6)
    main(command(checkpoints, source, output))
    texts = {}
    for name in FAMILIES:
        rows = [json.loads(row) for row in (output / name / "predictions.jsonl").read_text().splitlines()]
        texts[name] = [row["text"] for row in rows]
        metrics = json.loads((output / name / "metrics.json").read_text())
        assert metrics["metrics"]["examples"] == 6
        assert metrics["settings"]["model"] == str(checkpoints / name)
        prompts = {"paligemma": None, "florence": "florence2", "chameleon": "chameleon", "idefics": "chat"}
        assert metrics["settings"].get("prompts") == prompts[name]
    assert len({tuple(one) for one in texts.values()}) == 4
    page = (output / "report.html").read_text()
    assert all(text in page for name in ("chameleon", "idefics") for text in texts[name])
    assert page.count("<article ") == 6
    assert page.count("<img ") == 6
    comparison = json.loads((output / "comparison.json").read_text())
    assert list(comparison["models"]) == list(FAMILIES)
    assert comparison["compared_with"] == "paligemma"
    assert set(comparison["differences"]) == set(FAMILIES) - {"paligemma"}
    assert "idefics, plain: exact_match 0.0 %" in capsys.readouterr().out


def test_beams_work_for_every_family(checkpoints, tmp_path):
    main(command(checkpoints, records(tmp_path, ["dog"] * 2), tmp_path / "out", "--num_beams", "2"))
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["models"]["florence"]["metrics"]


def result(scores, texts=None, boxes=(), name="naming"):
    rows = [
        {
            "id": f"id-{i}", "index": i, "pictures": 1, "task": name, "prefix": "what?", "text": "dog", "score": score,
            "prediction": "dog" if score else "cat", "reference": "dog", "references": ["dog"], "boxes": [],
            "predicted_boxes": list(boxes), **({"text": texts[i]} if texts else {}),
        }
        for i, score in enumerate(scores)
    ]  # fmt: skip
    metrics = {"exact_match": sum(scores) / len(scores), "examples": float(len(rows))}
    return TaskResult(name, metrics, rows, "exact_match", intervals={"exact_match": (0.1, 0.9)})


def test_differences_are_of_the_first_model_and_paired():
    results = {
        "one": result([1.0, 0.0] * 50),
        "two": result([1.0, 1.0, 1.0, 0.0] * 25),
        "same": result([1.0, 0.0] * 50),
    }
    found = compare_models(results, "exact_match")
    assert list(found) == ["two", "same"]
    assert found["two"]["exact_match"].value == pytest.approx(0.25)
    assert found["two"]["exact_match"].low > 0.1
    assert (found["same"]["exact_match"].low, found["same"]["exact_match"].high) == (0, 0)


def test_where_models_differ_comes_first_and_nothing_twice():
    results = {"a": result([1.0, 1.0, 0.0, 0.5, 0.0, 1.0]), "b": result([1.0, 0.0, 0.0, 0.75, 0.0, 1.0])}
    groups = select_examples(results, differ=5, worst=2, best=1)
    assert groups == {"Largest differences": [1, 3], "Lowest scores": [2, 4], "Highest scores": [5]}
    assert "Largest differences" not in select_examples({"a": results["a"], "b": results["a"]})


def test_a_image_of_each_model_where_it_found_boxes():
    box = {"box": [0.1, 0.1, 0.5, 0.5], "label": "dog"}
    images = {"id-0": Image.new("RGB", (32, 32))}
    with_boxes = comparison_card({"a": result([1.0], boxes=[box]), "b": result([0.0])}, 0, images)
    assert with_boxes["drawing"] is None
    drawn = [answer["drawing"] for answer in with_boxes["answers"]]
    assert drawn[0].image == drawn[1].image
    assert drawn[0].boxes.startswith("data:image/webp")
    assert drawn[1].boxes is None
    without = comparison_card({"a": result([1.0]), "b": result([0.0])}, 0, images)
    assert without["drawing"]
    assert [answer["drawing"] for answer in without["answers"]] == [None, None]


@pytest.mark.parametrize(
    ("scores", "kinds"),
    [
        ([0.0, 1.0], "differ better"),
        ([1.0, 0.5, 1.0], "differ worse"),
        ([0.5, 0.0, 1.0], "differ better worse"),
        ([0.0, 0.0], "wrong"),
        ([1.0, 1.0], "right"),
        ([0.5, 0.5], ""),
    ],
)
def test_what_the_filters_know_of_an_example(scores, kinds):
    assert comparison_kinds(scores, "f1") == kinds


def test_the_page_shows_intervals_and_differences_and_no_html_of_models(tmp_path):
    results = {"one": result([1.0, 0.0] * 20), EVIL: result([1.0] * 40, texts=[EVIL] * 40)}
    differences = compare_models(results, "exact_match")
    images = {f"id-{i}": Image.new("RGB", (32, 32)) for i in range(40)}
    settings = {"one": "outputs/one"}
    page = write_comparison(tmp_path / "report.html", "T", results, differences, images, settings=settings).read_text()
    assert page.count("<script") == 1  # the filters' own
    text = " ".join(re.sub(r"<[^>]*>", " ", page.split("</style>")[1]).split())
    assert re.search(
        r"exact match 50\.0 % 10\.0 – 90\.0 % 100\.0 % 10\.0 – 90\.0 % \+50\.0 points 3\d\.\d – 6\d\.\d", text
    )
    assert 'class="number clear"' in page
    assert "Largest differences" in text
    assert (
        comparison_images(results, [type("E", (), {"images": (Image.new("RGB", (8, 8)),)})] * 40).keys()
        <= images.keys()
    )
