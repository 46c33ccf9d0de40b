"""A few examples of a task, several tasks at once, and a grid of runs."""

import json

import numpy as np
import pytest
import yaml
from custom_files import NAMES, class_folders, coco, table
from PIL import Image
from tiny_adapters import save_checkpoint

from openpali.data.custom.dataset import read_custom
from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.modeling.auto import load_processor
from openpali.recipes import transfer
from openpali.recipes.custom_data.example_images import caption, model_image, some_examples
from openpali.recipes.run.sweep import Outcome, best_outcome
from openpali.recipes.run.sweep import table as sweep_table
from openpali.recipes.stages.transfer_tasks import draw_records, load_task_data
from openpali.recipes.transfer import configure, with_default_config

QUICK = ["--use_cpu", "true", "--tensorboard", "false", "--eval_limit", "2", "--test_limit", "2"]
QUICK += ["--task.max_new_tokens", "3"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_tokenizer):
    return save_checkpoint("pali3", tiny_tokenizer, tmp_path_factory.mktemp("pali3"))


@pytest.fixture
def line(checkpoint, tmp_path):
    """A command line for folders of classes."""
    read_custom.cache_clear()
    data = class_folders(tmp_path / "data", 10)
    start = ["--model", str(checkpoint), "--data", str(data), "--kind", "classify"]
    return [*start, "--output_dir", str(tmp_path / "run"), *QUICK]


class Numbers:
    name = "numbers"

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return {"id": str(index)}


def test_few_examples_are_the_seeds():
    chosen = [[draw_records(Numbers(), 64, seed)[i]["id"] for i in range(64)] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    assert len(set(chosen[0])) == 64
    with pytest.raises(ConfigError, match="examples=128: there are 100 to train on"):
        draw_records(Numbers(), 128, 0)


def test_few_examples_are_of_training_alone(line):
    args, _, mix, _, _, run = configure(with_default_config([*line, "--examples", "5"]))
    member = load_task_data(args.source, args.task, run, 0.1, mix.examples)
    assert [len(data) for data in (member.train, member.validation, member.test)] == [5, 3, 3]
    assert run.num_train_epochs == 100
    assert run.per_device_train_batch_size == 5


def configurations(tmp_path):
    """Two tasks of custom data."""
    class_folders(tmp_path / "colours", 10)
    table(tmp_path / "numbers", [{"text": f"number {n}"} for n in range(20)], first=300)
    found = []
    for name, kind in (("colours", "classify"), ("numbers", "ocr")):
        path = tmp_path / f"{name}.yaml"
        task = {"max_new_tokens": 3}
        path.write_text(yaml.safe_dump({"data": str(tmp_path / name), "kind": kind, "task": task}))
        found.append(str(path))
    return found


@pytest.mark.parametrize("named", ["true", "false"])
def test_a_mixture_learns_and_scores_every_task(checkpoint, tmp_path, capsys, named):
    read_custom.cache_clear()
    run = tmp_path / "run"
    argv = ["--model", str(checkpoint), "--mix", *configurations(tmp_path), "--output_dir", str(run)]
    transfer.main([*argv, *QUICK[:-2], "--max_steps", "2", "--task_prefix", named])
    shown = capsys.readouterr().out
    assert "Mixture of colours (24, size), numbers (16, size)" in shown
    assert set(json.loads((run / "metrics.json").read_text())) == {"colours", "numbers"}
    logs = [json.loads(row) for row in (run / "logs.jsonl").read_text().splitlines()]
    scores = next(row for row in logs if "eval_mean" in row)
    assert scores["eval_mean"] == pytest.approx((scores["eval_colours_exact_match"] + scores["eval_numbers_anls"]) / 2)
    assert json.loads((run / "best" / "best.json").read_text())["metric"] == "mean"
    assert {"data_check-colours.json", "data_check-numbers.json", "examples.png"} <= {p.name for p in run.iterdir()}


def test_prompts_of_a_mixture_may_begin_with_the_tasks_name(checkpoint, tmp_path):
    read_custom.cache_clear()
    argv = ["--model", str(checkpoint), "--mix", *configurations(tmp_path), "--output_dir", str(tmp_path / "run")]
    prompts = {}
    for named in ("true", "false"):
        args, own, mix, _, _, run = configure(with_default_config([*argv, *QUICK[:-2], "--task_prefix", named]))
        members = transfer.load_tasks(args, mix, own, run, transfer.mixture_values(args, mix))
        prompts[named] = [members[name].train[0].prefix for name in ("colours", "numbers")]
    assert prompts["false"] == ["answer en what is this?", "ocr"]
    assert prompts["true"] == ["colours: answer en what is this?", "numbers: ocr"]


def test_weights_for_another_number_of_configurations_are_told(checkpoint, tmp_path):
    argv = ["--model", str(checkpoint), "--mix", *configurations(tmp_path), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="mix_weights: 1 weights for 2 configurations"):
        transfer.main([*argv, *QUICK[:-2], "--mix_weights", "1"])


def test_a_sweep_makes_every_run_once_and_names_the_best(line, tmp_path, capsys):
    argv = [*line, "--sweep", "--sweep_learning_rates", "1e-3", "1e-2", "--sweep_epochs", "1"]
    argv += ["--per_device_train_batch_size", "12"]
    transfer.main(argv)
    folders = ["lr-0.001-epochs-1-seed-42", "lr-0.01-epochs-1-seed-42"]
    assert all((tmp_path / "run" / name / "report.html").exists() for name in folders)
    rows = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert [row["learning_rate"] for row in rows] == [1e-3, 1e-2]
    text = (tmp_path / "run" / "sweep.md").read_text()
    assert "| 0.001 | 1 |" in text
    # untrained, both score nothing: the lower validation loss decides
    best = max(rows, key=lambda row: (row["validation"], -row["loss"]))
    assert f"Best on validation: learning rate {best['learning_rate']:g}, {best['folder']}" in text
    (tmp_path / "run" / "sweep.md").unlink()
    capsys.readouterr()
    transfer.main(argv)
    assert "step " not in capsys.readouterr().out
    assert (tmp_path / "run" / "sweep.md").read_text() == text


def test_the_grid_is_the_authors_for_large_models_and_moves_with_the_rate(line):
    *_, grid, _, run = configure(with_default_config([*line, "--learning_rate", "1e-5", "--num_train_epochs", "10"]))
    assert transfer.sweep.__module__ == "openpali.recipes.run.sweep"
    from openpali.recipes.run.sweep import grid as points

    assert points(grid, run) == [(rate, epochs, 42) for rate in (3e-6, 1e-5, 3e-5) for epochs in (3.0, 10.0)]


def test_of_several_seeds_the_mean_decides():
    outcomes = [Outcome(rate, 1.0, seed, "f1", value, value, f"{rate}-{seed}") for rate, seed, value in SEEDS]
    assert best_outcome(outcomes).folder == "0.1-1"
    lines = sweep_table(outcomes, best_outcome(outcomes)).splitlines()
    assert lines[2].startswith("| 0.1 | 1 | 0.6000 ± 0.1414 |")
    assert "over 2 seeds" in lines[-2] + lines[-1]


SEEDS = [(0.1, 0, 0.5), (0.1, 1, 0.7), (0.2, 0, 0.9), (0.2, 1, 0.1)]


def test_examples_are_shown_as_the_model_sees_them(checkpoint, tmp_path):
    processor = load_processor(checkpoint)
    image = Image.open(coco(tmp_path).parent / "images" / "3.png").convert("RGB")
    shown = np.asarray(model_image(image, processor, 16), np.float32) / 255
    pixels = processor(images=image, text="x", return_tensors="np")["pixel_values"][0]
    assert np.abs(shown.transpose(2, 0, 1) - (pixels * 0.5 + 0.5)).max() < 1 / 255
    example = Example("1", "detect", (image, image), "detect red", "")
    text = caption(example, processor.tokenizer, 2, None)
    assert "prompt (2 images)" in text
    assert ", cut to 2:" in text
    assert text.endswith("target, 1 tokens:\n  (empty)")


def test_examples_come_from_all_over_the_data():
    assert some_examples([list(range(100)), NAMES], 4) == [0, 50, "red", "lime"]
