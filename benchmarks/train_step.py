"""`python benchmarks/train_step.py`: a PaliGemma training step at the real vocabulary, against stock Transformers.

Forward and backward. Stock is what the Trainer does with Transformers' class and processor: logits of every position
and a float32 cross-entropy over them. Both have the same weights and the same batch of equally long suffixes, so their
losses must be equal, which is checked. Memory is the peak above the model; each case runs in its own process. The
optimizer is left out, since it costs both the same. The last rows compare padding with sequence packing in our class,
on a batch of mixed lengths.
"""

import argparse
import itertools
import json
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PaliGemmaConfig
from transformers import PaliGemmaForConditionalGeneration as Stock

from openpali.data.packing import pack, packed_batch, padding_share
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration

VOCABULARY, IMAGE = 257_216, 257_152
IMAGE_TOKENS, PREFIX_TOKENS = 256, 24
LAYERS, HEAD = 4, 64


def make_model(kind: str, width: int) -> Any:
    """A text model of 4 layers behind a small image encoder of 256 tokens; the same random weights for both kinds."""
    torch.manual_seed(0)
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 224, "patch_size": 14, "vision_use_head": False, "model_type": "siglip_vision_model"}
    text = {"model_type": "gemma", "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": LAYERS}
    text |= {"num_attention_heads": width // HEAD, "num_key_value_heads": 1, "head_dim": HEAD}
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=text | {"vocab_size": VOCABULARY},
        image_token_id=IMAGE,
        projection_dim=width,
        hidden_size=width,
        attn_implementation="sdpa",
    )
    model: Any = (Stock if kind == "stock" else PaliGemmaForConditionalGeneration)(config)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.model.multi_modal_projector.linear.weight, std=0.02)
    return model.train()


def example(suffix: int, generator: torch.Generator) -> dict[str, list[int]]:
    """One sequence: image, 24 tokens of prefix, suffix."""
    prompt = IMAGE_TOKENS + PREFIX_TOKENS
    words = torch.randint(0, 256_000, (PREFIX_TOKENS + suffix,), generator=generator).tolist()
    return {
        "input_ids": [IMAGE] * IMAGE_TOKENS + words,
        "attention_mask": [1] * (prompt + suffix),
        "token_type_ids": [0] * prompt + [1] * suffix,
        "labels": [-100] * prompt + words[PREFIX_TOKENS:],
    }


def padded(examples: list[dict[str, list[int]]], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The batch as the Trainer's collator makes it, padded on the right."""
    width = max(len(row["input_ids"]) for row in examples)
    fill = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0, "labels": -100}
    rows = {k: [row[k] + [value] * (width - len(row[k])) for row in examples] for k, value in fill.items()}
    return {k: torch.tensor(v) for k, v in rows.items()} | {"pixel_values": images}


def mixed_suffixes(examples: int) -> list[int]:
    """Suffix lengths of a mixture: mostly short answers, some captions and detections, a few pages of text."""
    rng = random.Random(0)
    kinds = [(0.6, (2, 8)), (0.3, (10, 40)), (0.1, (80, 256))]
    return [rng.randint(*rng.choices([k[1] for k in kinds], [k[0] for k in kinds])[0]) for _ in range(examples)]


def make_batch(options: argparse.Namespace) -> dict[str, Any]:
    """The batch of a case."""
    generator = torch.Generator().manual_seed(2)
    mixed = options.case in ("padded", "packed")
    suffixes = mixed_suffixes(options.batch) if mixed else [options.suffix] * options.batch
    examples = [example(suffix, generator) for suffix in suffixes]
    images = torch.rand(len(examples), 3, 224, 224, generator=generator) * 2 - 1
    if options.case != "packed":
        return padded(examples, images)
    lengths = [len(row["input_ids"]) for row in examples]
    rows = list(pack(lengths, options.pack_length))
    features = {key: [row[key] for row in examples] for key in examples[0]} | {"pixel_values": list(images)}
    return dict(packed_batch(rows, features, [1] * len(examples), 0))


def resident_gigabytes(field: str) -> float:
    """`VmRSS`, or since the last reset `VmHWM`, of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**20


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Peak memory above the model, wall and CPU seconds of a step, and its loss, in this process."""
    model, batch = make_model(options.case, options.width), make_batch(options)
    Path("/proc/self/clear_refs").write_text("5")
    before, wall, cpu, value = resident_gigabytes("VmRSS"), [], [], 0.0
    for _ in range(options.repeats):
        model.zero_grad(set_to_none=True)
        begin, used = time.perf_counter(), cpu_seconds()
        loss = model(**batch).loss
        loss.backward()
        value = loss.item()
        wall.append(time.perf_counter() - begin)
        cpu.append(cpu_seconds() - used)
    peak = resident_gigabytes("VmHWM") - before
    return {"gigabytes": peak, "seconds": min(wall), "cpu": min(cpu), "loss": value}


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(case: str, **options: Any) -> dict[str, float]:
    """`measure` in a new process."""
    arguments = [f"--{key}={value}" for key, value in options.items()]
    command = [sys.executable, __file__, "--case", case, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(cases: tuple[str, str], title: str, same_loss: float, **options: Any) -> None:
    """Run two cases and print one row.

    Raises:
        RuntimeError: if their losses differ, so that they are not comparable.
    """
    first, second = (run(case, **options) for case in cases)
    if abs(first["loss"] - second["loss"]) > same_loss:
        raise RuntimeError(f"{title}: losses {first['loss']} and {second['loss']} differ")
    ratios = " ".join(f"{second[unit] / first[unit]:8.2f}" for unit in ("gigabytes", "cpu", "seconds"))
    sides = " ".join(f"{side['gigabytes']:8.2f} {side['cpu']:8.2f} {side['seconds']:8.2f}" for side in (first, second))
    print(f"{title:<34} {sides} {ratios}", flush=True)


def header(first: str, second: str) -> None:
    """Two lines above a table."""
    names = "".join(f"{name:^27}" for name in (first, second, f"{second} / {first}"))
    print(f"\n{'':<34} {names}\n{'':<34} " + " ".join(f"{unit:>8}" for unit in ("GB", "CPU s", "s") * 3), flush=True)


def main() -> None:
    """Run every case and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="*", default=[256, 1024, 2048])
    parser.add_argument("--batches", type=int, nargs="*", default=[8, 4, 1], help="at the first width; others have 8")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--suffix", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pack_length", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options)))
        return
    print(
        f"{LAYERS} text layers, {IMAGE_TOKENS} image tokens, prefix {PREFIX_TOKENS}; {torch.get_num_threads()} threads"
    )
    header("stock", "openpali")
    for width in options.widths:
        cases = itertools.product(options.batches, (8, 64)) if width == min(options.widths) else [(8, 8)]
        for batch, suffix in cases:
            title = f"width {width}, batch {batch}, suffix {suffix}"
            sizes = {"width": width, "batch": batch, "suffix": suffix, "repeats": options.repeats}
            compare(("stock", "openpali"), title, same_loss=1e-3, **sizes)
    header("padded", "packed")
    batch, length = 16, 1024
    lengths = [IMAGE_TOKENS + PREFIX_TOKENS + suffix for suffix in mixed_suffixes(batch)]
    shares = [padding_share(lengths, rows) for rows in ([[i] for i in range(batch)], list(pack(lengths, length)))]
    for width in options.widths:
        sizes = {"width": width, "batch": batch, "pack_length": length, "repeats": options.repeats}
        compare(("padded", "packed"), f"width {width}, batch {batch}, rows of {length}", same_loss=1e-3, **sizes)
    print(f"{'':<34} padding: {shares[0]:.0%} padded, {shares[1]:.0%} packed", flush=True)


if __name__ == "__main__":
    main()
