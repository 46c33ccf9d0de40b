"""Checkpoints with their linear layers in 4 bits: NF4 with double quantisation (QLoRA, arXiv 2305.14314, section 3).

bitsandbytes does it inside `from_pretrained`, layer by layer, so that the whole model is never in memory at its full
size. Three things depart from a plain `BitsAndBytesConfig`:
- T5's `wo` layers, a fifth of its weights, are quantised like the others. Transformers leaves them out because they
  overflow in float16, which is not used here.
- Quantised weights are stored in words of the compute type. T5 converts activations to the type of `wo`'s weight, and
  with bytes there each of them would silently become a whole number between 0 and 255.
- On CPUs with AVX512-BF16 the layers are not repacked for inference: that rounds their scales, fails where a layer's
  outputs are no multiple of 32, and cannot be trained through afterwards.

The vocabulary projection, embeddings and norms stay as they are, and so does the projector: all that is known of the
image passes through it, and it holds less than a thousandth of the weights.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.utils import cached_file, is_bitsandbytes_available

from .checkpoints import load_checkpoint

QUANTIZATION_FILE = "quantization.json"
# patterns of Transformers: from the start of a module's name to one of its dots
KEPT = ["lm_head", ".*projector"]


def four_bit_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation, computing in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
        llm_int8_skip_modules=KEPT,
    )


def load_four_bit(
    kind: Any, name: str, config: BitsAndBytesConfig, device: torch.device | str, incomplete: bool = False
) -> PreTrainedModel:
    """Load a checkpoint and quantise its linear layers on the way.

    Args:
        kind: class with a `from_pretrained`.
        name: folder or Hub name of a checkpoint that is not quantised.
        config: of `four_bit_config`; what is not quantised is loaded in its compute type.
        device: where the model will stay.
        incomplete: as of `load_checkpoint`.

    Raises:
        CheckpointError: as of `load_checkpoint`.
        ImportError: bitsandbytes is missing, with the command that installs it.
    """
    silence_bitsandbytes()
    if not is_bitsandbytes_available():
        raise ImportError("4-bit weights need bitsandbytes, which is not installed: pip install 'bitsandbytes>=0.50'")
    options: dict[str, Any] = {"dtype": config.bnb_4bit_compute_dtype, "device_map": {"": torch.device(device)}}
    with nothing_kept_for_float16():
        model = load_checkpoint(kind, name, incomplete=incomplete, quantization_config=config, **options)
    for module in four_bit_layers(model):
        module.support_avx512bf16_for_cpu = False
    return model


@contextlib.contextmanager
def nothing_kept_for_float16() -> Iterator[None]:
    """Inside, only the configuration says which layers stay as they are."""
    choose = Bnb4BitHfQuantizer.get_modules_to_not_convert
    unasked = staticmethod(lambda model, skip, keep_in_fp32=None, **options: choose(model, skip, **options))
    Bnb4BitHfQuantizer.get_modules_to_not_convert = unasked  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del Bnb4BitHfQuantizer.get_modules_to_not_convert


def four_bit_layers(model: nn.Module) -> list[Any]:
    """Layers of a model whose weight is quantised."""
    return [m for m in model.modules() if isinstance(m, nn.Linear) and quant_state(m.weight) is not None]


def quant_state(parameter: torch.Tensor) -> Any:
    """What bitsandbytes keeps with a quantised weight; None with any other one."""
    return getattr(parameter, "quant_state", None)


def scalars(parameter: torch.Tensor) -> int:
    """Numbers that a parameter stands for; a quantised one has fewer elements than that."""
    state = quant_state(parameter)
    return parameter.numel() if state is None else state.shape.numel()


def sizes(model: nn.Module) -> tuple[int, int, int, int]:
    """Quantised and all parameters of a model, and the bytes that they take, scales included, and took before."""
    layers, parameters = four_bit_layers(model), list(model.parameters())
    quantised, total = sum(scalars(layer.weight) for layer in layers), sum(map(scalars, parameters))
    packed = sum(tensor.nbytes for layer in layers for key, tensor in layer.state_dict().items() if key != "bias")
    kept = sum(parameter.nbytes for parameter in parameters if quant_state(parameter) is None)
    number = next(parameter.element_size() for parameter in parameters if parameter.is_floating_point())
    return quantised, total, packed + kept, total * number


def save_quantization(model: nn.Module, folder: str | Path) -> None:
    """Write, beside a 4-bit model's adapters, how the weights were quantised that they were trained on."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        content = quantizer.quantization_config.to_dict()
        Path(folder, QUANTIZATION_FILE).write_text(json.dumps(content, indent=2) + "\n")


def read_quantization(name: str | Path) -> BitsAndBytesConfig | None:
    """What `save_quantization` wrote into an adapter folder (or Hub repository); None where it wrote nothing."""
    path = cached_file(str(name), QUANTIZATION_FILE, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    return cast(BitsAndBytesConfig, BitsAndBytesConfig.from_dict(json.loads(Path(path).read_text())))


def silence_bitsandbytes() -> None:
    """Keep out of the log that bitsandbytes found no library for repacked layers, which are not used here."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(of_interest)


def of_interest(record: logging.LogRecord) -> bool:
    """Whether to show a message of bitsandbytes."""
    return "gemm_4bit_forward" not in record.getMessage()
