"""The encoders of a model as ONNX graphs, which run where PyTorch is not; answers are not exported.

Transformers' exporter writes the graphs, each with its weights beside it. They are in float32, and the size of the
batch is free.

Shapes: `N` images, `M` texts, `L` tokens of a text, `P` tokens of an image, `D` width of the embeddings (of a
vision-language model: of its text model), `H W` pixels.
"""

import contextlib
import errno
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import (
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    SiglipConfig,
    SiglipModel,
)
from transformers.utils import find_adapter_config_file

from .auto import MODELS, load_processor
from .checkpoints import load_checkpoint, reading
from .image_patches import is_naflex
from .user_errors import CheckpointError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# names of graphs: files are called `NAME.onnx`
IMAGES, TEXTS, SIMILARITY = "image_encoder", "text_encoder", "similarity"
# Relative to the largest number of an output. Graphs of 27 layers in float32 differ by some 1e-5 from PyTorch, since
# they add in another order; a wrong graph differs by about 1.
ALLOWED = 1e-3
NOISY = ("torch.__trace", "torch.onnx._internal.exporter", "onnxscript", "onnx_ir", "transformers.exporters")


class ImageTower(nn.Module):
    """SigLIP's images: float[N, 3, H, W] in [-1, 1] -> `image_embeds` float[N, D] of length 1."""

    def __init__(self, model: SiglipModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class."""
        pooled: Any = self.model.get_image_features(pixel_values=pixel_values)
        return {"image_embeds": normalize(pooled.pooler_output, dim=-1)}


class TextTower(nn.Module):
    """SigLIP's texts: int[M, L], padded to L -> `text_embeds` float[M, D] of length 1."""

    def __init__(self, model: SiglipModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class."""
        pooled: Any = self.model.get_text_features(input_ids=input_ids)
        return {"text_embeds": normalize(pooled.pooler_output, dim=-1)}


class Similarity(nn.Module):
    """Embeddings float[N, D] and float[M, D] -> `logits_per_image` float[N, M]; their sigmoids are probabilities."""

    def __init__(self, model: SiglipModel):
        super().__init__()
        self.scale, self.bias = model.logit_scale, model.logit_bias

    def forward(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class."""
        return {"logits_per_image": image_embeds @ text_embeds.T * self.scale.exp() + self.bias}


class ProjectedImages(nn.Module):
    """A vision-language model's images: float[N, 3, H, W] in [-1, 1] -> `image_features` float[N, P, D].

    Image encoder and projector: what stands in the places of `<image>` among the embeddings of a prompt.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model: Any = model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class."""
        return {"image_features": self.model.get_image_features(pixel_values).pooler_output}


def load_encoders(name: str, incomplete: bool = False) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a checkpoint whose encoders can be exported, in float32, and its processor.

    Raises:
        CheckpointError: it is missing or not whole, holds adapters, or is a model of another type.
    """
    with reading(name):
        if find_adapter_config_file(name):
            raise CheckpointError(f"{name} holds adapters; merge them first: openpali merge {name} NEW_FOLDER")
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    options: Any = {"incomplete": incomplete, "dtype": torch.float32}
    if kind in MODELS:
        model: Any = load_checkpoint(MODELS[kind], name, **options)
        if is_naflex(model.config.vision_config):
            raise CheckpointError(
                f"{name} takes images of any aspect ratio: --onnx writes encoders of square ones only"
            )
        return model, load_processor(name)
    if kind != SiglipConfig.model_type:
        raise CheckpointError(
            f"{name} is a model of the type {kind}: --onnx writes the encoders of pali3, paligemma and siglip"
        )
    model = load_checkpoint(SiglipModel, name, **options)
    with reading(name):
        return model, AutoProcessor.from_pretrained(name)


def onnx_parts(model: PreTrainedModel) -> dict[str, tuple[nn.Module, dict[str, torch.Tensor]]]:
    """The graphs of a model by name, each with an example of its inputs."""
    vision: Any = model.config.vision_config
    side = vision.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = {"pixel_values": torch.rand(2, vision.num_channels, side, side, generator=generator) * 2 - 1}
    if not isinstance(model, SiglipModel):
        return {IMAGES: (ProjectedImages(model), pixels)}
    text: Any = model.config.text_config
    # the text tower reads its embedding at the last position: texts are padded to the full length, as in training
    ids = torch.randint(text.vocab_size, (3, text.max_position_embeddings), generator=generator)
    images, texts = ImageTower(model), TextTower(model)
    with torch.no_grad():
        embeds = images(**pixels) | texts(input_ids=ids)
    return {IMAGES: (images, pixels), TEXTS: (texts, {"input_ids": ids}), SIMILARITY: (Similarity(model), embeds)}


def export_onnx(model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path) -> dict[Path, float]:
    """Write the encoders of a model as ONNX graphs, with its processor, and compare them with PyTorch.

    Args:
        model: a SigLIP of two towers, a PaliGemma or a PaLI-3, in float32.
        processor: the model's.
        folder: created when missing.

    Returns:
        By the file of each graph: the largest difference of its outputs from PyTorch's, relative to the largest one.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        FileExistsError: `folder` is a file.
        CheckpointError: a graph gives other numbers than the model.
    """
    from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter

    # told before minutes of work
    if missing := next((package for package in PACKAGES if find_spec(package) is None), None):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
    if Path(folder).is_file():
        raise FileExistsError(errno.EEXIST, "it is a file", str(folder))
    parts = onnx_parts(model.eval())
    with quiet(), torch.no_grad():
        graphs = {}
        for name, (part, inputs) in parts.items():
            free = {key: {0: torch.export.Dim.DYNAMIC} for key in inputs}
            config = OnnxConfig(dynamic_shapes=free)
            graphs[name] = OnnxExporter().export(part, inputs, config).components["model"]  # type: ignore[arg-type]
        ExportedModel(graphs, "onnx", model.config).save_pretrained(folder)
        processor.save_pretrained(folder)
    return {Path(folder, f"{name}.onnx"): difference(folder, name, *parts[name]) for name in parts}


def difference(folder: str | Path, graph: str, part: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """How far a saved graph is from PyTorch, relative to the largest output, on another batch size than its example's.

    Raises:
        CheckpointError: too far.
    """
    from transformers.exporters import ExportedModel

    # one row more
    inputs = {name: torch.cat([tensor, tensor[:1].flip(-1)]) for name, tensor in inputs.items()}
    with torch.no_grad():
        ((name, expected),) = part(**inputs).items()
    runner: Any = ExportedModel.from_pretrained(folder, device="cpu").runners[graph]
    found = runner(**inputs)[name]
    apart = float((found - expected).abs().max() / expected.abs().max())
    if not apart <= ALLOWED:
        raise CheckpointError(
            f"{Path(folder, graph)}.onnx: its {name} are {apart:.1e} of their size apart from PyTorch's:"
            " it cannot be used; try the versions of torch, onnx and onnxscript in constraints.txt"
        )
    return apart


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what the exporter tells its developers: stages, versions it was tried with, and operators not needed."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
