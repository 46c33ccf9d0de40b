"""New SigLIP towers start with the standard deviations of the authors' code, whichever class they are of."""

import pytest
import torch
from transformers import Siglip2Config, SiglipConfig

from openpali.modeling.initial_weights import lecun_normal
from openpali.modeling.modeling_siglip import SiglipForContrastiveLearning
from openpali.modeling.modeling_siglip2 import Siglip2ForContrastiveLearning

SIZE = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = SIZE | {"vocab_size": 100, "projection_size": 96}


@pytest.fixture(params=["square", "NaFlex"])
def towers(request):
    torch.manual_seed(0)
    if request.param == "square":
        config = SiglipConfig(vision_config=SIZE | {"image_size": 32, "patch_size": 8}, text_config=TEXT)
        return SiglipForContrastiveLearning.from_towers(config)
    config = Siglip2Config(vision_config=SIZE | {"num_patches": 16, "patch_size": 8}, text_config=TEXT)
    return Siglip2ForContrastiveLearning.from_towers(config)


def test_patches_and_text_projection_are_lecun_normal(towers):
    for weight, inputs in [
        (towers.vision_model.embeddings.patch_embedding.weight, 192),
        (towers.text_model.head.weight, 96),
    ]:
        # 9,216 values or more: the standard deviation of a sample's own is below 1 %
        assert weight.std().item() == pytest.approx(inputs**-0.5, rel=0.03)
        assert weight.abs().max().item() <= 2 * inputs**-0.5 / 0.87962566103423978


def test_attention_pooling_is_xavier_uniform(towers):
    head = towers.vision_model.head
    bound = (6 / (96 + 96)) ** 0.5
    for matrix in (*head.attention.in_proj_weight.chunk(3), head.attention.out_proj.weight):
        # the largest of 9,216 uniform values is within 1 % of the bound
        assert matrix.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert matrix.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
    # of one input: the largest of 96 values
    assert head.probe.abs().max().item() == pytest.approx((6 / 97) ** 0.5, rel=0.1)


def test_lecun_normal_counts_all_inputs_of_a_kernel():
    weight = torch.empty(64, 3, 8, 8)
    torch.manual_seed(0)
    lecun_normal(weight)
    assert weight.std().item() == pytest.approx(192**-0.5, rel=0.03)
