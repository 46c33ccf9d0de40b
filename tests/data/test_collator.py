from dataclasses import replace

import torch
from PIL import Image
from transformers import SiglipImageProcessor

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.processing_pali3 import Pali3Processor

RED, BLUE = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (10, 10), "blue")
EXAMPLES = [
    Example("1", "plain", (RED,), "what is this?", "red"),
    Example("2", "plain", (BLUE, RED), "which two colours are these?", "blue and red"),
]


class Recorder:
    def __init__(self):
        self.calls = []

    def __call__(self, **options):
        self.calls.append(options)
        return "batch"


def test_one_call_of_the_processor():
    processor = Recorder()
    assert Collator(processor)(EXAMPLES) == "batch"
    assert processor.calls == [
        {
            "images": [[RED], [BLUE, RED]],
            "text": ["what is this?", "which two colours are these?"],
            "suffix": ["red", "blue and red"],
            "return_tensors": "pt",
            "padding": True,
        }
    ]


def test_generation_leaves_out_the_suffix_and_nothing_else():
    with_suffix, without = Recorder(), Recorder()
    Collator(with_suffix)(EXAMPLES)
    Collator(without, generation=True)(EXAMPLES)
    with_suffix.calls[0].pop("suffix")
    assert without.calls == with_suffix.calls


def test_limits_are_passed_on_when_given():
    processor = Recorder()
    Collator(processor, max_length=5, suffix_max_length=3, padding_side="left")(EXAMPLES)
    assert {key: processor.calls[0][key] for key in ("max_length", "suffix_max_length", "padding_side")} == {
        "max_length": 5,
        "suffix_max_length": 3,
        "padding_side": "left",
    }


def test_an_examples_own_limit_comes_before_that_of_all():
    processor = Recorder()
    short = replace(EXAMPLES[0], meta={"suffix_max_length": 2})
    Collator(processor, suffix_max_length=9)([short, EXAMPLES[1]])
    assert processor.calls[0]["suffix_max_length"] == [2, 9]
    assert "max_length" not in processor.calls[0]


def pali3_processor() -> Pali3Processor:
    tokenizer = train_tokenizer([text for e in EXAMPLES for text in (e.prefix, e.suffix)], vocab_size=400)
    images = SiglipImageProcessor(size={"height": 16, "width": 16})
    return Pali3Processor(images, tokenizer, image_seq_length=4)


def test_a_batch_of_the_real_processor():
    processor = pali3_processor()
    batch = Collator(processor)(EXAMPLES)
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    # red, blue, red, in the order of the examples
    assert batch["pixel_values"][:, 0, 8, 8].tolist() == [1.0, -1.0, 1.0]
    assert (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist() == [4, 8]
    decode = processor.tokenizer.decode
    assert [decode(row, skip_special_tokens=True) for row in batch["input_ids"]] == [e.prefix for e in EXAMPLES]
    labels = batch["labels"]
    for row, example in zip(labels, EXAMPLES):
        kept = row[row != -100]
        assert kept[-1] == processor.tokenizer.eos_token_id
        assert decode(kept, skip_special_tokens=True) == example.suffix
    generation = Collator(processor, generation=True)(EXAMPLES)
    assert "labels" not in generation
    assert torch.equal(generation["input_ids"], batch["input_ids"])


def test_suffixes_that_are_too_long_are_cut_and_counted():
    processor = pali3_processor()
    batch = Collator(processor, suffix_max_length=1)(EXAMPLES)
    assert batch["labels"].shape == (2, 1)
    assert processor.truncation_counts["suffix"] == 2


def test_every_text_is_cut_to_its_own_limit():
    processor = pali3_processor()
    examples = [replace(EXAMPLES[0], suffix="red blue red blue"), replace(EXAMPLES[1], suffix="red blue red blue")]
    whole = Collator(processor)(examples)["labels"]
    batch = Collator(processor)([replace(examples[0], meta={"suffix_max_length": 2, "max_length": 3}), examples[1]])
    assert (batch["labels"][0] != -100).sum() == 2
    assert torch.equal(batch["labels"][0, :2], whole[0, :2])
    assert torch.equal(batch["labels"][1], whole[1])
    text = batch["attention_mask"].sum(1) - (batch["input_ids"] == processor.image_token_id).sum(1)
    assert text[0] == 3 < text[1]
    assert processor.truncation_counts == {"suffix": 1, "prefix": 1}
