"""Boxes that repeat a better one are left out, by the option of `openpali eval` and of `openpali predict`."""

import json

import pytest
from PIL import Image
from tiny_models import tiny_pali3

from openpali.eval.answering.decoding import Answer, Token
from openpali.eval.answering.evaluate_task import drop_duplicate_boxes
from openpali.eval.predict import parse_arguments
from openpali.eval.predicting.objects import MaskReader, find_objects
from openpali.eval.run import main

DOG, NEAR, FAR = [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.45], [0.5, 0.5, 1.0, 1.0]
PLACES = {"dog": "<loc0000><loc0000><loc0512><loc0512>", "near": "<loc0000><loc0000><loc0460><loc0512>"}


def row(*boxes):
    found = [{"box": box, "label": label} for box, label in boxes]
    return {"prediction": found, "predicted_boxes": list(found)}


def test_rows_keep_the_first_of_repeated_boxes_and_other_classes():
    rows = [row((DOG, "dog"), (NEAR, "dog"), (NEAR, "cat"), (FAR, "dog")), row((DOG, "dog"))]
    rows.append({"prediction": "a text", "predicted_boxes": []})
    assert drop_duplicate_boxes(rows, 0.7) == 1
    kept = [(DOG, "dog"), (NEAR, "cat"), (FAR, "dog")]
    assert [(box["box"], box["label"]) for box in rows[0]["prediction"]] == kept
    assert rows[0]["prediction"] == rows[0]["predicted_boxes"]
    assert rows[1:] == [row((DOG, "dog")), {"prediction": "a text", "predicted_boxes": []}]


def reader():
    return MaskReader(None, "nano", needed=False)


def answer(*parts):
    """An answer of parts: text, and the log-probability of each of its four places."""
    tokens = []
    for text, log_p in parts:
        tokens += [Token(text[9 * i : 9 * i + 9], log_p) for i in range(4)] + [
            Token(text[36:], log_p),
            Token(" ; ", 0),
        ]
    return Answer("".join(token.text for token in tokens[:-1]), tokens[:-1])


def test_the_more_confident_of_two_boxes_is_shown():
    image = Image.new("RGB", (8, 8))
    repeated = answer((PLACES["dog"] + " dog", -2.0), (PLACES["near"] + " dog", -0.1))
    found, rejected = find_objects(repeated, image, reader())
    assert (len(found), rejected) == (2, [])
    (kept,), _ = find_objects(repeated, image, reader(), 0.7)
    assert kept["box"][3] == pytest.approx(460 / 1023)


def test_noise_is_told_and_confidences_are_read():
    image = Image.new("RGB", (8, 8))
    found, rejected = find_objects(Answer(f"{PLACES['dog']} dog<loc1023> ; {PLACES['near']} noise"), image, reader())
    assert [one["label"] for one in found] == ["dog"]
    assert rejected == [("noise", "boxes with the label of boxes on nothing: 1")]


def test_the_option_is_an_overlap(capsys):
    assert parse_arguments(["nano", "a.png", "detect dog", "--drop_duplicates", "0.7"]).drop_duplicates == 0.7
    with pytest.raises(SystemExit):
        parse_arguments(["nano", "a.png", "detect dog", "--drop_duplicates", "70"])
    assert "at least 0 and below 1, not 70" in capsys.readouterr().err


def test_an_evaluation_says_how_many_are_left_out(tmp_path, capsys):
    for part in tiny_pali3():
        part.save_pretrained(tmp_path / "model")
    Image.new("RGB", (24, 24), "red").save(tmp_path / "0.png")
    (tmp_path / "my.jsonl").write_text(json.dumps({"image": "0.png", "prefix": "detect dog", "suffix": "dog"}) + "\n")
    command = ["--model", str(tmp_path / "model"), "--task", "plain", "--source", str(tmp_path / "my.jsonl")]
    command += ["--output", str(tmp_path / "out"), "--device", "cpu"]
    main([*command, "--drop_duplicates", "0.7"])
    assert "Left out as repeated: 0 boxes of 1 answers" in capsys.readouterr().out
    settings = json.loads((tmp_path / "out" / "metrics.json").read_text())["settings"]
    assert settings["arguments"]["drop_duplicates"] == 0.7
    # the answers are the same, so that the option may change
    main(command)
    with pytest.raises(SystemExit, match="at least 0 and below 1"):
        main([*command, "--drop_duplicates", "1"])
