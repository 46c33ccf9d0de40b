"""Convert a released big_vision checkpoint into a folder for Transformers.

    python -m openpali.scripts.convert_big_vision paligemma-3b-pt-224.npz outputs/paligemma --tokenizer gemma-2b

It reads the `.npz` files of PaliGemma 1 and 2, SigLIP 1 and 2, and CapPa. All names and shapes are checked before the
first byte is written; docs/conversion.md gives the decisions and their reasons.
"""

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from openpali.modeling.dtypes import DTYPES
from openpali.modeling.user_errors import at_least, command
from openpali.scripts.big_vision.configs import KNOWN_SIZES, vocabulary_rows
from openpali.scripts.big_vision.npz import Checkpoint
from openpali.scripts.big_vision.plan import Plan, apply_rule, make_plan, published_name
from openpali.scripts.big_vision.processors import make_image_processor, make_processor

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def convert(
    file: Path,
    folder: Path,
    tokenizer: Path | None = None,
    settings: Sequence[str] = (),
    resolution: int | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int = 2 * 10**9,
) -> None:
    """Convert a checkpoint.

    Args:
        file: the `.npz` file.
        folder: must be missing or empty; it is created when everything is written.
        tokenizer: folder of the tokenizer; without it only the image processor is written.
        settings: `key=value` for the configuration.
        resolution: side of the image in pixels, to which position embeddings are resized; the file's if None.
        dtype: of the weights; the file's if None.
        max_shard_size: bytes in one file of weights, and in memory; a larger array has its own file.

    Raises:
        ValueError: naming the key, the option or the folder, and the remedy. Nothing is written then.
        OSError: if the file cannot be read or the folder cannot be written.
    """
    building = folder.with_name(f"{folder.name}.tmp")
    _check_folders(folder, building)
    with Checkpoint(file) as checkpoint:
        plan = make_plan(checkpoint.sources, settings, resolution, dtype)
        config: Any = plan.model.config
        print(describe(checkpoint, plan), flush=True)
        processors = [make_image_processor(config)]
        if tokenizer is not None:
            processors.append(make_processor(config, tokenizer, vocabulary_rows(checkpoint.sources)))
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(folder.parent, plan.values * plan.dtype.itemsize)
        building.mkdir()
        try:
            write_weights(checkpoint, plan, building, max_shard_size)
            for part in [config, *processors, *([plan.model.generation_config] if plan.model.can_generate() else [])]:
                part.save_pretrained(building)
            building.replace(folder)
        except BaseException:
            shutil.rmtree(building)
            raise


def _check_folders(folder: Path, building: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty: choose another folder or delete it")
    if building.exists():
        raise ValueError(f"{building} was left by a conversion that was stopped; delete it if none is running")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(f"{folder} has {free:,} bytes free, the weights need {needed:,}")


def describe(checkpoint: Checkpoint, plan: Plan) -> str:
    """The content of the file and of the folder to be written."""
    count = sum(source.size for source in checkpoint.sources.values())
    known = KNOWN_SIZES.get(count)
    config: Any = plan.model.config
    vision = getattr(config, "vision_config", config)
    lines = [
        f"{checkpoint.path}: {count:,} parameters,"
        f" {f'as {known}' if known else 'which is none of the known published counts'}",
        f"{type(plan.model).__name__}: image tower of {vision.num_hidden_layers} layers, width {vision.hidden_size}",
    ]
    text = getattr(config, "text_config", getattr(config, "decoder_config", None))
    if text is not None:
        lines.append(f"{text.model_type} of {text.num_hidden_layers} layers, width {text.hidden_size}")
    lines.append(f"{plan.values:,} parameters in {str(plan.dtype).removeprefix('torch.')} will be written")
    if checkpoint.ignored:
        lines.append(
            f"left out: {len(checkpoint.ignored)} arrays that are not parameters, such as {checkpoint.ignored[0]}"
        )
    return "\n".join(lines)


def write_weights(checkpoint: Checkpoint, plan: Plan, folder: Path, max_shard_size: int) -> None:
    """Read, convert and write the weights, with one output file in memory at a time."""
    files = plan_files(plan, max_shard_size)
    last = {file: name for name, file in files.items()}
    waiting: dict[str, Tensor] = {}
    with tqdm(total=plan.values * plan.dtype.itemsize, unit="B", unit_scale=True, desc="converting") as bar:
        for rule in plan.rules:
            for name, value in apply_rule(rule, checkpoint.sources, checkpoint.tensors):
                waiting[published_name(name)] = value.to(plan.dtype).contiguous()
                bar.update(value.numel() * plan.dtype.itemsize)
                if last[files[name]] == name:
                    save_file(waiting, folder / files[name], metadata={"format": "pt"})
                    waiting = {}
    if len(last) > 1:
        size = {"total_parameters": plan.values, "total_size": plan.values * plan.dtype.itemsize}
        index = {"metadata": size, "weight_map": {published_name(name): file for name, file in files.items()}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def plan_files(plan: Plan, max_shard_size: int) -> dict[str, str]:
    """The file of every parameter, in the order of writing; each file takes as many as fit."""
    numbers: dict[str, int] = {}
    number, filled = 1, 0
    for name, shape in plan.shapes.items():
        size = shape.numel() * plan.dtype.itemsize
        if filled and filled + size > max_shard_size:
            number, filled = number + 1, 0
        filled += size
        numbers[name] = number
    if number == 1:
        return dict.fromkeys(numbers, "model.safetensors")
    return {name: f"model-{n:05d}-of-{number:05d}.safetensors" for name, n in numbers.items()}


@command("openpali convert", ValueError)
def main(argv: list[str] | None = None) -> None:
    """`openpali convert FILE FOLDER`."""
    args = parse_arguments(argv)
    dtype = None if args.dtype is None else DTYPES[args.dtype]
    convert(args.file, args.folder, args.tokenizer, args.set, args.resolution, dtype, args.max_shard_size)
    print(f"wrote {args.folder}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="openpali convert", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help=".npz checkpoint of PaliGemma 1 or 2, SigLIP 1 or 2, CapPa")
    parser.add_argument("folder", type=Path, help="output folder, missing or empty")
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer, to write a processor too")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a value of the configuration, such as text_config.final_logit_softcapping=null; repeatable",
    )
    parser.add_argument(
        "--resolution", type=at_least(1), metavar="PX", help="resize position embeddings to this image side"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; the file's if unset")
    parser.add_argument(
        "--max_shard_size", type=size_in_bytes, default="2GB", help="of one file of weights (default: %(default)s)"
    )
    return parser.parse_args(argv)


def size_in_bytes(text: str) -> int:
    """Bytes of a size such as 500MB or 2GB."""
    match = re.fullmatch(r"([0-9.]+) *([KMG]B)?", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 2GB")
    return max(1, int(float(match[1]) * UNITS.get(match[2], 1)))


if __name__ == "__main__":
    main()
