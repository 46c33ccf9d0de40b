import json

import pytest
from PIL import Image
from tiny_models import COLOURS, tiny_pali3

from openpali.eval.measuring import measurement
from openpali.eval.measuring.measurement import Measurement, read_measurement
from openpali.eval.run import folder_names, main

CONFIG = """
# a comment, and keys of training that a measurement has no use for
learning_rate: 1e-5
source: {name: emoji, split: train, size: 32, length: 8, augment: {flip: 0.5}}
task: {name: answer, kinds: [what], max_new_tokens: 8}
num_beams: 2
max_length: 24
suffix_max_length: 8
per_device_eval_batch_size: 4
seed: 3
resolutions:
  16: {num_beams: 3, source: {size: 48}}
  448: {num_beams: 4}
"""
EMOJI = {"name": "emoji", "split": "test", "size": 32, "length": 8}


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    """Without the Hub: models have the size in pixels that their name ends in."""
    own = measurement.image_size
    known = {"small-16": 16, "large-448": 448, "other": None}
    monkeypatch.setattr(measurement, "image_size", lambda name: known[name] if name in known else own(name))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = tiny_pali3()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_a_configuration_says_what_is_measured(config):
    """The test part, without the augmentations of training, with the task's beams and prompt length."""
    task = {"name": "answer", "kinds": ["what"], "max_new_tokens": 8}
    assert read_measurement(["other"], config) == Measurement(EMOJI, task, 2, 24, 4, 3)


def test_the_block_of_the_models_resolution_counts(config, checkpoint):
    for models in (["small-16"], ["small-16", checkpoint]):
        measured = read_measurement(models, config)
        assert measured.num_beams == 3
        assert measured.source == EMOJI | {"size": 48}
    assert read_measurement(["large-448"], config).num_beams == 4
    # models of several resolutions are measured on the same images
    assert read_measurement(["small-16", "large-448"], config).source == EMOJI


def test_the_command_line_counts_more_than_the_configuration(config):
    given = {"task_options": "{kinds: [count]}", "split": "validation", "num_beams": 1, "batch_size": 7, "seed": 0}
    measured = read_measurement(["other"], config, **given)
    assert measured.source == EMOJI | {"split": "validation"}
    assert measured.task == {"name": "answer", "kinds": ["count"], "max_new_tokens": 8}
    assert (measured.num_beams, measured.batch_size, measured.seed) == (1, 7, 0)
    other = read_measurement(["other"], config, task="ocr", source="my.jsonl")
    assert (other.task, other.source) == ({"name": "ocr"}, {"name": "jsonl", "path": "my.jsonl"})


def test_without_a_configuration_things_are_as_they_are_given():
    assert read_measurement(["other"], task="plain", source="my.jsonl") == Measurement(
        {"name": "jsonl", "path": "my.jsonl"}, {"name": "plain"}, 1, None, 32, 0
    )
    assert read_measurement(["other"], task="ocr", source="emoji", split="test").source == {
        "name": "emoji",
        "split": "test",
    }


def test_options_longer_than_a_path_may_be_are_no_path():
    path = "/".join(["folder"] * 1000)
    measurement = read_measurement(["model"], task="plain", source=f'{{"name": "jsonl", "path": "{path}"}}')
    assert measurement.source == {"name": "jsonl", "path": path}


def test_shipped_configurations_are_found_by_name():
    measured = read_measurement(["other"], "transfers/vqav2")
    assert measured.source["name"] == "vqav2"
    assert measured.source["split"] == "test"
    assert (measured.task["name"], measured.task["metric"]) == ("vqa", "vqav2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give --config with a transfer's YAML, such as the config.yaml"),
        ({"task": "plain"}, "give --config"),
        ({"source": "emoji"}, "give --config"),
        ({"config": "transfers/vqav3"}, "did you mean 'transfers/vqav2'"),
        ({"config": "transfers/jsonl"}, "has no split, so its test records are not known: give --source"),
    ],
)
def test_what_is_missing_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        read_measurement(["other"], **options)


def test_prompts_are_cut_as_in_training(checkpoint, tmp_path):
    """A limit of a configuration changes what is asked, and predictions made with it are kept apart."""
    lines = []
    for i in range(3):
        Image.new("RGB", (24, 24), COLOURS[i]).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "prefix": "what is this dog " * 9, "suffix": "dog"}))
    (tmp_path / "my.jsonl").write_text("\n".join(lines) + "\n")
    source = f"source: {{name: jsonl, path: {tmp_path / 'my.jsonl'}}}\n"
    (tmp_path / "long.yaml").write_text(source + "task: plain\n")
    (tmp_path / "short.yaml").write_text(source + "task: {name: plain}\nmax_length: 4\n")
    texts = {}
    for name in ("long", "short"):
        command = ["--model", checkpoint, "--source", str(tmp_path / "my.jsonl"), "--device", "cpu"]
        command += ["--config", str(tmp_path / f"{name}.yaml"), "--output", str(tmp_path / name), "--task", "plain"]
        main(command)
        rows = (tmp_path / name / "predictions.jsonl").read_text().splitlines()
        texts[name] = [json.loads(row)["text"] for row in rows]
        settings = json.loads((tmp_path / name / "metrics.json").read_text())["settings"]
        assert settings.get("max_length") == (4 if name == "short" else None)
    assert texts["long"] != texts["short"]


def test_models_have_the_shortest_names_that_differ():
    assert folder_names(["outputs/a/best"]) == ["best"]
    assert folder_names(["outputs/a/best", "google/paligemma-3b"]) == ["best", "paligemma-3b"]
    assert folder_names(["outputs/a/best", "./outputs/b/best/"]) == ["a-best", "b-best"]
    assert folder_names(["best", "a/best"]) == ["best", "a-best"]
    with pytest.raises(ValueError, match="given twice"):
        folder_names(["a", "a/"])
