"""Scores of captioners: what an image adds, names and boxes, on decoders whose answers are known."""

from typing import Any

import pytest
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from openpali import Captioner, CaptionerConfig
from openpali.data.example import Box, Example
from openpali.data.tasks.refer import Refer
from openpali.modeling.location_tokens import LocatedBox, format_box
from openpali.recipes.captioning.batches import CAUSAL, CaptionCollator, CaptionInputs
from openpali.recipes.captioning.scores import box_accuracy, naming_accuracy, validation_scores

VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 8}
DECODER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def model_and_collator(tiny_tokenizer):
    torch.manual_seed(0)
    decoder = DECODER | {"vocab_size": len(tiny_tokenizer), "max_position_embeddings": 24}
    model = Captioner(CaptionerConfig(vision_config=VISION, decoder_config=decoder)).eval()
    torch.nn.init.normal_(model.decoder.logits.weight)
    processor = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    return model, CaptionCollator(processor, CaptionInputs(tiny_tokenizer, model.decoder.config, CAUSAL))


def example(number: int, text: str, **fields: Any) -> Example:
    image = Image.new("RGB", (16, 16), (90 * number, 200 - 90 * number, 40 * number))
    return Example(str(number), fields.pop("task", "pairs"), (image,), fields.pop("prefix", ""), text, **fields)


def test_likelihoods_of_true_texts_and_of_others(model_and_collator):
    model, collator = model_and_collator
    examples = [example(i, text) for i, text in enumerate(["a red dog", "two green cats", "dog"])]
    one, two = (validation_scores(model, {"caption": examples}, collator, size) for size in (3, 1))
    with torch.no_grad():
        batch = collator(examples)
        expected = model(**batch).loss.item()
        shifted = model(**(batch | {"pixel_values": batch["pixel_values"].roll(1, 0)})).loss.item()
    assert one["loss"] == -one["log_likelihood"] == pytest.approx(expected)
    assert one["image_gain"] == pytest.approx(shifted - expected, abs=1e-5)
    assert two["loss"] == pytest.approx(expected)
    # alone in its batch, a text has no other image
    assert two["image_gain"] == 0
    for layer in model.decoder.layers:
        layer.cross_attn.out_proj.weight.data.zero_()
    assert validation_scores(model, {"caption": examples}, collator, 3)["image_gain"] == 0
    several = validation_scores(model, {"caption": examples[:1], "refer": examples[1:]}, collator, 3)
    assert several["loss"] == pytest.approx((several["loss_caption"] + 2 * several["loss_refer"]) / 3)


def test_names_by_their_scores(model_and_collator, monkeypatch):
    model, collator = model_and_collator
    examples = [example(i, name, meta={"names": [name]}) for i, name in enumerate(["cat", "dog", "red"])]
    scores = torch.tensor([[0.0, -1, -2], [-1, -2, 0], [-3, -2, -1]])
    monkeypatch.setattr(Captioner, "score", lambda self, pixels, labels: scores[: len(pixels)])
    assert naming_accuracy(model, examples, collator, 3) == {"naming_accuracy": pytest.approx(2 / 3)}
    assert naming_accuracy(model, [example(0, "dog")], collator, 3) == {}


def test_boxes_by_their_overlap(model_and_collator, monkeypatch):
    model, collator = model_and_collator
    true = Box(0.25, 0.25, 0.75, 0.75)
    task, tokenizer = Refer(boxes_only=True), collator.inputs.tokens.tokenizer
    answers = iter(
        [
            format_box(LocatedBox(0.25, 0.25, 0.75, 0.75)),
            format_box(LocatedBox(0.3, 0.3, 0.75, 0.75)),
            format_box(LocatedBox(0.6, 0.6, 0.75, 0.75)),
            "a dog",
        ]
    )

    def written(self, pixels, prompt):
        assert tokenizer.decode(prompt[0]) == "refer a dog"
        return torch.tensor([tokenizer(next(answers))["input_ids"] + [0, 0]])

    monkeypatch.setattr(Captioner, "generate_ids", written)
    examples = [example(i, "", task="refer", prefix="refer a dog", boxes=(true,), controls="places") for i in range(4)]
    assert box_accuracy(model, task, examples, collator) == {"box_accuracy": 0.5}
    assert list(answers) == []
