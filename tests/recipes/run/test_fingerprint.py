"""The same command resumes only with the same data and the same starting checkpoint."""

import json

import pytest
from custom_files import class_folders, coco, edit, save_image, table
from tiny_adapters import save_checkpoint

from openpali.data.custom.dataset import read_custom
from openpali.data.files.config import ConfigError
from openpali.recipes import contrastive, denoise, transfer
from openpali.recipes.run.fingerprint import fingerprints
from openpali.recipes.run.resume import open_run
from openpali.recipes.transfer import configure, mixture_values, run_inputs, with_default_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_tokenizer):
    return save_checkpoint("pali3", tiny_tokenizer, tmp_path_factory.mktemp("pali3"))


def claim(line):
    """What a transfer does before it trains, and the mark of a first step: a run that trained nothing may change."""
    read_custom.cache_clear()
    args, _, mix, *_, run = configure(with_default_config([*line, "--use_cpu", "true"]))
    open_run(run, run_inputs(args, mixture_values(args, mix)))
    (run.folder / "logs.jsonl").touch()


def one_label(data):
    path = sorted((data / "red").iterdir())[0]
    path.rename(data / "blue" / path.name)


def one_box(data):
    edit(data / "annotations.json", lambda c: c["annotations"][0].update(bbox=[5, 5, 9, 9]))


def one_outline(data):
    edit(data / "annotations.json", lambda c: c["annotations"][0].update(segmentation=[[1, 1, 9, 1, 9, 9]]))


def one_class_name(data):
    edit(data / "annotations.json", lambda c: c["categories"][0].update(name="crimson"))


def one_image(data):
    save_image(data / "images" / "3.png", 200)


def one_line(data):
    path = data / "metadata.jsonl"
    path.write_text(path.read_text().replace("number 3", "number three"))


CHANGES = {
    "label": (class_folders, "classify", one_label),
    "box": (lambda folder: coco(folder).parent, "detect", one_box),
    "outline": (lambda folder: coco(folder).parent, "segment", one_outline),
    "class name": (lambda folder: coco(folder).parent, "detect", one_class_name),
    "picture": (lambda folder: coco(folder).parent, "detect", one_image),
    "caption": (
        lambda folder: table(folder, [{"text": f"number {n}"} for n in range(20)]).parent,
        "caption",
        one_line,
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_mended_data_of_a_kind_are_another_run(what, checkpoint, tmp_path):
    make, kind, change = CHANGES[what]
    data = make(tmp_path / "data")
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", kind, "--output_dir", str(tmp_path / "run")]
    # what follows from the data is given: the steps would differ otherwise
    line += (
        ["--task.max_new_tokens", "9", "--prompt", "what?"] if kind == "classify" else ["--task.max_new_tokens", "9"]
    )
    claim(line)
    claim(line)
    change(data)
    with pytest.raises(
        ConfigError, match="holds a run with another configuration .*the content of source has changed"
    ):
        claim(line)
    claim([*line, "--resume", "auto"])
    claim(line)


def test_files_that_are_the_same_are_the_same_run(checkpoint, tmp_path):
    """Times do not count, nor does what else lies in the folder of a run."""
    data = coco(tmp_path / "data")
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", "detect", "--output_dir", str(tmp_path / "run")]
    claim(line)
    data.write_text(json.dumps(json.loads(data.read_text()), indent=2))
    (tmp_path / "run" / "logs.jsonl").write_text("{}\n")
    claim(line)


def test_other_weights_to_start_from_are_another_run(tiny_tokenizer, tmp_path):
    start = save_checkpoint("pali3", tiny_tokenizer, tmp_path / "start")
    data = class_folders(tmp_path / "data")
    line = ["--model", str(start), "--data", str(data), "--kind", "classify", "--output_dir", str(tmp_path / "run")]
    claim(line)
    (start / "logs.jsonl").write_text("{}\n")
    claim(line)
    content = bytearray((start / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (start / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="the content of model has changed"):
        claim(line)


def test_a_configuration_of_a_mixture_that_is_edited_is_another_run(checkpoint, tmp_path):
    for name in ("a", "b"):
        class_folders(tmp_path / f"data-{name}")
        text = f"data: {tmp_path}/data-{name}\nkind: classify\nprompt: which is {name}?\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    files = [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    line = ["--model", str(checkpoint), "--mix", *files, "--output_dir", str(tmp_path / "run")]
    claim(line)
    claim(line)
    path = tmp_path / "a.yaml"
    path.write_text(path.read_text().replace("which", "what"))
    with pytest.raises(ConfigError, match="the content of .*a.yaml has changed"):
        claim(line)
    path.write_text(path.read_text().replace("what", "which"))
    one_label(tmp_path / "data-b")
    with pytest.raises(ConfigError, match="the content of .*b.yaml has changed"):
        claim(line)


def test_every_source_is_known_by_its_files(tmp_path):
    """A JSONL file, a COCO JSON, shards, a folder, texts; nothing of what is made at run time."""
    run = tmp_path / "data" / "run"
    coco(tmp_path / "data")
    for name in ("my.jsonl", "s-0.tar", "s-1.tar", "book.txt"):
        (tmp_path / name).write_text("x" * 2000)
    inputs = {
        "jsonl": {"name": "jsonl", "path": str(tmp_path / "my.jsonl"), "image_root": None},
        "coco": {"name": "coco", "path": f"{tmp_path}/data/annotations.json", "image_root": f"{tmp_path}/data/images"},
        "shards": {"name": "webdataset", "path": f"{tmp_path}/s-{{0..1}}.tar"},
        "folder": {"name": "docvqa", "path": str(tmp_path / "data")},
        "mixture": {
            "line": {"task": {"name": "caption"}, "source": {"name": "jsonl", "path": f"{tmp_path}/my.jsonl"}}
        },
        "texts": {"name": "files", "path": [f"{tmp_path}/*.txt"]},
        "made": {"name": "emoji", "split": "train"},
        "model": "google/paligemma2-3b-pt-224",
    }
    before = fingerprints(inputs, run)
    assert set(before) == {"jsonl", "coco", "shards", "folder", "mixture", "texts"}
    run.mkdir()
    (run / "metrics.json").write_text("{}")
    assert fingerprints(inputs, run) == before
    other = tmp_path / "data" / "outputs" / "other"
    other.mkdir(parents=True)
    for name in ("logs.jsonl", "metrics.json", "examples.png"):
        (other / name).write_text("{}")
    assert fingerprints(inputs, run) == before
    for name, changed in (
        ("my.jsonl", {"jsonl", "mixture"}),
        ("s-1.tar", {"shards"}),
        ("data/annotations.json", {"coco", "folder"}),
        ("data/images/3.png", {"folder"}),
        ("book.txt", {"texts"}),
    ):
        path = tmp_path / name
        path.write_bytes(path.read_bytes() + b"y")
        after = fingerprints(inputs, run)
        assert {key for key in before if after[key] != before[key]} == changed
        before = after


@pytest.mark.parametrize(
    ("recipe", "key", "line"), [(denoise, "texts", '{"text": "a dog"}'), (contrastive, "source", '{"image": "0.png"}')]
)
def test_other_stages_refuse_changed_data_too(recipe, key, line, tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text(line + "\n")
    argv = ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--max_steps", "1"]
    argv += [f"--{key}", json.dumps({"name": "jsonl", "path": str(path)})]
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            recipe.main(argv)
        # one line is not enough for a run, but the folder is claimed
        assert "another configuration" not in str(stop.value)
    (tmp_path / "run" / "logs.jsonl").touch()
    path.write_text(line.replace("dog", "cat").replace("0.png", "1.png") + "\n")
    with pytest.raises(SystemExit, match=f"the content of {key} has changed"):
        recipe.main(argv)


def test_a_finished_run_does_not_stand_for_mended_data(checkpoint, tmp_path, capsys):
    """Labels are corrected, and the same command is given again; also in a sweep."""
    data, run = class_folders(tmp_path / "data"), tmp_path / "run"
    line = ["--model", str(checkpoint), "--data", str(data), "--kind", "classify", "--use_cpu", "true"]
    line += ["--max_steps", "1", "--eval_limit", "2", "--test_limit", "2", "--task.max_new_tokens", "4"]
    line += ["--tensorboard", "false", "--per_device_train_batch_size", "2"]
    grid = ["--sweep", "--sweep_learning_rates", "1e-3", "--output_dir", str(tmp_path / "grid")]
    transfer.main([*line, "--output_dir", str(run)])
    transfer.main([*line, *grid])
    one_label(data)
    for argv in (["--output_dir", str(run)], grid):
        with pytest.raises(SystemExit, match="the content of source has changed.*--overwrite to start anew"):
            transfer.main([*line, *argv])
    capsys.readouterr()
    transfer.main([*line, "--output_dir", str(run), "--overwrite"])
    assert "step 1/1" in capsys.readouterr().out
