"""Flip, crop and zoom out: augment a record with its boxes and masks before its task makes prompt and target.

Every step moves whole pixels, so boxes and masks stay exact. All are off by default, and are meant for training.

- `flip: 0.5`, a probability. Left and right are swapped in `captions`, `sentences` and names of objects. A record with
  a text that cannot be rewritten (`openpali.data.images.mirrored_text`), or with written `words`, stays as it is.
- `crop: [0.7, 1]`, the smallest and largest share of width and height to keep. An object stays, clipped, if at least
  70 % of it is inside, and is dropped if at most 5 % is. A window is drawn again if it leaves an object between these,
  cuts a written word, drops all objects, or drops one that `captions` may mention; after ten of them the record
  stays whole.
- `zoom_out: [1, 2]`: the image at a random place of a grey one that many times as wide and high, which the model's
  image processor shrinks.
"""

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from openpali.data.example import Box
from openpali.data.images.mirrored_text import mirrored
from openpali.data.masks.rle import LazyMask, MaskLike, mask_array, mask_box

_KEPT, _DROPPED, _TRIES = 0.7, 0.05, 10
_GREY = (128, 128, 128)
_TOLERANCE = 1e-9

Record = dict[str, Any]


class Window(NamedTuple):
    """A rectangle in pixels of an image; it may reach outside."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Augment:
    """Random augmentation of a record.

    Attributes:
        flip: probability of mirroring.
        crop: smallest and largest share of each side to keep, in (0, 1]; None for no crop.
        zoom_out: smallest and largest factor by which the canvas grows, from 1 to 8; None for none.
    """

    flip: float = 0.0
    crop: tuple[float, float] | None = None
    zoom_out: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.flip, int | float) or not 0 <= self.flip <= 1:
            raise ValueError(f"augment: flip is a probability, not {self.flip!r}")
        object.__setattr__(self, "crop", _bounds("crop", self.crop, 0.0, 1.0))
        object.__setattr__(self, "zoom_out", _bounds("zoom_out", self.zoom_out, 1.0, 8.0))

    def __call__(self, record: Record, rng: random.Random, rewritten: bool = False) -> Record:
        """The augmented record.

        Args:
            record: with `image`; `objects`, `words` and `captions` follow the image.
            rng: of the random choices.
            rewritten: the source rewrites captions and positions, so that they limit nothing.

        Raises:
            ValueError: the record has several images, or a prompt and target of its own.
        """
        if "image" not in record or "suffix" in record:
            raise ValueError(
                f"augment: record {record.get('id')} has several images or texts of its own, which would no longer"
                " be true; augment a source whose records have objects or captions"
            )
        if rewritten:
            record = {key: value for key, value in record.items() if key != "captions"}
        if self.flip and rng.random() < self.flip:
            record = flipped(record)
        if self.crop:
            record = cropped(record, self.crop, rng)
        return zoomed_out(record, rng.uniform(*self.zoom_out), rng) if self.zoom_out else record


def _bounds(name: str, value: Any, lowest: float, highest: float) -> tuple[float, float] | None:
    if value is None:
        return None
    numbers = tuple(value) if isinstance(value, list | tuple) else ()
    if len(numbers) != 2 or not lowest <= numbers[0] <= numbers[1] <= highest or numbers[0] == 0:
        raise ValueError(f"augment: {name} is [least, largest] from {lowest:g} to {highest:g}, not {value!r}")
    return float(numbers[0]), float(numbers[1])


def flipped(record: Record) -> Record:
    """The mirrored record; the record itself if a text cannot be rewritten, or if it has written words."""
    if record.get("words"):
        return record
    captions = _mirrored_texts(record.get("captions") or {}, strict=True)
    objects = [_mirrored_object(item) for item in record.get("objects", ())]
    if captions is None or None in objects:
        return record
    changed = record | {"image": record["image"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)}
    changed |= {"captions": captions} if "captions" in record else {}
    return changed | ({"objects": objects} if "objects" in record else {})


def _mirrored_object(item: Record) -> Record | None:
    """An object in the mirrored image; None when its sentences cannot be rewritten."""
    names = _mirrored_texts(item.get("names") or {}, strict=False)
    sentences = _mirrored_texts(item.get("sentences") or {}, strict=True)
    label = mirrored(item["box"].label, "en") if item.get("sentences") else item["box"].label
    if names is None or sentences is None or label is None:
        return None
    box: Box = item["box"]
    changed = _unplaced(item) | {"box": Box(1 - box.x1, box.y0, 1 - box.x0, box.y1, label)}
    changed |= {key: value for key, value in (("names", names), ("sentences", sentences)) if key in item}
    return changed | _with_mask(item, lambda mask: mask[:, ::-1])


def _mirrored_texts(texts: dict[str, Any], strict: bool) -> dict[str, Any] | None:
    """Texts by language, each a text or a list; None if one cannot be rewritten, which stays when not strict."""
    changed: dict[str, Any] = {}
    for language, value in texts.items():
        several = [value] if isinstance(value, str) else list(value)
        new = [mirrored(text, language) for text in several]
        if strict and None in new:
            return None
        new = [old if text is None else text for old, text in zip(several, new)]
        changed[language] = new[0] if isinstance(value, str) else new
    return changed


def cropped(record: Record, shares: tuple[float, float], rng: random.Random) -> Record:
    """The record cropped to a random window; the record itself when ten windows are unsuitable."""
    width, height = record["image"].size
    for _ in range(_TRIES):
        share = rng.uniform(*shares)
        wide, high = max(round(share * width), 1), max(round(share * height), 1)
        window = Window(rng.randint(0, width - wide), rng.randint(0, height - high), wide, high)
        found = crop_to(window, record)
        if found is not None:
            return found
    return record


def crop_to(window: Window, record: Record) -> Record | None:
    """The record cropped to a window within its image; None when the window is unsuitable."""
    size = record["image"].size
    shares = [_share_inside(item, window, size) for item in record.get("objects", ())]
    if any(_DROPPED < share < _KEPT for share in shares):
        return None
    kept = [(item, share) for item, share in zip(record.get("objects", ()), shares) if share >= _KEPT]
    objects = [_moved(item, window, size) | _less_visible(item, share) for item, share in kept]
    words = [_moved(word, window, size) for word in record.get("words", ())]
    whole = all(_box_share(word["box"], window, size) > 1 - _TOLERANCE for word in record.get("words", ()))
    dropped = len(shares) - len(objects)
    # without objects captions cannot be checked
    bound = record.get("captions") and (dropped or not objects)
    if not whole or bound or (dropped and not objects):
        return None
    left, top, width, height = window
    changed = record | {"image": record["image"].crop((left, top, left + width, top + height))}
    return changed | {key: value for key, value in (("objects", objects), ("words", words)) if key in record}


def _share_inside(item: Record, window: Window, size: tuple[int, int]) -> float:
    """The share of an object in a window: of its mask's pixels if the window cuts its box, else of its box."""
    share = _box_share(item["box"], window, size)
    if item.get("mask") is None or share in (0.0, 1.0):
        return share
    mask = mask_array(item["mask"])
    left, top, width, height = window
    return float(mask[top : top + height, left : left + width].sum() / max(mask.sum(), 1))


def _box_share(box: Box, window: Window, size: tuple[int, int]) -> float:
    moved = _box_in(box, window, size)
    area = (moved.x1 - moved.x0) * (moved.y1 - moved.y0)
    inside = max(min(moved.x1, 1.0) - max(moved.x0, 0.0), 0.0) * max(min(moved.y1, 1.0) - max(moved.y0, 0.0), 0.0)
    return 1.0 if inside >= area * (1 - _TOLERANCE) else inside / area


def _box_in(box: Box, window: Window, size: tuple[int, int]) -> Box:
    """The box in coordinates of the window, not clipped."""
    x0, x1 = ((x * size[0] - window.left) / window.width for x in (box.x0, box.x1))
    y0, y1 = ((y * size[1] - window.top) / window.height for y in (box.y0, box.y1))
    return Box(x0, y0, x1, y1, box.label)


def _moved(item: Record, window: Window, size: tuple[int, int]) -> Record:
    """An object or word in coordinates of a window, which may be larger than the image."""
    changed = _unplaced(item) | _with_mask(item, lambda mask: _view(mask, window))
    box = _box_in(item["box"], window, size)
    x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) for value in (box.x0, box.y0, box.x1, box.y1))
    clipped = Box(x0, y0, x1, y1, box.label)
    if clipped != box and changed.get("mask") is not None and _box_share(item["box"], window, size) < 1:
        # the visible mask may be smaller than the clipped box
        clipped = mask_box(mask_array(changed["mask"]), box.label)
    return changed | {"box": clipped}


def _unplaced(item: Record) -> Record:
    """The object without `position`, which a `TextRewritingSource` sets again, and without tokens of its old mask."""
    return {key: value for key, value in item.items() if key not in ("position", "mask_tokens", "mask_codec")}


def _less_visible(item: Record, share: float) -> Record:
    return {"visible": item["visible"] * share} if "visible" in item else {}


def _view(mask: np.ndarray, window: Window) -> np.ndarray:
    """The part of `bool[H, W]` in a window, padded with False outside."""
    left, top, width, height = window
    seen = mask[max(top, 0) : top + height, max(left, 0) : left + width]
    before = (max(-top, 0), max(-left, 0))
    after = (height - before[0] - seen.shape[0], width - before[1] - seen.shape[1])
    return np.pad(seen, tuple(zip(before, after)))


def _with_mask(item: Record, change: Any) -> dict[str, MaskLike]:
    """The changed mask of an object that has one, computed on access."""
    mask = item.get("mask")
    return {} if mask is None else {"mask": LazyMask(lambda: np.ascontiguousarray(change(mask_array(mask))))}


def zoomed_out(record: Record, factor: float, rng: random.Random) -> Record:
    """The record's image somewhere on a grey one that is `factor` times as wide and high."""
    size = record["image"].size
    width, height = (round(factor * side) for side in size)
    window = Window(-rng.randint(0, width - size[0]), -rng.randint(0, height - size[1]), width, height)
    image = Image.new("RGB", (width, height), _GREY)
    image.paste(record["image"], (-window.left, -window.top))
    parts = [key for key in ("objects", "words") if key in record]
    changed = {key: [_moved(item, window, size) for item in record[key]] for key in parts}
    return record | {"image": image} | changed
