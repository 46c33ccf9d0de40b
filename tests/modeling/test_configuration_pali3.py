import pytest
import torch
from tiny_pali3 import KINDS, VISION, VOCABULARY, tiny_batch, tiny_config
from transformers import AutoConfig, SiglipVisionConfig, T5Config

from openpali import Pali3Config, Pali3ForConditionalGeneration
from openpali.modeling.configuration_pali3 import PRESETS

NAMES = [path.stem.removeprefix("pali3-") for path in sorted(PRESETS.glob("pali3-*.yaml"))]


def parameters(config: Pali3Config) -> dict[str, int]:
    """Counts by part, without memory for the weights."""
    with torch.device("meta"):
        model = Pali3ForConditionalGeneration(config)
    count = {"all": sum(parameter.numel() for parameter in model.parameters())}
    count["vision"] = sum(parameter.numel() for parameter in model.model.encoder.vision_tower.parameters())
    count["projector"] = sum(parameter.numel() for parameter in model.model.encoder.projector.parameters())
    return count | {"text": count["all"] - count["vision"] - count["projector"]}


def test_the_default_has_the_sizes_of_the_paper():
    config = Pali3Config()
    count = parameters(config)
    # 2B and 3B in section 3.1, with the pooling head and the 250k vocabulary that are not used here
    assert 1.80e9 < count["vision"] < 1.90e9
    assert 2.8e9 < count["text"] < 3.0e9
    assert 4.6e9 < count["all"] < 5.0e9
    assert count["projector"] == 1664 * 2048 + 2048
    assert config.image_seq_length == 256


def test_the_default_equals_its_preset():
    assert Pali3Config.from_preset("5b").to_dict() == Pali3Config().to_dict()


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_builds(name):
    config = Pali3Config.from_preset(name)
    assert parameters(config)["all"] > 1e6
    assert config.image_token_id < config.text_config.vocab_size
    assert not config.tie_word_embeddings or name == "nano"


def test_nano_stays_below_six_million():
    config = Pali3Config.from_preset("nano", vocab_size=5000, image_token_id=4999, image_size=96)
    assert parameters(config)["all"] <= 6_000_000
    assert (config.text_config.vocab_size, config.image_token_id, config.image_seq_length) == (5000, 4999, 144)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="no preset 'giant'; there are 1b, 5b, base, nano"):
        Pali3Config.from_preset("giant")


def test_a_preset_takes_other_fields():
    config = Pali3Config.from_preset("nano", projector="mlp", label_smoothing=0.1)
    assert (config.projector, config.label_smoothing) == ("mlp", 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_the_same(kind, tmp_path):
    config = tiny_config(kind, projector="mlp", label_smoothing=0.1)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, Pali3Config)
    ours, theirs = config.to_dict(), loaded.to_dict()
    assert ours | {"transformers_version": "", "_name_or_path": ""} == theirs | {
        "transformers_version": "",
        "_name_or_path": "",
    }


@pytest.mark.parametrize(
    ("kind", "tied", "scaled"),
    [("t5", False, False), ("t5_tied", True, True), ("umt5", True, True), ("t5gemma", True, False)],
)
def test_tying_and_scaling_follow_the_text_model(kind, tied, scaled):
    config = tiny_config(kind)
    assert (config.tie_word_embeddings, config.scale_decoder_outputs) == (tied, scaled)


@pytest.mark.parametrize("kind", ["t5_tied", "umt5"])
def test_an_untied_projection_is_not_scaled(kind):
    config = tiny_config(kind, tie_word_embeddings=False)
    assert config.scale_decoder_outputs is False
    torch.manual_seed(0)
    model = Pali3ForConditionalGeneration(config).eval()
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    outputs = model(**tiny_batch(), output_logits=True, output_hidden_states=True)
    torch.testing.assert_close(outputs.logits, outputs.decoder_hidden_states[-1] @ model.lm_head.weight.T)


def test_special_tokens_come_from_the_text_model():
    config = tiny_config("t5gemma")
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (0, 1, 2)
    assert config.decoder_start_token_id == 2
    assert tiny_config("t5").decoder_start_token_id == 0
    assert tiny_config("t5", decoder_start_token_id=5).decoder_start_token_id == 5


def test_configurations_are_taken_as_they_are():
    vision, text = SiglipVisionConfig(**VISION), T5Config(vocab_size=VOCABULARY)
    config = Pali3Config(vision_config=vision, text_config=text)
    assert config.vision_config is vision
    assert config.text_config is text
    assert not vision.vision_use_head


def test_what_the_text_side_is_for_transformers():
    gemma = tiny_config("t5gemma")
    assert gemma.get_text_config(decoder=True) is gemma.text_config.decoder
    config = tiny_config("t5")
    assert config.get_text_config(decoder=True) is config.text_config


def test_an_unknown_projector_is_refused():
    with pytest.raises(ValueError, match="'linear' or 'mlp', not 'conv'"):
        tiny_config("t5", projector="conv")


def test_a_text_model_that_is_no_encoder_decoder_is_refused():
    with pytest.raises(ValueError, match="needs an encoder-decoder.*'llama'"):
        Pali3Config(vision_config=VISION, text_config={"model_type": "llama"})
