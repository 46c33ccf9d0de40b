"""Answers in batches are those of one prompt at a time, and an image is encoded once."""

import pytest
import torch
from PIL import Image
from tiny_adapters import FAMILIES, save_checkpoint
from tiny_models import MODELS

from openpali.data.example import Example
from openpali.eval.answering.decoding import encode, eval_mode
from openpali.eval.answering.load_model import load_model
from openpali.eval.predicting.answers import answer_prompts
from openpali.eval.predicting.images import Picture

PROMPTS = ["detect dog", "", "caption en what is this a red dog"]
COLOURS = ["red", "lime", "blue", "white"]
LONGEST = 6


@pytest.fixture
def pictures():
    """Three images and a clip of two frames."""
    images = [Image.new("RGB", (20 + i, 24), colour) for i, colour in enumerate(COLOURS)]
    return [*(Picture(f"{i}.png", (image,)) for i, image in enumerate(images)), Picture("c.mp4", tuple(images[:2]))]


def counted(model):
    """The number of images in each call of the image encoder, as a list that grows."""
    calls = []
    encoder = model.get_encoder(modality="image")
    encoder.register_forward_hook(lambda *parts: calls.append(len(parts[2].last_hidden_state)))
    return calls


def margin(model, processor, picture, prompt):
    """The least distance of the best token from the second, in log-probability, over an answer."""
    with eval_mode(model):
        inputs = encode(model, processor, [Example("x", "x", picture.images, prompt)], False)
        options = {"max_new_tokens": LONGEST, "output_scores": True, "return_dict_in_generate": True}
        scores = torch.stack(model.generate(**inputs, do_sample=False, **options).scores)
    best = scores.topk(2).values
    return float((best[..., 0] - best[..., 1]).min())


@pytest.mark.parametrize("family", FAMILIES)
def test_several_prompts_encode_an_image_once_and_answers_stay(family, pictures, tiny_tokenizer, tmp_path):
    model, processor = load_model(str(save_checkpoint(family, tiny_tokenizer, tmp_path / "model")), "cpu")
    calls = counted(model)
    together = answer_prompts(model, processor, pictures, PROMPTS, 4, LONGEST, 1)
    # the clip's frames are two of the images
    assert sum(calls) == 4
    for picture, answers in zip(pictures, together, strict=True):
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            assert margin(model, processor, picture, prompt) > 1e-4
            (alone,) = answer_prompts(model, processor, [picture], [prompt], 1, LONGEST, 1)[0]
            assert answer.text == alone.text
            assert answer.tokens
            assert alone.tokens
            log_p = [torch.tensor([token.log_p for token in one]) for one in (answer.tokens, alone.tokens)]
            # tokens carry five digits behind the point
            torch.testing.assert_close(*log_p, rtol=1e-4, atol=3e-5)
    assert len({answer.text for answers in together for answer in answers}) > 6


def test_one_prompt_is_answered_in_batches(pictures, tiny_tokenizer, tmp_path):
    model, processor = load_model(str(save_checkpoint("pali3", tiny_tokenizer, tmp_path / "model")), "cpu")
    calls = counted(model)
    assert [len(answers) for answers in answer_prompts(model, processor, pictures, PROMPTS[:1], 2, LONGEST, 1)] == [
        1
    ] * 5
    assert sum(calls) == 4


@pytest.mark.parametrize("name", ["llava", "paligemma"])
def test_models_of_other_libraries_answer_several_prompts(name, pictures):
    model, processor = MODELS[name]()
    prompts = ["dog", "what is this"]
    for picture, answers in zip(pictures[:2], answer_prompts(model, processor, pictures[:2], prompts, 3, LONGEST, 1)):
        for prompt, answer in zip(prompts, answers, strict=True):
            assert margin(model, processor, picture, prompt) > 1e-4
            assert answer.text == answer_prompts(model, processor, [picture], [prompt], 1, LONGEST, 1)[0][0].text
