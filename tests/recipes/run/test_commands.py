"""The commands in a process of their own, where the console and the locale know ASCII alone."""

import json
import subprocess
import sys

from custom_files import coco, edit
from tiny_adapters import save_checkpoint

import openpali_cli  # pyright: ignore[reportMissingImports]

NAMES = ["Käse", "苹果", "žába"]
CODE = """
import json, sys
import openpali_cli

for line in json.load(sys.stdin):
    try:
        status = openpali_cli.main(line)
    except SystemExit as stop:
        status = stop.code
    assert not status, (line, status)
    print("ended:", line[0], flush=True)
"""
# without these Python takes UTF-8 where the locale says nothing
ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
ASCII |= {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def rename(content):
    for category, name in zip(content["categories"], NAMES, strict=True):
        category["name"] = name


def test_names_of_any_script_are_written_on_any_console(tmp_path, tiny_tokenizer):
    model = save_checkpoint("pali3", tiny_tokenizer, tmp_path / "model")
    data = edit(coco(tmp_path / "data", 12), rename)
    run = ["transfer", "--model", str(model), "--data", str(data), "--kind", "detect", "--output_dir", "run"]
    run += ["--use_cpu", "true", "--max_steps", "1", "--eval_limit", "1", "--test_limit", "1"]
    source = json.dumps({"name": "custom", "path": str(data), "kind": "detect", "split": "test"})
    score = ["eval", "--model", "run", "--task", "detect", "--source", source, "--output", "eval"]
    lines = [[], *([verb, "--help"] for verb in openpali_cli.VERBS), run, run, score]
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=json.dumps([line or ["--help"] for line in lines]).encode(),
        capture_output=True, env=ASCII, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    shown = done.stdout.decode("ascii")
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert [line[len("ended: ") :] for line in shown.splitlines() if line.startswith("ended: ")][-3:] == [
        "transfer",
        "transfer",
        "eval",
    ]
    assert "K\\xe4se" in shown
    assert "\\u82f9\\u679c" in shown
    check = json.loads((tmp_path / "run" / "data_check.json").read_text("utf-8"))
    assert set(check["splits"]["train"]["classes"]) == set(NAMES)
    assert NAMES[0] in (tmp_path / "run" / "config.yaml").read_text("utf-8")
