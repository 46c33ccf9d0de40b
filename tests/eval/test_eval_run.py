import json
import os

import pytest
from PIL import Image
from tiny_models import COLOURS, tiny_pali3

from openpali.eval import run as runner
from openpali.eval.answering.evaluate_task import load_metric
from openpali.eval.answering.prediction_file import PredictionFile
from openpali.eval.measuring.measurement import read_source
from openpali.eval.run import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = tiny_pali3()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def records(tmp_path):
    """Ten images, one of them broken."""
    lines = []
    for i in range(10):
        Image.new("RGB", (24, 24), COLOURS[i % len(COLOURS)]).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "prefix": "what is this"[: 4 + i], "suffix": "dog"}))
    (tmp_path / "3.png").write_bytes(b"no image")
    path = tmp_path / "my.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def arguments(checkpoint, records, output, *more):
    required = ["--model", checkpoint, "--task", "plain", "--source", records, "--output", output]
    return [str(word) for word in (*required, "--batch_size", "2", "--device", "cpu", *more)]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_run_writes_predictions_metrics_and_report(checkpoint, records, tmp_path, capsys):
    output = tmp_path / "out"
    main(arguments(checkpoint, records, output, "--blank_images"))
    rows = lines_of(output / "predictions.jsonl")
    # the broken image is left out, and nothing counts twice
    assert len(rows) == len({row["id"] for row in rows}) == 9
    metrics = json.loads((output / "metrics.json").read_text())
    again = load_metric("exact_match").compute(
        predictions=[row["prediction"] for row in rows], references=[row["reference"] for row in rows]
    )
    assert metrics["metrics"] == again | {"examples": 9.0}
    blank = lines_of(output / "predictions_blank.jsonl")
    assert [row["id"] for row in blank] == [row["id"] for row in rows]
    assert [row["text"] for row in blank] != [row["text"] for row in rows]
    assert metrics["blank_metrics"]["examples"] == 9.0
    assert len(lines_of(output / "skipped_records.jsonl")) == 1
    html = (output / "report.html").read_text()
    assert html.count("<article ") == 9
    assert "Blind baseline" in html
    assert "exact_match 0.0 %" in capsys.readouterr().out


def test_a_stopped_run_goes_on_with_what_it_has(checkpoint, records, tmp_path, monkeypatch):
    """Killed in the middle of a line; the rest is answered, what was there is not answered again."""
    main(arguments(checkpoint, records, tmp_path / "whole"))
    whole = lines_of(tmp_path / "whole" / "predictions.jsonl")
    output = tmp_path / "out"
    main(arguments(checkpoint, records, output))
    path = output / "predictions.jsonl"
    kept = [row | {"text": "kept"} for row in lines_of(path)[:4]]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept) + '{"id": "my.jso')
    written = []
    write = PredictionFile.write
    monkeypatch.setattr(PredictionFile, "write", lambda self, row: (written.append(row["id"]), write(self, row)))
    main(arguments(checkpoint, records, output))
    rows = lines_of(path)
    assert sorted(written) == sorted(row["id"] for row in whole[4:])
    assert [row["text"] for row in rows] == ["kept"] * 4 + [row["text"] for row in whole[4:]]
    assert all("score" in row for row in rows)


@pytest.mark.parametrize("change", ["beams", "checkpoint", "records"])
def test_predictions_of_other_settings_are_not_mixed(checkpoint, records, tmp_path, change):
    output = tmp_path / "out"
    main(arguments(checkpoint, records, output))
    more = ("--num_beams", "2") if change == "beams" else ()
    if change != "beams":
        file = records if change == "records" else checkpoint / "model.safetensors"
        os.utime(file, ns=(1, 1))
    with pytest.raises(SystemExit, match="made with other settings .* --overwrite to start anew"):
        main(arguments(checkpoint, records, output, *more))
    main(arguments(checkpoint, records, output, *more, "--overwrite"))


def test_the_type_of_weights_is_reported_and_not_mixed(checkpoint, records, tmp_path):
    output = tmp_path / "out"
    main(arguments(checkpoint, records, output, "--dtype", "bfloat16"))
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["settings"]["dtype"] == metrics["settings"]["arguments"]["dtype"] == "bfloat16"
    assert "bfloat16" in (output / "report.html").read_text()
    with pytest.raises(SystemExit, match="made with other settings .* --overwrite to start anew"):
        main(arguments(checkpoint, records, output))
    main(arguments(checkpoint, records, output, "--overwrite"))
    # as in the files of earlier runs
    assert "dtype" not in json.loads((output / "metrics.json").read_text())["settings"]


def test_a_larger_limit_goes_on_from_a_smaller_one(checkpoint, records, tmp_path):
    output = tmp_path / "out"
    main(arguments(checkpoint, records, output, "--limit", "3"))
    assert len(lines_of(output / "predictions.jsonl")) == 3
    main(arguments(checkpoint, records, output, "--limit", "5"))
    assert len(lines_of(output / "predictions.jsonl")) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--task", "plane"], "Did you mean 'plain'"),
        (["--task_options", "[1]"], "expected options such as"),
        (["--task_options", "{a: b: c}"], "neither JSON nor YAML"),
        (["--source", "nowhere.yaml"], "nowhere.yaml"),
        (["--source", "."], ". is a folder: say what it holds, as in --source '{name: custom, path: ., kind: detect"),
        (["--source", '{"name": "jsonl", "root": "x"}'], "no option 'root'"),
        (["--model", "./no-such-folder"], "no-such-folder"),
        (["--batch_size", "0"], "--batch_size is at least 1, not 0"),
        (["--num_beams", "0"], "--num_beams is at least 1, not 0"),
        (["--limit", "-1"], "--limit is at least 1, not -1"),
        (["--device", "cuda:99"], "device cuda:99 cannot be used"),
        (["--logs", "nowhere.jsonl"], "there is no nowhere.jsonl"),
        (["--source", "nowhere.jsonl"], "nowhere.jsonl:all: there is no such file. Check the path."),
    ],
)
def test_mistakes_are_said_in_a_sentence(checkpoint, records, tmp_path, change, message):
    with pytest.raises(SystemExit, match="openpali eval: ") as caught:
        main([*arguments(checkpoint, records, tmp_path / "out"), *change])
    assert message in str(caught.value)


def test_data_in_place_of_a_source_are_an_error_and_not_printed(checkpoint, records, tmp_path):
    for name, content, remedy in (
        ("coco.json", {"images": [], "annotations": [{"id": 12345}] * 99}, "{name: coco, path: "),
        ("rows.json", [{"image": "12345.png"}] * 99, "{name: custom, path: "),
    ):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        with pytest.raises(SystemExit) as stop:
            main([*arguments(checkpoint, records, tmp_path / "out"), "--source", str(path)])
        message = str(stop.value.code)
        assert f"openpali eval: {path} does not describe a source" in message
        assert f"--source '{remedy}{path}" in message
        assert "12345" not in message
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(SystemExit, match="empty.jsonl:all: it has no records. Write one JSON object a line."):
        main([*arguments(checkpoint, records, tmp_path / "out"), "--source", str(tmp_path / "empty.jsonl")])
    (tmp_path / "latin.yaml").write_bytes("prompt: Käse".encode("latin-1"))
    for option in ("--source", "--config"):
        with pytest.raises(SystemExit, match=r"latin.yaml is (not UTF-8|neither JSON nor YAML in UTF-8)"):
            main([*arguments(checkpoint, records, tmp_path / "out"), option, str(tmp_path / "latin.yaml")])
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=f"{tmp_path / 'file'} is a file, or lies below one"):
        main(arguments(checkpoint, records, tmp_path / "file"))


def test_sources_can_be_given_in_four_ways(tmp_path):
    expected = {"name": "emoji", "split": "test"}
    (tmp_path / "s.yaml").write_text("name: emoji\nsplit: test\n")
    (tmp_path / "s.json").write_text(json.dumps(expected))
    assert read_source(str(tmp_path / "s.yaml")) == read_source(str(tmp_path / "s.json")) == expected
    assert read_source(json.dumps(expected)) == read_source("{name: emoji, split: test}") == expected
    assert read_source("my.jsonl") == {"name": "jsonl", "path": "my.jsonl"}
    assert read_source("emoji") == {"name": "emoji"}


def test_the_command_in_the_docstring_parses(monkeypatch):
    import shlex

    command = runner.__doc__.split("\n\n")[1].replace("\\\n", " ")
    seen = []
    monkeypatch.setattr(runner, "run", lambda args: seen.append(args) or (_ for _ in ()).throw(ValueError("stop")))
    with pytest.raises(SystemExit):
        main(shlex.split(command)[2:])
    assert seen[0].limit == 500
    assert seen[0].blank_images is True
