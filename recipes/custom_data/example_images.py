"""Training examples as the model sees them, drawn into one image before the training."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openpali.data.example import Example
from openpali.data.masks.objects import box_dict
from openpali.eval.report.drawing import TRUE_STYLE, draw_objects

EXAMPLES_FILE = "examples.png"
EXAMPLES, COLUMNS, FRAMES = 10, 5, 4
_LETTERS, _LINES, _WIDTH = 38, 6, 448


def draw_examples(
    path: Path,
    examples: Sequence[Example],
    processor: Any,
    size: int | None,
    max_length: int | None = None,
    suffix_max_length: int | None = None,
) -> Path:
    """Write the images with their prompts and targets.

    Args:
        path: of the PNG file.
        examples: training examples.
        processor: of the model; resizes images and counts tokens.
        size: side of the model's images in pixels; None for images of any aspect ratio.
        max_length: tokens of a prompt.
        suffix_max_length: tokens of a target.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(examples) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 4.5 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    images = f"{processor.image_seq_length} tokens an image at most" if size is None else f"{size} x {size} pixels"
    figure.suptitle(f"Training examples as the model sees them: {images}", fontsize=13)
    axes: Any = figure.subplots(rows, COLUMNS, squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if place < len(examples):
            axis.imshow(np.asarray(model_view(examples[place], processor, size)))
            text = caption(examples[place], processor.tokenizer, max_length, suffix_max_length)
            # dollar signs would begin a formula
            axis.set_title(text, fontsize=8, loc="left", family="monospace", y=0, va="top", parse_math=False, pad=-6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return path


def model_view(example: Example, processor: Any, size: int | None) -> Image.Image:
    """The first images of an example side by side, resized as for the model and enlarged; objects on the first."""
    shown = [model_image(image, processor, size) for image in example.images[:FRAMES]]
    masks = list(example.masks) or [None] * len(example.boxes)
    objects = [box_dict(box) | {"mask": mask} for box, mask in zip(example.boxes, masks, strict=True)]
    first = draw_objects(shown[0], [(one, TRUE_STYLE) for one in objects], _WIDTH)
    strip = [first, *(image.resize(first.size, Image.Resampling.NEAREST) for image in shown[1:])]
    whole = Image.new("RGB", (sum(image.width for image in strip), first.height))
    for place, image in enumerate(strip):
        whole.paste(image, (place * first.width, 0))
    return whole


def model_image(image: Image.Image, processor: Any, size: int | None) -> Image.Image:
    """An image as the model gets it: resized, its normalisation undone."""
    to_pixels = processor.image_processor
    options: dict[str, Any] = {"size": {"height": size, "width": size}} if size else {}
    found = to_pixels(images=[image], **options, return_tensors="np")
    values = np.asarray(found["pixel_values"][0], np.float32)
    if size is None:
        rows, columns = map(int, found["spatial_shapes"][0])
        side = to_pixels.patch_size
        patches = values[: rows * columns].reshape(rows, columns, side, side, 3)
        values = patches.transpose(4, 0, 2, 1, 3).reshape(3, rows * side, columns * side)
    mean, std = (np.array(x, np.float32)[:, None, None] for x in (to_pixels.image_mean, to_pixels.image_std))
    pixels = np.clip((values * std + mean) * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(pixels.transpose(1, 2, 0))


def caption(example: Example, tokenizer: Any, max_length: int | None, suffix_max_length: int | None) -> str:
    """Prompt and target, wrapped, with their numbers of tokens and whether they are cut."""
    more = f" ({len(example.images)} images)" if len(example.images) > 1 else ""
    parts = []
    for word, text, limit in (("prompt", example.prefix, max_length), ("target", example.suffix, suffix_max_length)):
        # the end token, or the line break of a prompt, is one more
        tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
        cut = f", cut to {limit}" if limit is not None and tokens > limit else ""
        lines = textwrap.wrap(text, _LETTERS) or ["(empty)"]
        lines = lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "..."]
        parts.append("\n".join([f"{word}{more}, {tokens} tokens{cut}:", *(f"  {line}" for line in lines)]))
        more = ""
    return "\n".join(parts)


def some_examples(datasets: Sequence[Any], count: int = EXAMPLES) -> list[Example]:
    """Examples spread evenly over the datasets, as many of each; none of iterable-style ones."""
    examples: list[Example] = []
    indexed = [data for data in datasets if hasattr(type(data), "__getitem__")]
    for place, data in enumerate(indexed):
        each = min(len(data), count // len(indexed) + (place < count % len(indexed)))
        examples.extend(data[index * len(data) // each] for index in range(each))
    return examples
