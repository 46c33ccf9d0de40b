"""Our PaliGemma against big_vision's outputs for small random models, with every attention implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from openpali.modeling import loss_request
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.modeling.token_loss import example_losses
from openpali.modeling.transformers_versions import image_tokens_of
from openpali.scripts.convert_big_vision import convert

FIXTURES = Path(__file__).parents[1] / "fixtures"
VOCABULARY = 512
NAMES = ["paligemma1_tiny", "paligemma1_tiny_res56", "paligemma2_tiny", "paligemma2_tiny_nocap"]
# transformers has no SDPA for Gemma 2
BACKENDS = [(name, "eager") for name in NAMES] + [(name, "sdpa") for name in NAMES[:2]]
BACKENDS += [("paligemma1_tiny", "flex_attention"), ("paligemma2_tiny", "flex_attention")]


@pytest.fixture(autouse=True)
def the_references_vocabulary(monkeypatch):
    """Converted tables have rows for the image token and for padding, which the reference's softmax lacks."""

    def loss(hidden, head, *args, **kwargs):
        return example_losses(hidden, head.weight[:VOCABULARY], *args, **kwargs)

    monkeypatch.setattr(loss_request, "example_losses", loss)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    for name in NAMES:
        settings = ["text_config.final_logit_softcapping=null"] if name.endswith("nocap") else []
        convert(FIXTURES / f"{name}.npz", folder / name, settings=settings)
    return folder


def load(folder, name, backend="eager"):
    attention = {"text_config": backend, "vision_config": "eager"}
    return PaliGemmaForConditionalGeneration.from_pretrained(folder / name, attn_implementation=attention)


def inputs_of(reference, model):
    """The reference's images and texts of one more token than its model sees, in the layout of ours."""
    text, causal, supervised = (torch.tensor(reference[f"in/{n}"]).long() for n in ("text", "mask_ar", "mask_loss"))
    pixels = torch.tensor(reference["in/image"]).permute(0, 3, 1, 2)
    config = model.config
    tokens = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    image = torch.full((len(text), tokens), config.image_token_id)
    zeros = torch.zeros_like(image)
    return {
        "pixel_values": pixels,
        "input_ids": torch.cat([image, text], 1),
        "attention_mask": torch.ones(len(text), tokens + text.shape[1], dtype=torch.long),
        "token_type_ids": torch.cat([zeros, causal], 1),
        "labels": torch.cat([zeros - 100, text.masked_fill(supervised == 0, -100)], 1),
    }


@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_images_logits_and_losses(converted, name, backend):
    reference = np.load(FIXTURES / f"{name}.npz")
    model = load(converted, name, backend)
    batch = inputs_of(reference, model)
    with torch.no_grad():
        out = model(**batch, output_logits=True)
        images = image_tokens_of(out)
        tokens = images.shape[1]
        np.testing.assert_allclose(images, reference["out/zimg"], atol=2e-4)
        # the text positions, of which the reference's model does not see the last
        ours = out.logits[:, tokens:-1, :VOCABULARY]
        np.testing.assert_allclose(ours, reference["out/text_logits"], atol=2e-4)
        for smoothing in (0.0, 0.1, 0.3):
            expected = float(reference[f"out/loss_ls{smoothing:g}"])
            assert float(model(**batch, label_smoothing=smoothing).loss) == pytest.approx(expected, abs=2e-4)


def test_every_gradient(converted, tmp_path):
    reference = np.load(FIXTURES / "paligemma1_tiny_grads.npz")
    model = load(converted, "paligemma1_tiny")
    model(**inputs_of(np.load(FIXTURES / "paligemma1_tiny.npz"), model)).loss.backward()
    # gradients have the names and shapes of the parameters, and so are converted like them
    arrays = {name.replace("grad/", "params/", 1): reference[name] for name in reference.files if "/" in name}
    np.savez(tmp_path / "gradients.npz", **arrays)
    convert(tmp_path / "gradients.npz", tmp_path / "gradients")
    expected = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path / "gradients")
    squares = 0.0
    for name, parameter in model.named_parameters():
        grad, gradient = parameter.grad, expected.get_parameter(name)
        if name.endswith("embed_tokens.weight"):
            grad, gradient = grad[:VOCABULARY], gradient[:VOCABULARY]
        squares += float(grad.double().square().sum())
        # a bias of keys moves nothing: its gradient is zero but for rounding
        assert (grad - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, name
    assert squares**0.5 == pytest.approx(float(reference["global_norm"]), rel=1e-4)
