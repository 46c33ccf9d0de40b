"""`python benchmarks/memory.py`: memory of training steps on a CPU, against the estimate of `stage_costs`.

A PaliGemma of 0.3B random weights with Gemma's whole vocabulary at 224 px. Two steps with AdamW of the full weights,
of LoRA and of QLoRA, loaded as in the recipe, each in its own process. Memory is the peak of the steps above the
process before it loads the model. The estimate is without the 1.5 GB of a GPU's context; attention and optimizer
differ from a GPU's, so the ratio does not hold for one. Weights that are converted to another type on loading leave
the pages of their file in memory, which count as well.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from openpali.modeling.configuration_paligemma import paligemma_config
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.recipes.costs.plan import plan_training
from openpali.recipes.costs.stage_costs import GB, RESERVED_ALONE, stage_costs
from openpali.recipes.start.adapters import AdapterArguments, load_for_training
from openpali.recipes.training.optimizer import components, freeze

PROMPT, SUFFIX, IMAGE = 96, 32, 257_152
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT = {"hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 8, "num_attention_heads": 4}
# kind, type of the weights, examples, activation checkpointing
CASES = [
    ("none", "float32", 1, False),
    ("none", "float32", 8, False),
    ("none", "float32", 8, True),
    ("none", "bfloat16", 8, False),
    ("lora", "bfloat16", 1, False),
    ("lora", "bfloat16", 8, False),
    ("lora", "bfloat16", 8, True),
    ("lora", "float32", 8, False),
    ("qlora", "bfloat16", 8, False),
    ("qlora", "float32", 8, False),
    ("dora", "bfloat16", 8, False),
]


def save_model(folder: Path) -> None:
    """Random weights in bfloat16."""
    vision: dict[str, Any] = {
        "model_type": "siglip_vision_model",
        "image_size": 224,
        "patch_size": 14,
        "vision_use_head": False,
    }
    text: dict[str, Any] = {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 160, "vocab_size": 257_216}
    config = paligemma_config(VISION | vision, TEXT | text, image_token_id=IMAGE)
    torch.manual_seed(0)
    PaliGemmaForConditionalGeneration(config).bfloat16().save_pretrained(folder)


def arguments(options: argparse.Namespace) -> list[str]:
    """Command-line arguments of the transfer recipe."""
    line = ["--model", options.model, "--peft", options.peft, "--dtype", options.dtype, "--freeze"]
    line += ["--max_length", str(PROMPT), "--suffix_max_length", str(SUFFIX)]
    line += ["--per_device_train_batch_size", str(options.batch)]
    return [*line, *(["--activation_checkpointing", "true"] if options.checkpointing else [])]


def make_batch(examples: int) -> dict[str, torch.Tensor]:
    """Random images and texts of the maximum length."""
    ids = torch.randint(3, IMAGE, (examples, 256 + PROMPT + SUFFIX))
    ids[:, :256] = IMAGE
    types = torch.zeros_like(ids)
    types[:, -SUFFIX:] = 1
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
    labels = ids.masked_fill(types == 0, -100)
    return inputs | {"pixel_values": torch.rand(examples, 3, 224, 224) * 2 - 1, "labels": labels}


def gigabytes(field: str) -> float:
    """`VmRSS`, or since the last reset `VmHWM`, of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / GB


def measure(options: argparse.Namespace) -> float:
    """Gigabytes of two steps, in this process."""
    before = gigabytes("VmRSS")
    run: Any = SimpleNamespace(device=torch.device("cpu"), freeze=[], lr_multipliers={}, say=print, decay=[])
    run.weight_decay, run.incomplete_checkpoint = 0.0, False
    model: Any = load_for_training(options.model, AdapterArguments(peft=options.peft), options.dtype, run).train()
    freeze(components(model, run))
    if options.checkpointing:
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    batch = make_batch(options.batch)
    # the peak of loading does not count
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return gigabytes("VmHWM") - before


def estimate(options: argparse.Namespace) -> float:
    """Gigabytes by `stage_costs`, without the GPU's context."""
    return (stage_costs(plan_training(arguments(options)))[0].gpu_bytes(1) - RESERVED_ALONE) / GB


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="numbers of the cases to run")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--peft", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        print(json.dumps(measure(options)))
        return
    print(f"{'':<42}{'measured':>12}{'estimated':>12}{'estimated / measured':>22}")
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        for number in options.cases:
            peft, dtype, batch, checkpointing = CASES[number]
            command = [sys.executable, __file__, f"--model={folder}", f"--peft={peft}", f"--dtype={dtype}"]
            command += [f"--batch={batch}", *(["--checkpointing"] if checkpointing else [])]
            # freed memory returns to the system at once, as a GPU's allocator reuses it
            plain = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=plain)
            measured = json.loads(done.stdout.splitlines()[-1])
            case = argparse.Namespace(model=folder, peft=peft, dtype=dtype, batch=batch, checkpointing=checkpointing)
            estimated = estimate(case)
            title = f"{peft}, {dtype}, batch {batch}{', checkpointing' if checkpointing else ''}"
            print(f"{title:<42}{measured:>9.2f} GB{estimated:>9.2f} GB{estimated / measured:>22.2f}", flush=True)


if __name__ == "__main__":
    main()
