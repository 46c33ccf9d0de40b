"""TRL's SFTTrainer trains our PaliGemma with our processor, from prompt-completion data; only TRL's own options are
given. The recipe is docs/guide/trl.md's."""

import pytest
import torch
from datasets import Dataset
from tiny_paligemma import IMAGES, SUFFIXES, tiny_paligemma, tiny_paligemma_processor

trl = pytest.importorskip("trl", reason="TRL is not installed, so training with it is NOT tested: pip install trl")

# of very unequal length
COMPLETIONS = ["a red dog", "two green cats and a dog and a red dog and two green cats", *SUFFIXES[2:]]
PROMPTS = ["what is this", "caption en", "detect dog", "two green cats"]


@pytest.fixture
def processor(tiny_tokenizer):
    return tiny_paligemma_processor(tiny_tokenizer)


def records(conversational=False):
    """A dataset of TRL: prompts and completions as texts or messages, or "messages" with both."""
    rows = []
    for image, prompt, completion in zip(IMAGES, PROMPTS, COMPLETIONS, strict=True):
        question, answer = {"role": "user", "content": prompt}, {"role": "assistant", "content": completion}
        if conversational == "messages":
            rows.append({"images": [image], "messages": [question, answer]})
        elif conversational:
            rows.append({"images": [image], "prompt": [question], "completion": [answer]})
        else:
            rows.append({"images": [image], "prompt": prompt, "completion": completion})
    return Dataset.from_list(rows)


def trainer(processor, folder, conversational=False, **options):
    arguments = {"max_steps": 1, "logging_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False}
    arguments |= {"save_strategy": "no", "disable_tqdm": True, "max_length": None, "lr_scheduler_type": "constant"}
    args = trl.SFTConfig(str(folder), **arguments | options)
    model = tiny_paligemma("gemma", processor)
    return trl.SFTTrainer(model, args, train_dataset=records(conversational), processing_class=processor)


def test_accumulation_is_the_whole_batch(processor, tmp_path):
    rows = []
    for size in (4, 1):
        run = trainer(processor, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size)
        run.train()
        rows.append(run.state.log_history[0])
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-4)
    assert rows[1]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-3)


def first_batch(run):
    """What the trainer gives to the model."""
    return dict(next(iter(run.get_train_dataloader())))


@pytest.mark.parametrize("conversational", [False, True])
def test_batches_are_those_of_prefix_and_suffix(processor, tmp_path, conversational):
    """TRL's collator makes of prompts and completions what the processor makes of prefixes and suffixes."""
    run = trainer(processor, tmp_path, conversational, per_device_train_batch_size=4)
    found = first_batch(run)
    order = [COMPLETIONS.index(text) for text in answers(processor, found["labels"])]
    expected = processor(
        images=[IMAGES[i] for i in order],
        text=[PROMPTS[i] for i in order],
        suffix=[COMPLETIONS[i] for i in order],
        return_tensors="pt",
    )
    width = expected["input_ids"].shape[1]  # TRL pads further
    assert not found["attention_mask"][:, width:].any()
    for name in ("input_ids", "token_type_ids", "attention_mask", "labels"):
        real = expected["attention_mask"].bool()
        assert found[name][:, :width][real].tolist() == expected[name][real].tolist(), name
    assert torch.equal(found["pixel_values"], expected["pixel_values"])


def answers(processor, labels):
    """Texts of the supervised tokens."""
    rows = [row[row != -100] for row in labels]
    assert all(row[-1] == processor.tokenizer.eos_token_id for row in rows)
    return [processor.tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def test_a_token_of_the_suffix_sees_no_later_one(processor, tmp_path):
    run = trainer(processor, tmp_path, per_device_train_batch_size=4)
    batch = first_batch(run)
    supervised = batch.pop("labels") != -100
    last = supervised.shape[1] - 1 - supervised.flip(1).int().argmax(1)  # the end token of each
    row = int(last.argmax())
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    changed["input_ids"][row, last[row]] = batch["input_ids"][row, last[row] - 1]
    model = run.model.train()
    first, second = (model(**inputs).logits[row] for inputs in (batch, changed))
    torch.testing.assert_close(first[: last[row]], second[: last[row]], rtol=1e-5, atol=1e-5)
    assert (first[last[row]] - second[last[row]]).abs().max() > 1e-3


def test_whole_chats_are_warned_of(processor, tmp_path, caplog):
    """A column of messages leaves no border between prompt and answer."""
    run = trainer(processor, tmp_path, conversational="messages", per_device_train_batch_size=4)
    first_batch(run)
    assert "columns prompt and completion" in caplog.text
