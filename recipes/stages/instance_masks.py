"""Instance masks for the mask VQ-VAE: cut out of a source's images once, and kept as small squares."""

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
    """The objects of a record that have a mask with a pixel."""
    for number, item in enumerate(record.get("objects", ())):
        mask = mask_array(item["mask"]) if item.get("mask") is not None else np.zeros((1, 1), bool)
        if not mask.any():
            continue
        box, names = item["box"], item.get("names", {})
        name = item.get("concept") or box.label or next(iter(names.values()), "")
        # a semicolon would end the mask's text
        located = LocatedBox.from_normalised_xyxy((box.x0, box.y0, box.x1, box.y1), name.replace(";", ","))
        yield Instance(f"{record['id']}-{number}", torch.from_numpy(np.ascontiguousarray(mask)), located)


class Squares(Dataset):
    """The masks of each record of a source, within their boxes: uint8[n, side, side], 255 inside."""

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


def gather(source: Source, count: int, side: int, run: RunArguments) -> torch.Tensor:
    """The first masks of a source, uint8[count or fewer, side, side].

    Raises:
        ConfigError: it has none.
    """
    squares = Squares(source, side, skip_log(run))
    workers = run.dataloader_num_workers
    loader = DataLoader(squares, batch_size=None, num_workers=workers, worker_init_fn=quiet_worker)
    parts, total = [], 0
    for part in loader:
        parts.append(part)
        total += len(part)
        if total >= count:
            break
    if not total:
        raise ConfigError(f"source {source.name} has no masks: `objects` of its records need `mask` and `box`")
    return torch.cat(parts)[:count]


def masks_of(
    spec: dict[str, Any], part: str, source: Source, count: int, side: int, run: RunArguments
) -> torch.Tensor:
    """`gather`, kept in the run's folder, so that a run that goes on or several processes cut them only once."""
    key = zlib.crc32(json.dumps([spec, count, side], sort_keys=True).encode())
    path = run.folder / f"masks-{part}-{key:08x}.npy"
    with run.main_process_first(local=False):
        if run.process_index == 0 and (run.overwrite or not path.exists()):
            run.say(f"Cutting up to {count:,} masks out of {source.name} ({part})")
            fresh = path.with_suffix(".new.npy")
            np.save(fresh, gather(source, count, side, run).numpy())
            fresh.rename(path)
        return torch.from_numpy(np.load(path, allow_pickle=False))


class Masks(Dataset):
    """Masks in one, two (mirrored) or eight (turned, too) orientations, which count as so many examples.

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
