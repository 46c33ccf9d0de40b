"""How well a mask VQ-VAE gives masks back, in numbers and in images."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from transformers import PreTrainedModel

from openpali.data.sources import Source
from openpali.data.sources.builtin.drawings import CREDITS
from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.report.drawing import PREDICTED_COLOUR, TRUE_COLOUR
from openpali.eval.report.page import gallery_rows, write_report
from openpali.modeling.modeling_mask_vqvae import MaskVQVAE
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.run_folder import LOG_FILE
from openpali.recipes.stages.instance_masks import Instance, instances
from openpali.recipes.training.progress import read_log

PANEL, COLUMNS, ROWS = 112, 6, 4
PAPER, INK = "#f1f3f5", "#343a40"


class Pair(NamedTuple):
    """A mask, what came back of it as bool[H, W], the text between them, and their IoU."""

    instance: Instance
    found: torch.Tensor
    text: str
    iou: float


def mask_iou(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """float[...], intersection over union of bool[..., H, W] each; 1 when both are empty."""
    union = (one | other).sum((-2, -1))
    return torch.where(union > 0, (one & other).sum((-2, -1)) / union.clamp(min=1), 1.0)


@torch.no_grad()
def square_scores(model: PreTrainedModel, squares: torch.Tensor, batch_size: int = 256) -> dict[str, float]:
    """Scores on cut-out masks, quick enough for every validation.

    Args:
        model: a `MaskVQVAE` in evaluation mode.
        squares: uint8[N, side, side].
        batch_size: masks at a time.

    Returns:
        `iou`: mean over masks of the IoU within their box; `codes_used`; and `perplexity`, the number of codes
        that would be used if all were used alike.
    """
    assert isinstance(model, MaskVQVAE)
    ious, codes = [], []
    for part in squares.split(batch_size):
        codes.append(model.encode(part.float() / 255))
        ious.append(mask_iou(model.decode(codes[-1]) > 0, (part > 127).to(model.device)))
    use = torch.bincount(torch.cat(codes).flatten(), minlength=model.config.codebook_size).float()
    share = use[use > 0] / use.sum()
    perplexity = torch.exp(-(share * share.log()).sum())
    return {"iou": torch.cat(ious).mean().item(), "codes_used": float(len(share)), "perplexity": perplexity.item()}


def pairs(model: MaskVQVAE, source: Source, count: int) -> list[Pair]:
    """The first masks of a source, written as text and read back at the size of their images.

    A mask whose text cannot be read back, since its box is too thin for its tokens, counts as IoU 0.
    """

    def one_by_one() -> Iterator[Pair]:
        for index in range(len(source)):
            for instance in instances(source[index]):
                height, width = instance.mask.shape
                label = instance.box.label
                text = model.write(instance.mask[None], [label] if label else (), [instance.box])
                masks = model.read(text, height, width).masks.cpu()
                found = masks[0] if len(masks) else torch.zeros_like(instance.mask)
                yield Pair(instance, found, text, mask_iou(instance.mask, found).item())

    return list(islice(one_by_one(), count))


def result_of(name: str, found: Sequence[Pair], squares: dict[str, float]) -> TaskResult:
    """A table and a gallery for the report."""
    rows = []
    for index, pair in enumerate(found):
        label = pair.instance.box.label
        row: dict[str, Any] = {"id": f"{name}: {pair.instance.id}", "index": index, "pictures": 1, "task": name}
        row |= {"prefix": f"segment {label}".strip(), "text": pair.text, "references": [label], "score": pair.iou}
        rows.append(row | {"boxes": [], "predicted_boxes": []})
    ious = torch.tensor([pair.iou for pair in found])
    metrics = {"iou": ious.mean().item(), "lowest_tenth": ious.quantile(0.1).item(), "iou_within_box": squares["iou"]}
    metrics |= {key: value for key, value in squares.items() if key != "iou"} | {"examples": float(len(found))}
    return TaskResult(name, metrics, rows, "iou")


def before_and_after(pair: Pair, side: int = PANEL) -> Image.Image:
    """The box of a mask and a margin around it: on the left the mask, on the right what came back of it."""
    height, width = pair.instance.mask.shape
    x1, y1, x2, y2 = pair.instance.box.pixel_xyxy(width, height)
    reach = 0.56 * max(x2 - x1, y2 - y1, 1)
    window = ((x1 + x2) / 2 - reach, (y1 + y2) / 2 - reach, (x1 + x2) / 2 + reach, (y1 + y2) / 2 + reach)
    image = Image.new("RGB", (2 * side + 2, side), "white")
    for left, mask, colour in ((0, pair.instance.mask, TRUE_COLOUR), (side + 2, pair.found, PREDICTED_COLOUR)):
        layer = Image.fromarray(mask.numpy().astype("uint8") * 255)
        # EXTENT, unlike resize, may look beyond the image
        layer = layer.transform((side, side), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR)
        panel = Image.new("RGB", (side, side), PAPER)
        panel.paste(colour, (0, 0), layer)
        image.paste(panel, (left, 0))
    return image


def sheet(found: Sequence[Pair]) -> Image.Image:
    """Masks before (left) and after (right), evenly over the list, each with its IoU."""
    shown = [found[i * len(found) // (COLUMNS * ROWS)] for i in range(min(COLUMNS * ROWS, len(found)))]
    wide, high, gap = 2 * PANEL + 2, PANEL + 18, 14
    rows = -(-len(shown) // COLUMNS)
    image = Image.new("RGB", (COLUMNS * (wide + gap) + gap, rows * (high + gap) + gap), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for i, pair in enumerate(shown):
        x, y = gap + i % COLUMNS * (wide + gap), gap + i // COLUMNS * (high + gap)
        image.paste(before_and_after(pair), (x, y))
        draw.text((x, y + PANEL + 2), f"IoU {pair.iou:.3f}", fill=INK, font=font)
    return image


def mask_report(
    run: RunArguments, parts: dict[str, tuple[list[Pair], dict[str, float]]], settings: dict[str, Any], credits: bool
) -> None:
    """Print the scores, and write `metrics.json`, `masks.png` and `report.html` into the run's folder.

    Args:
        run: whose folder takes the files.
        parts: by name, masks before and after and the `square_scores`; `masks.png` shows the first part.
        settings: what a reader of the report needs to know.
        credits: whether the masks are those of the built-in drawings.
    """
    results = [result_of(name, *part) for name, part in parts.items()]
    images = {}
    for result, (found, _) in zip(results, parts.values()):
        rows = [row for group in gallery_rows(result) for row in group]
        images |= {row["id"]: before_and_after(found[row["index"]]) for row in rows}
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in result.metrics.items() if key != "examples")
        run.say(f"{result.name}, {len(found)} masks: {numbers}")
    content = {result.name: result.metrics for result in results}
    (run.folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")
    sheet(next(iter(parts.values()))[0]).save(run.folder / "masks.png")
    logs = read_log(run.folder / LOG_FILE)
    owed = CREDITS if credits else ""
    settings |= {"pictures": "left the mask, right what came back of it"}
    path = write_report(run.folder / "report.html", "Mask VQ-VAE", results, images, logs, owed, settings=settings)
    run.say(f"Masks before and after: {run.folder / 'masks.png'}\nReport: {path}")
