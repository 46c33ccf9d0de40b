"""`python benchmarks/contrastive_memory.py`: peak memory and time of the sigmoid loss, against three others.

Forward and backward of the loss alone. `full matrix` is the pseudocode of the SigLIP paper. `chunked` loops over the
texts in 16 blocks, as OpenCLIP's loss does over the blocks of its neighbours; its forward needs less memory at a time,
but autograd keeps every block for the backward. `open_clip` is OpenCLIP's class itself, on one device. Each case runs
in its own process, so that peak memory is its own; one that would need more than `--most` is ended and said to be.
"""

import argparse
import itertools
import json
import resource
import sys
from importlib.util import find_spec

import torch
from measuring import MEMORY_ENDED, Peak, Results, add_results, cpu_seconds, run_apart
from torch.nn.functional import logsigmoid, normalize

from openpali.modeling.contrastive_loss import sigmoid_loss

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
BLOCKS = 16


def batch(size: int, width: int) -> Inputs:
    """Normalised embeddings, t' and b."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (normalize(torch.randn(size, width, generator=generator)).requires_grad_() for _ in range(2))
    scalars = (torch.tensor([value], requires_grad=True) for value in (2.3, -10.0))
    return (images, texts, *scalars)  # pyright: ignore[reportReturnType]


def full_matrix(images: torch.Tensor, texts: torch.Tensor, t: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """All logits and their labels at once."""
    logits = images @ texts.T * t.exp() + b
    labels = 2 * torch.eye(len(logits)) - 1
    return -logsigmoid(labels * logits).sum() / len(logits)


def chunked(images: torch.Tensor, texts: torch.Tensor, t: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A loop over blocks of texts that sums their losses."""
    loss = images.new_zeros(())
    for start in range(0, len(texts), len(texts) // BLOCKS):
        block = texts[start : start + len(texts) // BLOCKS]
        logits = images @ block.T * t.exp() + b
        labels = -torch.ones_like(logits)
        labels[start : start + len(block)] += 2 * torch.eye(len(block))
        loss = loss - logsigmoid(labels * logits).sum() / len(images)
    return loss


def open_clip(images: torch.Tensor, texts: torch.Tensor, t: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The class that OpenCLIP trains with, on one device."""
    from open_clip.loss import SigLipLoss  # pyright: ignore[reportMissingImports]

    return SigLipLoss()(images, texts, t.exp(), b)


CASES = {"full matrix": full_matrix, "chunked": chunked, "open_clip": open_clip, "openpali": sigmoid_loss}


def measure(case: str, size: int, width: int) -> dict[str, float]:
    """Peak memory above the inputs, and CPU seconds, of one case in this process."""
    inputs, loss = batch(size, width), CASES[case]
    small = batch(64, width)
    torch.autograd.grad(loss(*small), small)
    peak, begin = Peak(), cpu_seconds()
    value = loss(*inputs)
    torch.autograd.grad(value, inputs)
    return {"gigabytes": peak.gigabytes(), "seconds": cpu_seconds() - begin, "loss": value.item()}


def alternatives() -> list[str]:
    """The cases to run; says loudly which is missing."""
    if find_spec("open_clip") is not None:
        return list(CASES)
    print(
        "NOT MEASURED: open_clip is missing. Install it: pip install --no-deps open_clip_torch timm", file=sys.stderr
    )
    return [case for case in CASES if case != "open_clip"]


def main() -> None:
    """Run all cases at all sizes and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 16384], help="pairs in the batch")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--most", type=float, default=12.0, help="GB of addresses that a case may take; then it ends")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    add_results(parser)
    options = parser.parse_args()
    if options.case:
        limit = int(options.most * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            print(json.dumps(measure(options.case, options.sizes[0], options.width)))
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error):
                raise
            sys.exit(MEMORY_ENDED)
        return
    ours: dict[str, float] | None = None
    results, ended = Results("contrastive_memory", options.results), set()
    for size, case in itertools.product(options.sizes, reversed(alternatives())):
        found = None
        if case not in ended:
            found = run_apart(__file__, case=case, width=options.width, sizes=size, most=options.most)
        if case == "openpali":
            ours = found
        if found is None:
            ended.add(case)
            print(f"batch {size:>6}  {case:<12} needs more than {options.most:.0f} GB", flush=True)
            continue
        ratios = ""
        if ours is not None and case != "openpali":
            ratios = "   ours / it, memory and time:"
            for unit, name in (("gigabytes", "GB"), ("seconds", "CPU s")):
                ratios += f" {1 / results.add(f'batch {size}', case, name, ours[unit], found[unit]):.2f}"
        numbers = f"{found['gigabytes']:7.2f} GB {found['seconds']:8.2f} CPU s   loss {found['loss']:.6f}"
        print(f"batch {size:>6}  {case:<12}{numbers}{ratios}", flush=True)


if __name__ == "__main__":
    main()
