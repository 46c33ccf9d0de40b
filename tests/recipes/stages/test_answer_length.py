"""Answers have as many tokens in scoring as targets need, or it is said that they have not."""

import json

import pytest
import torch
from custom_files import coco, edit, save_image
from tiny_adapters import save_checkpoint

from openpali.data.mixture import TaskDataset
from openpali.data.sources.jsonl import JsonlSource
from openpali.data.tasks import load_task
from openpali.modeling.auto import load_processor
from openpali.recipes import transfer
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.long_texts import report_long_texts
from openpali.recipes.stages.answer_length import fit_answer_lengths, with_answer_length
from openpali.recipes.stages.transfer_tasks import PrefixedTask, add_prefix, load_task_data
from openpali.recipes.training.target_lengths import TargetCounter


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_tokenizer):
    return save_checkpoint("pali3", tiny_tokenizer, tmp_path_factory.mktemp("pali3"))


def without_outline(annotation):
    return {key: value for key, value in annotation.items() if key != "segmentation"}


def crowded(folder, boxes=12):
    """A COCO JSON whose images have a dozen boxes of one class."""

    def more(content):
        first = content["annotations"]
        content["annotations"] = [
            without_outline(one) | {"id": 1000 * n + one["id"], "bbox": [n, n, 9, 9]}
            for one in first
            for n in range(boxes)
        ]

    return edit(coco(folder, 12), more)


@pytest.mark.parametrize("prefix", [False, True])
def test_boxes_of_a_coco_file_have_room_by_default(prefix, checkpoint, tmp_path, capsys):
    source = {"name": "coco", "path": str(crowded(tmp_path / "data")), "image_root": str(tmp_path / "data" / "images")}
    run = RunArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    processor = load_processor(checkpoint)
    given = load_task_data(source, {"name": "detect", "max_new_tokens": 64}, run, 0.1, None)
    member = load_task_data(source, {"name": "detect"}, run, 0.1, None)
    if prefix:
        add_prefix(member, "boxes: ")
    capsys.readouterr()
    fit_answer_lengths({"detect": member, "given": given}, processor, run)
    said = capsys.readouterr().out
    longest = max(
        len(processor.tokenizer(member.validation[i].suffix, add_special_tokens=False)["input_ids"])
        for i in range(len(member.validation))
    )
    assert member.task.max_new_tokens > longest > 64
    assert member.test.task is member.validation.task is member.task
    assert f"detect: answers may have {member.task.max_new_tokens} tokens in scoring" in said
    assert given.task.max_new_tokens == 64
    assert "given:" not in said


def test_other_tasks_keep_their_own():
    task = load_task({"name": "detect"})
    assert with_answer_length(PrefixedTask(task, "a: "), 99).max_new_tokens == 99
    assert task.max_new_tokens == 64


def test_validation_targets_that_are_cut_are_told():
    def collate(lengths):
        return {"labels": torch.tensor([[1] * n + [-100] * (9 - n) for n in lengths])}

    counter = TargetCounter(collate, 5)
    counter([3, 6])
    assert counter.warning("mine") == ""
    counter([7, 9])
    assert "mine: 2 of 4 validation targets have more than max_new_tokens=5 tokens, the longest 8" in (
        counter.warning("mine")
    )


def test_a_run_tells_that_answers_are_cut(checkpoint, tmp_path, capsys):
    data = crowded(tmp_path / "data")
    line = ["--config", "transfers/jsonl", "--model", str(checkpoint), "--output_dir", str(tmp_path / "run")]
    line += ["--source", json.dumps({"name": "coco", "path": str(data), "image_root": str(data.parent / "images")})]
    line += ["--task", json.dumps({"name": "detect", "max_new_tokens": 8}), "--suffix_max_length", "512"]
    line += ["--max_steps", "2", "--eval_steps", "1", "--use_cpu", "true", "--tensorboard", "false"]
    line += ["--per_device_train_batch_size", "2", "--test_limit", "2", "--num_train_epochs", "1"]
    transfer.main(line)
    said = capsys.readouterr().out
    assert said.count("validation targets have more than max_new_tokens=8 tokens, the longest ") == 1
    assert "validation  f1 0" in said
    assert "loss" in said.split("validation  f1 0")[1].splitlines()[0]


def test_suffixes_longer_than_answers_may_be_are_told(tiny_tokenizer, tmp_path, capsys):
    rows = [{"image": f"{n}.png", "prefix": "what?", "suffix": "a dog " * (1 + 20 * (n == 2))} for n in range(4)]
    for n in range(4):
        save_image(tmp_path / f"{n}.png", n, "red")
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = RunArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    data = TaskDataset(JsonlSource(path), load_task({"name": "answer", "max_new_tokens": 16}))
    parts = dict.fromkeys(("train", "validation", "test"), data)
    counts = report_long_texts(parts, tiny_tokenizer, 64, 512, run)
    said = capsys.readouterr().out
    assert counts == {"train": {"prefix": 0, "suffix": 0}, "validation": {"prefix": 0, "suffix": 1}}
    assert f"{path}:3: its suffix has" in said
    assert "is cut to task.max_new_tokens=16" in said
