"""An image is encoded once for all its questions, and answers stay those of Transformers, one question at a time."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_adapters import FAMILIES, save_checkpoint
from tiny_models import COLOURS, NamingTask, tiny_llava
from tolerances import assert_same_but_rounding

from openpali.data.example import Example
from openpali.eval.answering.decoding import encode, eval_mode, generate, generate_answers
from openpali.eval.answering.evaluate_task import evaluate_task
from openpali.eval.answering.image_features import ImageFeatures, image_features, takes_features
from openpali.eval.answering.load_model import load_model

PROMPTS = ["detect dog", "", "caption en what is this a red dog"]
LONGEST = 6


@pytest.fixture(params=FAMILIES)
def tiny(request, tiny_tokenizer, tmp_path):
    return load_model(str(save_checkpoint(request.param, tiny_tokenizer, tmp_path / "model")), "cpu")


def picture(number):
    """A new object in each call, as every record of a dataset decodes its image."""
    return Image.new("RGB", (20 + number, 24), COLOURS[number])


def questions():
    """Three questions about each of four images, and about a pair of two of them; ids do not tell the image."""
    shown = [(0,), (1,), (2,), (3,), (1, 0)]
    pairs = [(images, prompt) for prompt in PROMPTS for images in shown]
    return [
        Example(f"id-{i}", "naming", tuple(map(picture, images)), prompt, "dog", ("dog",))
        for i, (images, prompt) in enumerate(pairs)
    ]


def counted(model):
    """The number of images in each call of the image encoder, as a list that grows."""
    calls = []
    encoder = model.get_encoder(modality="image")
    encoder.register_forward_hook(lambda *parts: calls.append(len(parts[2].last_hidden_state)))
    return calls


def answers_alone(model, processor, examples):
    """Answers of Transformers' greedy decoding of pixels, and the least distance of a second-best token."""
    texts, margins = [], []
    for example in examples:
        with eval_mode(model):
            inputs = encode(model, processor, [example], False)
            assert "pixel_values" in inputs
            options = {"max_new_tokens": LONGEST, "output_scores": True, "return_dict_in_generate": True}
            found = model.generate(**inputs, do_sample=False, **options)
        texts.append(processor.decode(found.sequences[0, -len(found.scores) :], skip_special_tokens=True).strip())
        best = torch.stack(found.scores).topk(2).values
        margins.append(float((best[..., 0] - best[..., 1]).min()))
    return texts, min(margins)


@pytest.mark.parametrize("window", [1, 8])
def test_questions_of_one_image_share_its_features_over_batches_and_windows(tiny, window, monkeypatch):
    model, processor = tiny
    texts, margin = answers_alone(model, processor, questions())
    assert margin > 2e-5
    assert len(set(texts)) > 4
    monkeypatch.setattr("openpali.eval.answering.predictions.WINDOW", window)
    calls = counted(model)
    result = evaluate_task(model, processor, questions(), NamingTask(), batch_size=2, progress=False)
    assert [row["text"] for row in result.predictions] == texts
    assert sum(calls) == 4
    assert max(calls) <= 2


def test_log_probabilities_stay(tiny):
    model, processor = tiny
    options = (2, LONGEST, 1, False, True)
    together = dict(generate_answers(model, processor, questions(), *options))
    for index, example in enumerate(questions()):
        with eval_mode(model):
            inputs = encode(model, processor, [example], False)
            found = model.generate(
                **inputs,
                max_new_tokens=LONGEST,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        special = set(processor.tokenizer.all_special_ids)
        ids, expected = found.sequences[0, -len(found.scores) :].tolist(), []
        for token, scores in zip(ids, found.scores, strict=True):
            expected += [] if token in special else [float(scores[0].log_softmax(-1)[token])]
        # tokens carry five digits behind the point
        found = [token.log_p for token in together[index].tokens or ()]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=3e-5)


def test_blank_images_of_one_size_are_one_image(tiny):
    model, processor = tiny
    same = [replace(one, images=(Image.new("RGB", (20, 24), COLOURS[i]),)) for i, one in enumerate(questions()[:4])]
    calls = counted(model)
    generate(model, processor, same, 2, LONGEST, blank_images=True, progress=False)
    assert sum(calls) == 1


def test_features_that_were_used_longest_ago_leave(tiny):
    model, processor = tiny
    size = ImageFeatures(model, processor, 8)([picture(0)])["pixel_values"].nbytes
    features, calls = ImageFeatures(model, processor, 2, memory=2 * size), counted(model)

    def ask(*numbers):
        calls.clear()
        found = features([picture(number) for number in numbers])["pixel_values"]
        assert features.used == sum(one.nbytes for one in features.kept.values()) <= 2 * size
        return found, sum(calls)

    with eval_mode(model):
        pixels = processor.image_processor([picture(0)], return_tensors="pt")["pixel_values"]
        (expected,) = model.get_encoder(modality="image")(pixel_values=pixels).last_hidden_state
        found, encoded = ask(0, 1)
        assert encoded == 2
        assert_same_but_rounding(found[0], expected)
        assert ask(1, 0)[1] == 0
        # 1 was used before 0, so it leaves for 2
        assert ask(2)[1] == 1
        assert ask(0)[1] == 0
        assert ask(1)[1] == 1
        # more images than fit are all answered
        found, encoded = ask(0, 1, 2, 3, 0)
        assert encoded == 2
        assert torch.equal(found[0], found[4])
        assert_same_but_rounding(found[0], expected)
        tiny_memory = ImageFeatures(model, processor, 2, memory=size - 1)
        assert_same_but_rounding(tiny_memory([picture(0)])["pixel_values"][0], expected)
        assert not tiny_memory.kept


def test_a_model_that_has_learned_encodes_anew(tiny):
    model, processor = tiny
    before = evaluate_task(model, processor, questions(), NamingTask(), batch_size=4, progress=False)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.get_encoder(modality="image").parameters():
            parameter.add_(torch.randn_like(parameter))
    texts, margin = answers_alone(model, processor, questions())
    assert margin > 2e-5
    after = evaluate_task(model, processor, questions(), NamingTask(), batch_size=4, progress=False)
    assert [row["text"] for row in after.predictions] == texts
    assert after.predictions != before.predictions


def test_half_precision(tiny):
    model, processor = tiny
    model.to(torch.bfloat16)
    with eval_mode(model):
        pixels = encode(model, processor, questions()[:2], False)
        features = encode(model, processor, questions()[:2], False, features=image_features(model, processor, 2))
        assert pixels["pixel_values"].dtype == features["image_features"].dtype == torch.bfloat16
        options = {"max_new_tokens": 1, "output_scores": True, "return_dict_in_generate": True}
        scores = [model.generate(**inputs, do_sample=False, **options).scores[0] for inputs in (pixels, features)]
    torch.testing.assert_close(*scores, rtol=0.02, atol=0.02)


def test_other_models_and_oblong_images_go_through_pixels(tiny):
    assert image_features(*tiny_llava(), 2) is None
    model, processor = tiny
    assert takes_features(model, processor)
    processor.image_processor.size = {"height": 16, "width": 24}
    assert not takes_features(model, processor)
