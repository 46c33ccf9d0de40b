"""Reconstruction scores of a mask VQ-VAE, and the report with reconstructed masks."""

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


class Reconstruction(NamedTuple):
    """A mask, its reconstruction as bool[H, W], the text between them, and their IoU."""

    instance: Instance
    mask: torch.Tensor
    text: str
    iou: float


def mask_iou(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """float[...], intersection over union of bool[..., H, W] each; 1 when both are empty."""
    union = (one | other).sum((-2, -1))
    return torch.where(union > 0, (one & other).sum((-2, -1)) / union.clamp(min=1), 1.0)


@torch.no_grad()
def square_scores(model: PreTrainedModel, squares: torch.Tensor, batch_size: int = 256) -> dict[str, float]:
    """Scores on cropped masks, fast enough for every validation.

    Args:
        model: a `MaskVQVAE` in evaluation mode.
        squares: uint8[N, side, side].
        batch_size: masks at a time.

    Returns:
        `iou`: mean over masks of the IoU within their box; `codes_used`; and `perplexity`, the exponential
        of the entropy of code use.
    """
    assert isinstance(model, MaskVQVAE)
    ious, codes = [], []
    for batch in squares.split(batch_size):
        codes.append(model.encode(batch.float() / 255))
        ious.append(mask_iou(model.decode(codes[-1]) > 0, (batch > 127).to(model.device)))
    use = torch.bincount(torch.cat(codes).flatten(), minlength=model.config.codebook_size).float()
    share = use[use > 0] / use.sum()
    perplexity = torch.exp(-(share * share.log()).sum())
    return {"iou": torch.cat(ious).mean().item(), "codes_used": float(len(share)), "perplexity": perplexity.item()}


def reconstructions(model: MaskVQVAE, source: Source, count: int) -> list[Reconstruction]:
    """Reconstruct the first masks of a source through text, at the size of their images.

    A mask whose text cannot be parsed, since its box is too thin for its tokens, counts as IoU 0.
    """

    def one_by_one() -> Iterator[Reconstruction]:
        for index in range(len(source)):
            for instance in instances(source[index]):
                height, width = instance.mask.shape
                label = instance.box.label
                text = model.write(instance.mask[None], [label] if label else (), [instance.box])
                masks = model.read(text, height, width).masks.cpu()
                found = masks[0] if len(masks) else torch.zeros_like(instance.mask)
                yield Reconstruction(instance, found, text, mask_iou(instance.mask, found).item())

    return list(islice(one_by_one(), count))


def make_result(name: str, found: Sequence[Reconstruction], squares: dict[str, float]) -> TaskResult:
    """The table and the gallery of a test set for the report."""
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


def draw_reconstruction(pair: Reconstruction, side: int = PANEL) -> Image.Image:
    """An image of the box of a mask with a margin: on the left the mask, on the right its reconstruction."""
    height, width = pair.instance.mask.shape
    x1, y1, x2, y2 = pair.instance.box.pixel_xyxy(width, height)
    reach = 0.56 * max(x2 - x1, y2 - y1, 1)
    window = ((x1 + x2) / 2 - reach, (y1 + y2) / 2 - reach, (x1 + x2) / 2 + reach, (y1 + y2) / 2 + reach)
    image = Image.new("RGB", (2 * side + 2, side), "white")
    for left, mask, colour in ((0, pair.instance.mask, TRUE_COLOUR), (side + 2, pair.mask, PREDICTED_COLOUR)):
        layer = Image.fromarray(mask.numpy().astype("uint8") * 255)
        # EXTENT, unlike resize, may look beyond the image
        layer = layer.transform((side, side), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR)
        panel = Image.new("RGB", (side, side), PAPER)
        panel.paste(colour, (0, 0), layer)
        image.paste(panel, (left, 0))
    return image


def draw_sheet(found: Sequence[Reconstruction]) -> Image.Image:
    """An image of masks (left) and reconstructions (right), evenly spread over the list, each with its IoU."""
    shown = [found[i * len(found) // (COLUMNS * ROWS)] for i in range(min(COLUMNS * ROWS, len(found)))]
    wide, high, gap = 2 * PANEL + 2, PANEL + 18, 14
    rows = -(-len(shown) // COLUMNS)
    image = Image.new("RGB", (COLUMNS * (wide + gap) + gap, rows * (high + gap) + gap), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for i, pair in enumerate(shown):
        x, y = gap + i % COLUMNS * (wide + gap), gap + i // COLUMNS * (high + gap)
        image.paste(draw_reconstruction(pair), (x, y))
        draw.text((x, y + PANEL + 2), f"IoU {pair.iou:.3f}", fill=INK, font=font)
    return image


def mask_report(
    run: RunArguments,
    tests: dict[str, tuple[list[Reconstruction], dict[str, float]]],
    settings: dict[str, Any],
    credits: bool,
) -> None:
    """Print the scores, and write `metrics.json`, `masks.png` and `report.html` into the run's folder.

    Args:
        run: whose folder takes the files.
        tests: reconstructions and `square_scores` of each test set, by name; `masks.png` shows the first one.
        settings: of the run, shown in the report.
        credits: whether the masks are those of the built-in drawings.
    """
    results = [make_result(name, *test) for name, test in tests.items()]
    images = {}
    for result, (found, _) in zip(results, tests.values()):
        rows = [row for group in gallery_rows(result) for row in group]
        images |= {row["id"]: draw_reconstruction(found[row["index"]]) for row in rows}
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in result.metrics.items() if key != "examples")
        run.say(f"{result.name}, {len(found)} masks: {numbers}")
    content = {result.name: result.metrics for result in results}
    (run.folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")
    draw_sheet(next(iter(tests.values()))[0]).save(run.folder / "masks.png")
    logs = read_log(run.folder / LOG_FILE)
    owed = CREDITS if credits else ""
    settings |= {"pictures": "left the mask, right its reconstruction"}
    path = write_report(run.folder / "report.html", "Mask VQ-VAE", results, images, logs, owed, settings=settings)
    run.say(f"Masks and reconstructions: {run.folder / 'masks.png'}\nReport: {path}")
