"""Loading of a checkpoint and its processor: a whole model, or adapters (LoRA) on their base model."""

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file

from openpali.eval.answering.base_weights import check_base, save_base_fingerprint
from openpali.modeling.auto import (
    base_checkpoint,
    check_tokens,
    checkpoint_config,
    load_answering,
    load_processor,
    model_class,
)
from openpali.modeling.checkpoints import load_checkpoint, reading, shortened
from openpali.modeling.dtypes import dtype_name, requested_dtype
from openpali.modeling.four_bit import load_four_bit, read_quantization, save_quantization, silence_bitsandbytes
from openpali.modeling.resolution import set_image_tokens
from openpali.modeling.shipped import SHIPPED, shipped
from openpali.modeling.transformers_versions import peft_refusal
from openpali.modeling.user_errors import CheckpointError

logger = logging.getLogger(__name__)

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# parts of the names of peft's LoRA and DoRA parameters
ADAPTER_MARK, DORA_MARK = ".lora_", ".lora_magnitude_vector"


def load_model(
    name: str,
    device: str | None = None,
    dtype: str = "auto",
    incomplete: bool = False,
    image_tokens: int | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Load any image-text-to-text checkpoint.

    Args:
        name: folder or Hub name, of a whole checkpoint or of adapters, or the name of a shipped one. Adapters that
            were trained on 4-bit weights (QLoRA) load with them.
        device: such as "cuda:1"; the first accelerator, else the CPU, when None.
        dtype: of the weights: "float32", "bfloat16", "float16", or "auto", which is the checkpoint's own. Weights are
            read in it, and never held in another one; for a shipped checkpoint, float32. 4-bit weights compute in the
            type of their training.
        incomplete: accept missing weights, which are then random.
        image_tokens: most tokens of an image of any aspect ratio; the checkpoint's own when None.

    Returns:
        Model and processor.

    Raises:
        OSError: there is no such checkpoint or device, weights are missing or not the model's, the base of adapters
            has moved, or a library is missing.
        ValueError: there is no such type, or 4-bit weights are requested in another type than that of their training,
            or `image_tokens` of square images.
    """
    if name in SHIPPED and dtype == "auto":
        # stored in 16 bits to be small; a CPU is faster in 32
        dtype = "float32"
    name = shipped(name)
    device, requested = chosen_device(device), requested_dtype(dtype)
    try:
        with reading(name):
            has_adapters = find_adapter_config_file(str(name))
        if has_adapters:
            model = load_adapted(name, device, requested, incomplete=incomplete)
        else:
            whole: Any = load_answering(name, incomplete=incomplete, dtype=requested)
            model = whole.to(torch.device(device))
    except ImportError as error:
        raise OSError(str(error)) from error
    if requested == "auto":
        warn_slow(name, model, device)
    processor = load_processor(name)
    check_tokens(name, model, processor)
    if image_tokens is not None:
        try:
            set_image_tokens(processor, image_tokens)
        except ValueError as error:
            raise ValueError(f"{name}, image_tokens: {error}") from error
    return model.eval(), processor


def warn_slow(name: str, model: PreTrainedModel, device: str) -> None:
    """Warn that a CPU computes in a 16-bit type of the checkpoint, in which most CPUs are slow."""
    if torch.device(device).type == "cpu" and model.dtype in (torch.bfloat16, torch.float16):
        kind = dtype_name(model.dtype)
        logger.warning("%s is in %s: most CPUs are faster with --dtype float32, in twice the memory", name, kind)


def first_device() -> str:
    """The first accelerator, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return str(accelerator) if accelerator else "cpu"


def chosen_device(name: str | None) -> str:
    """The device, checked; the first accelerator or the CPU when None. Raises OSError for an unknown device."""
    if name is None:
        return first_device()
    try:
        # the only check of a device before its use
        if torch.zeros(1, device=name).device.type != "meta":
            return name
        reason = "it computes nothing"
    except (RuntimeError, AssertionError, ImportError, ValueError) as error:
        reason = shortened(error, 80)
    raise OSError(f"device {name} cannot be used ({reason}): take {first_device()}, or leave --device out")


def load_adapted(
    name: str, device: str, dtype: torch.dtype | str, base: str | None = None, incomplete: bool = False
) -> PreTrainedModel:
    """Load the base model of adapters, with the adapters.

    Args:
        name: folder or Hub name of the adapters.
        device: where the model goes.
        dtype: of the base's weights, "auto" for its own; 4-bit weights have that of their training.
        base: folder or Hub name of the base; that of the training when None.
        incomplete: as in `load_model`.

    Raises:
        OSError: the base is missing or has other weights.
        ValueError: 4-bit weights are requested in another type than that of their training.
    """
    base = base or find_base(name)
    check_base(name, base)
    kind, quantization = model_class(checkpoint_config(base)), read_quantization(name)
    if quantization:
        trained = quantization.bnb_4bit_compute_dtype
        if dtype not in ("auto", trained):
            raise ValueError(
                f"{name} was trained on 4-bit weights that compute in {dtype_name(trained)}: leave --dtype out, or"
                f" merge it first: openpali merge {name} NEW_FOLDER --dtype {str(dtype).removeprefix('torch.')}"
            )
        model: Any = load_four_bit(kind, base, quantization, device, incomplete)
    else:
        model = load_checkpoint(kind, base, incomplete=incomplete, dtype=dtype)
        model.to(torch.device(device))
    attach_adapters(model, name)
    return model


def find_base(name: str) -> str:
    """Folder or Hub name of the base model of adapters.

    Raises:
        OSError: it was a folder that no longer exists.
    """
    base = base_checkpoint(name)
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise CheckpointError(
            f"{name} holds adapters of {base}, and there is no such folder here: write the folder or Hub name of that"
            f" checkpoint into base_model_name_or_path of {Path(name, ADAPTER_CONFIG)}"
        )
    return base


def attach_adapters(model: PreTrainedModel, name: str | Path) -> None:
    """Add trained adapters to their base model, in float32 whatever the model's precision is.

    Raises:
        OSError: Transformers refuses the installed peft.
    """
    if refusal := peft_refusal():
        raise OSError(refusal)
    silence_bitsandbytes()
    from peft import PeftConfig

    with reading(name):
        model.add_adapter(PeftConfig.from_pretrained(str(name)))
    widen_adapters(model)
    load_adapter_weights(model, name)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of a model's adapters; empty for a model without adapters."""
    return {name: parameter for name, parameter in model.named_parameters() if ADAPTER_MARK in name}


def widen_adapters(model: nn.Module) -> None:
    """Cast adapters to float32: peft makes them in the type of the layer's weight, in which small updates vanish."""
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()


def load_adapter_weights(model: PreTrainedModel, name: str | Path) -> None:
    """Load saved adapters into the adapters of a model.

    Raises:
        CheckpointError: adapters are missing on either side; the message names some.
    """
    from peft import set_peft_model_state_dict

    with reading(name):
        saved = load_file(cached_file(str(name), ADAPTER_WEIGHTS))  # pyright: ignore[reportArgumentType]
        saved = {key.removeprefix("base_model.model."): value for key, value in saved.items()}
        result = set_peft_model_state_dict(model, saved, adapter_name="default")
    missing = sorted(key for key in result.missing_keys if ADAPTER_MARK in key)
    for keys, words in ((missing, "lacks"), (sorted(result.unexpected_keys), "does not fit the model: it has")):
        if keys:
            shown = f"{len(keys)} adapter parameters, among them {', '.join(keys[:3])}"
            where = Path(name, ADAPTER_WEIGHTS)
            raise CheckpointError(f"{where} {words} {shown}: give the whole folder")


def finish_adapters(model: nn.Module, folder: str | Path) -> None:
    """Complete a folder into which `save_pretrained` wrote a model's adapters; a whole model does not change.

    It saves the hash of the base weights and their 4-bit quantization. It renames DoRA's magnitude vectors: peft reads
    both names, Transformers only the new one, and would start from untrained magnitudes otherwise.
    """
    path = Path(folder, ADAPTER_WEIGHTS)
    if not path.exists():
        return
    save_quantization(model, folder)
    save_base_fingerprint(folder)
    saved = load_file(path)
    renamed = {key.removesuffix(".weight") + ".weight" if DORA_MARK in key else key: saved[key] for key in saved}
    if renamed.keys() != saved.keys():
        fresh = path.with_suffix(".new")
        save_file(renamed, fresh, metadata={"format": "pt"})
        fresh.replace(path)
