"""Linear layers in 4 bits: NF4 with double quantisation (QLoRA, arXiv 2305.14314, section 3).

bitsandbytes quantises inside `from_pretrained`, layer by layer, so that the whole model is never in memory at its full
size. What departs from a plain `BitsAndBytesConfig`:
- T5's `wo` layers, a fifth of its weights, are quantised like the others. Transformers leaves them out because they
  overflow in float16, which is not used here.
- Quantised weights are stored in words of the compute type. T5 converts activations to the type of `wo`'s weight; with
  weights stored as bytes, each activation would silently become an integer between 0 and 255.
- On CPUs with AVX512-BF16 the layers are not repacked for inference: repacking rounds their scales, fails where a
  layer's outputs are no multiple of 32, and breaks training.

The LM head, embeddings, norms and the projector keep their type: the projector holds less than a thousandth of the
weights, and all information on the image passes through it.
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
# modules that are not quantised, as patterns of Transformers: from the start of a module's name to one of its dots
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
    """Load a checkpoint and quantise its linear layers.

    Args:
        kind: class with a `from_pretrained`.
        name: folder or Hub name of a checkpoint that is not quantised.
        config: of `four_bit_config`; all other weights are loaded in its compute type.
        device: of the model.
        incomplete: as of `load_checkpoint`.

    Raises:
        CheckpointError: as of `load_checkpoint`.
        ImportError: bitsandbytes is missing; the message has the command that installs it.
    """
    silence_bitsandbytes()
    if not is_bitsandbytes_available():
        raise ImportError("4-bit weights need bitsandbytes, which is not installed: pip install 'bitsandbytes>=0.50'")
    options: dict[str, Any] = {"dtype": config.bnb_4bit_compute_dtype, "device_map": {"": torch.device(device)}}
    with all_layers_quantised():
        model = load_checkpoint(kind, name, incomplete=incomplete, quantization_config=config, **options)
    for module in four_bit_layers(model):
        module.support_avx512bf16_for_cpu = False
    return model


@contextlib.contextmanager
def all_layers_quantised() -> Iterator[None]:
    """Inside, Transformers quantises all layers but those of the configuration, T5's `wo` too."""
    choose = Bnb4BitHfQuantizer.get_modules_to_not_convert
    by_config = staticmethod(lambda model, skip, keep_in_fp32=None, **options: choose(model, skip, **options))
    Bnb4BitHfQuantizer.get_modules_to_not_convert = by_config  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del Bnb4BitHfQuantizer.get_modules_to_not_convert


def four_bit_layers(model: nn.Module) -> list[Any]:
    """The quantised layers of a model."""
    return [m for m in model.modules() if isinstance(m, nn.Linear) and quant_state(m.weight) is not None]


def quant_state(parameter: torch.Tensor) -> Any:
    """bitsandbytes' state of a quantised weight; None for any other parameter."""
    return getattr(parameter, "quant_state", None)


def scalars(parameter: torch.Tensor) -> int:
    """Number of values of a parameter; a quantised one stores them in fewer elements."""
    state = quant_state(parameter)
    return parameter.numel() if state is None else state.shape.numel()


def sizes(model: nn.Module) -> tuple[int, int, int, int]:
    """Counts of quantised and of all parameters of a model, and its bytes, scales included, now and unquantised."""
    layers, parameters = four_bit_layers(model), list(model.parameters())
    quantised, total = sum(scalars(layer.weight) for layer in layers), sum(map(scalars, parameters))
    packed = sum(tensor.nbytes for layer in layers for key, tensor in layer.state_dict().items() if key != "bias")
    kept = sum(parameter.nbytes for parameter in parameters if quant_state(parameter) is None)
    number = next(parameter.element_size() for parameter in parameters if parameter.is_floating_point())
    return quantised, total, packed + kept, total * number


def save_quantization(model: nn.Module, folder: str | Path) -> None:
    """Write the quantisation of a 4-bit model into the folder of its adapters."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        content = quantizer.quantization_config.to_dict()
        Path(folder, QUANTIZATION_FILE).write_text(json.dumps(content, indent=2) + "\n")


def read_quantization(name: str | Path) -> BitsAndBytesConfig | None:
    """The quantisation that `save_quantization` wrote into an adapter folder (or Hub repository), or None."""
    path = cached_file(str(name), QUANTIZATION_FILE, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    return cast(BitsAndBytesConfig, BitsAndBytesConfig.from_dict(json.loads(Path(path).read_text())))


def silence_bitsandbytes() -> None:
    """Suppress bitsandbytes' warning of a missing library for repacked layers, which are not used here."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(is_relevant)


def is_relevant(record: logging.LogRecord) -> bool:
    """Whether to show a message of bitsandbytes."""
    return "gemm_4bit_forward" not in record.getMessage()
