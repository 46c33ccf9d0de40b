"""PaLI-3's images: in their order, in the places of their placeholders, unscaled."""

import pytest
import torch
from tiny_pali3 import IMAGE, IMAGE_TOKENS, KINDS, SIDE, VISION, WIDTH, logits_of, tiny_batch, tiny_pali3, without


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return tiny_pali3(kind)


def test_inputs_embeds_with_images_equal_input_ids(model):
    batch = tiny_batch()
    ids = batch["labels"].clamp(min=0)
    embeds = {
        "inputs_embeds": model.get_input_embeddings()(batch["input_ids"]),
        "decoder_inputs_embeds": model.get_decoder().get_input_embeddings()(ids),
    }
    result = logits_of(model, input_ids=None, decoder_input_ids=None, **embeds)
    torch.testing.assert_close(result, logits_of(model))
    with pytest.raises(ValueError, match="exactly one"):
        model(**without(batch, "labels"), inputs_embeds=embeds["inputs_embeds"])


def test_image_features_honour_the_options_of_the_image_encoder(model):
    model.set_attn_implementation("eager")
    images = tiny_batch()["pixel_values"]
    outputs = model.get_image_features(images, output_hidden_states=True, output_attentions=True)
    assert outputs.pooler_output.shape == (2, IMAGE_TOKENS, WIDTH)
    assert outputs.last_hidden_state.shape == (2, IMAGE_TOKENS, VISION["hidden_size"])
    assert len(outputs.hidden_states) == VISION["num_hidden_layers"] + 1
    assert len(outputs.attentions) == VISION["num_hidden_layers"]
    assert isinstance(model.get_image_features(images, return_dict=False), tuple)
    assert "pooler_output" in model.get_image_features(images, return_dict=None)


def test_several_images_are_used_in_their_order(model):
    images = tiny_batch(examples=4)["pixel_values"]
    ids = torch.cat([torch.full((2, 2 * IMAGE_TOKENS), IMAGE), tiny_batch()["input_ids"][:, IMAGE_TOKENS:]], dim=1)
    changes = {"input_ids": ids, "attention_mask": None}
    in_order = logits_of(model, pixel_values=images, **changes)
    assert torch.equal(logits_of(model, pixel_values=images.view(2, 2, 3, SIDE, SIDE), **changes), in_order)
    swapped = logits_of(model, pixel_values=images[[1, 0, 2, 3]], **changes)
    assert (swapped[0] - in_order[0]).abs().max() > 1e-4
    torch.testing.assert_close(swapped[1], in_order[1])


def test_image_tokens_take_the_places_of_their_placeholders(model):
    encoder = model.model.encoder
    ids = torch.tensor([[5, IMAGE, 7, IMAGE], [IMAGE, 8, IMAGE, 9]])
    features = torch.arange(4.0)[:, None].expand(4, WIDTH).reshape(2, 2, WIDTH)
    merged = encoder.merge_images(ids, torch.full((2, 4, WIDTH), -1.0), features)
    assert merged[..., 0].tolist() == [[-1, 0, -1, 1], [2, -1, 3, -1]]


def test_images_reach_the_text_encoder_as_projected_whatever_it_scales(model):
    """T5Gemma multiplies its inputs by the root of its width; image tokens must come out of that unscaled."""
    seen = []
    layers = model.model.encoder.text_encoder
    first = layers.layers[0] if model.config.text_config.model_type == "t5gemma" else layers.block[0]
    handle = first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = tiny_batch()
    outputs = model(**batch)
    handle.remove()
    torch.testing.assert_close(seen[0][:, :IMAGE_TOKENS], outputs.image_hidden_states)


def test_placeholders_must_match_the_images(model):
    batch = tiny_batch()
    with pytest.raises(ValueError, match="8 image placeholders in input_ids but 1 images of 4 tokens"):
        model(**batch | {"pixel_values": batch["pixel_values"][:1]})
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with pytest.raises(ValueError, match="8 image placeholders"):
        model(
            **without(batch, "input_ids", "pixel_values"),
            inputs_embeds=embeds,
            pixel_values=torch.rand(3, 3, SIDE, SIDE),
        )


def test_text_alone_needs_no_image(model):
    ids = tiny_batch()["input_ids"][:, IMAGE_TOKENS:]
    logits = logits_of(model, input_ids=ids, attention_mask=None, pixel_values=None)
    assert logits.isfinite().all()
