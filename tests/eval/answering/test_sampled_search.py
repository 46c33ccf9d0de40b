"""Sampled answers: their frequencies, and that they depend on their own numbers alone; both families."""

import pytest
import torch
from PIL import Image

from openpali.data.example import Example
from openpali.eval.answering.decoding import encode, generate_ids
from openpali.eval.answering.sampled_search import picker, sample_answers, uniform_numbers, up_to_end


@pytest.fixture(params=["pali3", "paligemma"])
def prompts(request):
    """A model, and inputs of two prompts about two images."""
    if request.param == "pali3":
        model, processor = request.getfixturevalue("tiny_model"), request.getfixturevalue("tiny_processor")
    else:
        model, processor = request.getfixturevalue("tiny_paligemma")
    images = [Image.new("RGB", (20, 24), colour) for colour in ("red", "lime")]
    examples = [Example(str(i), "t", (image,), "what is this"[: 4 + 8 * i]) for i, image in enumerate(images)]
    return model, [dict(encode(model, processor, some, False)) for some in (examples, examples[:1], examples[1:])]


def test_numbers_are_those_of_their_names():
    numbers = uniform_numbers(["a", "b", "a"], 4)
    assert torch.equal(numbers[0], numbers[2])
    assert not torch.equal(numbers[0], numbers[1])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # the same on every machine and in every release
    assert uniform_numbers(["3-0-x-1"], 2).tolist() == [pytest.approx([0.8113, 0.3896], abs=1e-4)]


def test_tokens_come_as_often_as_they_are_likely():
    scores = torch.tensor([0.5, 0.3, 0.2, 0.0]).log().expand(1000, 4)
    numbers = (torch.arange(1000, dtype=torch.float64)[:, None] + 0.5) / 1000
    rows = torch.arange(1000)
    assert picker(numbers)(scores, rows, 0).bincount(minlength=4).tolist() == [500, 300, 200, 0]
    likeliest = picker(numbers, top_k=2)(scores, rows, 0).bincount(minlength=4)
    assert likeliest.tolist() == [625, 375, 0, 0]
    others = picker(numbers, forbidden=[1])(scores, rows, 0).bincount(minlength=4)
    assert others.tolist() == pytest.approx([1000 * p / 0.7 for p in (0.5, 0, 0.2, 0)], abs=1)
    cold = picker(numbers, temperature=0.5)(scores, rows, 0).bincount(minlength=4)
    assert cold.tolist() == pytest.approx([1000 * p / 0.38 for p in (0.25, 0.09, 0.04, 0)], abs=1)


def test_an_answer_depends_on_its_own_numbers_alone(prompts):
    model, (both, *alone) = prompts
    numbers = uniform_numbers(["first", "second"], 8)
    together = sample_answers(model, both, numbers)
    apart = [sample_answers(model, one, row[None])[0] for one, row in zip(alone, numbers)]
    assert together == apart
    assert sample_answers(model, both, uniform_numbers(["third", "fourth"], 8)) != together
    assert all(1 <= len(answer) <= 8 for answer in together)


def test_the_mark_of_an_image_is_never_drawn(prompts):
    model, (both, *_) = prompts
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    mark, vocabulary = model.config.image_token_id, model.get_output_embeddings().weight.shape[0]
    # every token is as likely as any other, and this number falls on the mark
    numbers = torch.full((2, 4), (mark + 0.5) / vocabulary, dtype=torch.float64)
    answers = sample_answers(model, both, numbers)
    assert all(len(answer) == 4 and mark not in answer for answer in answers)


def test_nearly_no_temperature_is_greedy(prompts):
    model, (both, *_) = prompts
    sampled = sample_answers(model, both, uniform_numbers(["first", "second"], 6), temperature=1e-6)
    with torch.no_grad():
        ids, _ = generate_ids(model, both, 6, 1, False)  # pyright: ignore
    if model.config.is_encoder_decoder:
        ids = ids[:, 1:]
    ends = [model.generation_config.eos_token_id]
    assert sampled == [up_to_end(row, ends) for row in ids.tolist()]


def test_an_answer_ends_with_its_end_token():
    assert up_to_end([5, 1, 0, 0], [1]) == [5, 1]
    assert up_to_end([5, 6], [1]) == [5, 6]
