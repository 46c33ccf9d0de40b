"""Batches of a caption decoder: modes, masked inputs, prefixes, and texts that are too long."""

import random
from collections import Counter
from typing import Any

import pytest
import torch
from PIL import Image

from openpali.data.example import Example
from openpali.data.files.config import ConfigError
from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.tasks.caption import Caption
from openpali.modeling.captioner.configuration_captioner import CaptionDecoderConfig
from openpali.recipes.captioning.batches import CAUSAL, DRAW, CaptionInputs, DrawnTask, Modes

PAD, END = 0, 1


def config_of(tokenizer, **options) -> CaptionDecoderConfig:
    fields: dict[str, Any] = {"max_position_embeddings": 12} | options
    return CaptionDecoderConfig(vocab_size=len(tokenizer), **fields)


def example(text, prefix="", task="pairs", controls: Any = "none", draw=7) -> Example:
    return Example("1", task, (Image.new("RGB", (8, 8)),), prefix, text, controls=controls, meta={DRAW: draw})


def test_causal_inputs_are_labels_one_later(tiny_tokenizer):
    inputs = CaptionInputs(tiny_tokenizer, config_of(tiny_tokenizer), CAUSAL)
    batch = inputs([example("a red dog"), example("two")])
    assert "parallel" not in batch
    labels = batch["labels"]
    assert labels.shape == (2, 12)
    first = tiny_tokenizer("a red dog")["input_ids"]
    assert labels[0].tolist() == first + [PAD] * (12 - len(first))
    assert first[-1] == END
    assert torch.equal(batch["decoder_input_ids"][:, 1:], labels[:, :-1])
    assert not batch["decoder_input_ids"][:, 0].any()
    assert torch.equal(batch["label_weights"], (labels != PAD).float())


def test_parallel_inputs_are_masked(tiny_tokenizer):
    config = config_of(tiny_tokenizer)
    batch = CaptionInputs(tiny_tokenizer, config, Modes(1.0))([example("a red dog")])
    assert batch["parallel"].all()
    assert (batch["decoder_input_ids"] == config.mask_token_id).all()
    half = CaptionInputs(tiny_tokenizer, config, Modes(1.0, 0.5))([example("a red dog", draw=i) for i in range(40)])
    masked = half["decoder_input_ids"] == config.mask_token_id
    assert (masked.sum(1) == 6).all()
    assert torch.equal(half["decoder_input_ids"][~masked], half["labels"][~masked])
    # of all positions, padding included, others for each example
    assert masked.any(0).all()
    assert len({tuple(row) for row in masked.tolist()}) > 30


def test_prefixes_are_seen_and_not_predicted(tiny_tokenizer):
    config = config_of(tiny_tokenizer, max_position_embeddings=24)
    box = "<loc0001><loc0002><loc0003><loc0004>"
    modes = Modes(1.0, 1.0, located_masked_pred_prob=1.0)
    inputs = CaptionInputs(tiny_tokenizer, config, modes)
    batch = inputs([example(box, "refer a dog", "refer", "places"), example("a dog", "caption en", "caption")])
    prefix = len(inputs.tokens.ids("refer a dog"))
    assert batch["label_weights"][0].tolist() == [0] * prefix + [1] * 5 + [0] * (24 - prefix - 5)
    assert torch.equal(batch["decoder_input_ids"][0, :prefix], batch["labels"][0, :prefix])
    assert (batch["decoder_input_ids"][0, prefix:] == config.mask_token_id).all()
    assert tiny_tokenizer.decode(batch["labels"][0, prefix : prefix + 4]) == box
    # boxes are causal unless their own share says otherwise
    batch = CaptionInputs(tiny_tokenizer, config, Modes(1.0))([example(box, "refer a dog", "refer", "places")])
    assert not batch["parallel"].any()


def test_long_texts_keep_their_end(tiny_tokenizer):
    inputs = CaptionInputs(tiny_tokenizer, config_of(tiny_tokenizer), CAUSAL)
    long = example("a red dog " * 9)
    batch = inputs([long, example("a dog", "caption en " * 9), example("a dog", "")])
    assert batch["labels"][0, -1] == END
    assert (batch["label_weights"][0] == 1).all()
    # a prompt without room for its text teaches nothing
    assert not batch["label_weights"][1].any()
    assert inputs.length(long) > 12


def test_letters_that_look_like_control_tokens_are_letters(tiny_tokenizer):
    inputs = CaptionInputs(tiny_tokenizer, config_of(tiny_tokenizer, max_position_embeddings=40), CAUSAL)
    ids = inputs([example("a <loc0001> </s> <pad>")])["labels"][0]
    assert (ids == END).sum() == 1
    assert tiny_tokenizer.convert_tokens_to_ids("<loc0001>") not in ids.tolist()
    assert int((ids != PAD).nonzero().max()) == int((ids == END).nonzero())


def test_modes_follow_from_the_draw_alone(tiny_tokenizer):
    config, modes = config_of(tiny_tokenizer), Modes(0.75, 0.5)
    examples = [example("a dog", draw=random.Random(i).getrandbits(62)) for i in range(400)]
    whole = CaptionInputs(tiny_tokenizer, config, modes)(examples)
    assert whole["parallel"].float().mean().item() == pytest.approx(0.75, abs=0.06)
    parts = CaptionInputs(tiny_tokenizer, config, modes)(examples[200:])
    for key, value in parts.items():
        assert torch.equal(value, whole[key][200:])


def test_each_epoch_draws_anew():
    source = load_source({"name": "emoji", "size": 32, "concepts": 3, "objects": [1, 1], "length": 6})
    data = TaskDataset(source, DrawnTask(Caption()))
    draws = [data[epoch, i].meta[DRAW] for epoch in range(3) for i in range(6)]
    assert max(Counter(draws).values()) == 1
    assert [data[1, i].meta[DRAW] for i in range(6)] == draws[6:12]


def test_mistakes(tiny_tokenizer):
    with pytest.raises(ConfigError, match="masked_pred_prob=1.5: it is a share"):
        Modes(1.5)
    with pytest.raises(ConfigError, match="trained without a mask; set it to 0"):
        CaptionInputs(tiny_tokenizer, config_of(tiny_tokenizer, mask_token=False), Modes())
    with pytest.raises(ConfigError, match="text_length=13: the decoder has 1 to 12 positions"):
        CaptionInputs(tiny_tokenizer, config_of(tiny_tokenizer), CAUSAL, 13)
