"""Labels of image patches for dense training: examples, batches and scores."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import adaptive_avg_pool2d
from transformers import ProcessorMixin

from openpali.data.example import Box, Example
from openpali.data.files.config import ConfigError
from openpali.data.masks.objects import labelled
from openpali.data.masks.rle import decode_rle, encode_rle, mask_array
from openpali.data.sources import Source
from openpali.recipes.run.datasets import first_records
from openpali.recipes.stages.task_bases import EncoderTask

BACKGROUND, OTHER = 0, 1
INSIDE, EMPTY = 0.7, 0.95


@dataclass(frozen=True)
class Patches(EncoderTask):
    """A task: an image with the boxes and masks of its objects.

    Attributes:
        language: of the names.
        use_masks: whether to use masks of objects that have them; otherwise boxes alone.
        words: whether each written word with a box is an object too, named by its text.
        name: of the task.
    """

    language: str = "en"
    use_masks: bool = True
    words: bool = False
    name: str = "patches"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        """Boxes with names; `masks` is as long as `boxes`, with an empty dict for an object without a mask."""
        named = [item for item in record["objects"] if self.language in item["names"]]
        masks = [item.get("mask") if self.use_masks else None for item in named]
        boxes = [labelled(item["box"], item["names"][self.language]) for item in named]
        written = written_words(record) if self.words else []
        return Example(
            id=record["id"],
            task=self.name,
            images=(record["image"],),
            prefix="",
            boxes=(*boxes, *(labelled(word["box"], word["text"]) for word in written)),
            masks=(*({} if mask is None else encode_rle(mask_array(mask)) for mask in masks), *({} for _ in written)),
        )


def written_words(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The words of a record that have a box."""
    return [word for word in record.get("words") or () if word.get("box")]


def frequent_names(source: Source, language: str, records: int, most: int, words: bool = False) -> list[str]:
    """The most frequent names of objects in the first records, with `words` of written words too, alphabetically.

    Raises:
        ConfigError: no object has a name.
    """
    counts: Counter[str] = Counter()
    for record in first_records(source, records):
        items = record.get("objects", ())
        counts.update(item["names"][language] for item in items if language in item["names"])
        counts.update(word["text"] for word in (written_words(record) if words else ()))
    if not counts:
        raise ConfigError(f"source: the first {records} records hold no objects with names in {language!r}")
    return sorted(name for name, _ in counts.most_common(most))


class PatchCollator:
    """Collates examples of `Patches` into pixels and the shares of each patch.

    Images are squashed to a square, so that normalised boxes stay valid.
    """

    def __init__(self, processor: ProcessorMixin, names: Sequence[str], cells: int):
        """Set up the labels.

        Args:
            processor: of the SigLIP model.
            names: each has a label of its own, after background and other objects.
            cells: patches along one side.
        """
        self.processor, self.cells = processor, cells
        self.label = {name: number for number, name in enumerate(names, OTHER + 1)}
        self.labels = OTHER + 1 + len(names)

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Pixels and targets of a batch.

        Returns:
            `pixel_values`: float[n, 3, H, W]; `shares`: float[n, cells * cells, labels], which sum to 1; `boxes`:
            float[n, cells * cells, 4], x0, y0, x1, y1 from 0 to 1 of the object that covers most of a patch, and
            `covered`: float[n, cells * cells], how much of the patch that is.
        """
        image_processor: Any = self.processor.image_processor
        pixels = image_processor([example.images[0] for example in examples], return_tensors="pt")["pixel_values"]
        shares, boxes, covered = zip(*(self.targets(example) for example in examples), strict=True)
        targets = {"shares": torch.stack(shares), "boxes": torch.stack(boxes), "covered": torch.stack(covered)}
        return {"pixel_values": pixels} | targets

    def targets(self, example: Example) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Shares of labels, boxes and covered shares of one image's patches, as in `__call__`."""
        shares = torch.zeros(self.cells, self.cells, self.labels)
        boxes, most = torch.zeros(self.cells, self.cells, 4), torch.zeros(self.cells, self.cells)
        for box, mask in zip(example.boxes, example.masks, strict=True):
            label = self.label.get(box.label, OTHER)
            covered = mask_coverage(mask, self.cells) if mask else box_coverage(box, self.cells)
            shares[..., label] = torch.maximum(shares[..., label], covered)
            boxes[covered > most] = torch.tensor([box.x0, box.y0, box.x1, box.y1], dtype=torch.float32)
            most = torch.maximum(most, covered)
        total = shares.sum(-1, keepdim=True)
        # overlapping boxes are scaled down to the whole patch
        shares /= total.clamp(min=1)
        shares[..., BACKGROUND] = (1 - total[..., 0]).clamp(min=0)
        return shares.flatten(0, 1), boxes.flatten(0, 1), most.flatten()


def box_coverage(box: Box, cells: int) -> torch.Tensor:
    """float[cells, cells]: the share of each patch that lies in the box."""
    edges = torch.arange(cells)
    down, across = (
        (torch.clamp(edges + 1, max=end * cells) - torch.clamp(edges, min=start * cells)).clamp(min=0)
        for start, end in ((box.y0, box.y1), (box.x0, box.x1))
    )
    return torch.outer(down, across)


def mask_coverage(mask: dict[str, Any], cells: int) -> torch.Tensor:
    """float[cells, cells]: the share of each patch that a mask (RLE) covers."""
    pixels = torch.from_numpy(decode_rle(mask)).float()
    return adaptive_avg_pool2d(pixels.unsqueeze(0), cells)[0]


def patch_scores(logits: torch.Tensor, shares: torch.Tensor) -> dict[str, float]:
    """Accuracies of patch labels.

    Args:
        logits: float[n, patches, labels].
        shares: float[n, patches, labels].

    Returns:
        `patch_accuracy` of patches of which one object covers at least 70 %, `background_accuracy` of those with at
        least 95 % background, both 0 without such patches, and their mean as `accuracy`.
    """
    guess, (most, true) = logits.argmax(-1), shares.max(-1)
    inside = (true != BACKGROUND) & (most >= INSIDE)
    empty = shares[..., BACKGROUND] >= EMPTY
    right = guess == true
    scores = {
        f"{name}_accuracy": right[where].float().mean().item() if where.any() else 0.0
        for name, where in (("patch", inside), ("background", empty))
    }
    return scores | {"accuracy": sum(scores.values()) / 2}


def box_loss(predicted: torch.Tensor, boxes: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of patches' boxes, weighted by how much of a patch its object covers.

    Args:
        predicted: float[n, patches, 4].
        boxes: float[n, patches, 4].
        covered: float[n, patches].

    Returns:
        A float, 0 without objects.
    """
    error = (predicted - boxes).abs().mean(-1)
    return (error * covered).sum() / covered.sum().clamp(min=1)


def box_ious(predicted: torch.Tensor, boxes: torch.Tensor, covered: torch.Tensor) -> dict[str, float]:
    """`box_iou`: mean IoU of the boxes of patches of which an object covers at least 70 %, 0 without such patches.

    Args:
        predicted: float[n, patches, 4].
        boxes: float[n, patches, 4].
        covered: float[n, patches].
    """
    inside = covered >= INSIDE
    if not inside.any():
        return {"box_iou": 0.0}
    one, two = predicted[inside], boxes[inside]
    start, end = torch.maximum(one[:, :2], two[:, :2]), torch.minimum(one[:, 2:], two[:, 2:])
    both = (end - start).clamp(min=0).prod(-1)
    sides = ((box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (one, two))
    return {"box_iou": (both / (sum(sides) - both)).mean().item()}
