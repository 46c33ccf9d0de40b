"""Instance masks for the mask VQ-VAE: cropped from a source's images once, and kept as small squares."""

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from openpali.data.files.config import ConfigError
from openpali.data.masks.rle import mask_array
from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources import Source
from openpali.modeling.location_tokens import LocatedBox
from openpali.modeling.mask_pixels import crop_mask
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.datasets import skip_log
from openpali.recipes.training.sampling import quiet_worker

ORIENTATIONS = (1, 2, 8)


class Instance(NamedTuple):
    """One object of an image: `mask` is bool[H, W], and the box has the object's name."""

    id: str
    mask: torch.Tensor
    box: LocatedBox


def instances(record: dict[str, Any]) -> Iterator[Instance]:
    """The objects of a record that have a mask which is not empty."""
    for number, item in enumerate(record.get("objects", ())):
        mask = mask_array(item["mask"]) if item.get("mask") is not None else np.zeros((1, 1), bool)
        if not mask.any():
            continue
        box, names = item["box"], item.get("names", {})
        name = item.get("concept") or box.label or next(iter(names.values()), "")
        # a semicolon ends the text of a mask
        located = LocatedBox.from_normalised_xyxy((box.x0, box.y0, box.x1, box.y1), name.replace(";", ","))
        yield Instance(f"{record['id']}-{number}", torch.from_numpy(np.ascontiguousarray(mask)), located)


class Squares(Dataset):
    """The masks of each record of a source, cropped to their boxes: uint8[n, side, side], 255 inside."""

    def __init__(self, source: Source, side: int, skipped: SkipLog):
        self.source, self.side, self.skipped = source, side, skipped

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> torch.Tensor:
        found = []
        try:
            for _, mask, box in instances(self.source[index]):
                found.append((255 * crop_mask(mask, box, self.side)).round().byte())
        except BadRecord as bad:
            self.skipped.add(bad)
        # such as a box that is thinner than a pixel
        except ValueError as error:
            self.skipped.add(BadRecord(self.source.name, index, str(error)))
        return torch.stack(found) if found else torch.zeros(0, self.side, self.side, dtype=torch.uint8)


def crop_masks(source: Source, count: int, side: int, run: RunArguments) -> torch.Tensor:
    """Crop the first masks of a source: uint8[count or fewer, side, side].

    Raises:
        ConfigError: the source has no masks.
    """
    squares = Squares(source, side, skip_log(run))
    workers = run.dataloader_num_workers
    loader = DataLoader(squares, batch_size=None, num_workers=workers, worker_init_fn=quiet_worker)
    batches, total = [], 0
    for batch in loader:
        batches.append(batch)
        total += len(batch)
        if total >= count:
            break
    if not total:
        raise ConfigError(f"source {source.name} has no masks: `objects` of its records need `mask` and `box`")
    return torch.cat(batches)[:count]


def cached_masks(
    spec: dict[str, Any], split: str, source: Source, count: int, side: int, run: RunArguments
) -> torch.Tensor:
    """`crop_masks`, cached in the run's folder for resumed runs and other processes."""
    key = zlib.crc32(json.dumps([spec, count, side], sort_keys=True).encode())
    path = run.folder / f"masks-{split}-{key:08x}.npy"
    with run.main_process_first(local=False):
        if run.process_index == 0 and (run.overwrite or not path.exists()):
            run.say(f"Cropping up to {count:,} masks from {source.name} ({split})")
            fresh = path.with_suffix(".new.npy")
            np.save(fresh, crop_masks(source, count, side, run).numpy())
            fresh.rename(path)
        return torch.from_numpy(np.load(path, allow_pickle=False))


class Masks(Dataset):
    """Masks in one, two (mirrored) or eight (also rotated) orientations, each of which is an example.

    Args:
        squares: uint8[N, side, side].
        orientations: 1, 2 or 8.
    """

    def __init__(self, squares: torch.Tensor, orientations: int = 1):
        if orientations not in ORIENTATIONS:
            raise ConfigError(f"orientations is one of {', '.join(map(str, ORIENTATIONS))}, not {orientations}")
        self.squares, self.orientations = squares, orientations

    def __len__(self) -> int:
        return len(self.squares) * self.orientations

    def __getitem__(self, index: int) -> torch.Tensor:
        index, orientation = divmod(index, self.orientations)
        square = self.squares[index]
        axes = [axis for axis, bit in ((1, 1), (0, 2)) if orientation & bit]
        square = square.flip(axes) if axes else square
        return square.T if orientation & 4 else square


def collate(squares: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The input of `MaskVQVAE`: `masks`, float[n, side, side] in [0, 1]."""
    return {"masks": torch.stack(list(squares)).float() / 255}
