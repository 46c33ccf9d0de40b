"""4-bit weights are what they stand for, in every layer and also after an evaluation."""

import logging

import pytest
import torch
from tiny_adapters import CPU, FAMILIES, answer_logits, loss, save_checkpoint, training_batch
from transformers import BitsAndBytesConfig

from openpali.modeling import four_bit
from openpali.modeling.auto import checkpoint_config, model_class
from openpali.modeling.four_bit import (
    four_bit_config,
    four_bit_layers,
    is_relevant,
    load_four_bit,
    read_quantization,
    save_quantization,
    sizes,
)


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path_factory.mktemp(request.param))


def load(checkpoint, dtype=torch.float32):
    kind = model_class(checkpoint_config(checkpoint))
    return load_four_bit(kind, str(checkpoint), four_bit_config(dtype), CPU)


def quantised_names(model):
    layers = set(map(id, four_bit_layers(model)))
    return {name for name, module in model.named_modules() if id(module) in layers}


def test_every_linear_layer_but_head_and_projector_is_quantised(checkpoint):
    model = load(checkpoint)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    kept = {name for name in linear if name == "lm_head" or "projector" in name}
    assert len(kept) == 2
    assert quantised_names(model) == linear - kept
    assert "nf4" in {layer.weight.quant_type for layer in four_bit_layers(model)}
    assert all(layer.weight.quant_state.nested for layer in four_bit_layers(model))


def test_transformers_own_choice_would_leave_out_wo(checkpoint):
    """If this fails, Transformers has changed and the override can go."""
    kind = model_class(checkpoint_config(checkpoint))
    stock = kind.from_pretrained(
        checkpoint, quantization_config=four_bit_config(torch.float32), device_map={"": "cpu"}
    )
    left_out = quantised_names(load(checkpoint)) - quantised_names(stock)
    assert {name.split(".")[-1] for name in left_out} == ({"wo"} if "Pali3" in kind.__name__ else set())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_it_answers_as_the_weights_that_it_stands_for(checkpoint, dtype, tolerance):
    """With bytes as storage T5 turns activations into bytes: its loss was 0.12 off in float32."""
    batch = training_batch(checkpoint).to(dtype=dtype)
    plain = load(checkpoint, dtype).dequantize().float()
    expected = loss(plain, batch.to(dtype=torch.float32))
    assert loss(load(checkpoint, dtype), batch).item() == pytest.approx(expected.item(), abs=tolerance)


def test_evaluation_leaves_the_weights_as_they_were(checkpoint):
    """Left to itself bitsandbytes repacks them in evaluation mode on some CPUs."""
    model = load(checkpoint)
    before = [layer.weight.data.view(torch.uint8).clone() for layer in four_bit_layers(model)]
    answer_logits(model, checkpoint)
    after = [layer.weight.data.view(torch.uint8) for layer in four_bit_layers(model)]
    assert all(torch.equal(new, old) for new, old in zip(after, before, strict=True))


def test_the_override_ends_with_the_loading(checkpoint):
    load(checkpoint)
    choose = four_bit.Bnb4BitHfQuantizer.get_modules_to_not_convert
    model = model_class(checkpoint_config(checkpoint)).from_pretrained(checkpoint)
    assert "wo" in choose(model, ["lm_head"], ["wo"])


def test_sizes_count_what_is_there(checkpoint):
    kind = model_class(checkpoint_config(checkpoint))
    plain = kind.from_pretrained(checkpoint, dtype=torch.float32)
    model = load(checkpoint)
    quantised, total, now, before = sizes(model)
    assert total == sum(p.numel() for p in plain.parameters())
    assert before == 4 * total
    names = quantised_names(model)
    assert quantised == sum(plain.get_submodule(name).weight.numel() for name in names)
    # half a byte each, a byte of scale for 64 of them, and tables of 1.4 kB for every layer
    least = before - 3.5 * quantised
    assert least < now < least + quantised / 50 + 1400 * len(names)


def test_the_settings_survive_on_disk(checkpoint, tmp_path):
    model = load(checkpoint, torch.bfloat16)
    save_quantization(model, tmp_path)
    config = read_quantization(tmp_path)
    assert isinstance(config, BitsAndBytesConfig)
    assert config.to_dict() == four_bit_config(torch.bfloat16).to_dict()
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert read_quantization(checkpoint) is None
    save_quantization(torch.nn.Linear(2, 2), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_without_bitsandbytes_the_command_that_installs_it_is_named(checkpoint, monkeypatch):
    monkeypatch.setattr(four_bit, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ImportError, match="pip install 'bitsandbytes"):
        load(checkpoint)


def test_only_the_message_of_the_unused_library_is_kept_out():
    def record(text):
        return logging.LogRecord("bitsandbytes.backends.cpu.ops", logging.WARNING, "", 0, text, None, None)

    assert not is_relevant(record("Failed to load CPU gemm_4bit_forward from kernels-community: no"))
    assert is_relevant(record("something else"))
