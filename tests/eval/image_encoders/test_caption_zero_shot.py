"""Zero-shot classification by a captioner: scores of classes, ties, and several languages."""

import math

import pytest
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from openpali import Captioner, CaptionerConfig
from openpali.eval.image_encoders.caption_zero_shot import accuracy, class_scores, zero_shot_by_captions
from openpali.eval.image_encoders.models import Encoder

VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 8}
DECODER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def encoder_of(tokenizer, prompt: str = "") -> Encoder:
    torch.manual_seed(0)
    decoder = DECODER | {"vocab_size": len(tokenizer), "max_position_embeddings": 24}
    model = Captioner(CaptionerConfig(vision_config=VISION, decoder_config=decoder, caption_prompt=prompt)).eval()
    torch.nn.init.normal_(model.decoder.logits.weight)
    processor = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    return Encoder("tiny", model, processor, tokenizer, "mean")


def images() -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), (60 * i, 255 - 60 * i, 20 * i)) for i in range(4)]


@torch.no_grad()
def log_probability(encoder: Encoder, image: Image.Image, text: str, prompt: str = "") -> float:
    """The sum of log p of a text's tokens, token by token."""
    model, ids = encoder.model, encoder.tokenizer(text)["input_ids"]
    pixels = encoder.image_processor([image], return_tensors="pt")["pixel_values"]
    read, total = [0, *(encoder.tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else [])], 0.0
    for token in ids:
        states = model.decoder(model.image_tokens(pixels), torch.tensor([read]))
        total += float(model.decoder.logits(states)[0, -1].log_softmax(0)[token])
        read.append(token)
    return total


@pytest.mark.parametrize("prompt", ["", "caption {language}"])
def test_the_class_with_the_most_probable_prompts_wins(tiny_tokenizer, prompt):
    encoder = encoder_of(tiny_tokenizer, prompt)
    classes = {"en": [["dog", "hound"], ["cat"], ["red dog"]], "de": ["Hund", "Katze", "roter Hund"]}
    templates = {"en": ["{}", "a {}"], "de": ["{}"]}
    scores = []
    for image in images():
        row = []
        for names in classes["en"]:
            texts = [template.replace("{}", name) for name in names or () for template in templates["en"]]
            each = [math.exp(log_probability(encoder, image, text, prompt.format(language="en"))) for text in texts]
            row.append(math.log(sum(each) / len(each)))
        scores.append(row)
    best = torch.tensor(scores).argmax(1)
    # a class without a name in a language is no candidate there
    classes["de"][(int(best[0]) + 1) % 3] = None
    # all right, then all wrong
    table = zero_shot_by_captions(encoder, images(), best, classes, templates, batch_size=3)
    assert table.languages["en"]["top_1"] == 1
    assert table.classes == {"en": 3, "de": 2}
    assert table.chance["top_1"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    wrong = zero_shot_by_captions(encoder, images(), (best + 1) % 3, classes, templates)
    assert wrong.languages["en"]["top_1"] == 0


def test_scores_of_classes_are_mean_probabilities():
    scores = torch.tensor([[0.1, 0.3, 0.2], [0.5, 0.25, 0.9]]).log()
    torch.testing.assert_close(class_scores(scores, [2, 1]), torch.tensor([[0.2, 0.2], [0.375, 0.9]]).log())


def test_of_equal_scores_the_first_class_wins():
    assert accuracy(torch.zeros(2, 7), torch.tensor([0, 6])) == {"top_1": 0.5, "top_5": 0.5}


def test_long_prompts_are_counted_and_positions_are_checked(tiny_tokenizer, caplog):
    encoder, labels = encoder_of(tiny_tokenizer), torch.tensor([0, 1, 1, 0])
    zero_shot_by_captions(encoder, images(), labels, {"en": ["dog", "cat " * 40]}, {"en": ["{}"]})
    assert "1 of 2 different texts are longer than 24 tokens" in caplog.text
    with pytest.raises(ValueError, match="text_length=25: the decoder has 1 to 24 positions"):
        zero_shot_by_captions(encoder, images(), labels, {"en": ["dog", "cat"]}, text_length=25)
