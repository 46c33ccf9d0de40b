"""Captioners by themselves: initial weights, folders, scores, dropout, and the decoder on another encoder's tokens."""

import math

import pytest
import torch
from transformers import AutoModel, SiglipModel, SiglipVisionModel

from openpali import CaptionDecoder, CaptionDecoderConfig, Captioner, CaptionerConfig
from openpali.modeling.checkpoints import load_tower
from openpali.modeling.configuration_pali3 import vision_config_of

VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 8}
DECODER = {"vocab_size": 40, "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2}
DECODER |= {"num_attention_heads": 3, "max_position_embeddings": 6}


def tiny(**options) -> Captioner:
    torch.manual_seed(0)
    model = Captioner(CaptionerConfig(vision_config=VISION, decoder_config=DECODER | options))
    torch.nn.init.normal_(model.decoder.logits.weight)
    return model.eval()


def pixels(number: int = 3) -> torch.Tensor:
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([[5, 6, 1, 0, 0, 0], [7, 8, 9, 10, 11, 1], [5, 1, 0, 0, 0, 0]])


def test_initial_weights():
    wide = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 4, "vocab_size": 500}
    torch.manual_seed(0)
    config = CaptionerConfig(vision_config=VISION, decoder_config=DECODER | wide | {"use_bias": True})
    model = Captioner(config)
    patches, decoder = model.vision_model.embeddings.patch_embedding, model.decoder
    assert patches.weight.std().item() == pytest.approx(192**-0.5, rel=0.05)
    assert patches.weight.abs().max().item() < 2 * 192**-0.5 / 0.8796
    assert decoder.tokens.weight.std().item() == pytest.approx(1, rel=0.02)
    assert decoder.positions.weight.std().item() == pytest.approx(96**-0.5, rel=0.1)
    layer = decoder.layers[0]
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(96**-0.5, rel=0.05)  # pyright: ignore
    # the image encoder is narrower
    assert layer.cross_attn.k_proj.weight.std().item() == pytest.approx(16**-0.5, rel=0.05)  # pyright: ignore
    assert layer.mlp.fc1.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (96 + 384)), rel=0.01)  # pyright: ignore
    assert 0 < layer.mlp.fc1.bias.abs().max().item() < 1e-5  # pyright: ignore
    assert not decoder.logits.weight.any()
    loss = decoder.loss(torch.randn(3, 4, 16), decoder_input_ids=LABELS, labels=LABELS)
    assert loss.item() == pytest.approx(math.log(500))


def test_folders(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path / "whole")
    again = AutoModel.from_pretrained(tmp_path / "whole")
    assert type(again) is Captioner
    torch.testing.assert_close(again(pixels(), LABELS).loss, model(pixels(), LABELS).loss)
    # its encoder, as the later stages take it, and as stock Transformers does
    tokens = model.image_tokens(pixels())
    tower = load_tower(str(tmp_path / "whole"), SiglipVisionModel, vision_config_of(str(tmp_path / "whole")))
    torch.testing.assert_close(tower(pixels()).last_hidden_state, tokens)
    model.encoder().save_pretrained(tmp_path / "encoder")
    stock = AutoModel.from_pretrained(tmp_path / "encoder")
    assert type(stock) is SiglipVisionModel
    assert stock.config.vision_use_head is False
    torch.testing.assert_close(stock(pixels()).last_hidden_state, tokens)


def test_scores_do_not_depend_on_other_texts_padding_or_chunks(monkeypatch):
    model = tiny()
    whole = model.score(pixels(), LABELS)
    alone = torch.cat([model.score(pixels(), row[None, : int((row > 0).sum())]) for row in LABELS], dim=1)
    torch.testing.assert_close(alone, whole)
    monkeypatch.setattr("openpali.modeling.captioner.modeling_caption_decoder.SCORED_POSITIONS", 1)
    torch.testing.assert_close(model.score(pixels(), LABELS), whole)
    own = model.score(pixels(), LABELS[:, None])[:, 0]
    torch.testing.assert_close(own, whole.diagonal())
    # what is given is not scored
    given = torch.ones(3, 6)
    given[:, 0] = 0
    first = model.score(pixels(), LABELS[:, :1])
    torch.testing.assert_close(model.score(pixels(), LABELS, given), whole - first)
    assert torch.equal(model.score(pixels(), torch.zeros_like(LABELS)), torch.zeros(3, 3))


def test_no_position_sees_a_later_one_unless_it_is_parallel():
    model = tiny()
    tokens, other = model.image_tokens(pixels()), LABELS.clone()
    other[:, -1] = 20
    parallel = torch.tensor([False, True, False])
    one, two = (model.decoder(tokens, ids, parallel) for ids in (LABELS, other))
    torch.testing.assert_close(one[[0, 2], :-1], two[[0, 2], :-1])
    assert not torch.isclose(one[1, :-1], two[1, :-1]).all(-1).any()
    torch.testing.assert_close(model.decoder(tokens, LABELS)[0], one[0])


def test_greedy_texts_are_the_most_probable_tokens():
    model = tiny()
    ids = model.generate_ids(pixels())
    assert ids.shape[1] <= 6
    for row, image in zip(ids, pixels()):
        kept = row[row != 0]
        logits = model.decoder.logits(
            model.decoder(model.image_tokens(image[None]), model.decoder.shifted(kept[None]))
        )
        assert logits.argmax(-1)[0].tolist() == kept.tolist()
        assert (kept == 1).nonzero().flatten().tolist() in ([], [len(kept) - 1])


def test_dropout_is_for_training_alone():
    model = tiny(dropout=0.5)
    torch.testing.assert_close(model(pixels(), LABELS).loss, tiny()(pixels(), LABELS).loss)
    model.train()
    assert model(pixels(), LABELS).loss != model(pixels(), LABELS).loss


def test_checkpointed_layers_have_the_same_gradients():
    plain, saving = tiny().train(), tiny().train()
    saving.gradient_checkpointing_enable()
    for model in (plain, saving):
        model(pixels(), LABELS, parallel=torch.tensor([True, False, True])).loss.backward()
    for (name, one), two in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(two.grad, one.grad, msg=name)


@pytest.mark.parametrize("kind", ["weights", "autocast"])
def test_low_precision(kind):
    exact, model = tiny(), tiny()
    if kind == "weights":
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        inputs = pixels().to(model.dtype)
        loss = model(inputs, LABELS, parallel=torch.tensor([True, False, True])).loss
        scores = model.score(inputs, LABELS)
    assert loss.dtype == scores.dtype == torch.float32
    loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
    # eight bits of a number
    wanted = exact(pixels(), LABELS, parallel=torch.tensor([True, False, True])).loss
    torch.testing.assert_close(loss, wanted, rtol=0.03, atol=0)
    torch.testing.assert_close(scores, exact.score(pixels(), LABELS), rtol=0.03, atol=0.3)


def test_a_siglip_is_trained_by_both_losses():
    torch.manual_seed(0)
    text = {"hidden_size": 12, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    siglip = SiglipModel(SiglipModel.config_class(vision_config=VISION, text_config=text | {"vocab_size": 40}))  # pyright: ignore
    decoder = CaptionDecoder(CaptionDecoderConfig(**DECODER, encoder_hidden_size=16))  # pyright: ignore
    torch.nn.init.normal_(decoder.logits.weight)
    tokens = siglip.vision_model(pixel_values=pixels()).last_hidden_state
    decoder.loss(tokens, decoder_input_ids=LABELS, labels=LABELS, parallel=torch.ones(3).bool()).backward()
    assert siglip.vision_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0  # pyright: ignore


def test_a_width_that_heads_do_not_divide():
    with pytest.raises(ValueError, match="width 12 cannot be split into 5 heads"):
        CaptionDecoderConfig(**(DECODER | {"num_attention_heads": 5}))  # pyright: ignore
