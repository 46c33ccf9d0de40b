import math

import pytest
import torch
from transformers import SiglipConfig, SiglipModel
from transformers.models.siglip import SiglipTextConfig, SiglipVisionConfig

from openpali.modeling.contrastive_loss import initialize_logits, sigmoid_loss


def embeddings(n: int, m: int | None = None, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    images, texts = (torch.randn(k, width, generator=generator, dtype=torch.double) for k in (n, m or n))
    return torch.nn.functional.normalize(images), torch.nn.functional.normalize(texts)


def test_equals_the_pseudocode_of_the_paper_pair_by_pair():
    images, texts = embeddings(5)
    t, b = torch.tensor([1.3], dtype=torch.double), torch.tensor([-2.0], dtype=torch.double)
    expected = 0.0
    for i in range(5):
        for j in range(5):
            logit = math.exp(1.3) * float(images[i] @ texts[j]) - 2.0
            sign = 1 if i == j else -1
            expected += math.log1p(math.exp(-sign * logit))
    assert sigmoid_loss(images, texts, t, b).item() == pytest.approx(expected / 5, rel=1e-12)


def test_equals_the_loss_of_siglip_model():
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = SiglipTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
    )
    model = SiglipModel(SiglipConfig(vision_config=vision.to_dict(), text_config=text.to_dict())).eval()
    initialize_logits(model.logit_scale, model.logit_bias)
    outputs = model(pixel_values=torch.randn(3, 3, 16, 16), input_ids=torch.randint(2, 32, (3, 4)), return_loss=True)
    ours = sigmoid_loss(outputs.image_embeds, outputs.text_embeds, model.logit_scale, model.logit_bias)
    torch.testing.assert_close(ours, outputs.loss)
    assert model.logit_scale.item() == pytest.approx(math.log(10))
    assert model.logit_bias.item() == -10


def test_equal_captions_are_positives_when_the_caller_says_so():
    images, texts = embeddings(4)
    texts = texts[[0, 0, 2, 3]]
    t, b = torch.zeros(1, dtype=torch.double), torch.zeros(1, dtype=torch.double)
    positives = torch.eye(4, dtype=torch.bool)
    positives[0, 1] = positives[1, 0] = True
    logits = images @ texts.T
    z = torch.where(positives, 1.0, -1.0)
    expected = torch.log1p(torch.exp(-z * logits)).sum() / 4
    torch.testing.assert_close(sigmoid_loss(images, texts, t, b, positives), expected)
    assert not torch.isclose(sigmoid_loss(images, texts, t, b), expected)


def test_gradients_reach_embeddings_scale_and_bias():
    images, texts = (x.requires_grad_() for x in embeddings(3))
    t = torch.zeros(1, dtype=torch.double, requires_grad=True)
    b = torch.zeros(1, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(sigmoid_loss, (images, texts, t, b))


def test_more_texts_than_images():
    images, texts = embeddings(2, 5)
    t, b = torch.zeros(1, dtype=torch.double), torch.zeros(1, dtype=torch.double)
    positives = torch.zeros(2, 5, dtype=torch.bool)
    assert sigmoid_loss(images, texts, t, b, positives).item() > 0
