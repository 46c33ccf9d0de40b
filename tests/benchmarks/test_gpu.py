"""The GPU's benchmark runs on toys: its checks agree, its cases are measured, and one that fails is said."""

import os
import subprocess
import sys
from pathlib import Path

from openpali.modeling.transformers_versions import peft_refusal

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "run.py"


def run(*options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, env=environment)


def test_toys_are_checked_and_measured(tmp_path):
    results = tmp_path / "rows.jsonl"
    options = ("--tiny", "--repeats", "1", "--results", str(results))
    done = run(*options, "--only", "PaliGemma 3B, 224 px")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("check: ") == 5
    assert "failed" not in done.stdout
    # in full, with adapters, packed and compiled; FlexAttention cannot train on a CPU
    assert done.stdout.count("not measured") == (3 if peft_refusal() else 1)
    assert len(results.read_text().splitlines()) == 8
    assert '"tiny": true' in results.read_text()


def test_without_a_gpu_nothing_is_claimed():
    done = run()
    assert done.returncode == 0
    assert done.stdout.strip() == "no GPU found: nothing was measured"


def test_cases_that_no_longer_fit_are_said():
    done = run("--tiny", "--minutes", "0", "--only", "SigLIP")
    assert done.returncode == 0
    assert "not measured: the time was over" in done.stdout
