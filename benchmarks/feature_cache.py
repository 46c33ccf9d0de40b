"""`python benchmarks/feature_cache.py`: training on cached features of a frozen image encoder, against images.

    python benchmarks/feature_cache.py --cases base-lora --images 64

`nano` and `base` are presets of PaLI-3; `small` has base's encoder, SigLIP B/16, and a text model of the shape of T5
small; with `-lora` the text model has adapters. Both ways train the same model on the same batches of JPEG files.
Their steps alternate, so that other programs slow both alike. Times are of whole steps: reading, decoding, resizing,
forward, backward and optimizer. Losses are compared at every step. The last column is the cost of filling the cache
once.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from data_pipeline import photograph
from measuring import cpu_seconds
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali import Pali3Config, Pali3ForConditionalGeneration, Pali3Processor
from openpali.data.collator import Collator
from openpali.data.mixture import TaskDataset
from openpali.data.sources.jsonl import JsonlSource
from openpali.data.tasks import load_task
from openpali.data.tokenizer import train_tokenizer
from openpali.recipes.features.cache import cached_features
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import parse
from openpali.recipes.start.adapters import AdapterArguments, add_adapters
from openpali.recipes.training.optimizer import components, freeze

PREFIX, SUFFIX = "caption en", "a red dog and two cats on a wooden table in front of a window"
SAME = 1e-5
# T5 v1.1 small's shape
SMALL = {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_decoder_layers": 8, "num_heads": 6}
# preset, changes to its text model, adapters
CASES: dict[str, tuple[str, dict[str, int], bool]] = {
    "nano": ("nano", {}, False),
    "small": ("base", SMALL, False),
    "small-lora": ("base", SMALL, True),
    "base": ("base", {}, False),
    "base-lora": ("base", {}, True),
}


def write_data(folder: Path, images: int, width: int, height: int) -> Path:
    """JPEG files and a JSONL file that names them."""
    lines = []
    for number in range(images):
        photograph(folder / f"{number}.jpg", width, height, number)
        lines.append(json.dumps({"image": f"{number}.jpg", "prefix": PREFIX, "suffix": SUFFIX}))
    path = folder / "records.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_model(case: str, tokenizer: Any, run: RunArguments) -> tuple[Any, Any]:
    """A model of a case, its image encoder frozen, and its processor."""
    preset, text, lora = CASES[case]
    torch.manual_seed(0)
    shape = Pali3Config.from_preset(preset)
    text_config = shape.text_config.to_dict() | text | {"vocab_size": len(tokenizer)}
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    vision = shape.vision_config
    config = Pali3Config(vision_config=vision.to_dict(), text_config=text_config, image_token_id=image_token)
    model: Any = Pali3ForConditionalGeneration(config)
    # a new projector is zero, so that images would have no effect
    torch.nn.init.normal_(model.model.encoder.projector.output.weight, std=vision.hidden_size**-0.5)
    if lora:
        add_adapters(model, AdapterArguments(peft="lora"), run.freeze)
    freeze(components(model, run))
    size = {"height": vision.image_size, "width": vision.image_size}
    images = SiglipImageProcessorPil(size=size)
    return model.train(), Pali3Processor(images, tokenizer, image_seq_length=config.image_seq_length)


def batches(data: Any, collator: Callable, size: int, epochs: int) -> Iterator[Any]:
    """Batches of several epochs, in the order of the data."""
    for _ in range(epochs):
        for begin in range(0, len(data) - size + 1, size):
            yield collator([data[index] for index in range(begin, begin + size)])


class TimedTraining:
    """One way to train: its data, its own model, and the times of its steps."""

    def __init__(self, model: Any, loader: Iterator[Any]):
        self.model, self.loader = model, loader
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.wall, self.cpu = [], []

    def step(self) -> float:
        """Run one step; returns its loss."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        loss = self.model(**next(self.loader)).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(cpu_seconds() - cpu)
        return loss.item()


def compare(case: str, data: Path, options: argparse.Namespace, tokenizer: Any) -> None:
    """Print one line of the table.

    Raises:
        RuntimeError: if losses differ, so that the two ways are not comparable.
    """
    argv = ["--output_dir", str(data.parent / case / "run"), "--freeze", "vision_tower", "--use_cpu", "true"]
    (run,) = parse([RunArguments], [*argv, "--per_device_train_batch_size", str(options.batch)])
    model, processor = make_model(case, tokenizer, run)
    examples = TaskDataset(JsonlSource(data, check_decode=0), load_task({"name": "plain"}))
    collator = Collator(processor, exact_images=False)
    begin, used = time.perf_counter(), cpu_seconds()
    with redirect_stdout(sys.stderr):
        cached = cached_features("on", model, examples, collator, run)
    once = time.perf_counter() - begin, cpu_seconds() - used
    ways = [
        TimedTraining(copy.deepcopy(model), batches(*pair, options.batch, options.epochs))
        for pair in ((examples, collator), cached)
    ]
    steps = options.images // options.batch * options.epochs
    for number in range(steps):
        # the order alternates, since the CPU's caches favour the second way
        order = ways if number % 2 else ways[::-1]
        losses = [way.step() for way in order]
        if abs(losses[0] - losses[1]) > SAME:
            raise RuntimeError(f"{case}: losses {losses} of step {number} differ")
    print(row(case, ways, once, steps // options.epochs), flush=True)


def row(case: str, ways: Sequence[TimedTraining], once: tuple[float, float], per_epoch: int) -> str:
    """Seconds of an epoch with images and with features, their ratio, and the cost of the cache in epochs."""
    cells = [f"{case:<12}"]
    for unit, cost in zip(("wall", "cpu"), once):
        # the first step of all is warm-up
        means = [sum(vars(way)[unit][1:]) / (len(vars(way)[unit]) - 1) * per_epoch for way in ways]
        cells.append(f"{means[0]:9.2f}{means[1]:9.2f}{means[0] / means[1]:8.2f}{cost / means[0]:8.2f}")
    return " ".join(cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=["nano", "small", "small-lora"], choices=list(CASES))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", default="640x480", help="of the files")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    tokenizer = train_tokenizer([PREFIX, SUFFIX] * 4, vocab_size=300)
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder), options.images, width, height)
        print(f"{options.images} JPEG files of {options.size}, batches of {options.batch}; seconds an epoch")
        titles = "".join(f"{word:>9}" for word in ("images", "features")) + f"{'ratio':>8}{'once':>8}"
        print(f"{'':<12} {'wall clock':^34} {'CPU':^34}\n{'':<12} {titles} {titles}", flush=True)
        for case in options.cases:
            compare(case, data, options, tokenizer)
    print("once: reading the data and filling the cache, in epochs with images")


if __name__ == "__main__":
    main()
