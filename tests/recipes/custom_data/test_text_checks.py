"""Control tokens in texts of custom data: the check reports their place, and the model reads them as letters."""

import json
import random
import shutil
from typing import Any

import pytest
from custom_files import coco, edit, table
from tiny_adapters import FAMILIES, save_checkpoint
from tiny_mask_vqvae import tiny as tiny_codec

from openpali.data.tasks import load_task
from openpali.recipes import transfer
from openpali.recipes.transfer import configure, with_default_config

QUICK = ["--max_steps", "6", "--use_cpu", "true", "--tensorboard", "false", "--task.max_new_tokens", "4"]
QUICK += ["--eval_limit", "20", "--test_limit", "20", "--per_device_train_batch_size", "4", "--eval_steps", "6"]


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path_factory.mktemp(request.param) / "whole")


@pytest.fixture(scope="module")
def pali3(tmp_path_factory, tiny_tokenizer):
    return save_checkpoint("pali3", tiny_tokenizer, tmp_path_factory.mktemp("pali3") / "whole")


def run(checkpoint, folder, data, *argv):
    transfer.main(["--model", str(checkpoint), "--data", str(data), "--output_dir", str(folder), *QUICK, *argv])


TEXTS = ["a <image> dog", "<image> two <image>", "the <eos> end </s>", "<bos> <pad>", "<loc0001><seg001> cat", "plain"]


def test_control_tokens_are_a_warning_that_names_the_first(checkpoint, tmp_path, capsys):
    rows = [{"question": TEXTS[number % 6], "answer": TEXTS[(number + 1) % 6]} for number in range(18)]
    path = table(tmp_path / "data", rows)
    run(checkpoint, tmp_path / "run", path.parent, "--kind", "vqa")
    warning = f"18 records hold what looks like a control token of the models, the first {path}:1: <image>."
    assert warning in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "data_check.json").read_text())
    (finding,) = [one for one in report["findings"] if one["check"] == "control_tokens"]
    assert (finding["level"], finding["records"]) == ("warning", 18)
    assert finding["examples"][3] == f"{path}:4: <bos>, <pad>, <loc0001>, <seg001>"
    assert not (tmp_path / "run" / "skipped_records.jsonl").exists()


def test_a_file_of_prompts_and_targets_keeps_its_locations(checkpoint, tmp_path, capsys):
    table(tmp_path / "data", [{"text": ""} for _ in range(12)])
    pairs = [(f"what {TEXTS[n % 5]}", TEXTS[(n + 2) % 5]) for n in range(12)]
    lines = [{"image": f"{n}.png", "prefix": prefix, "suffix": suffix} for n, (prefix, suffix) in enumerate(pairs)]
    path = tmp_path / "data" / "my.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(checkpoint, tmp_path / "run", path, "--suffix_max_length", "60")
    assert f"the first {path}:1: <image>, <eos>, </s>." in capsys.readouterr().out
    plain = load_task({"name": "plain"}).example(
        {"id": "a", "image": None, "prefix": "", "suffix": ""}, random.Random(0)
    )
    assert plain is not None
    assert plain.controls == "places"
    own = load_task({"name": "custom", "kind": "caption"})
    example = own.example({"id": "a", "image": None, "captions": {"en": ["x"]}}, random.Random(0))
    assert example is not None
    assert example.controls == "none"


def without_objects(content):
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] % 2]


def test_segment_trains_on_images_without_objects(pali3, codec, tmp_path, capsys):
    path = edit(coco(tmp_path / "data", 20), without_objects)
    run(pali3, tmp_path / "run", path.parent, "--kind", "segment", "--codec", str(codec))
    assert "Saved model and processor" in capsys.readouterr().out
    # the option alone changes what the kind says
    line = ["--model", str(pali3), "--data", str(path), "--kind", "segment", "--output_dir", str(tmp_path / "x")]
    args, *_ = configure(with_default_config([*line, "--task", f"{{codec: {codec}}}"]))
    assert args.task["codec"] == str(codec)
    assert args.task["name"] == "segment"
    assert args.source["name"] == "custom"
    assert args.task["classes"] == ["red", "lime", "blue"]


def test_no_codec_is_one_line_with_the_option(pali3, codec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = coco(tmp_path / "data", 12)
    with pytest.raises(SystemExit, match=r"^error: there is no mask codec at outputs/mask-vqvae: .*--codec, or"):
        run(pali3, tmp_path / "run", path, "--kind", "segment")
    with pytest.raises(SystemExit, match="--codec is for masks: give it with --kind segment"):
        run(pali3, tmp_path / "run", path, "--kind", "detect", "--codec", str(codec))
    wrong = shutil.copytree(codec, tmp_path / "wrong")
    (wrong / "model.safetensors").write_bytes(b"")
    with pytest.raises(SystemExit, match=f"{wrong} cannot be loaded as a mask codec"):
        run(pali3, tmp_path / "run", path, "--kind", "segment", "--codec", str(wrong))
    tiny_codec(channels=[4, 8], num_residual_blocks=1, codebook_size=128, codebook_dim=512).save_pretrained(
        tmp_path / "small"
    )
    with pytest.raises(SystemExit, match="writes 4 of 128 codes for a mask, and models write 16 of 128"):
        run(pali3, tmp_path / "run", path, "--kind", "segment", "--codec", str(tmp_path / "small"))
    # the next command mends it: nothing was trained yet
    run(pali3, tmp_path / "run", path, "--kind", "segment", "--codec", str(codec))


def test_odd_values_of_objects_name_their_line(pali3, tmp_path, capsys):
    rows: list[Any] = [{"objects": [{"bbox": [2, 2, 8, 8], "label": "dog"}]} for _ in range(12)]
    rows[3] = {"objects": 5}
    rows[5] = {"objects": [{"bbox": [2, 2, 8, 8], "label": "dog"}, {"bbox": [1, 2], "label": "cat"}]}
    path = table(tmp_path / "data", rows)
    run(pali3, tmp_path / "run", path.parent, "--kind", "detect", "--check_only", "true")
    shown = capsys.readouterr().out
    assert f"The first: {path}:4: its objects is 5 and not a list of objects. Give a list, or []." in shown
    report = json.loads((tmp_path / "run" / "data_check.json").read_text())
    examples = [one for finding in report["findings"] for one in finding["examples"]]
    assert f"{path}:6, object 1: its box [1, 2] is not four numbers. Give four numbers." in examples


def test_several_classes_of_an_image_are_reported(pali3, tmp_path):
    import datasets

    table(tmp_path / "files", [{"text": ""} for _ in range(6)])
    several = datasets.Sequence(datasets.ClassLabel(names=["a", "b"]))
    columns = {"image": [str(tmp_path / "files" / f"{n}.png") for n in range(6)], "labels": [[0, 1]] * 6}
    features = datasets.Features({"image": datasets.Image(), "labels": several})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(SystemExit, match="its column 'labels' holds several classes per image"):
        run(pali3, tmp_path / "run", tmp_path / "data", "--kind", "classify")
