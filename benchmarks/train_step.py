"""`python benchmarks/train_step.py`: a PaliGemma training step at the real vocabulary, against stock Transformers.

Forward and backward, in three ways. `full logits` is what the Trainer does with Transformers' class and processor:
logits of every position and a float32 cross-entropy over them. `suffix logits` is the best that the stock class can
do: a loop of one's own gives it the positions of the suffixes as `logits_to_keep`, and `shift_labels`. All have the
same weights and the same batch of equally long suffixes, so their losses must be equal, which is checked. Memory is
the peak above the model; each case runs in its own process. The optimizer is left out, since it costs all the same.
The last rows compare padding with sequence packing in our class, on a batch of mixed lengths.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from measuring import Peak, Results, add_results, cpu_seconds, run_apart
from transformers import PaliGemmaConfig
from transformers import PaliGemmaForConditionalGeneration as Stock

from openpali.data.packing import pack, packed_batch, padding_share
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration

VOCABULARY, IMAGE = 257_216, 257_152
IMAGE_TOKENS, PREFIX_TOKENS = 256, 24
LAYERS, HEAD = 4, 64
STOCK = ("full logits", "suffix logits")
OURS = "openpali"
SAME_LOSS = 1e-3


def make_model(kind: str, width: int) -> Any:
    """A text model of 4 layers behind a small image encoder of 256 tokens; the same random weights for all ways."""
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
    model: Any = (Stock if kind in STOCK else PaliGemmaForConditionalGeneration)(config)
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


def without_prompts(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with which the stock class computes logits of the suffixes alone.

    `logits_to_keep` is a mask of the positions that predict a suffix token, bool[B, L], and `shift_labels` has the
    tokens that they predict: with both, the stock loss neither shifts nor sees the other positions.
    """
    following = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
    return batch | {"logits_to_keep": following != -100, "shift_labels": following[following != -100]}


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Peak memory above the model, wall and CPU seconds of a step, and its loss, in this process."""
    model, batch = make_model(options.case, options.width), make_batch(options)
    if options.case == "suffix logits":
        batch = without_prompts(batch)
    peak, wall, cpu, value = Peak(), [], [], 0.0
    for _ in range(options.repeats):
        model.zero_grad(set_to_none=True)
        begin, used = time.perf_counter(), cpu_seconds()
        loss = model(**batch).loss
        loss.backward()
        value = loss.item()
        wall.append(time.perf_counter() - begin)
        cpu.append(cpu_seconds() - used)
    return {"gigabytes": peak.gigabytes(), "seconds": min(wall), "cpu": min(cpu), "loss": value}


def compare(cases: Sequence[str], title: str, results: Results, **options: Any) -> None:
    """Run cases, the last of which is ours, and print a row for each.

    Raises:
        RuntimeError: if their losses differ, so that they are not comparable.
    """
    found = {case: run_apart(__file__, case=case, **options) for case in cases}
    ours = found[cases[-1]]
    if ours is None:
        raise RuntimeError(f"{title}: memory ended in our own step")
    for case, row in found.items():
        if row is None:
            print(f"{title:<36} {case:<14} memory ended", flush=True)
            continue
        if abs(row["loss"] - ours["loss"]) > SAME_LOSS:
            raise RuntimeError(f"{title}: losses {row['loss']} and {ours['loss']} differ")
        ratios = (
            "" if case == cases[-1] else f"{ours['gigabytes'] / row['gigabytes']:12.2f}{ours['cpu'] / row['cpu']:8.2f}"
        )
        print(
            f"{title:<36} {case:<14}{row['gigabytes']:8.2f}{row['cpu']:9.2f}{row['seconds']:9.2f}{ratios}", flush=True
        )
        if case != cases[-1]:
            results.add(title, case, "GB", ours["gigabytes"], row["gigabytes"])
            results.add(title, case, "CPU s", ours["cpu"], row["cpu"])


def main() -> None:
    """Run every case and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="*", default=[256, 1024, 2048])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 8], help="at the first width; others have 8")
    parser.add_argument("--suffixes", type=int, nargs="*", default=[8, 64], help="likewise; others have 8")
    parser.add_argument("--against", nargs="*", choices=STOCK, default=STOCK, help="ways of the stock class")
    parser.add_argument("--no_packing", action="store_true", help="leave out padded and packed sequences")
    add_results(parser)
    for name, kind in {"case": str, "width": int, "batch": int, "suffix": int, "pack_length": int}.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options)))
        return
    results = Results("train_step", options.results)
    print(
        f"{LAYERS} text layers, {IMAGE_TOKENS} image tokens, prefix {PREFIX_TOKENS}\n"
        f"{'':<51}{'GB':>8}{'CPU s':>9}{'wall s':>9}   ours / it: GB, CPU",
        flush=True,
    )
    for width in options.widths:
        first = width == min(options.widths)
        for batch, suffix in itertools.product(options.batches, options.suffixes) if first else [(8, 8)]:
            sizes = {"width": width, "batch": batch, "suffix": suffix, "repeats": options.repeats}
            compare((*options.against, OURS), f"width {width}, batch {batch}, suffix {suffix}", results, **sizes)
    if options.no_packing:
        return
    batch, length = 16, 1024
    lengths = [IMAGE_TOKENS + PREFIX_TOKENS + suffix for suffix in mixed_suffixes(batch)]
    shares = [padding_share(lengths, rows) for rows in ([[i] for i in range(batch)], list(pack(lengths, length)))]
    for width in options.widths:
        sizes = {"width": width, "batch": batch, "pack_length": length, "repeats": options.repeats}
        compare(("padded", "packed"), f"width {width}, batch {batch}, rows of {length}", results, **sizes)
    print(f"padding: {shares[0]:.0%} padded, {shares[1]:.0%} packed", flush=True)


if __name__ == "__main__":
    main()
