"""`make bench-gpu`: what a GPU does with PaliGemma-3B, PaLI-3 5B and SigLIP B/16, in at most ten minutes.

    python benchmarks/gpu/run.py
    python benchmarks/gpu/run.py --only "PaliGemma 3B, 224"
    python benchmarks/gpu/run.py --tiny          # toys, also without a GPU, to see that it runs

First the losses of toys are compared with those of the CPU in float32 (`checks.py`). Then each case of `cases.py` is a
row: seconds of the fastest step, examples and tokens per second, peak memory, share of the GPU's dense bfloat16 peak.
Weights are random, in bfloat16, with AdamW. Cases that no longer fit in the time are listed as not measured.
`--results` adds a line of JSON for each row to a file.
"""

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from cases import Case, all_cases
from checks import check
from operations import peak_of

from openpali.modeling.transformers_versions import peft_refusal

SECONDS_A_CASE = 12.0
NO_FLEX = "FlexAttention has no backward pass on a CPU"


def measure(case: Case, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Repeat a case's step for some seconds; the first step, which allocates and compiles, is left out."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    prepared = case[1](options.tiny, device)
    seconds, end = [], time.perf_counter() + SECONDS_A_CASE
    while len(seconds) < 2 or (time.perf_counter() < end and len(seconds) <= options.repeats):
        begin = time.perf_counter()
        prepared.step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    fastest = min(seconds[1:])
    return {
        "seconds": fastest,
        "examples_per_second": prepared.examples / fastest,
        "tokens_per_second": prepared.tokens / fastest,
        "gigabytes": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan"),
        "of_peak": prepared.operations / fastest / peak_of(device),
        "first_step_seconds": seconds[0],
    }


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    if "failed" in found:
        return found["failed"]
    numbers = f"{found['seconds']:9.4f} {found['examples_per_second']:10.1f} {found['tokens_per_second']:11,.0f}"
    return f"{numbers} {found['gigabytes']:8.1f} {found['of_peak']:8.1%}"


def try_case(case: Case, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """`measure`, or the reason why there are no numbers."""
    if "flex_attention" in case[0] and device.type == "cpu":
        return {"failed": f"not measured: {NO_FLEX}"}
    if case[0].endswith("lora") and (refusal := peft_refusal()):
        return {"failed": f"not measured: {refusal}"}
    try:
        return measure(case, options, device)
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory"}
    # one case that fails must not cost the others their time on the GPU; the run ends with status 1
    except Exception as error:  # noqa: BLE001
        return {"failed": f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    """Check, then measure all cases for which there is time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.5, help="after which no further case starts")
    parser.add_argument("--repeats", type=int, default=10, help="most steps of a case")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--tiny", action="store_true", help="toys, also without a GPU")
    parser.add_argument("--results", type=Path, help="file to add a line of JSON to for each case")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    if not torch.cuda.is_available() and not options.tiny:
        print("no GPU found: nothing was measured")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(f"{name}, torch {versions['torch']}, Transformers {versions['transformers']}")
    if options.tiny:
        print("toys: that they run is all that these numbers say")
    failures = check(device)
    print(f"{'':<68}" + f"{'s/step':>9} {'examples/s':>10} {'tokens/s':>11} {'peak GiB':>8} {'of peak':>8}")
    for case in all_cases():
        if not case[0].startswith(options.only):
            continue
        late = time.monotonic() > end
        found = {"failed": "not measured: the time was over"} if late else try_case(case, options, device)
        failures += [f"{case[0]}: {found['failed']}"] if found.get("failed", "").startswith("failed") else []
        print(f"{case[0]:<68}{row(found)}", flush=True)
        if options.results:
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": case[0], "gpu": name, "tiny": options.tiny} | versions | found) + "\n")
    if failures:
        raise SystemExit("error: " + "; ".join(failures))


if __name__ == "__main__":
    main()
