import copy
from typing import Any

import pytest
import torch
from tiny_pali3 import SIDE, TEXT, VISION, VOCABULARY
from tolerances import assert_same_but_rounding
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali import Pali3ForConditionalGeneration, Pali3Processor


def assemble(vision, text, **options) -> Any:
    return Pali3ForConditionalGeneration.from_backbones(str(vision), str(text), **options)


# T5 v1.1 and every published UMT5 have a projection of their own
CHECKPOINTS = ["t5", "t5_tied", "umt5", "t5gemma"]


def save_vision(folder, whole: bool) -> Any:
    torch.manual_seed(2)
    if whole:
        text = SiglipTextConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
        model: Any = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=VISION))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**VISION))
    torch.nn.init.normal_(model.get_parameter("vision_model.post_layernorm.bias" if whole else "post_layernorm.bias"))
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model


def save_text(folder, kind):
    torch.manual_seed(3)
    options = copy.deepcopy(TEXT[kind])
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(options.pop("model_type"), **options)).eval()
    if kind in ("t5", "umt5"):
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 16) * 0.3)
    if kind == "t5gemma":
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return AutoModelForSeq2SeqLM.from_pretrained(folder)


@pytest.fixture
def folders(tmp_path):
    save_vision(tmp_path / "vision", whole=False)
    return tmp_path / "vision", tmp_path / "text"


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_text_alone_gets_the_published_models_own_logits(kind, folders):
    vision, text = folders
    stock = save_text(text, kind)
    model = assemble(vision, text)
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]]),
        "decoder_input_ids": torch.tensor([[0, 3, 4]] * 2),
    }
    batch["attention_mask"] = (batch["input_ids"] != 0).long()
    with torch.no_grad():
        ours, theirs = model(**batch).logits, stock(**batch).logits
    if kind == "umt5":
        # the stock class multiplies as if the projection were tied; the published models were trained without
        with torch.no_grad():
            encoded = stock.get_encoder()(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
            states = stock.get_decoder()(
                batch["decoder_input_ids"],
                encoder_hidden_states=encoded,
                encoder_attention_mask=batch["attention_mask"],
            ).last_hidden_state
            torch.testing.assert_close(theirs, states @ stock.lm_head.weight.T / 4)
            theirs = states @ stock.lm_head.weight.T
    torch.testing.assert_close(ours, theirs)
    assert ours.std() > 0.1
    assert model.config.tie_word_embeddings == (kind in ("t5_tied", "t5gemma"))


@pytest.mark.parametrize("whole", [True, False], ids=["SiglipModel", "SiglipVisionModel"])
def test_the_image_encoder_comes_from_either_kind_of_checkpoint(whole, tmp_path):
    stock = save_vision(tmp_path / "vision", whole)
    save_text(tmp_path / "text", "t5")
    model = assemble(tmp_path / "vision", tmp_path / "text")
    images = torch.rand(2, 3, SIDE, SIDE)
    tower = stock.vision_model if whole else stock
    with torch.no_grad():
        ours = model.get_image_features(images)
        torch.testing.assert_close(ours.last_hidden_state, tower(images).last_hidden_state)
    assert ours.pooler_output.abs().sum() == 0
    assert not any("head" in name for name, _ in model.model.encoder.vision_tower.named_parameters())


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_assembled_saved_and_loaded_answers_the_same(kind, folders, tmp_path):
    vision, text = folders
    save_text(text, kind)
    model = assemble(vision, text, projector="mlp")
    assert model.config.projector == "mlp"
    assert model.config.image_token_id == VOCABULARY - 1
    assert not model.training
    model.save_pretrained(tmp_path / "model")
    loaded = Pali3ForConditionalGeneration.from_pretrained(tmp_path / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        assert_same_but_rounding(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_vocabulary_grows_to_the_processors(kind, folders, tiny_tokenizer):
    vision, text = folders
    stock = save_text(text, kind)
    tiny_tokenizer.save_pretrained(text)
    processor: Any = Pali3Processor.from_backbones(str(vision), str(text))
    assert processor.image_seq_length == 4
    model = assemble(vision, text, processor=processor)
    rows = model.get_input_embeddings().num_embeddings
    assert rows % 64 == 0
    assert rows >= len(processor.tokenizer)
    assert rows == model.lm_head.out_features == model.get_decoder().get_input_embeddings().num_embeddings
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")
    old = stock.get_encoder().get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[:VOCABULARY], old)
    image = torch.zeros(30, 20, 3, dtype=torch.uint8).numpy()
    batch = processor(images=image, text="what is <loc0001>", suffix="a dog", return_tensors="pt")
    assert model(**batch).loss.isfinite()


def test_other_image_encoders_are_refused(tmp_path):
    clip = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    CLIPVisionModel(clip).save_pretrained(tmp_path / "clip")
    save_text(tmp_path / "text", "t5")
    with pytest.raises(ValueError, match="clip.*needs a SigLIP one"):
        assemble(tmp_path / "clip", tmp_path / "text")
