import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image
from tiny_models import MODELS, examples, tiny_pali3
from tolerances import assert_same_but_rounding

from openpali.data.example import Box
from openpali.data.tasks.detect import Detect
from openpali.eval.answering.beam_search import beam_search
from openpali.eval.answering.confidence import box_confidences
from openpali.eval.answering.decoding import Answer, Token, encode, generate, generate_answers
from openpali.eval.answering.evaluate_task import evaluate_task
from openpali.eval.run import main
from openpali.modeling.location_tokens import LocatedBox, format_box, parse_detections


def tokens_of(model, processor, num_beams=1):
    """Answers of eight examples, three at a time, with tokens and without, in the order of the examples."""
    options = (model, processor, examples(), 3, 6, num_beams)
    found = dict(generate_answers(*options, return_log_p=True))
    assert [found[i].text for i in range(8)] == generate(*options, progress=False)
    return [found[i] for i in range(8)]


@pytest.mark.parametrize("kind", MODELS)
def test_log_probabilities_are_those_of_the_logits(kind):
    """Batches of several lengths, against Transformers' own logits of each example alone."""
    model, processor = MODELS[kind]()
    model.eval()
    texts, several = [], 0
    for example, answer in zip(examples(), tokens_of(model, processor), strict=True):
        inputs = encode(model, processor, [example], blank_images=False)
        alone = model.generate(
            **inputs, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        expected = []
        for token, logits in zip(alone.sequences[0, -len(alone.logits) :].tolist(), alone.logits):
            if token not in processor.tokenizer.all_special_ids:
                expected.append((processor.decode([token]), float(logits[0].log_softmax(-1)[token])))
        assert [token.text for token in answer.tokens] == [text for text, _ in expected]
        assert [token.log_p for token in answer.tokens] == pytest.approx([p for _, p in expected], abs=1e-4)
        texts.append(answer.text)
        several += len(expected) > 1
    assert len(set(texts)) > 3
    assert several > 3


def test_beams_have_the_log_probabilities_of_a_teacher_forced_pass():
    model, processor = tiny_pali3()
    # a random model with one end token says nothing but that
    model.eval().generation_config.update(eos_token_id=list(range(1, 1400, 5)), min_new_tokens=2)
    seen = 0
    for example, answer in zip(examples(), tokens_of(model, processor, num_beams=3), strict=True):
        inputs = encode(model, processor, [example], blank_images=False)
        ids = model.generate(**inputs, max_new_tokens=6, num_beams=3, custom_generate=beam_search, do_sample=False)
        with torch.no_grad():
            log_p = model(**inputs, decoder_input_ids=ids[:, :-1]).logits.log_softmax(-1)
        special = processor.tokenizer.all_special_ids
        expected = [float(p[i]) for p, i in zip(log_p[0], ids[0, 1:].tolist()) if i not in special]
        assert [token.log_p for token in answer.tokens] == pytest.approx(expected, abs=1e-4)
        seen += len(expected)
    assert seen > 16


def written(box, label_log_p, *place_log_p, code_log_p=None):
    """Tokens of a box, its label in pieces."""
    text = format_box(LocatedBox.from_normalised_xyxy(box))
    tokens = [Token(text[9 * i : 9 * i + 9], p) for i, p in enumerate(place_log_p)]
    if code_log_p is not None:
        tokens += [Token(f"<seg{i:03d}>", code_log_p) for i in range(16)]
    return tokens + [Token(piece, p) for piece, p in zip(("red ", "dog"), label_log_p)]


END = [Token(" ; ", -5.0)]
FIRST, SECOND = [0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 1.0]


def boxes_in(tokens):
    found = parse_detections("".join(token.text for token in tokens)).boxes
    return [{"box": list(box.normalised_xyxy()), "label": box.label} for box in found]


def test_score_is_the_mean_of_the_place_times_the_label():
    tokens = written(FIRST, (-0.5, -0.25), -1, -2, -3, -2) + END + written(SECOND, (0.0, -0.1), 0, 0, 0, -0.4)
    assert box_confidences(tokens, boxes_in(tokens)) == pytest.approx([math.exp(-2 - 0.75), math.exp(-0.1 - 0.1)])


def test_scores_stay_with_their_boxes():
    """A part that is no box, a box written twice, and boxes that the task left out."""
    broken = [Token("<loc0001>", -9.0), Token("dog", -9.0)]
    tokens = broken + END + written(FIRST, (0, 0), *[-1] * 4) + END + written(SECOND, (0, 0), *[-2] * 4)
    tokens += END + written(FIRST, (0, 0), *[-3] * 4)
    found = boxes_in(tokens)
    assert box_confidences(tokens, found) == pytest.approx([math.exp(-1), math.exp(-2), math.exp(-3)])
    assert box_confidences(tokens, found[1:2]) == pytest.approx([math.exp(-2)])


def test_segmentation_tokens_do_not_count():
    tokens = written(FIRST, (-0.5, 0), *[-1] * 4, code_log_p=-7)
    box = {"box": [round(1023 * x) / 1023 for x in FIRST], "label": "red dog", "mask": None}
    assert box_confidences(tokens, [box]) == pytest.approx([math.exp(-1.5)])


def test_boxes_in_another_notation_have_the_score_of_the_whole_answer():
    tokens = [Token('{"box": [0,', -1.0), Token(" 1, 2, 3]}", -2.0)]
    assert box_confidences(tokens, [{"box": FIRST}, {"box": SECOND}]) == pytest.approx([math.exp(-1.5)] * 2)
    assert box_confidences([], []) == []


def images_of(boxes):
    image = Image.new("RGB", (32, 32))
    return [
        replace(examples(1)[0], id=f"id-{i}", images=(image,), boxes=tuple(Box(*b, "red dog") for b in some))
        for i, some in enumerate(boxes)
    ]


def answer_with(monkeypatch, given):
    """The model's answers are these, whatever it is."""

    def fake(model, processor, examples, batch_size, *options):
        scores = options[3]
        for i, example in enumerate(examples):
            tokens = given[int(example.id.removeprefix("id-"))]
            yield i, Answer("".join(token.text for token in tokens), tokens if scores else None)

    monkeypatch.setattr("openpali.eval.answering.predictions.generate_answers", fake)


def test_scores_rank_the_boxes_of_an_answer(monkeypatch):
    """The wrong box is written first and is less likely."""
    answer_with(monkeypatch, [written(SECOND, (0, 0), *[-2] * 4) + END + written(FIRST, (0, 0), *[-0.1] * 4)])
    model, processor = tiny_pali3()
    options = {"dataset": images_of([[FIRST]]), "task": Detect(), "progress": False}
    plain = evaluate_task(model, processor, **options)
    ranked = evaluate_task(model, processor, **options, box_scores=True)
    assert (plain.metrics["map50"], ranked.metrics["map50"]) == pytest.approx((0.5, 1.0))
    assert plain.metrics["f1"] == ranked.metrics["f1"]
    row = ranked.predictions[0]
    assert [box["score"] for box in row["predicted_boxes"]] == pytest.approx([math.exp(-2), math.exp(-0.1)])
    assert "tokens" not in plain.predictions[0]
    assert "score" not in plain.predictions[0]["predicted_boxes"][0]


def test_map_with_scores_equals_faster_coco_eval(monkeypatch):
    rng = np.random.default_rng(0)
    corners, sizes = rng.uniform(0, 0.5, (20, 3, 2)), rng.uniform(0.2, 0.5, (20, 3, 2))
    true = np.concatenate([corners, corners + sizes], axis=2)
    # no two scores are equal: ties have a rule of their own
    log_p, answered = -np.abs(rng.normal(-1, 1, (20, 3))), []
    for boxes, scores in zip(true, log_p):
        moved = (boxes + rng.normal(0, 0.03, (3, 4))).clip(0, 1)
        parts = [[*written(box, (0, 0), *[p] * 4), *END] for box, p in zip(moved, scores)]
        answered.append([token for part in parts for token in part])
    answer_with(monkeypatch, answered)
    found = evaluate_task(*tiny_pali3(), images_of(true), Detect(), box_scores=True, progress=False)
    rows = {"true": [], "found": []}
    for i in range(20):
        predicted = [(box["box"], math.exp(p)) for box, p in zip(boxes_in(answered[i]), log_p[i], strict=True)]
        for kind, boxes in (("true", [(box, 0) for box in true[i]]), ("found", predicted)):
            for (x0, y0, x1, y1), score in boxes:
                row = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "score": score}
                row |= {"image_id": i + 1, "category_id": 1, "iscrowd": 0, "id": len(rows[kind]) + 1}
                rows[kind].append(row)
    images = {"images": [{"id": i + 1} for i in range(20)], "categories": [{"id": 1, "name": "x"}]}
    coco = COCO(images | {"annotations": rows["true"]})
    evaluator = COCOeval_faster(coco, coco.loadRes(rows["found"]), "bbox", print_function=lambda *_: None)
    evaluator.run()
    assert 0.2 < found.metrics["map"] < 0.9
    assert found.metrics["map"] == pytest.approx(evaluator.stats[0], abs=1e-6)
    answer_with(monkeypatch, [[token._replace(log_p=0.0) for token in tokens] for tokens in answered])
    level = evaluate_task(*tiny_pali3(), images_of(true), Detect(), box_scores=True, progress=False)
    assert level.metrics["map"] != pytest.approx(found.metrics["map"], abs=1e-3)


def test_an_interrupted_run_goes_on_with_the_same_tokens(tmp_path):
    model, processor = tiny_pali3()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    lines = []
    for i in range(4):
        Image.new("RGB", (24, 24), ("red", "blue", "white", "black")[i]).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "prefix": "detect dog", "suffix": "dog"}))
    (tmp_path / "my.jsonl").write_text("\n".join(lines) + "\n")
    command = ["--model", str(tmp_path / "model"), "--task", "plain", "--source", str(tmp_path / "my.jsonl")]
    command += ["--output", str(tmp_path / "out"), "--device", "cpu"]
    main([*command, "--box_scores"])
    path = tmp_path / "out" / "predictions.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:2]) + "\n")
    main([*command, "--box_scores"])
    again = path.read_text().splitlines()
    assert again[:2] == whole[:2]
    for one, other in zip(map(json.loads, again), map(json.loads, whole), strict=True):
        found, expected = one.pop("tokens"), other.pop("tokens")
        assert one == other
        assert [text for text, _ in found] == [text for text, _ in expected] != []
        # the rest of the examples is another batch than the whole
        assert_same_but_rounding([p for _, p in found], [p for _, p in expected], written=1e-5)
    with pytest.raises(SystemExit, match="box_scores: True before, None now"):
        main(command)
