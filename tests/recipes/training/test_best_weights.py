"""Which weights are kept where the validation score says little or nothing."""

import json
import math

import pytest
import torch
from tiny_run import tiny_run, validation_loss

from openpali.recipes.training.best_weights import describe_best, read_best, replaces_best
from openpali.recipes.training.progress import read_log


def scores(*rows):
    """An evaluation that gives one row after the other; each is (score, loss) or a score."""
    left = iter(rows)

    def evaluate(model):
        score, *loss = row if isinstance(row := next(left), tuple) else (row,)
        return {"negative_loss": score} | ({"loss": loss[0]} if loss else {})

    return evaluate


def kept_step(folder, *rows, **options):
    tiny_run(output_dir=str(folder), max_steps=len(rows), eval_steps=1, evaluate=scores(*rows), **options)
    return json.loads((folder / "best" / "best.json").read_text())["step"]


NAN = math.nan


@pytest.mark.parametrize(
    ("rows", "step"),
    [
        ((0.0, 0.0, 0.0), 3),
        ((0.5, 0.5, 0.2), 2),
        (((0.0, 3.0), (0.0, 1.0), (0.0, 2.0)), 2),
        (((0.0, 1.0), (0.0, 1.0), (0.0, 1.0)), 3),
        (((0.2, 5.0), (0.1, 1.0), (0.2, 4.0)), 3),
        ((NAN, 0.0, NAN), 2),
        (((NAN, 3.0), (NAN, 1.0), (NAN, 2.0)), 2),
        (((NAN, 1.0), (-1.0, 9.0), (NAN, 0.5)), 2),
        (((0.1, NAN), (0.1, 2.0), (0.1, NAN)), 2),
    ],
)
def test_ties_go_to_the_lower_loss_and_then_to_the_later_weights(rows, step, tmp_path):
    assert kept_step(tmp_path, *rows) == step


def test_the_weights_that_are_saved_are_those_that_were_kept(tmp_path):
    seen = {}

    def evaluate(model):
        seen[len(seen) + 1] = model.lm_head.weight.detach().clone()
        return {"negative_loss": 0.0}

    trainer = tiny_run(output_dir=str(tmp_path), max_steps=3, eval_steps=1, evaluate=evaluate)
    assert torch.equal(trainer.model.lm_head.weight, seen[3])
    assert not torch.equal(seen[1], seen[3])


def test_a_score_that_never_moved_is_told(tmp_path, capsys):
    kept_step(tmp_path / "loss", (0.0, 3.0), (0.0, 1.0), (0.0, 2.0))
    said = capsys.readouterr().out
    assert "Warning: negative_loss was 0 at all 3 evaluations and does not rank the weights" in said
    assert "those of step 2 are kept, whose validation loss of 1 is the lowest" in said
    kept_step(tmp_path / "nan", NAN, NAN)
    said = capsys.readouterr().out
    assert "validation  negative_loss undefined" in said
    assert "Warning: negative_loss was undefined at all 2 evaluations" in said
    kept_step(tmp_path / "moved", 0.0, 0.5, 0.5)
    said = capsys.readouterr().out
    assert "Best negative_loss 0.5, at step 3: these weights are kept." in said
    assert "Warning" not in said


def test_undefined_scores_are_null_in_files(tmp_path):
    kept_step(tmp_path, (NAN, 1.0), (NAN, 2.0))
    rows = [row for row in read_log(tmp_path / "logs.jsonl") if "eval_loss" in row]
    assert [(row["eval_negative_loss"], row["eval_loss"]) for row in rows] == [(None, 1.0), (None, 2.0)]
    assert "NaN" not in (tmp_path / "logs.jsonl").read_text() + (tmp_path / "best" / "best.json").read_text()
    assert read_best(tmp_path) == {"step": 1, "metric": "negative_loss", "value": None, "loss": 1.0}
    assert "undefined" in describe_best(tmp_path)


def test_best_weights_of_an_older_run_have_no_loss():
    assert replaces_best({"value": 0.5, "loss": 9.0}, {"step": 1, "metric": "f1", "value": 0.5})
    assert not replaces_best({"value": 0.4, "loss": 0.1}, {"step": 1, "metric": "f1", "value": 0.5})


def test_a_run_that_goes_on_keeps_the_ties_of_the_whole_run(tmp_path):
    options = {"max_steps": 3, "eval_steps": 1, "save_steps": 1}
    tiny_run(output_dir=str(tmp_path), evaluate=validation_loss, **options)
    before = read_best(tmp_path)
    tiny_run(output_dir=str(tmp_path), evaluate=validation_loss, **options)
    assert read_best(tmp_path) == before
