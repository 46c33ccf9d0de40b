"""Transformers' own Trainer resumes our class and loads its best weights; with the stock class it does neither."""

import shutil

import pytest
import torch
from tiny_paligemma import tiny_batch, tiny_paligemma, tiny_paligemma_processor
from transformers import Trainer, TrainingArguments

STEPS, HALF = 4, 2


@pytest.fixture
def items(tiny_tokenizer):
    batch = tiny_batch(tiny_paligemma_processor(tiny_tokenizer))
    return [{name: values[i] for name, values in batch.items()} for i in range(4)]


@pytest.fixture
def processor(tiny_tokenizer):
    return tiny_paligemma_processor(tiny_tokenizer)


def collate(items):
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def trainer(model, items, folder, **options):
    defaults = {"save_strategy": "steps", "save_steps": HALF, "max_steps": STEPS, "learning_rate": 1e-2}
    defaults |= {"per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    defaults |= {"remove_unused_columns": False, "logging_steps": 1, "label_names": ["labels"]}
    args = TrainingArguments(str(folder), **defaults | options)
    return Trainer(model, args, train_dataset=items, eval_dataset=items[:2], data_collator=collate)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_a_resumed_run_is_the_uninterrupted_one(processor, items, tmp_path):
    whole = tiny_paligemma("gemma", processor)
    first = trainer(whole, items, tmp_path / "whole")
    first.train()
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{HALF}", tmp_path / "resumed" / f"checkpoint-{HALF}")
    resumed = tiny_paligemma("gemma", processor, seed=7)
    second = trainer(resumed, items, tmp_path / "resumed")
    second.train(resume_from_checkpoint=True)
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (first, second)]
    assert losses[0] == losses[1]
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_the_best_weights_are_loaded_at_the_end(processor, items, tmp_path):
    model = tiny_paligemma("gemma", processor)
    # the loss rises from the first evaluation on
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "learning_rate": 5.0, "max_grad_norm": 1e9}
    run = trainer(model, items, tmp_path, load_best_model_at_end=True, optim="sgd", warmup_steps=0, **options)
    run.train()
    evaluations = {row["step"]: row["eval_loss"] for row in run.state.log_history if "eval_loss" in row}
    best = min(evaluations, key=evaluations.get)
    assert best != STEPS
    with torch.no_grad():
        loss = model.eval()(**collate(items[:2])).loss
    assert float(loss) == pytest.approx(evaluations[best], rel=1e-4)
    assert run.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
