"""With a frozen image encoder: its features are computed once, kept on disk, and read in every epoch.

    train, collator = cached_features(mode, model, train, collator, run)

What is kept is the encoder's output before the projector, which may train. Before the run every example is read once;
what the model needs of it but for its images stays in memory, so that nothing is decoded while the run goes on. The
images that the cache does not hold yet go through the encoder. They are found by their pixels, and the cache by the
encoder's weights, its shape, the preprocessing and the type of the numbers: what changes is computed anew.
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
from openpali.recipes.features.examples import CachedCollator, CachedExamples, Reading, loader_of, read_once
from openpali.recipes.features.store import FeatureStore, RecordForm, bytes_of, readable
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.run_folder import disk_is_full
from openpali.recipes.training.bad_data import raise_caught
from openpali.recipes.training.optimizer import components

FOLDER, FILES = "feature_cache", "pictures.jsonl"
# another number when what is stored changes its meaning
FORMAT = 1
# of what is free on the disk: checkpoints need some as well
MOST = 0.8
NOT_OF_THE_WEIGHTS = ("_name_or_path", "architectures", "dtype", "transformers_version")
TRAINS = "the image encoder trains (freeze: [vision_tower] freezes it)"
Mode = Literal["auto", "on", "off"]


def cached_features(
    mode: Mode, model: PreTrainedModel, train: Any, collator: Any, run: RunArguments
) -> tuple[Any, Any]:
    """Data and collator of a run that reads features, or the given ones where that cannot be or does not pay.

    Args:
        mode: "auto" where it pays; "on" also where no image is seen twice, and with an error where it cannot be.
        model: PaLI-3 or PaliGemma; nothing about it changes.
        train: what is trained on.
        collator: of `train`.
        run: `feature_cache`, beside its folder, takes the features, where other runs find them as well.

    Raises:
        ConfigError: `mode` is "on" and the features cannot be kept.
    """
    reason = "off" if mode == "off" else obstacle(model, train, collator, run)
    if not reason and mode == "auto" and epochs(train, run) < 2:
        reason = "no image comes twice"
    if not reason:
        store = open_store(model, collator, run)
        reading = read_once(train, ImageFiles(run.folder.parent / FOLDER / FILES), run)
        missing, reason = plan(store, reading, run)
        if not reason:
            fill(store, Missing(train, reading, missing[run.process_index :: run.world_size], collator), model, run)
            return CachedExamples(reading, all_places(store, reading, run)), CachedCollator(collator, store)
    if mode == "auto" and reason != TRAINS:
        run.say(f"Image features are not kept: {reason}")
    if mode == "on":
        raise ConfigError(f"feature_cache: on is not possible: {reason}; auto takes it only where it is")
    return train, collator


def obstacle(model: PreTrainedModel, train: Any, collator: Any, run: RunArguments) -> str:
    """Why the features of a run cannot be kept; nothing if they can."""
    tower = [row for row in components(model, run) if row.name == "vision_tower"]
    if not tower:
        return "the model has no image encoder"
    if tower[0].trainable():
        return TRAINS
    if not isinstance(train, TaskDataset) or not isinstance(collator, Collator):
        return "streams and mixtures are not read in epochs"
    if train.augmented is not None:
        return "augmented images are others in every epoch"
    if model.config.vision_config.attention_dropout:
        return "the image encoder has dropout, attention_dropout of its configuration"
    return ""


def epochs(train: TaskDataset, run: RunArguments) -> float:
    """How often the run sees each example."""
    return run.max_steps * run.examples_per_step / len(train) if run.max_steps > 0 else run.num_train_epochs


def open_store(model: PreTrainedModel, collator: Collator, run: RunArguments) -> FeatureStore:
    """The folder for this encoder, this preprocessing and this type of numbers."""
    tower, vision = image_encoder(model), model.config.vision_config
    floating = [parameter.dtype for parameter in tower.parameters() if parameter.is_floating_point()]
    computed_in = autocast_type(run) or floating[-1]
    form = RecordForm((vision.image_size // vision.patch_size) ** 2, vision.hidden_size, computed_in)
    images = collator.processor.image_processor
    about = {
        "format": FORMAT,
        "encoder": weights_hash(tower),
        "encoder_config": {k: v for k, v in vision.to_dict().items() if k not in NOT_OF_THE_WEIGHTS},
        "features": form.describe(),
        "pictures": images.to_dict(),
        # with torchvision installed or not the stock class resizes otherwise under the same settings
        "exact_pictures": collator.exact_images and type(images).__name__,
    }
    about = json.loads(json.dumps(about, default=str))
    name = blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8).hexdigest()
    return FeatureStore(run.folder.parent / FOLDER / name, form, about)


def image_encoder(model: PreTrainedModel) -> nn.Module:
    """The vision tower of either family."""
    return model.get_encoder(modality="image")


def autocast_type(run: RunArguments) -> torch.dtype | None:
    """What the run computes in, where that is not the type of the weights."""
    return torch.bfloat16 if run.bf16 else torch.float16 if run.fp16 else None


def weights_hash(module: nn.Module) -> str:
    """Of names, shapes, types and values of everything that a module saves."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def plan(store: FeatureStore, reading: Reading, run: RunArguments) -> tuple[list[tuple[int, int]], str]:
    """Which images are to be computed, and why they cannot be kept if so; says how much room they take.

    Returns:
        Example and position in it of every distinct image that is missing, the same in all processes.
    """
    first = {key: (i, j) for i, keys in reversed([*enumerate(reading.keys)]) for j, key in enumerate(keys)}
    there = store.open()
    missing = sorted(place for key, place in first.items() if key not in there)
    size, free = len(missing) * store.form.size, shutil.disk_usage(store.folder).free
    whole = readable(len(first) * store.form.size)
    run.say(
        f"Image features: {len(first):,} distinct images of {store.form.describe()}, {whole} in {store.folder};"
        f" {len(missing):,} are to be computed, {readable(size)} ({readable(free)} are free)"
    )
    reason = f"{readable(size)} are needed in {store.folder}, where {readable(free)} are free" * (size > MOST * free)
    agreed = [missing, reason]
    if run.world_size > 1:
        # another run may be filling the same folder while the processes look
        torch.distributed.broadcast_object_list(agreed, 0)
    return agreed[0], agreed[1]


class Missing(Dataset):
    """Images that are to be computed, by the examples that hold them, prepared as for training."""

    def __init__(self, examples: Any, reading: Reading, places: Sequence[tuple[int, int]], collator: Collator):
        self.examples, self.collator = examples, collator
        self.positions: dict[int, list[int]] = {}
        for index, position in places:
            self.positions.setdefault(index, []).append(position)
        self.indices = list(self.positions)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[list[bytes], torch.Tensor]:
        index = self.indices[number]
        images = self.examples[index].images
        missing = [images[position] for position in self.positions[index]]
        processor = with_fast_images(self.collator.processor, self.collator.exact_images)
        pixels = processor.image_processor(missing, return_tensors="pt")["pixel_values"]
        return [image_key(image) for image in missing], pixels


def joined(items: Sequence[tuple[list[bytes], torch.Tensor]]) -> tuple[list[bytes], torch.Tensor]:
    """Keys and images of several examples."""
    return [key for keys, _ in items for key in keys], torch.cat([pixels for _, pixels in items])


def fill(store: FeatureStore, missing: Missing, model: PreTrainedModel, run: RunArguments) -> None:
    """Compute this process's share of the missing features.

    Raises:
        ConfigError: the disk is full.
    """
    tower = image_encoder(model)
    home, training, kind = next(tower.parameters()).device, tower.training, autocast_type(run)
    tower.to(run.device).eval()
    loader = loader_of(missing, run, run.per_device_train_batch_size, joined)
    autocast = torch.autocast(run.device.type, kind, enabled=kind is not None)
    try:
        with store.writer() as writer, torch.no_grad(), autocast:
            shown = tqdm(loader, "Image features", disable=run.process_index > 0 or not len(missing))
            for keys, pixels in raise_caught(shown):
                writer.add(keys, tower(pixel_values=pixels.to(run.device)).last_hidden_state)
    except OSError as error:
        if disk_is_full(error, store.folder):
            raise ConfigError(f"the disk of {store.folder} is full: make room, or set feature_cache: off") from error
        raise
    finally:
        tower.to(home).train(training)
    if run.world_size > 1:
        torch.distributed.barrier()


def all_places(store: FeatureStore, reading: Reading, run: RunArguments) -> dict[bytes, tuple[int, int]]:
    """Where the features of every image are.

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
