"""`python benchmarks/contrastive_memory.py`: peak memory and time of the sigmoid loss, against two baselines.

Forward and backward of the loss alone. `full matrix` is the pseudocode of the SigLIP paper. `chunked` loops over the
texts in 16 blocks, as OpenCLIP's loss does over the blocks of its neighbours; its forward needs less memory at a time,
but autograd keeps every block for the backward. Each case runs in its own process, so that peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
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


CASES = {"full matrix": full_matrix, "chunked": chunked, "openpali": sigmoid_loss}


def peak_gigabytes() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(case: str, size: int, width: int) -> dict[str, float]:
    """Peak memory above the inputs, and CPU seconds, of one case in this process."""
    inputs, loss = batch(size, width), CASES[case]
    small = batch(64, width)
    torch.autograd.grad(loss(*small), small)
    before, begin = peak_gigabytes(), time.process_time()
    value = loss(*inputs)
    torch.autograd.grad(value, inputs)
    seconds = time.process_time() - begin
    return {"gigabytes": peak_gigabytes() - before, "seconds": seconds, "loss": value.item()}


def main() -> None:
    """Run all cases at all sizes and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 16384], help="image-text pairs in the batch")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.sizes[0], options.width)))
        return
    for size in options.sizes:
        found = {}
        for case in CASES:
            command = [sys.executable, __file__, "--width", str(options.width), "--sizes", str(size), "--case", case]
            found[case] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            row = found[case]
            print(
                f"batch {size:>6}  {case:<12}{row['gigabytes']:7.2f} GB above the inputs {row['seconds']:8.1f} CPU"
                f" seconds   loss {row['loss']:.6f}"
            )
        for unit in ("gigabytes", "seconds"):
            ratios = ", ".join(
                f"{found['openpali'][unit] / found[case][unit]:.2f} of {case}" for case in list(CASES)[:2]
            )
            print(f"batch {size:>6}  openpali, {unit}: {ratios}")


if __name__ == "__main__":
    main()
