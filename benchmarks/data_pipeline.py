"""`python benchmarks/data_pipeline.py`: JPEG files to batches, against Transformers' `AutoProcessor` for each example.

    python benchmarks/data_pipeline.py --sides 224 --examples-per-gpu 120 --workers 12

Both read the same files, tokenise the same texts with the same tokenizer and return the same tensors. `exact` has the
values of the stock processor, resized by Pillow. `fast` resizes with torch; `fast, decode_size` also decodes JPEG at
reduced size (`data/images/preprocess.py`, `data/images/open_image.py`). Times are CPU seconds, which other programs
hardly disturb. Below each table is the throughput of the loader of a node of eight GPUs, and what the GPUs need.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PaliGemmaProcessor as StockProcessor
from transformers import PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.data.images.open_image import load_image
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.processing_paligemma import PaliGemmaProcessor

PREFIX, SUFFIX = "caption en", "a red dog and two cats on a wooden table in front of a window"
PATCH, TEXT_TOKENS = 14, 64
# PaliGemma's report has 5,189 tokens/s for a TPUv5e at 224 px; an H100 has 5.02 times its bfloat16 arithmetic
TOKENS_PER_SECOND = 5189 * 989 / 197
BATCH = 16

Run = Callable[[list[Path]], Iterator[Any]]


def photograph(path: Path, width: int, height: int, seed: int) -> None:
    """Write a JPEG of soft shapes and sensor noise, about as large in bytes as a camera's."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    soft = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = np.clip(soft + rng.integers(-6, 7, soft.shape), 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(path, quality=90)


def ways(side: int, tokenizer: Any) -> dict[str, Run]:
    """The ways to compare, each from files to batches or to single examples."""
    image_processor: Any = SiglipImageProcessorPil(size={"height": side, "width": side})
    image_processor.image_seq_length = (side // PATCH) ** 2
    stock: Any = StockProcessor(copy.deepcopy(image_processor), copy.deepcopy(tokenizer))
    ours = PaliGemmaProcessor(image_processor, copy.deepcopy(tokenizer))

    def stock_run(files: list[Path]) -> Iterator[Any]:
        for path in files:
            image = Image.open(path).convert("RGB")
            yield stock(images=image, text="<image>" + PREFIX, suffix=SUFFIX, return_tensors="pt")

    def our_run(exact: bool, decode_size: int | None) -> Run:
        collator = Collator(ours, exact_images=exact)

        def run(files: list[Path]) -> Iterator[Any]:
            for start in range(0, len(files), BATCH):
                images = [load_image(path, decode_size) for path in files[start : start + BATCH]]
                yield collator([Example("", "caption", (image,), PREFIX, SUFFIX) for image in images])

        return run

    return {
        "stock": stock_run,
        "exact": our_run(True, None),
        "fast": our_run(False, None),
        "fast, decode_size": our_run(False, side),
    }


def images_per_second(run: Run, files: list[Path], repeats: int) -> tuple[float, torch.Tensor]:
    """Images per CPU second, the best of a few runs, and the first image's values."""
    best, first = 0.0, torch.empty(0)
    for _ in range(repeats + 1):
        begin = time.process_time()
        for number, batch in enumerate(run(files)):
            first = batch["pixel_values"][0] if number == 0 else first
        best = max(best, len(files) / (time.process_time() - begin))
    return best, first


def estimate(found: dict[str, float], side: int, options: argparse.Namespace) -> None:
    """Print the images per second that the GPUs need, and the CPU cores that supply them."""
    tokens = (side // PATCH) ** 2 + TEXT_TOKENS
    each = options.examples_per_gpu or TOKENS_PER_SECOND / tokens
    need = options.gpus * each
    print(f"  {options.gpus} GPUs at {each:.1f} examples/s need {need:.0f} images/s; {options.workers} workers a GPU:")
    for way, rate in found.items():
        loader = options.gpus * options.workers * rate
        print(
            f"    {way:<18}{loader:8.0f} images/s, {loader / need:5.1f} times that; {need / rate:5.1f} cores suffice"
        )


def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with BOS, which PaliGemma's processors need."""
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    return tokenizer


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 896], help="of the model's images, in pixels")
    parser.add_argument("--files", nargs="+", default=["640x480", "1600x1200"], help="sizes of the JPEG files")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--workers", type=int, default=8, help="loader workers of each GPU, one core each")
    parser.add_argument(
        "--examples-per-gpu",
        type=float,
        help=f"examples/s that each GPU trains on; by default {TOKENS_PER_SECOND:.0f} tokens/s, PaliGemma's"
        f" throughput at 224 px scaled to an H100, with {TEXT_TOKENS} tokens of text",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = with_bos(train_tokenizer([PREFIX, SUFFIX] * 4, vocab_size=300))
    with tempfile.TemporaryDirectory() as folder:
        for size in options.files:
            width, height = map(int, size.split("x"))
            files = [Path(folder) / f"{size}-{number}.jpg" for number in range(options.images)]
            for number, path in enumerate(files):
                photograph(path, width, height, number)
            for side in options.sides:
                compare(size, side, files, ways(side, tokenizer), options)


def compare(size: str, side: int, files: list[Path], runs: dict[str, Run], options: argparse.Namespace) -> None:
    """Print one table: rates, their ratios to the stock processor, and differences from its values."""
    kilobytes = sum(path.stat().st_size for path in files) / len(files) / 1000
    print(f"JPEG of {size} ({kilobytes:.0f} kB) to {side} px, images per CPU second")
    found, values = {}, {}
    for way, run in runs.items():
        found[way], values[way] = images_per_second(run, files, options.repeats)
        off = (values[way] - values["stock"]).abs() * 127.5
        levels = f"mean {off.mean():.3f}, largest {off.max():.2f}"
        print(
            f"  {way:<20}{found[way]:8.1f}{found[way] / found['stock']:7.2f} of stock   off by levels of 255: {levels}"
        )
    estimate(found, side, options)


if __name__ == "__main__":
    main()
