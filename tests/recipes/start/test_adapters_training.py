"""Runs with adapters train these alone, in both families, and their checkpoints hold nothing else."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapter_run import adapter_run, curve, without_dropout
from tiny_adapters import FAMILIES, KINDS, save_checkpoint

from openpali.eval.answering.load_model import adapter_parameters, load_adapter_weights
from openpali.modeling.four_bit import QUANTIZATION_FILE
from openpali.modeling.user_errors import CheckpointError
from openpali.recipes.run.run_folder import BEST_FOLDER
from openpali.recipes.training.load_weights import load_weights

pytestmark = pytest.mark.adapters


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory, tiny_tokenizer):
    return save_checkpoint(request.param, tiny_tokenizer, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("peft", KINDS)
def test_adapters_move_and_the_base_does_not(checkpoint, tmp_path, peft):
    before = {}

    def remember(model):
        before.update({name: raw(p).clone() for name, p in model.named_parameters()})

    model = adapter_run(checkpoint, tmp_path, peft, prepare=remember, max_steps=4).model
    moved = {name for name, p in model.named_parameters() if not torch.equal(raw(p), before[name])}
    assert moved == adapter_parameters(model).keys()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == moved
    layers = {name.split(".lora_")[0] for name in moved}
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert layers == {name.removesuffix(".base_layer") for name in linear if name.endswith(".base_layer")}
    assert linear - {f"{name}.base_layer" for name in layers} - {n for n in linear if ".lora_" in n} == {"lm_head"}


def raw(parameter: torch.Tensor) -> torch.Tensor:
    """Its bytes: 4-bit weights are stored in floats that may be NaN."""
    return parameter.detach().contiguous().view(torch.uint8)


@pytest.mark.parametrize("peft", ["none", *KINDS])
def test_accumulation_gives_the_same_loss_and_gradient_norm(checkpoint, tmp_path, peft):
    options = {"lora_dropout": 0, "max_steps": 3, "prepare": without_dropout}
    adapter_run(checkpoint, tmp_path / "1", peft, **options)
    accumulated = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    adapter_run(checkpoint, tmp_path / "4", peft, **options, **accumulated)
    for one, four in zip(curve(tmp_path / "1"), curve(tmp_path / "4"), strict=True):
        assert four == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("peft", KINDS)
def test_gradient_checkpointing_changes_nothing(checkpoint, tmp_path, peft):
    options = {"lora_dropout": 0, "max_steps": 3, "prepare": without_dropout}
    adapter_run(checkpoint, tmp_path / "plain", peft, **options)
    model = adapter_run(checkpoint, tmp_path / "saving", peft, activation_checkpointing=True, **options).model
    assert model.is_activation_checkpointing
    for one, other in zip(curve(tmp_path / "plain"), curve(tmp_path / "saving"), strict=True):
        assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("peft", ["lora", "qlora"])
def test_checkpoints_hold_adapters_and_little_else(checkpoint, tmp_path, peft):
    options = {"save_processor": True, "save_steps": 3, "eval_steps": 3, "evaluate": lambda model: {"score": 1.0}}
    adapter_run(checkpoint, tmp_path, peft, **options)
    base = (checkpoint / "model.safetensors").stat().st_size
    for folder in (tmp_path, tmp_path / BEST_FOLDER, tmp_path / "checkpoint-3", tmp_path / "checkpoint-6"):
        names = {path.name for path in folder.iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json", "processor_config.json"} <= names
        assert (QUANTIZATION_FILE in names) == (peft == "qlora")
        assert not {"model.safetensors", "config.json"} & names
        adapters = load_file(folder / "adapter_model.safetensors")
        assert all(".lora_" in name for name in adapters)
        assert {tensor.dtype for tensor in adapters.values()} == {torch.float32}
    # two moments for each number, and no more
    numbers = sum(tensor.numel() for tensor in adapters.values())
    assert (tmp_path / "checkpoint-6" / "optimizer.pt").stat().st_size < 4 * 2 * numbers + 1000 * len(adapters)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < base / 3


def test_adapters_that_do_not_fit_are_an_error(checkpoint, tmp_path):
    narrow = adapter_run(checkpoint, tmp_path / "narrow", "lora", max_steps=1, freeze=["vision_tower"]).model
    wide = adapter_run(checkpoint, tmp_path / "wide", "lora", max_steps=1).model
    with pytest.raises(CheckpointError, match="adapter_model.safetensors lacks .* adapter parameters.*vision_tower"):
        load_weights(wide, tmp_path / "narrow")
    with pytest.raises(CheckpointError, match="does not fit the model: it has .*vision_tower"):
        load_weights(narrow, tmp_path / "wide")
    with pytest.raises(OSError, match="adapter_model.safetensors"):
        load_adapter_weights(wide, checkpoint)
