"""The plan of a conversion: configuration, names and shapes, all checked before an array is read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    Siglip2Model,
    Siglip2VisionModel,
    SiglipModel,
    SiglipVisionModel,
)

from openpali.modeling.captioner.modeling_captioner import Captioner
from openpali.scripts.big_vision.configs import read_config
from openpali.scripts.big_vision.layouts import Rule, captioner_rules, image_rules, paligemma_rules, siglip_rules
from openpali.scripts.big_vision.npz import Source

LAYOUTS: dict[str, tuple[type[PreTrainedModel], Callable[..., list[Rule]]]] = {
    "paligemma": (PaliGemmaForConditionalGeneration, paligemma_rules),
    "siglip": (SiglipModel, siglip_rules),
    "siglip2": (Siglip2Model, siglip_rules),
    "siglip_vision_model": (SiglipVisionModel, image_rules),
    "siglip2_vision_model": (Siglip2VisionModel, image_rules),
    "captioner": (Captioner, captioner_rules),
}
# the names in the published folders, which earlier versions of Transformers and other servers read too
PUBLISHED_NAMES = {
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
}


@dataclass
class Plan:
    """The output of a conversion.

    Attributes:
        model: Transformers' model without weights, its configuration complete.
        rules: from the checkpoint's arrays to the model's.
        shapes: of every parameter, by the name in Transformers' model, in the order of writing.
        dtype: in which they are written.
    """

    model: PreTrainedModel
    rules: list[Rule]
    shapes: dict[str, torch.Size]
    dtype: torch.dtype

    @property
    def values(self) -> int:
        """Number of values."""
        return sum(shape.numel() for shape in self.shapes.values())


def make_plan(
    sources: Mapping[str, Source],
    settings: Sequence[str] = (),
    resolution: int | None = None,
    dtype: torch.dtype | None = None,
) -> Plan:
    """Find configuration, names and shapes, and compare them with Transformers' model. No array is read.

    Raises:
        ValueError: naming the key that is missing, not known, or of another shape than the model's.
    """
    config: Any = read_config(sources, settings, resolution)
    kind, layout = LAYOUTS[config.model_type]
    with torch.device("meta"):
        model = kind(config)
    rules = layout(config, sources)
    known = {source for rule in rules for source in rule.sources}
    for key in sorted(known ^ sources.keys()):
        if key in known:
            raise ValueError(f"{key} is missing: the file is incomplete, or not a {kind.__name__} of big_vision")
        raise ValueError(f"{key} is not known: {kind.__name__} lacks it, and leaving it out would change outputs")
    config.architectures = [kind.__name__]
    config.dtype = dtype or _stored_dtype(sources)
    return Plan(model, rules, _check_shapes(model, rules, sources), config.dtype)


def _stored_dtype(sources: Mapping[str, Source]) -> torch.dtype:
    dtypes = [source.dtype for source in sources.values()]
    widest = reduce(torch.promote_types, dtypes)
    return torch.float32 if widest is torch.float64 else widest


def _check_shapes(model: PreTrainedModel, rules: list[Rule], sources: Mapping[str, Source]) -> dict[str, torch.Size]:
    tied = set(model.all_tied_weights_keys)
    wanted = {name: value.shape for name, value in model.state_dict().items() if name not in tied}
    shapes: dict[str, torch.Size] = {}
    for rule in rules:
        for name, value in apply_rule(rule, sources, _shapes_only):
            if value.shape != wanted.get(name):
                raise ValueError(
                    f"{' and '.join(rule.sources)} gives {name} the shape {list(value.shape)}, where"
                    f" {type(model).__name__} has {list(wanted.get(name, ())) or 'none'}: sizes in the file contradict"
                    " each other, or --set changed one"
                )
            if name in shapes:
                raise ValueError(f"{name} is written twice, by {rule.sources[0]}")
            shapes[name] = value.shape
    if missing := sorted(wanted.keys() - shapes.keys()):
        raise ValueError(f"nothing in the file becomes {missing[0]}: it has too few layers, or --set changed a size")
    return shapes


def _shapes_only(source: Source) -> Iterator[Tensor]:
    for _ in range(1 if source.layers is None else source.layers):
        yield torch.empty(source.shape, dtype=source.dtype, device="meta")


def apply_rule(
    rule: Rule, sources: Mapping[str, Source], read: Callable[[Source], Iterator[Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the parameters of a rule, layer by layer."""
    arrays = [read(sources[key]) for key in rule.sources]
    for layer, parts in enumerate(zip(*arrays, strict=True)):
        yield from rule.apply(parts, layer)


def published_name(name: str) -> str:
    """The name of a parameter in the published folders."""
    for ours, theirs in PUBLISHED_NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
