"""Linear probe of patch tokens: what covers each patch of an image, from the token of the patch alone.

The records name their objects and give masks or boxes. Patches of every second image train a logistic regression, and
those of the others test it, by the IoU of each class as in semantic segmentation. SigLIP 2 (arXiv 2502.14786, section
3.2) compares encoders by such dense tasks.

Shapes: `N` patches, `D` width of a token, `h`, `w` grid of an image's patches.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import cv2
import numpy as np
import torch
from tqdm import tqdm

from openpali.data.masks.rle import mask_array
from openpali.data.records import SkipLog
from openpali.data.sources import Source
from openpali.eval.image_encoders.embedding import batches, eval_mode, image_tower
from openpali.eval.image_encoders.linear_probe import MISSING, REGULARISATIONS
from openpali.eval.image_encoders.models import Encoder
from openpali.eval.image_encoders.records import StreamedSource, image_of, records_of
from openpali.modeling.image_patches import use_own_positions

BACKGROUND = "background"
AN_IMAGE = 32
"""Patches of an image, drawn at random, so that thousands of large images fit in memory."""
MOST_TRAINED = 10_000
_FINER = 8  # pixels of a box's region along a patch


@dataclass(frozen=True)
class Patches:
    """Patches of images.

    Attributes:
        tokens: float32[N, D].
        classes: str[N], what covers most of each patch.
        images: int[N], the place of each patch's image.
    """

    tokens: np.ndarray
    classes: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class PatchResult:
    """Scores of the test patches.

    Attributes:
        iou: mean of the classes, the background with them, in [0, 1].
        accuracy: share of patches with the right class.
        chance: accuracy of always predicting the most frequent class.
        chance_iou: the mean IoU of doing so.
        classes: number of classes.
        patches: that were trained on, and tested.
        images: likewise.
        regularisation: scikit-learn's C, selected on a fifth of the training images.
    """

    iou: float
    accuracy: float
    chance: float
    chance_iou: float
    classes: int
    patches: tuple[int, int]
    images: tuple[int, int]
    regularisation: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def patch_classes(objects: Sequence[dict[str, Any]], height: int, width: int) -> list[str]:
    """The class of each of h · w patches, row by row: that of the object that covers most of it, at least half.

    Args:
        objects: of a record; those without a name, or without mask and box, do not count.
        height, width: of the grid.
    """
    best = np.full((height, width), 0.5)
    found = np.full((height, width), BACKGROUND, object)
    for item in objects:
        region, name = object_region(item, height, width), object_class(item)
        if region is None or not name:
            continue
        share = cv2.resize(region.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        found[share >= best] = name
        best = np.maximum(best, share)
    return found.ravel().tolist()


def object_region(item: dict[str, Any], height: int, width: int) -> np.ndarray | None:
    """bool[H, W] of an object's mask, else of its box on a fine grid; None where it has neither."""
    if item.get("mask") is not None:
        return mask_array(item["mask"])
    if item.get("box") is None:
        return None
    box, rows, columns = item["box"], height * _FINER, width * _FINER
    inside_y = (np.arange(rows) + 0.5) / rows
    inside_x = (np.arange(columns) + 0.5) / columns
    return np.outer((box.y0 <= inside_y) & (inside_y < box.y1), (box.x0 <= inside_x) & (inside_x < box.x1))


def object_class(item: dict[str, Any]) -> str:
    """The class of an object: its concept, else a name."""
    names = item.get("names") or {}
    name = item.get("concept") or names.get("en") or next(iter(names.values()), "")
    return str(name if isinstance(name, str) else next(iter(name), ""))


def read_patches(
    source: Source | StreamedSource, encoder: Encoder, limit: int | None, batch_size: int, *, progress: bool = False
) -> Patches:
    """Tokens and classes of the patches of a source's images.

    Args:
        source: of records with objects.
        encoder: whose last layer's tokens are taken.
        limit: number of records; all when None.
        batch_size: images at a time.
        progress: show a progress bar.

    Raises:
        ValueError: no object has a mask or a box.
    """
    tokens, classes, images = list[np.ndarray](), list[str](), list[int]()
    records = tqdm(records_of(source, SkipLog(), limit), desc="patches", unit="image", disable=not progress)
    for batch in batches(cast(Iterable[tuple[int, dict[str, Any]]], records), batch_size):
        rows = token_grids(encoder, [image_of(record) for _, record in batch])
        for (place, record), (grid, height, width) in zip(batch, rows):
            chosen = drawn(place, height * width)
            names = patch_classes(record.get("objects") or [], height, width)
            tokens.append(grid[chosen])
            classes += [names[patch] for patch in chosen]
            images += [place] * len(chosen)
    if set(classes) <= {BACKGROUND}:
        raise ValueError("no object of the records has a class, and a mask or a box that covers a patch")
    return Patches(np.concatenate(tokens), np.array(classes), np.array(images))


def token_grids(encoder: Encoder, images: Sequence[Any]) -> list[tuple[np.ndarray, int, int]]:
    """float32[h · w, D] of each image, row by row, with h and w; padding of NaFlex images is left out."""
    tower = image_tower(encoder.model)
    use_own_positions(tower)
    with eval_mode(encoder.model):
        inputs = encoder.image_processor(list(images), return_tensors="pt")
        inputs = inputs.to(encoder.model.device, dtype=encoder.model.dtype)
        tokens = tower(**inputs).last_hidden_state.float().cpu().numpy()
    shapes = inputs.get("spatial_shapes")
    if shapes is None:
        pixels, patch = inputs["pixel_values"].shape[-2:], int(tower.config.patch_size)
        shapes = torch.tensor([[pixels[0] // patch, pixels[1] // patch]] * len(images))
    return [(own[: height * width], height, width) for own, (height, width) in zip(tokens, shapes.tolist())]


def drawn(place: int, count: int) -> list[int]:
    """Patches of an image, the same ones for every encoder with as many."""
    seed = int.from_bytes(hashlib.sha256(str(place).encode()).digest()[:8], "big")
    return sorted(np.random.default_rng(seed).permutation(count)[:AN_IMAGE].tolist())


def probe_patches(patches: Patches) -> PatchResult:
    """Train on the patches of every second image, and test on those of the others.

    Raises:
        ValueError: there are fewer than ten images, or the trained ones have a single class.
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import jaccard_score
        from sklearn.model_selection import GridSearchCV, PredefinedSplit
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(MISSING) from error
    places, order = np.unique(patches.images, return_inverse=True)
    if len(places) < 10:
        raise ValueError(f"{len(places)} images are too few to train and test on, give 10 or more")
    train, test = np.flatnonzero(order % 2 == 0), np.flatnonzero(order % 2 == 1)
    train = np.random.default_rng(0).permutation(train)[:MOST_TRAINED]
    known, true = patches.classes[train], patches.classes[test]
    if len(set(known.tolist())) < 2:
        raise ValueError(f"all patches to train on are {known[0]}")
    # a fifth of the training images is held out
    fold = PredefinedSplit(np.where(order[train] // 2 % 5 == 0, 0, -1))
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    search = GridSearchCV(probe, {"logisticregression__C": list(REGULARISATIONS[1:4])}, cv=fold)
    predicted = search.fit(patches.tokens[train], known).predict(patches.tokens[test])
    classes = sorted(set(true.tolist()))
    iou = jaccard_score(true, predicted, labels=classes, average="macro", zero_division=cast(Any, 0))
    most = max(Counter(true.tolist()).values()) / len(true)
    return PatchResult(
        float(cast(float, iou)),
        float((predicted == true).mean()),
        most,
        most / len(classes),
        len(classes),
        (len(train), len(test)),
        (len(places) - len(places) // 2, len(places) // 2),
        search.best_params_["logisticregression__C"],
    )
