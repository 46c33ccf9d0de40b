"""PaliGemma out of two checkpoints, and another resolution for both families."""

import copy
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.paligemma.modeling_paligemma import PaliGemmaForConditionalGeneration as StockPaliGemma
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali import Pali3Config, Pali3ForConditionalGeneration, Pali3Processor
from openpali.eval.answering.load_model import load_model
from openpali.modeling.configuration_paligemma import paligemma_preset
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.modeling.processing_paligemma import PaliGemmaProcessor
from openpali.modeling.processing_tokenizer import LOCATION_TOKENS, SEGMENTATION_TOKENS
from openpali.modeling.resolution import set_resolution

WORDS, SIDE, PATCH = 40, 32, 8
SHAPE: dict[str, Any] = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 3}
MODELS = {"gemma": (GemmaConfig, GemmaForCausalLM), "gemma2": (Gemma2Config, Gemma2ForCausalLM)}
MODELS |= {"llama": (LlamaConfig, LlamaForCausalLM)}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Forty words, the first of which are special; it has no images, locations or segments yet."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", "<bos>", "\n", *(f"w{i}" for i in range(WORDS - 5))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    special: Any = {name: f"<{name.removesuffix('_token')}>" for name in ("pad_token", "eos_token", "bos_token")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


@pytest.fixture
def backbones(tmp_path):
    """Makes folders of an image encoder and of a language model of a kind."""

    def make(kind: str) -> tuple[str, str]:
        torch.manual_seed(0)
        tower: dict[str, Any] = {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        SiglipVisionModel(SiglipVisionConfig(**tower, image_size=SIDE, patch_size=PATCH)).save_pretrained(
            tmp_path / "vision"
        )
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path / "vision")
        config, model = MODELS[kind]
        model(config(**SHAPE)).save_pretrained(tmp_path / kind)
        word_tokenizer().save_pretrained(tmp_path / kind)
        return str(tmp_path / "vision"), str(tmp_path / kind)

    return make


def assembled(vision: str, text: str, **fields: Any) -> tuple[Any, Any]:
    processor = PaliGemmaProcessor.from_backbones(vision, text)
    return PaliGemmaForConditionalGeneration.from_backbones(vision, text, processor, **fields), processor


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_text_alone_gets_the_language_models_own_logits(kind, backbones):
    vision, text = backbones(kind)
    model, _ = assembled(vision, text)
    stock = AutoModelForCausalLM.from_pretrained(text).eval()
    ids = torch.tensor([[3, 7, 9, 11, 8]])
    with torch.no_grad():
        expected = stock(input_ids=ids).logits
        # causal, as the stock model is
        ours = model(input_ids=ids, token_type_ids=torch.ones_like(ids)).logits
    torch.testing.assert_close(ours[..., :WORDS], expected)
    assert expected.std() > 0.01


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_new_tokens_are_small_and_random_and_the_projector_is_zero(kind, backbones):
    vision, text = backbones(kind)
    model, processor = assembled(vision, text)
    table = model.get_input_embeddings().weight
    assert table.shape[0] % 64 == 0
    assert table.shape[0] == model.config.vocab_size == model.config.text_config.vocab_size >= len(processor.tokenizer)
    assert model.lm_head.weight is table
    old: Any = AutoModelForCausalLM.from_pretrained(text).get_input_embeddings().weight
    assert torch.equal(table[:WORDS], old)
    assert table[WORDS:].std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(table[WORDS:].mean().item()) < 1e-3
    assert not model.model.multi_modal_projector.linear.weight.any()
    tower = SiglipVisionModel.from_pretrained(vision).state_dict()
    ours = model.model.vision_tower.state_dict()
    assert ours
    assert all(torch.equal(weight, tower[name]) for name, weight in ours.items())


def test_tokens_stand_in_the_order_of_the_published_checkpoints(backbones):
    processor: Any = assembled(*backbones("gemma"))[1]
    ids = processor.tokenizer.convert_tokens_to_ids([*LOCATION_TOKENS, *SEGMENTATION_TOKENS, "<image>"])
    assert ids == list(range(WORDS, WORDS + 1024 + 128 + 1))
    assert processor.image_seq_length == processor.image_processor.image_seq_length == (SIDE // PATCH) ** 2


def test_assembled_it_saves_loads_and_answers_here_and_in_stock_transformers(backbones, tmp_path):
    model, processor = assembled(*backbones("gemma2"))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded, again = load_model(str(tmp_path / "model"), "cpu")
    stock = StockPaliGemma.from_pretrained(tmp_path / "model").eval()
    inputs = again(images=[Image.new("RGB", (50, 40), "red")], text=["w1 w2"], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
        torch.testing.assert_close(loaded(**inputs).logits, expected)
        torch.testing.assert_close(stock(**inputs).logits, expected)
    batch = processor(images=[Image.new("RGB", (9, 9))], text=["w1"], suffix=["w2 w3"], return_tensors="pt")
    assert model(**batch).loss.isfinite()


def test_an_ablation_is_an_option_and_other_language_models_are_refused(backbones):
    model, _ = assembled(*backbones("gemma"), projector="mlp")
    assert model.config.projector == "mlp"
    with pytest.raises(ValueError, match="Gemma or Gemma 2, not 'llama'"):
        assembled(*backbones("llama"))
    with pytest.raises(ValueError, match="no preset '5b' of PaliGemma; there are nano, 3b"):
        paligemma_preset("5b")


def nano(family: str, tokenizer: Any) -> tuple[Any, Any]:
    """A new model at 64 px, with a projector that lets the image through, and its processor."""
    images: Any = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    images.image_seq_length = 64
    torch.manual_seed(0)
    if family == "pali3":
        processor: Any = Pali3Processor(images, tokenizer, image_seq_length=64)
        config: Any = Pali3Config.from_preset(
            "nano", vocab_size=len(tokenizer), image_token_id=processor.image_token_id, projector_init="normal"
        )
        return Pali3ForConditionalGeneration(config), processor
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    processor = PaliGemmaProcessor(images, tokenizer)
    text = {"vocab_size": len(processor.tokenizer), "bos_token_id": processor.tokenizer.bos_token_id}
    config = paligemma_preset("nano", text_config=text, image_token_id=processor.image_token_id)
    model: Any = PaliGemmaForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.linear.weight, std=0.1)
    return model, processor


@pytest.mark.parametrize("family", ["pali3", "paligemma"])
def test_at_twice_the_size_features_are_nearly_those_of_the_small_image(family, tiny_tokenizer, tmp_path):
    model, processor = nano(family, tiny_tokenizer)
    model.eval()
    small = interpolate(torch.randn(2, 3, 4, 4), size=(64, 64), mode="bicubic")
    large, side = interpolate(small, size=(128, 128), mode="bilinear"), 64

    def features(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model.get_image_features(pixels).pooler_output.mean(dim=1)

    before, other = features(small), features(-small)
    set_resolution(model, processor, 2 * side)
    after = features(large)
    assert (before - after).norm() < 0.2 * (before - other).norm()
    tokens = (2 * side // model.config.vision_config.patch_size) ** 2
    assert processor.image_seq_length == tokens

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, again = load_model(str(tmp_path), "cpu")
    inputs = again(images=[Image.new("RGB", (50, 40), "red")], text=["what is this"], return_tensors="pt")
    assert inputs["pixel_values"].shape[-1] == 2 * side
    assert (inputs["input_ids"] == again.image_token_id).sum() == tokens
    with torch.no_grad():
        logits = loaded(**inputs).logits
        torch.testing.assert_close(logits, model.eval()(**inputs).logits)
    assert logits.isfinite().all()
    generated: Any = loaded
    assert generated.generate(**inputs, max_new_tokens=3).shape[0] == 1
