"""A checkpoint and its processor, ready to answer: a whole one, or adapters (LoRA) on the one they were trained on."""

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file

from openpali.eval.answering.base_weights import check_base, note_base
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
from openpali.modeling.transformers_versions import peft_refusal
from openpali.modeling.user_errors import CheckpointError

logger = logging.getLogger(__name__)

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# what peft's LoRA and DoRA add to a layer is called like this
ADAPTER_MARK, DORA_MARK = ".lora_", ".lora_magnitude_vector"


def load_model(
    name: str, device: str | None = None, dtype: str = "auto", incomplete: bool = False
) -> tuple[PreTrainedModel, Any]:
    """Load any image-text-to-text checkpoint.

    Args:
        name: folder or Hub name, of a whole checkpoint or of adapters. Adapters that were trained on 4-bit weights
            (QLoRA) get them again.
        device: such as "cuda:1"; the first accelerator, else the CPU, when None.
        dtype: of the weights: "float32", "bfloat16", "float16", or "auto", which is the checkpoint's own. Weights are
            read in it, and never held in another one on the way. 4-bit weights compute in the type of their training.
        incomplete: take weights as they are, with random ones in place of what is missing.

    Returns:
        Model and processor.

    Raises:
        OSError: there is no such checkpoint or device, weights are missing or not the model's, its base is not where
            it was, or a library that it needs is missing.
        ValueError: there is no such type, or 4-bit weights are asked for in another one than that of their training.
    """
    device, asked = chosen_device(device), requested_dtype(dtype)
    try:
        with reading(name):
            has_adapters = find_adapter_config_file(str(name))
        if has_adapters:
            model = load_adapted(name, device, asked, incomplete=incomplete)
        else:
            whole: Any = load_answering(name, incomplete=incomplete, dtype=asked)
            model = whole.to(torch.device(device))
    except ImportError as error:
        raise OSError(str(error)) from error
    if asked == "auto":
        warn_slow(name, model, device)
    processor = load_processor(name)
    check_tokens(name, model, processor)
    return model.eval(), processor


def warn_slow(name: str, model: PreTrainedModel, device: str) -> None:
    """Say that a CPU computes in the checkpoint's own type, where most CPUs are slow in it; nothing is changed."""
    if torch.device(device).type == "cpu" and model.dtype in (torch.bfloat16, torch.float16):
        kind = dtype_name(model.dtype)
        logger.warning("%s is in %s: most CPUs are faster with --dtype float32, in twice the memory", name, kind)


def first_device() -> str:
    """The first accelerator, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return str(accelerator) if accelerator else "cpu"


def chosen_device(name: str | None) -> str:
    """A device of this machine, the first accelerator or the CPU when None. Raises OSError where there is no such."""
    if name is None:
        return first_device()
    try:
        # all that can be known of a device beforehand
        if torch.zeros(1, device=name).device.type != "meta":
            return name
        reason = "it computes nothing"
    except (RuntimeError, AssertionError, ImportError, ValueError) as error:
        reason = shortened(error, 80)
    raise OSError(f"device {name} cannot be used ({reason}): take {first_device()}, or leave --device out")


def load_adapted(
    name: str, device: str, dtype: torch.dtype | str, base: str | None = None, incomplete: bool = False
) -> PreTrainedModel:
    """The model that adapters were trained on, with the adapters.

    Args:
        name: folder or Hub name of the adapters.
        device: where the model goes.
        dtype: of the base's weights, "auto" for its own; 4-bit weights have that of their training.
        base: where the base is now; where it was at the training when None.
        incomplete: as of `load_model`.

    Raises:
        OSError: the base is not there, or is another one.
        ValueError: 4-bit weights are asked for in another type than that of their training.
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
    """Folder or Hub name of the checkpoint that adapters were trained on.

    Raises:
        OSError: it was a folder, which is not there any more.
    """
    base = base_checkpoint(name)
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise CheckpointError(
            f"{name} holds adapters of {base}, and there is no such folder here: write the folder or Hub name of that"
            f" checkpoint into base_model_name_or_path of {Path(name, ADAPTER_CONFIG)}"
        )
    return base


def attach_adapters(model: PreTrainedModel, name: str | Path) -> None:
    """Add trained adapters to the model that they belong to, in float32 whatever the model's precision is.

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
    """Parameters of a model that belong to adapters; none of a plain model's do."""
    return {name: parameter for name, parameter in model.named_parameters() if ADAPTER_MARK in name}


def widen_adapters(model: nn.Module) -> None:
    """Adapters to float32: peft makes them in the type of the layer's weight, in which small updates vanish."""
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()


def load_adapter_weights(model: PreTrainedModel, name: str | Path) -> None:
    """Put saved adapters into the ones that a model has, all of them.

    Raises:
        CheckpointError: naming adapters that are missing on either side.
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
    """Complete a folder into which `save_pretrained` wrote a model's adapters; a whole model is left alone.

    What they were trained on is noted: its weights, and how they were made 4-bit. DoRA's lengths are renamed: peft
    reads them under both names, Transformers only under the new one and would begin with untrained lengths otherwise.
    """
    path = Path(folder, ADAPTER_WEIGHTS)
    if not path.exists():
        return
    save_quantization(model, folder)
    note_base(folder)
    saved = load_file(path)
    renamed = {key.removesuffix(".weight") + ".weight" if DORA_MARK in key else key: saved[key] for key in saved}
    if renamed.keys() != saved.keys():
        fresh = path.with_suffix(".new")
        save_file(renamed, fresh, metadata={"format": "pt"})
        fresh.replace(path)
