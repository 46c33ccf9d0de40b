"""`python benchmarks/data_pipeline.py`: JPEG files to batches, against Transformers' processors.

    python benchmarks/data_pipeline.py --sides 224 --examples-per-gpu 120 --workers 12

All read the same files, tokenise the same texts with the same tokenizer and return the same tensors. The alternatives:
`torchvision` is the processor of Transformers that users have who installed torchvision, called once for a batch, with
images opened by Pillow; `torchvision, decode_jpeg` decodes with torchvision too, the fastest that Transformers offers;
`pillow` is the processor without torchvision, called once for each example. Ours: `exact` has the values of `pillow`.
`fast` resizes with torch; `fast, decode_size` also decodes JPEG at reduced size (`data/images/preprocess.py`,
`data/images/open_image.py`). Each way runs in its own process, on one core. Below each table is the throughput of the
loader of a node of eight GPUs, and what the GPUs need.
"""

import argparse
import copy
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Results, add_results, run_apart
from PIL import Image
from transformers import PaliGemmaProcessor as StockProcessor
from transformers import PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.data.images.open_image import load_image
from openpali.data.images.worker_memory import keep_freed_memory
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.processing_paligemma import PaliGemmaProcessor

PREFIX, SUFFIX = "caption en", "a red dog and two cats on a wooden table in front of a window"
PATCH, TEXT_TOKENS = 14, 64
# PaliGemma's report has 5,189 tokens/s for a TPUv5e at 224 px; an H100 has 5.02 times its bfloat16 arithmetic
TOKENS_PER_SECOND = 5189 * 989 / 197
BATCH = 16
STOCK = ("pillow", "torchvision", "torchvision, decode_jpeg")
DECODING = "decoding alone"
OURS = ("exact", "fast", "fast, decode_size")

Run = Callable[[list[Path]], Iterator[Any]]


def photograph(path: Path, width: int, height: int, seed: int) -> None:
    """Write a JPEG of soft shapes and sensor noise, about as large in bytes as a camera's."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    soft = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = np.clip(soft + rng.integers(-6, 7, soft.shape), 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(path, quality=90)


def make_processors(side: int, tokenizer: Any, image_processor: Any) -> tuple[Any, Any]:
    """The stock processor and ours, each with its own copies."""
    image_processor.image_seq_length = (side // PATCH) ** 2
    stock: Any = StockProcessor(copy.deepcopy(image_processor), copy.deepcopy(tokenizer))
    return stock, PaliGemmaProcessor(image_processor, copy.deepcopy(tokenizer))


def stock_run(side: int, tokenizer: Any, image_processor: Any, batch: int, decode: Callable[[Path], Any]) -> Run:
    """What users of Transformers write: open the images, and call the processor."""
    stock, _ = make_processors(side, tokenizer, image_processor)

    def run(files: list[Path]) -> Iterator[Any]:
        for start in range(0, len(files), batch):
            images = [decode(path) for path in files[start : start + batch]]
            texts = {"text": ["<image>" + PREFIX] * len(images), "suffix": [SUFFIX] * len(images)}
            yield stock(images=images, **texts, padding=True, return_tensors="pt")

    return run


def our_run(side: int, tokenizer: Any, exact: bool, decode_size: int | None) -> Run:
    """What a loader worker of the recipes does."""
    keep_freed_memory()
    _, ours = make_processors(side, tokenizer, SiglipImageProcessorPil(size={"height": side, "width": side}))
    collator = Collator(ours, exact_images=exact)

    def run(files: list[Path]) -> Iterator[Any]:
        for start in range(0, len(files), BATCH):
            images = [load_image(path, decode_size) for path in files[start : start + BATCH]]
            yield collator([Example("", "caption", (image,), PREFIX, SUFFIX) for image in images])

    return run


def way(name: str, side: int, tokenizer: Any) -> Run:
    """A way by its name, from files to batches."""
    size: Any = {"height": side, "width": side}
    if name == DECODING:
        keep_freed_memory()
        return lambda files: ({"pixel_values": [torch.empty(0) * load_image(path).width]} for path in files)
    if name in OURS:
        return our_run(side, tokenizer, name == "exact", side if name == "fast, decode_size" else None)
    if name == "pillow":
        return stock_run(side, tokenizer, SiglipImageProcessorPil(size=size), 1, opened)
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

    def decoded(path: Path) -> torch.Tensor:
        return decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)

    decode = decoded if name.endswith("decode_jpeg") else opened
    return stock_run(side, tokenizer, SiglipImageProcessor(size=size), BATCH, decode)


def opened(path: Path) -> Image.Image:
    """An image by Pillow."""
    return Image.open(path).convert("RGB")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """CPU milliseconds an image, the best of a few runs, in this process; saves the first image's values."""
    torch.set_num_threads(1)
    tokenizer = with_bos(train_tokenizer([PREFIX, SUFFIX] * 4, vocab_size=300))
    run, files = way(options.case, options.side, tokenizer), sorted(Path(options.folder).glob("*.jpg"))
    best, first = float("inf"), torch.empty(0)
    for _ in range(options.repeats + 1):
        begin = time.process_time()
        for number, batch in enumerate(run(files)):
            first = batch["pixel_values"][0] if number == 0 else first
        best = min(best, (time.process_time() - begin) / len(files))
    torch.save(first.clone(), Path(options.folder) / f"{options.case}.pt")
    return {"milliseconds": 1000 * best}


def estimate(found: dict[str, float], side: int, options: argparse.Namespace) -> None:
    """Print the images per second that the GPUs need, and the CPU cores that supply them."""
    tokens = (side // PATCH) ** 2 + TEXT_TOKENS
    each = options.examples_per_gpu or TOKENS_PER_SECOND / tokens
    need = options.gpus * each
    print(f"  {options.gpus} GPUs at {each:.1f} examples/s need {need:.0f} images/s; {options.workers} workers a GPU:")
    for name, rate in found.items():
        loader = options.gpus * options.workers * rate
        print(
            f"    {name:<26}{loader:8.0f} images/s, {loader / need:5.1f} times that; {need / rate:5.1f} cores suffice"
        )


def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with BOS, which PaliGemma's processors need."""
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    return tokenizer


def others() -> list[str]:
    """The alternatives that can be measured here; says loudly what cannot."""
    if find_spec("torchvision") is not None:
        return list(STOCK)
    matching = f"0.{int(torch.__version__.split('.')[1]) + 15}"
    print(
        "NOT MEASURED: Transformers' processor with torchvision, which most users have, since torchvision is missing."
        f"\nInstall it: pip install 'torchvision=={matching}.*' --index-url https://download.pytorch.org/whl/cpu",
        file=sys.stderr,
    )
    return ["pillow"]


def compare(size: str, side: int, folder: str, results: Results, options: argparse.Namespace) -> None:
    """Print one table: rates, their ratios to the alternatives, and differences from the stock values."""
    files = list(Path(folder).glob("*.jpg"))
    kilobytes = sum(path.stat().st_size for path in files) / len(files) / 1000
    print(f"JPEG of {size} ({kilobytes:.0f} kB) to {side} px, images per CPU second")
    cost: dict[str, float] = {}
    stock = others()
    for name in (*stock, *OURS, DECODING):
        found = run_apart(__file__, case=name, side=side, folder=folder, repeats=options.repeats)
        assert found is not None
        cost[name] = found["milliseconds"]
        if name == DECODING:
            # whatever else is saved
            most = ", ".join(f"{cost[other] / cost[name]:.2f} of {other}" for other in stock)
            print(f"  {name:<26}{1000 / cost[name]:8.1f}   so at most {most} at full size", flush=True)
            continue
        values, usual = (torch.load(Path(folder) / f"{one}.pt") for one in (name, "pillow"))
        off = (values - usual).abs() * 127.5
        ratios = "".join(f"{cost[other] / cost[name]:6.2f} of {other}" for other in stock) if name in OURS else ""
        print(
            f"  {name:<26}{1000 / cost[name]:8.1f}   levels off: {off.mean():.3f} to {off.max():.2f} {ratios}",
            flush=True,
        )
    for name, other in itertools.product(OURS, stock):
        results.add(f"{size} to {side} px, {name}", other, "CPU ms an image", cost[name], cost[other])
    estimate({name: 1000 / value for name, value in cost.items()}, side, options)


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
    add_results(parser)
    for name, kind in {"case": str, "side": int, "folder": str}.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options)))
        return
    results = Results("data_pipeline", options.results)
    for size in options.files:
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            for number in range(options.images):
                photograph(Path(folder) / f"{number:03}.jpg", width, height, number)
            for side in options.sides:
                compare(size, side, folder, results, options)


if __name__ == "__main__":
    main()
