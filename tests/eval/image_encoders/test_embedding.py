import logging

import pytest
import torch
from tiny_siglip import TEXT_LENGTH, VISION, random_images, tiny_siglip
from tolerances import assert_same_but_rounding
from torch.nn.functional import normalize
from transformers import Siglip2Config, Siglip2Model, SiglipForImageClassification, SiglipVisionModel
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from openpali.eval.image_encoders.embedding import embed_images, embed_texts, eval_mode, image_features

TEXTS = ["red", "an image of blue", "rot", "red"]


@pytest.fixture(scope="module")
def siglip():
    return tiny_siglip()


def test_embeddings_are_those_of_the_model(siglip):
    model, processor = siglip
    inputs = processor(images=random_images(5), text=TEXTS, padding="max_length", max_length=TEXT_LENGTH)
    inputs = {key: torch.as_tensor(value) for key, value in inputs.convert_to_tensors("pt").items()}
    with torch.no_grad():
        expected = model(pixel_values=inputs["pixel_values"], input_ids=inputs["input_ids"])
    images = embed_images(model, processor.image_processor, iter(random_images(5)), batch_size=2)
    texts = embed_texts(model, processor.tokenizer, TEXTS, batch_size=2)
    torch.testing.assert_close(images, expected.image_embeds, atol=1e-6, rtol=0)
    torch.testing.assert_close(texts, expected.text_embeds, atol=1e-6, rtol=0)
    assert torch.equal(texts[0], texts[3])
    assert (images[0] - images[1]).norm() > 1e-3
    assert (texts[0] - texts[1]).norm() > 1e-3


def test_texts_are_padded_to_the_requested_length(siglip):
    model, processor = siglip
    ids = processor.tokenizer(["red"], padding="max_length", max_length=6, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    short = embed_texts(model, processor.tokenizer, ["red"], 6)
    torch.testing.assert_close(short, expected, atol=1e-6, rtol=0)
    # SigLIP attends to padding, so the length matters
    assert (short - embed_texts(model, processor.tokenizer, ["red"])).norm() > 1e-3
    with pytest.raises(ValueError, match="text_length=9: the model's text tower has 1 to 8 positions"):
        embed_texts(model, processor.tokenizer, ["red"], 9)


def test_long_texts_are_cut_and_counted_once(siglip, caplog):
    model, processor = siglip
    long = "an image of red an image of blue an image of white"
    with caplog.at_level(logging.WARNING):
        texts = embed_texts(model, processor.tokenizer, [long, "red", long, long + " black"], batch_size=1)
    assert len(caplog.records) == 1
    assert f"2 of 3 different texts are longer than 8 tokens and were cut, the first of them: '{long}'" in caplog.text
    # what differs beyond the cut is not seen
    torch.testing.assert_close(texts[0], texts[3], atol=1e-6, rtol=0)
    caplog.clear()
    embed_texts(model, processor.tokenizer, ["red", "blue"])
    assert not caplog.records


def test_every_part_is_in_its_mode_afterwards_even_after_an_error(siglip):
    model, processor = siglip
    model.train()
    model.vision_model.eval()
    seen = []

    def fail():
        with eval_mode(model):
            seen.extend([part.training for part in model.modules()] + [torch.is_grad_enabled()])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert seen
    assert not any(seen)
    embed_images(model, processor.image_processor, random_images(1))
    assert model.text_model.encoder.training
    assert not model.vision_model.encoder.training
    assert torch.is_grad_enabled()
    model.eval()


def test_features_of_a_classifier_and_of_an_encoder_alone(siglip):
    model, processor = siglip
    classifier = SiglipForImageClassification(model.config).eval()
    classifier.vision_model.load_state_dict(model.vision_model.state_dict())
    encoder = SiglipVisionModel(model.config.vision_config).eval()
    encoder.load_state_dict(model.vision_model.state_dict())
    pixels = processor.image_processor(random_images(3), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = model.vision_model(pixels)
        logits = classifier(pixels).logits
    expected = {"mean": outputs.last_hidden_state.mean(1), "head": outputs.pooler_output}
    for kind in (model, classifier, encoder):
        for pooling, features in expected.items():
            found = image_features(kind, processor.image_processor, random_images(3), pooling)
            assert_same_but_rounding(found, features)
    mean = image_features(classifier, processor.image_processor, random_images(3), "mean")
    torch.testing.assert_close(classifier.classifier(mean), logits, atol=1e-5, rtol=1e-4)


def test_an_encoder_without_a_head_says_so():
    model, processor = tiny_siglip(vision_use_head=False)
    assert image_features(model, processor.image_processor, random_images(1), "mean").shape == (1, 16)
    with pytest.raises(ValueError, match="this SiglipModel has no pooling head: use pooling 'mean'"):
        embed_images(model, processor.image_processor, random_images(1))
    with pytest.raises(ValueError, match="pooling is one of head, mean, not 'max'"):
        image_features(model, processor.image_processor, random_images(1), "max")


def test_nothing_to_embed_is_said(siglip):
    model, processor = siglip
    with pytest.raises(ValueError, match="no images"):
        embed_images(model, processor.image_processor, [])
    with pytest.raises(ValueError, match="no texts"):
        embed_texts(model, processor.tokenizer, [])
    with pytest.raises(ValueError, match="batch_size=0"):
        embed_images(model, processor.image_processor, random_images(1), 0)


def test_siglip2_with_images_of_several_shapes():
    """Patches that only fill up a smaller image have no part in the mean."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = sizes | {"patch_size": VISION["patch_size"], "num_patches": 16}
    torch.manual_seed(0)
    model = Siglip2Model(Siglip2Config(vision_config=vision, text_config=sizes | {"vocab_size": 99})).eval()
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    shapes = [image.resize(size) for image, size in zip(random_images(2), [(50, 30), (20, 20)])]
    inputs = dict(processor(shapes, return_tensors="pt").items())
    with torch.no_grad():
        outputs = model.get_image_features(**inputs)
    assert inputs["pixel_attention_mask"].sum(1).tolist() == [15, 16]
    found = embed_images(model, processor, shapes)
    torch.testing.assert_close(found, normalize(outputs.pooler_output, dim=-1), atol=1e-6, rtol=0)
    mean = image_features(model, processor, shapes, "mean")
    for row, tokens, mask in zip(mean, outputs.last_hidden_state, inputs["pixel_attention_mask"].bool()):
        torch.testing.assert_close(row, tokens[mask].mean(0), atol=1e-6, rtol=1e-5)
