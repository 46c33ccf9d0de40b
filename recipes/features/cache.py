"""The feature cache: features of a frozen image encoder, computed once, kept on disk, and read in every epoch.

    train, collator = cached_features(mode, model, train, collator, run)

The cache holds the encoder's output before the projector, which may train. Every example is read once before the run;
its texts stay in memory, so that no image is decoded during training. Images that are not in the cache go through the
encoder. An image is identified by its pixels, and a cache by the encoder's weights and configuration, the
preprocessing and the dtype: a change of any computes features anew.
"""

import json
import shutil
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from openpali.data.collator import Collator
from openpali.data.files.config import ConfigError
from openpali.data.images.lazy_image import ImageFiles, image_key
from openpali.data.images.preprocess import with_fast_images
from openpali.data.mixture import TaskDataset
from openpali.modeling.image_patches import is_naflex, most_image_tokens, use_own_positions
from openpali.recipes.features.examples import CachedCollator, CachedExamples, Reading, loader_of, read_once
from openpali.recipes.features.store import FeatureStore, RecordForm, bytes_of, format_bytes
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.run_folder import disk_is_full
from openpali.recipes.training.bad_data import raise_caught
from openpali.recipes.training.optimizer import components

FOLDER, FILES = "feature_cache", "pictures.jsonl"
# raise it when the meaning of stored values changes
FORMAT = 1
# share of the free disk space that features may take; checkpoints need some too
DISK_SHARE = 0.8
IRRELEVANT_KEYS = ("_name_or_path", "architectures", "dtype", "transformers_version")
TRAINS = "the image encoder trains (freeze: [vision_tower] freezes it)"
Mode = Literal["auto", "on", "off"]


def cached_features(
    mode: Mode, model: PreTrainedModel, train: Any, collator: Any, run: RunArguments
) -> tuple[Any, Any]:
    """Dataset and collator that read cached features, or the given ones where that is impossible or saves no time.

    Args:
        mode: "auto" caches where images are seen twice; "on" always, or raises; "off" never.
        model: PaLI-3 or PaliGemma; it is not changed.
        train: the training data.
        collator: of `train`.
        run: features are kept in `feature_cache` beside its folder, where other runs find them.

    Raises:
        ConfigError: `mode` is "on" and the features cannot be cached.
    """
    reason = "off" if mode == "off" else obstacle(model, train, collator, run)
    if not reason and mode == "auto" and epochs(train, run) < 2:
        reason = "no image is seen twice"
    if not reason:
        store = open_store(model, collator, run)
        reading = read_once(train, ImageFiles(run.folder.parent / FOLDER / FILES), run)
        missing, reason = plan_fill(store, reading, run)
        if not reason:
            fill(
                store,
                MissingImages(train, reading, missing[run.process_index :: run.world_size], collator),
                model,
                run,
            )
            return CachedExamples(reading, all_places(store, reading, run)), CachedCollator(collator, store)
    if mode == "auto" and reason != TRAINS:
        run.say(f"Image features are not cached: {reason}")
    if mode == "on":
        raise ConfigError(f"feature_cache: on is not possible: {reason}; auto caches only where it is possible")
    return train, collator


def obstacle(model: PreTrainedModel, train: Any, collator: Any, run: RunArguments) -> str:
    """The reason why the features of a run cannot be cached; empty if they can."""
    tower = [row for row in components(model, run) if row.name == "vision_tower"]
    if not tower:
        return "the model has no image encoder"
    if tower[0].trainable():
        return TRAINS
    if not isinstance(train, TaskDataset) or not isinstance(collator, Collator):
        return "streams and mixtures are not read in epochs"
    if train.augmented is not None:
        return "augmented images differ in every epoch"
    if model.config.vision_config.attention_dropout:
        return "the image encoder has dropout, attention_dropout of its configuration"
    return ""


def epochs(train: TaskDataset, run: RunArguments) -> float:
    """Number of times that the run sees each example."""
    return run.max_steps * run.examples_per_step / len(train) if run.max_steps > 0 else run.num_train_epochs


def open_store(model: PreTrainedModel, collator: Collator, run: RunArguments) -> FeatureStore:
    """The store for this encoder, this preprocessing and this dtype."""
    tower, vision = image_encoder(model), model.config.vision_config
    floating = [parameter.dtype for parameter in tower.parameters() if parameter.is_floating_point()]
    dtype = autocast_dtype(run) or floating[-1]
    any_ratio = is_naflex(vision)
    tokens = collator.processor.image_seq_length if any_ratio else most_image_tokens(vision)
    form = RecordForm(tokens, vision.hidden_size, dtype, any_ratio)
    images = collator.processor.image_processor
    about = {
        "format": FORMAT,
        "encoder": weights_hash(tower),
        "encoder_config": {k: v for k, v in vision.to_dict().items() if k not in IRRELEVANT_KEYS},
        "features": form.describe(),
        "pictures": images.to_dict(),
        # the stock class resizes differently with and without torchvision, under the same settings
        "exact_pictures": collator.exact_images and type(images).__name__,
    }
    about = json.loads(json.dumps(about, default=str))
    name = blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8).hexdigest()
    return FeatureStore(run.folder.parent / FOLDER / name, form, about)


def image_encoder(model: PreTrainedModel) -> nn.Module:
    """The vision tower of either family."""
    return model.get_encoder(modality="image")


def autocast_dtype(run: RunArguments) -> torch.dtype | None:
    """Dtype of autocast; None without."""
    return torch.bfloat16 if run.bf16 else torch.float16 if run.fp16 else None


def weights_hash(module: nn.Module) -> str:
    """A hash of the names, shapes, dtypes and values in the state of a module."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def plan_fill(store: FeatureStore, reading: Reading, run: RunArguments) -> tuple[list[tuple[int, int]], str]:
    """Find the images without features, and print the disk space that they need.

    Returns:
        Example and position in it of every distinct missing image, the same on all processes; and the reason why they
        cannot be cached, or an empty text.
    """
    first = {key: (i, j) for i, keys in reversed([*enumerate(reading.keys)]) for j, key in enumerate(keys)}
    there = store.open()
    missing = sorted(place for key, place in first.items() if key not in there)
    size, free = len(missing) * store.form.size, shutil.disk_usage(store.folder).free
    whole = format_bytes(len(first) * store.form.size)
    run.say(
        f"Image features: {len(first):,} distinct images of {store.form.describe()}, {whole} in {store.folder};"
        f" {len(missing):,} are to be computed, {format_bytes(size)} ({format_bytes(free)} are free)"
    )
    reason = f"{format_bytes(size)} are needed in {store.folder}, where {format_bytes(free)} are free" * (
        size > DISK_SHARE * free
    )
    agreed = [missing, reason]
    if run.world_size > 1:
        # another run may be writing to the same folder meanwhile
        torch.distributed.broadcast_object_list(agreed, 0)
    return agreed[0], agreed[1]


class MissingImages(Dataset):
    """Images without features, grouped by example, preprocessed as for training."""

    def __init__(self, examples: Any, reading: Reading, places: Sequence[tuple[int, int]], collator: Collator):
        self.examples, self.collator = examples, collator
        self.positions: dict[int, list[int]] = {}
        for index, position in places:
            self.positions.setdefault(index, []).append(position)
        self.indices = list(self.positions)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[list[bytes], dict[str, torch.Tensor]]:
        index = self.indices[number]
        images = self.examples[index].images
        missing = [images[position] for position in self.positions[index]]
        processor = with_fast_images(self.collator.processor, self.collator.exact_images)
        return [image_key(image) for image in missing], dict(processor.image_processor(missing, return_tensors="pt"))


def collate_images(
    items: Sequence[tuple[list[bytes], dict[str, torch.Tensor]]],
) -> tuple[list[bytes], dict[str, torch.Tensor]]:
    """Keys and inputs of the encoder of several examples, concatenated."""
    names = items[0][1]
    inputs = {name: torch.cat([one[name] for _, one in items]) for name in names}
    return [key for keys, _ in items for key in keys], inputs


def fill(store: FeatureStore, missing: MissingImages, model: PreTrainedModel, run: RunArguments) -> None:
    """Compute this process's share of the missing features.

    Raises:
        ConfigError: the disk is full.
    """
    tower = image_encoder(model)
    use_own_positions(tower)
    home, training, dtype = next(tower.parameters()).device, tower.training, autocast_dtype(run)
    tower.to(run.device).eval()
    loader = loader_of(missing, run, run.per_device_train_batch_size, collate_images)
    autocast = torch.autocast(run.device.type, dtype, enabled=dtype is not None)
    try:
        with store.writer() as writer, torch.no_grad(), autocast:
            progress = tqdm(loader, "Image features", disable=run.process_index > 0 or not len(missing))
            for keys, inputs in raise_caught(progress):
                inputs = {name: tensor.to(run.device) for name, tensor in inputs.items()}
                writer.add(keys, tower(**inputs).last_hidden_state, inputs.get("spatial_shapes"))
    except OSError as error:
        if disk_is_full(error, store.folder):
            raise ConfigError(f"the disk of {store.folder} is full: make room, or set feature_cache: off") from error
        raise
    finally:
        tower.to(home).train(training)
    if run.world_size > 1:
        torch.distributed.barrier()


def all_places(store: FeatureStore, reading: Reading, run: RunArguments) -> dict[bytes, tuple[int, int]]:
    """Places of the features of every image.

    Raises:
        ConfigError: some are still missing.
    """
    places = store.open()
    lost = next((i for i, keys in enumerate(reading.keys) for key in keys if key not in places), None)
    if lost is not None:
        record = json.loads(reading.lines[lost])["id"]
        raise ConfigError(
            f"the images of {record} changed while their features were computed, or {store.folder} is not the same"
            " on all machines: start again, or set feature_cache: off"
        )
    return places
