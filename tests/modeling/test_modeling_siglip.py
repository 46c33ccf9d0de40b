import pytest
import torch
from transformers import AutoModel, SiglipConfig, SiglipModel

from openpali.modeling.modeling_siglip import BottleneckEmbedding, SiglipForContrastiveLearning, siglip_preset

VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 8}
TEXT = {"hidden_size": 12, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT |= {"vocab_size": 32, "max_position_embeddings": 4, "projection_size": 16}


def tiny(**options) -> SiglipForContrastiveLearning:
    torch.manual_seed(0)
    return SiglipForContrastiveLearning.from_towers(SiglipConfig(vision_config=VISION, text_config=TEXT, **options))


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 16, 16, generator=generator)
    return {"pixel_values": pixels, "input_ids": torch.randint(2, 32, (3, 4), generator=generator)}


def test_loss_and_embeddings_are_those_of_siglip_model():
    model = tiny().eval()
    ours, theirs = model(**batch()), SiglipModel.forward(model, **batch(), return_loss=True)
    torch.testing.assert_close(ours.loss, theirs.loss)
    torch.testing.assert_close(ours.image_embeds, theirs.image_embeds)
    torch.testing.assert_close(ours.text_embeds, theirs.text_embeds)
    assert ours.loss.item() != tiny(contrastive_loss="softmax")(**batch()).loss.item()
    with pytest.raises(ValueError, match="contrastive_loss is sigmoid or softmax, not 'hinge'"):
        tiny(contrastive_loss="hinge")


def test_keys_reach_the_loss():
    model, keys = tiny().eval(), torch.tensor([4, 4, 5])
    plain, shared = model(**batch()).loss, model(**batch(), image_keys=keys[:, None], text_keys=keys).loss
    # two more positives at b = -10
    assert shared.item() > plain.item() + 5


@pytest.mark.parametrize("bottleneck", [None, 5])
def test_stock_model_gives_the_same_embeddings_in_plain_transformers(tmp_path, bottleneck):
    model = tiny(token_bottleneck=bottleneck).eval()
    model.stock().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is SiglipModel
    assert not hasattr(loaded.config, "token_bottleneck")
    ours, theirs = model(**batch()), loaded(**batch())
    torch.testing.assert_close(ours.image_embeds, theirs.image_embeds)
    torch.testing.assert_close(ours.text_embeds, theirs.text_embeds)
    # the model itself is as it was
    torch.testing.assert_close(model(**batch()).text_embeds, ours.text_embeds)


def test_bottleneck_checkpoints_load_again(tmp_path):
    model = tiny(token_bottleneck=5).eval()
    model.save_pretrained(tmp_path)
    again = SiglipForContrastiveLearning.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**batch()).loss, model(**batch()).loss)
    assert sum(p.numel() for p in again.text_model.embeddings.token_embedding.parameters()) == 32 * 5 + 5 * 12


def test_bottleneck_embeddings_have_the_variance_of_a_table():
    torch.manual_seed(0)
    table = BottleneckEmbedding(4000, 96, 768)
    assert table(torch.arange(4000)).var().item() == pytest.approx(1 / 768, rel=0.1)
    torch.testing.assert_close(table(torch.tensor([7, 3])), table.weight[[7, 3]])


@pytest.mark.parametrize(
    ("name", "tokens", "parameters"), [("b16", 64, 203_155_970), ("so400m14", 16, 877_360_306), ("G14", 64, None)]
)
def test_presets_have_the_published_sizes(name, tokens, parameters):
    size = siglip_preset(name)
    size["text_config"] |= {"vocab_size": 32000, "max_position_embeddings": tokens}
    with torch.device("meta"):
        model = SiglipForContrastiveLearning(SiglipConfig(**size))
    found = sum(p.numel() for p in model.parameters())
    vision = sum(p.numel() for p in model.vision_model.parameters())
    assert found == parameters if parameters else 1.7e9 < vision < 2.0e9


def test_unknown_preset():
    with pytest.raises(ValueError, match="no preset 'b32'; there are nano, s16, b16"):
        siglip_preset("b32")


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_losses_in_half_precision_are_near_those_in_single(tmp_path, kind, precision):
    model, inputs = tiny(contrastive_loss=kind), batch()
    model.save_pretrained(tmp_path)
    wanted = model(**inputs).loss.item()
    if precision != "autocast":
        model = SiglipForContrastiveLearning.from_pretrained(tmp_path, dtype=precision)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        assert model.dtype == getattr(torch, precision)
    # log 10 has no such number of eight bits, and a small learning rate would never change it
    assert model.logit_scale.dtype == model.logit_bias.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        loss = model(**inputs).loss
    loss.backward()
    assert loss.item() == pytest.approx(wanted, rel=0.02)
    assert model.logit_scale.grad is not None
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.save_pretrained(tmp_path)
    again = SiglipForContrastiveLearning.from_pretrained(tmp_path)
    assert again.dtype == model.dtype
    assert again.logit_bias.dtype == torch.float32
