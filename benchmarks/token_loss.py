"""`python benchmarks/token_loss.py`: memory and time of the LM head and the loss, against full logits.

Forward and backward. Full logits is what Transformers' encoder-decoders do: the LM head on every position, padding
too, then cross-entropy. Each case runs in its own process, so that peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from openpali.modeling.token_loss import IGNORE_INDEX, per_example_loss


def batch(examples: int, length: int, width: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, LM head and labels; suffixes of 1 to `length` tokens, padded to the longest."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(examples, length, width, generator=generator, requires_grad=True)
    weight = (torch.randn(vocabulary, width, generator=generator) * width**-0.5).requires_grad_()
    labels = torch.randint(0, vocabulary, (examples, length), generator=generator)
    lengths = torch.linspace(1, length, examples).long()
    labels[torch.arange(length) >= lengths[:, None]] = IGNORE_INDEX
    return hidden, weight, labels


def full_logits(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The baseline: logits of every position."""
    logits = F.linear(hidden, weight)
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=IGNORE_INDEX)


def peak_gigabytes() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(case: str, options: argparse.Namespace) -> dict[str, float]:
    """Peak memory above the inputs and seconds of one case, in this process."""
    inputs = batch(options.examples, options.length, options.width, options.vocabulary)
    loss = {"full logits": full_logits, "openpali": per_example_loss}[case]
    before, seconds = peak_gigabytes(), []
    for _ in range(options.repeats):
        begin = time.perf_counter()
        torch.autograd.grad(loss(*inputs), inputs[:2])
        seconds.append(time.perf_counter() - begin)
    return {"gigabytes": peak_gigabytes() - before, "seconds": min(seconds)}


def main() -> None:
    """Run both cases and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--length", type=int, default=64, help="longest suffix in tokens")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=256_384, help="UMT5's by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options)))
        return
    results = {}
    for case in ("full logits", "openpali"):
        command = [sys.executable, *sys.argv, "--case", case]
        results[case] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{case:<12} {results[case]['gigabytes']:6.2f} GB above the inputs {results[case]['seconds']:7.2f} s")
    for unit in ("gigabytes", "seconds"):
        print(f"openpali / full logits, {unit}: {results['openpali'][unit] / results['full logits'][unit]:.2f}")


if __name__ == "__main__":
    main()
