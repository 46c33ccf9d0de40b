"""Every transfer of PaliGemma's table: its YAML has the table's hyper-parameters, and runs on synthetic data."""

import csv
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import synthetic_captions
import synthetic_clips
import synthetic_questions
import yaml
from tiny_adapters import save_checkpoint
from tiny_mask_vqvae import tiny as tiny_codec
from transformers import HfArgumentParser

from openpali.data.files.config import CONFIGS, as_dict
from openpali.data.sources import SOURCES
from openpali.data.tasks import load_task
from openpali.eval import run as evaluation
from openpali.eval.measuring.measurement import read_measurement
from openpali.recipes import transfer
from openpali.recipes.run.command_line import parse
from openpali.recipes.run.datasets import make_task
from openpali.recipes.start.resized_checkpoint import resolution_keys

ROWS = {row["task"]: row for row in csv.DictReader((Path(__file__).parent / "rows.csv").open(encoding="utf-8"))}
MINIATURES = synthetic_captions.MINIATURES | synthetic_clips.MINIATURES | synthetic_questions.MINIATURES
# on built-in images, and on custom data
OTHERS = {"caption", "count", "detect", "custom", "jsonl", "refer", "what", "what-de"}
# of PaLI-3's checkpoints, whose image encoder stays frozen
PALI3_SIZES = (812, 1064)
EVALUATED_ONLY = {"pope"}
TRAINED = [name for name in ROWS if name not in EVALUATED_ONLY]
# the table's words for metrics, and the module and the number of each
METRICS: dict[str, set[tuple[str, str]]] = {
    "cider": {("cider", "cider"), ("captions", "cider")},
    "cider|bleu4": {("captions", "cider")},
    "vqav2": {("vqav2", "accuracy")},
    "vqa": {("vqa", "accuracy")},
    "exact": {("exact_match", "exact_match")},
    "exact lower": {("exact_match", "exact_match")},
    "sciqa": {("science_qa", "accuracy")},
    "rsvqa": {("rsvqa", "accuracy"), ("rsvqa", "overall_accuracy")},
    "relaxed": {("relaxed_accuracy", "relaxed_accuracy"), ("relaxed_accuracy", "accuracy")},
    "tallyqa": {("tallyqa", "accuracy")},
    "anls": {("anls", "anls")},
    "pope": {("pope", "accuracy")},
    "miou": {("segmentation", "mean_iou")},
}


def sizes(name: str) -> list[int]:
    """Resolutions of a row of the table."""
    return [int(size) for size in ROWS[name]["resolutions"].split("|")]


def at(cell: str, size: int) -> str:
    """What a cell such as `1e-5 (448 896: 3e-6)` says for a resolution."""
    usual, _, rest = cell.partition("(")
    for exception in rest.rstrip(")").split(";"):
        where, _, value = exception.partition(":")
        if str(size) in where.split():
            return value.strip()
    return usual.strip()


def number(cell: str, size: int) -> float:
    return float(at(cell, size) or 0)


def parsed(name: str, size: int) -> tuple[Any, Any]:
    """The arguments of a row's configuration at a resolution, of the recipe and of the run."""
    argv = ["--config", f"transfers/{name}", "--resolution", str(size), "--use_cpu", "true", "--bf16", "false"]
    args, *_, run = parse(transfer.CLASSES, argv, overrides=resolution_keys(transfer.CLASSES, argv))
    return args, run


def frozen(name: str, size: int) -> bool:
    cell = ROWS[name]["freeze_vit"]
    return size in PALI3_SIZES or cell == "yes" or cell == f"{size} only"


def test_every_row_and_no_other_task_has_a_configuration_and_synthetic_data():
    shipped = {path.stem for path in (CONFIGS / "transfers").glob("*.yaml")}
    assert len(ROWS) == 32
    assert set(ROWS) == set(MINIATURES) == shipped - OTHERS
    assert shipped >= OTHERS


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in ROWS for size in (*sizes(name), *PALI3_SIZES)])
def test_hyper_parameters_are_the_tables(name, size):
    row, (args, run) = ROWS[name], parsed(name, size)
    assert run.freeze == (["vision_tower"] if frozen(name, size) else [])
    task = make_task(as_dict(args.task, "task"))
    assert task.max_new_tokens <= int(row["text_len"])
    assert (task.metric, task.metric_key) in METRICS[row["metric"]]
    assert args.num_beams == int(row["decode"].removeprefix("beam").replace("greedy", "1"))
    if name in EVALUATED_ONLY:
        return
    assert run.learning_rate == number(row["lr"], size)
    # torch multiplies the decay by the learning rate, the table does not
    assert run.weight_decay == pytest.approx(number(row["wd"], size) / run.learning_rate)
    assert run.num_train_epochs == number(row["epochs"], size)
    assert run.per_device_train_batch_size * run.gradient_accumulation_steps == number(row["batch_size"], size)
    assert (args.label_smoothing or 0) == number(row["label_smoothing"], size)
    assert (args.text_dropout or 0) == number(row["dropout"], size)
    assert args.max_length + args.suffix_max_length == int(row["text_len"])
    assert (run.schedule, run.warmup_steps, run.max_grad_norm) == ("cosine", 0.05, 1.0)
    assert (run.adam_beta1, run.adam_beta2) == (0.9, 0.999)


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name]["frames"]])
def test_clips_have_the_tables_frames(name):
    frames, _, stride = ROWS[name]["frames"].split()
    source = parsed(name, 224)[0].source
    assert (source["num_frames"], source["stride"]) == (int(frames), int(stride))


def commands(name: str) -> list[list[str]]:
    """Command lines in the comments of a configuration; `#   ` continues the line before."""
    path = CONFIGS / "transfers" / f"{name}.yaml"
    lines = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# ")]
    joined: list[str] = []
    for line in lines:
        if line.startswith("  "):
            joined[-1] += line
        else:
            joined.append(line)
    return [shlex.split(line) for line in joined if line.startswith(("openpali transfer", "openpali eval"))]


@pytest.mark.parametrize("name", ROWS)
def test_a_configuration_opens_with_its_command(name, tiny_checkpoints):
    first, *others = commands(name)
    assert first[:4] == ["openpali", "eval" if name in EVALUATED_ONLY else "transfer", "--config", f"transfers/{name}"]
    if name in EVALUATED_ONLY:
        others.append(first)
    for command in others:
        assert command[:2] == ["openpali", "eval"]
        parser: Any = HfArgumentParser(evaluation.EvalArguments)  # pyright: ignore[reportArgumentType]
        args = parser.parse_args(command[2:])
        given = {key: getattr(args, key) for key in ("config", "task", "task_options", "source", "split")}
        measurement = read_measurement([str(tiny_checkpoints["pali3"])], **given)
        assert measurement.source["name"] in SOURCES
        assert load_task(measurement.task)


@pytest.fixture(scope="module")
def tiny_checkpoints(tmp_path_factory, tiny_tokenizer):
    return {
        family: save_checkpoint(family, tiny_tokenizer, tmp_path_factory.mktemp(family))
        for family in ("pali3", "paligemma")
    }


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """Sixteen codes a mask, as the released one, of 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("codec")
    tiny_codec(image_size=16).save_pretrained(folder)
    return folder


def options(name: str, data: Path, codec: Path) -> list[str]:
    """What a command line says differently: where the data are, and how little of them."""
    found = [("source", key, value) for key, value in MINIATURES[name](data).items()]
    if name == "refcoco_seg":
        found.append(("task", "codec", str(codec)))
    return [part for block, key, value in found for part in (f"--{block}.{key}", yaml.safe_dump(value).strip(" .\n"))]


SHORT = {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "eval_steps": 2}
SHORT |= {"save_steps": 2, "logging_steps": 1, "eval_limit": 2, "test_limit": 2, "per_device_eval_batch_size": 2}
SHORT |= {"dataloader_num_workers": 0, "use_cpu": "true", "tensorboard": "false", "bf16": "false"}
SHORT |= {"activation_checkpointing": "false", "task.max_new_tokens": 4}


@pytest.mark.parametrize("name", TRAINED)
def test_a_row_trains_two_steps_and_is_evaluated(name, tiny_checkpoints, codec, tmp_path, monkeypatch):
    # starting Java for every score would take most of the time
    monkeypatch.setattr("openpali.eval.scoring.caption_tokenizer.shutil.which", lambda name: None)
    family = ("pali3", "paligemma")[TRAINED.index(name) % 2]
    data, folder = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    argv = ["--config", f"transfers/{name}", "--model", str(tiny_checkpoints[family]), "--output_dir", str(folder)]
    argv += [part for key, value in SHORT.items() for part in (f"--{key}", str(value))]
    transfer.main([*argv, *options(name, data, codec)])
    rows = [json.loads(line) for line in (folder / "logs.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    metrics = json.loads((folder / "metrics.json").read_text())
    (scores,) = metrics.values()
    task = parsed(name, 224)[0].task
    key = task.get("metric_key") or make_task(task).metric_key
    assert scores["metrics"][key] >= 0
    assert scores["metrics"]["examples"] > 0
    assert not (folder / "skipped_records.jsonl").exists()
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", sorted(EVALUATED_ONLY))
@pytest.mark.parametrize("family", ["pali3", "paligemma"])
def test_a_row_that_is_for_evaluation_is_evaluated(name, family, tiny_checkpoints, tmp_path):
    source = parsed(name, 224)[0].source | MINIATURES[name](tmp_path)
    argv = ["--config", f"transfers/{name}", "--model", str(tiny_checkpoints[family]), "--source", json.dumps(source)]
    argv += ["--output", str(tmp_path / "scores"), "--limit", "4", "--batch_size", "2", "--device", "cpu"]
    evaluation.main([*argv, "--task_options", "{max_new_tokens: 4}"])
    content = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert (content["metric"], content["metrics"]["examples"]) == (ROWS[name]["metric"], 4)
