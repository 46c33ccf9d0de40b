"""Eight examples of six images, and the arguments of runs on their cached features."""

import torch
from PIL import Image

from openpali.data.mixture import TaskDataset
from openpali.data.sources import augmented
from openpali.data.sources.jsonl import JsonlSource
from openpali.data.tasks import load_task
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import parse

EXAMPLES, DISTINCT = 8, 6


def write_images(folder, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for i in range(DISTINCT):
        pixels = torch.randint(0, 256, (20 + i, 24, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")


def dataset(path, augment=None):
    source = JsonlSource(path)
    return TaskDataset(augmented(source, augment) if augment else source, load_task({"name": "plain"}), seed=5)


def arguments(folder, **options):
    defaults = {"num_train_epochs": 3, "per_device_train_batch_size": 3, "learning_rate": 0.01, "logging_steps": 1}
    defaults |= {"save_steps": 500, "tensorboard": False, "use_cpu": True, "seed": 3, "freeze": "vision_tower"}
    argv = [part for key, value in (defaults | options).items() for part in (f"--{key}", str(value))]
    return parse([RunArguments], ["--output_dir", str(folder), *argv])[0]


class CountedImages:
    """Counts the images that the encoder is called on."""

    def __init__(self, model):
        self.images = 0
        model.get_encoder(modality="image").register_forward_hook(self.add)

    def add(self, module, inputs, output):
        self.images += len(output.last_hidden_state)
