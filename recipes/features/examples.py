"""Examples whose images are features on disk: one reading of texts and image keys, and batches with features."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import BatchFeature

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.data.images.lazy_image import ImageFiles, image_key
from openpali.data.images.open_image import remembered
from openpali.recipes.features.store import FeatureStore, Place
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.bad_data import ErrorCatchingCollator, ErrorCatchingDataset, raise_caught
from openpali.recipes.training.sampling import quiet_worker

# key of `Image.info` under which a placeholder keeps the place of its features
PLACE = "features"


@dataclass
class Reading:
    """The result of one pass over the data.

    Attributes:
        lines: the texts of each example as JSON.
        keys: `image_key` of the images of each example.
    """

    lines: list[bytes]
    keys: list[list[bytes]]


class Readings(Dataset):
    """Texts and image keys of examples; images in known files are not decoded."""

    def __init__(self, examples: Dataset[Example], indices: Sequence[int], files: ImageFiles):
        self.examples, self.indices, self.files = examples, indices, files

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[bytes, list[bytes]]:
        with remembered(self.files):
            example = self.examples[self.indices[position]]
        texts = {"id": example.id, "task": example.task, "prefix": example.prefix, "suffix": example.suffix}
        texts["controls"] = example.controls
        line = json.dumps(texts | {"meta": example.meta}, ensure_ascii=False)
        return line.encode(), [image_key(image) for image in example.images]


def loader_of(data: Dataset, run: RunArguments, batch_size: int | None, collate: Any = None) -> DataLoader:
    """A loader of items in order that does not use the run's random numbers; read it through `raise_caught`."""
    return DataLoader(
        ErrorCatchingDataset(data),
        batch_size=batch_size,
        collate_fn=ErrorCatchingCollator(collate or unchanged),
        num_workers=run.dataloader_num_workers,
        worker_init_fn=quiet_worker,
        generator=torch.Generator(),
    )


def unchanged(item: Any) -> Any:
    """Return the item, where torch's default would make tensors of it."""
    return item


def read_once(examples: Any, files: ImageFiles, run: RunArguments) -> Reading:
    """Read every example of map-style data, in order; each process reads its share, and all get the result."""
    share = range(run.process_index, len(examples), run.world_size)
    loader = loader_of(Readings(examples, share, files), run, None)
    found = list(raise_caught(tqdm(loader, "Reading examples", disable=run.process_index > 0, leave=False)))
    shares: list[Any] = [found]
    if run.world_size > 1:
        shares = [None] * run.world_size
        torch.distributed.all_gather_object(shares, found)
    items = [shares[index % len(shares)][index // len(shares)] for index in range(len(examples))]
    return Reading([line for line, _ in items], [keys for _, keys in items])


class CachedExamples(Dataset[Example]):
    """The examples of a reading, with placeholders for images that hold the places of features.

    They lie in three arrays, which loader workers share with the training process.
    """

    def __init__(self, reading: Reading, places: dict[bytes, Place]):
        """Look up the features of every image; all must be among `places`."""
        self.text = b"".join(reading.lines)
        self.text_ends = np.cumsum([0, *map(len, reading.lines)])
        self.image_ends = np.cumsum([0, *map(len, reading.keys)])
        found = [places[key] for keys in reading.keys for key in keys]
        self.places = np.array(found, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.text_ends) - 1

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        texts = json.loads(self.text[self.text_ends[index] : self.text_ends[index + 1]])
        places = self.places[self.image_ends[index] : self.image_ends[index + 1]].tolist()
        return Example(images=tuple(placeholder((part, record)) for part, record in places), **texts)


def placeholder(place: Place) -> Image.Image:
    """An image of one pixel, which [`StoredFeatures`] replaces by features."""
    image = Image.new("RGB", (1, 1))
    image.info[PLACE] = place
    return image


class StoredFeatures:
    """Replaces an image processor: returns the features of placeholders."""

    def __init__(self, image_processor: Any, store: FeatureStore):
        """Replace an image processor, with the features of a store."""
        self.valid_kwargs, self.store = image_processor.valid_kwargs, store

    def fetch_images(self, images: Any) -> Any:
        """The images; nothing has to be fetched."""
        return images

    def __call__(self, images: Sequence[Image.Image], **options: Any) -> BatchFeature:
        """`pixel_values`: float[n, tokens, width], the features under the key that processors expect; of images of
        any aspect ratio with padding, and `spatial_shapes`: int[n, 2].
        """
        places = [image.info[PLACE] for image in images]
        data = {"pixel_values": self.store.read(places)}
        if self.store.form.with_shape:
            data["spatial_shapes"] = self.store.read_shapes(places)
        return BatchFeature(data)


class CachedCollator:
    """The batches of a collator with `image_features` in place of `pixel_values`.

    Args:
        collator: for the same examples with images.
        store: opened, with the features of the examples.
    """

    def __init__(self, collator: Collator, store: FeatureStore):
        processor = copy.copy(collator.processor)
        processor.image_processor = StoredFeatures(processor.image_processor, store)
        self.collator = copy.copy(collator)
        self.collator.processor = processor

    def __call__(self, examples: Sequence[Example]) -> Any:
        """`image_features: float[images, tokens, D_vision]`, `input_ids: int[B, L]` and so on."""
        batch = self.collator(examples)
        if "pixel_values" in batch:
            batch["image_features"] = batch.pop("pixel_values")
        return batch
