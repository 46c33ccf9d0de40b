"""Transformers' own Trainer, as public notebooks call it, trains, evaluates and resumes our classes and loads the best
weights: nothing but the model, the arguments and the data is given."""

import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny_pali3 import VOCABULARY, tiny_pali3
from tiny_pali3 import tiny_batch as pali3_batch
from tiny_paligemma import tiny_batch, tiny_paligemma, tiny_paligemma_processor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

STEPS, HALF = 4, 2
FAMILIES = ["paligemma", "pali3"]


@pytest.fixture
def processor(tiny_tokenizer):
    return tiny_paligemma_processor(tiny_tokenizer)


@pytest.fixture
def make(processor):
    """A model of a family by its seed, and four items."""

    def made(family, seed=1):
        if family == "pali3":
            return tiny_pali3("t5", seed=seed), rows(pali3_batch(examples=4))
        return tiny_paligemma("gemma", processor, seed=seed), rows(tiny_batch(processor))

    return made


def rows(batch):
    return [{name: values[i] for name, values in batch.items()} for i in range(4)]


def collate(items):
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def arguments(folder, kind=TrainingArguments, **options):
    defaults = {"save_strategy": "steps", "save_steps": HALF, "max_steps": STEPS, "learning_rate": 1e-2}
    defaults |= {"per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    return kind(str(folder), **defaults | {"remove_unused_columns": False, "logging_steps": 1} | options)


def trainer(model, items, folder, metrics=None, **options):
    args = arguments(folder, **options)
    return Trainer(
        model, args, train_dataset=items, eval_dataset=items[:2], data_collator=collate, compute_metrics=metrics
    )


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_run_is_the_uninterrupted_one(make, family, tmp_path):
    whole, items = make(family)
    first = trainer(whole, items, tmp_path / "whole")
    first.train()
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{HALF}", tmp_path / "resumed" / f"checkpoint-{HALF}")
    resumed, _ = make(family, seed=7)
    second = trainer(resumed, items, tmp_path / "resumed")
    second.train(resume_from_checkpoint=True)
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (first, second)]
    assert losses[0] == losses[1]
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_weights_are_loaded_at_the_end(make, family, tmp_path):
    model, items = make(family)
    # the loss rises from the first evaluation on
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "learning_rate": 5.0, "max_grad_norm": 1e9}
    run = trainer(model, items, tmp_path, load_best_model_at_end=True, optim="sgd", warmup_steps=0, **options)
    run.train()
    evaluations = {row["step"]: row["eval_loss"] for row in run.state.log_history if "eval_loss" in row}
    best = min(evaluations, key=evaluations.get)
    assert best != STEPS
    batch = collate(items[:2])
    tokens = (batch["labels"] != -100).sum()
    with torch.no_grad():
        loss = model.eval()(**batch, num_items_in_batch=tokens).loss
    assert float(loss) == pytest.approx(evaluations[best], rel=1e-4)
    assert run.state.best_model_checkpoint.endswith(f"checkpoint-{best}")


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_are_computed_from_logits(make, family, tmp_path):
    model, items = make(family)
    seen = []

    def accuracy(evaluation):
        predictions = evaluation.predictions
        logits = predictions[0] if isinstance(predictions, tuple) else predictions
        seen.append((logits, evaluation.label_ids))
        shift = int(family == "paligemma")
        labels = evaluation.label_ids[:, shift:]
        hits = logits[:, : labels.shape[1]].argmax(-1) == labels
        return {"accuracy": hits[labels != -100].mean()}

    run = trainer(model, items, tmp_path, metrics=accuracy, per_device_eval_batch_size=1)
    found = run.evaluate()
    ((logits, labels),) = seen
    batch = collate(items[:2])
    with torch.no_grad():
        expected = model.eval()(**batch)
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert np.array_equal(labels, batch["labels"])
    assert found["eval_loss"] == pytest.approx(float(expected.loss), rel=1e-5)
    assert 0 <= found["eval_accuracy"] <= 1


def test_generated_predictions_of_the_seq2seq_trainer(make, tmp_path):
    model, items = make("pali3")
    args = arguments(
        tmp_path, Seq2SeqTrainingArguments, predict_with_generate=True, generation_max_length=6, eval_strategy="no"
    )
    run = Seq2SeqTrainer(model, args, train_dataset=items, eval_dataset=items[:2], data_collator=collate)
    found = run.predict(items[:2])
    batch = {name: values for name, values in collate(items[:2]).items() if name != "labels"}
    expected = model.generate(**batch, max_length=6)
    assert np.array_equal(found.predictions[:, : expected.shape[1]], expected)
    assert found.predictions.max() < VOCABULARY


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loop_of_accelerate(make, family):
    """Gradients accumulated over two halves are those of the whole batch."""
    found = []
    for parts in (1, 2):
        model, items = make(family)
        accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer = accelerator.prepare(model.train(), optimizer)
        for begin in range(0, 4, 4 // parts):
            loss = model(**collate(items[begin : begin + 4 // parts])).loss
            accelerator.backward(loss / parts)
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        optimizer.step()
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def uneven_items(items):
    """Items whose supervised tokens are of very unequal number: all, or the first two only."""
    for item in items[::2]:
        supervised = (item["labels"] != -100).nonzero()[:, 0]
        item["labels"][supervised[2:]] = -100
    return items


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulation_is_the_whole_batch_on_uneven_examples(make, family, tmp_path):
    """The Trainer counts the supervised tokens of all steps: their mean is the loss, however the batch is split."""
    rows = []
    for size in (4, 1):
        model, items = make(family)
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
        run = trainer(model, uneven_items(items), tmp_path, save_strategy="no", max_steps=1, **options)
        run.train()
        rows.append(run.state.log_history[0])
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-5)
    assert rows[1]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_num_items_in_batch_makes_the_token_mean(make, family):
    model, items = make(family)
    batch = collate(uneven_items(items))
    labels = batch["labels"][:, 1:] if family == "paligemma" else batch["labels"]
    each = (labels != -100).sum(1)
    assert each.max() > 2 * each.min()
    found = model(**batch)
    torch.testing.assert_close(found.loss, found.example_losses.mean())
    for items_in_batch in (int(each.sum()), each.sum()[None]):
        token_mean = model(**batch, num_items_in_batch=items_in_batch).loss
        torch.testing.assert_close(token_mean, (found.example_losses * each).sum() / each.sum())
        assert token_mean.shape == ()
