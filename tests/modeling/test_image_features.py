import pytest
import torch
from tiny_pali3 import KINDS as PAIRS
from tiny_pali3 import tiny_batch, tiny_pali3, without
from tiny_paligemma import KINDS as GEMMAS
from tiny_paligemma import tiny_batch as paligemma_batch
from tiny_paligemma import tiny_paligemma as random_paligemma
from tiny_paligemma import tiny_paligemma_processor
from tolerances import assert_same_but_rounding, assert_same_gradients

from openpali.modeling.transformers_versions import image_tokens_of

KINDS = [*GEMMAS, *PAIRS]


@pytest.fixture
def make(tiny_tokenizer):
    """A model by the name of its text model, a batch, and the batch with the image encoder's output for images."""

    def made(kind, **fields):
        if kind in GEMMAS:
            processor = tiny_paligemma_processor(tiny_tokenizer)
            model, batch = random_paligemma(kind, processor, **fields), dict(paligemma_batch(processor))
            tower = model.model.vision_tower
        else:
            model, batch = tiny_pali3(kind, **fields), tiny_batch()
            tower = model.model.encoder.vision_tower
        with torch.no_grad():
            features = tower(batch["pixel_values"]).last_hidden_state
        return model, batch, without(batch, "pixel_values") | {"image_features": features}

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_images(make, kind):
    model, batch, features = make(kind)
    found = []
    for inputs in (batch, features):
        model.zero_grad()
        outputs = model(**inputs)
        outputs.loss.backward()
        of_others = {n: p.grad.clone() for n, p in model.named_parameters() if "vision_tower" not in n}
        found.append((outputs, of_others))
    (images, expected), (stored, got) = found
    of_images = image_tokens_of if kind in GEMMAS else lambda output: output.image_hidden_states
    assert_same_but_rounding(stored.loss, images.loss)
    assert_same_but_rounding(of_images(stored), of_images(images))
    assert any("projector" in name and gradient.abs().max() > 0 for name, gradient in got.items())
    assert_same_gradients(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_images(make, kind):
    model, batch, features = make(kind)
    ways: tuple[dict, ...] = ({}, {"num_beams": 2})
    # a sequence of PaliGemma ends in what it is to go on with
    given, stored = (without(inputs, "labels") for inputs in (batch, features))
    assert_same_but_rounding(model(**stored).logits, model(**given).logits)
    for options in ways:
        expected = model.generate(**given, max_new_tokens=5, do_sample=False, **options)
        assert torch.equal(model.generate(**stored, max_new_tokens=5, do_sample=False, **options), expected)
    blank = stored | {"image_features": torch.zeros_like(stored["image_features"])}
    assert (model(**blank).logits - model(**given).logits).abs().max() > 1e-3


def test_image_positions_are_those_of_the_images(make):
    model, batch, features = make("t5", image_positions="sine")
    assert_same_but_rounding(model(**features).loss, model(**batch).loss)


@pytest.mark.parametrize("kind", ["gemma", "t5"])
def test_images_given_twice_are_refused(make, kind):
    model, batch, features = make(kind)
    with pytest.raises(ValueError, match="pixel_values or image_features"):
        model(**batch | features)
