"""Merge trained adapters into their base checkpoint.

    openpali merge outputs/my-transfer outputs/my-model

LoRA and DoRA adapters are added to the weights of their base. QLoRA adapters were trained on 4-bit weights, so they
are added to the dequantised weights, not to the original ones; otherwise the merged model would differ from the
trained one. The result loads like its base, without peft.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import find_adapter_config_file

from openpali.eval.answering.base_weights import check_base
from openpali.eval.answering.load_model import ADAPTER_CONFIG, attach_adapters, chosen_device, find_base
from openpali.modeling.auto import checkpoint_config, load_processor, model_class
from openpali.modeling.checkpoints import add_incomplete, load_checkpoint
from openpali.modeling.dtypes import CHOICES, DTYPES
from openpali.modeling.four_bit import load_four_bit, read_quantization
from openpali.modeling.user_errors import command


def merge_adapter(
    adapters: str | Path,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    base: str | None = None,
    device: str | None = None,
    incomplete: bool = False,
) -> Path:
    """Merge adapters into their base and write the model with its processor.

    Args:
        adapters: folder or Hub name.
        folder: must be empty or missing.
        dtype: of the weights that are written; the base's when None. Layers are summed in float32.
        base: folder or Hub name of the base; the one of the training when None.
        device: the first accelerator when None, since a GPU may round 4-bit weights differently from a CPU.
        incomplete: accept a base with missing or unexpected weights.

    Returns:
        The folder.

    Raises:
        ValueError: if `folder` is not empty, or `adapters` holds none.
        OSError: if the base is missing, or is not the one that they were trained on.
    """
    name, folder = str(adapters), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty: give a new folder")
    try:
        found = find_adapter_config_file(name)
    except (OSError, ValueError):  # not even a possible name
        found = None
    if found is None:
        raise ValueError(f"{name} holds no adapters: neither a folder nor a Hub repository with an {ADAPTER_CONFIG}")
    base = base or find_base(name)
    check_base(name, base)
    processor = load_processor(name, base)
    model = load_unquantised(name, base, chosen_device(device), incomplete)
    stored: Any = dtype or checkpoint_config(base).dtype or model.dtype
    attach_adapters(model, name)
    fold_adapters(model, stored)
    model.to(dtype=stored)  # pyright: ignore[reportCallIssue]
    set_dtype(model.config, stored)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def load_unquantised(name: str, base: str, device: str, incomplete: bool = False) -> PreTrainedModel:
    """What adapters were trained on, in the base's own type, or what 4 bits of it stand for in their compute type."""
    kind, quantization = model_class(checkpoint_config(base)), read_quantization(name)
    if quantization is None:
        model: Any = load_checkpoint(kind, base, incomplete=incomplete, dtype="auto")
        return model.to(torch.device(device))
    model = load_four_bit(kind, base, quantization, device, incomplete)
    model.dequantize()  # pyright: ignore[reportCallIssue]
    return model


def fold_adapters(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Add adapters to the weights beside them, and leave the plain layers.

    Each sum is in float32 and rounded once, but only one layer at a time is so wide.

    Args:
        model: with the adapters.
        dtype: of the layers that are left.

    Raises:
        ValueError: if a sum is not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in layers:
        base: Any = module.get_base_layer()
        base.float()
        module.merge(safe_merge=True)
        model.set_submodule(name, base.to(dtype))
    model.delete_adapter("default")


def set_dtype(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Set the dtype in a configuration and its parts, since saving sets it at the top only."""
    config.dtype = dtype
    for part in config.sub_configs:
        set_dtype(getattr(config, part), dtype)


@command("openpali merge", ValueError, RuntimeError)
def main(argv: list[str] | None = None) -> None:
    """`openpali merge ADAPTERS FOLDER`."""
    parser = argparse.ArgumentParser(prog="openpali merge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("adapters", help="folder or Hub name of trained adapters")
    parser.add_argument("folder", type=Path, help="output folder")
    parser.add_argument("--dtype", choices=CHOICES, default="auto", help="of the weights; auto: the base's own")
    parser.add_argument("--base", help="base checkpoint, if it has moved since the training")
    parser.add_argument("--device", help="device of the merge; the first accelerator, else the CPU, if unset")
    add_incomplete(parser)
    args = parser.parse_args(argv)
    dtype, incomplete = DTYPES.get(args.dtype), args.incomplete_checkpoint
    print(f"wrote {merge_adapter(args.adapters, args.folder, dtype, args.base, args.device, incomplete)}")


if __name__ == "__main__":
    main()
