"""The fenced blocks of the guide, and how each of them is run: in this process where that is possible."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openpali.recipes
import openpali_cli  # pyright: ignore[reportMissingImports]

GUIDE = Path(openpali.recipes.__file__).parents[1] / "docs" / "guide"
# a day in its order
PAGES = ["install", "your-data", "checkpoint", "adapters", "report", "push", "serve"]

# the shortest training that there is; everything else is as the page says
QUICK = ["--max_steps", "2", "--use_cpu", "true", "--eval_limit", "2", "--test_limit", "2"]
QUICK += ["--per_device_train_batch_size", "2", "--task.max_new_tokens", "6"]

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("openpali", "openpali_cli"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
"""
RUN_ALL = "import json, sys\nfor code in json.load(sys.stdin):\n    exec(compile(code, 'block', 'exec'), {})\n"


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its language and what stands in it."""

    page: str
    language: str
    text: str

    def commands(self) -> list[str]:
        """The lines of a block of commands, each in one piece."""
        return [line.strip() for line in self.text.replace("\\\n", " ").split("\n") if line.strip()]


def blocks(page: str) -> list[Block]:
    """Of a page, in its order."""
    text = (GUIDE / f"{page}.md").read_text("utf-8")
    found = re.findall(r"^[ ]*```(\w*)\n(.*?)^[ ]*```$", text, re.DOTALL | re.MULTILINE)
    assert text.count("```") == 2 * len(found), f"{page}: a fence is not closed"
    return [Block(page, language, inside) for language, inside in found]


def run_command(command: str) -> None:
    """A verb or a module, by its main()."""
    program, *arguments = shlex.split(command)
    if program == "openpali":
        quick = QUICK if arguments[0] == "transfer" and "--help" not in arguments else []
        main, arguments = openpali_cli.main, arguments + quick
    else:
        assert (program, arguments[0]) == ("python", "-m"), command
        main, arguments = importlib.import_module(arguments[1]).main, arguments[2:]
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    assert not status, f"{command}: {status}"


def run_apart(codes: list[str], folder: Path, address: str, before: str = "") -> list[str]:
    """Python blocks one after the other in a process that knows no other Hub; what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_loopback", "NO_PROXY": "*"}
    environment |= {"HF_HOME": str(folder / ".hub"), "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command: list[Any] = [sys.executable, "-c", before + RUN_ALL]
    done = subprocess.run(
        command, input=json.dumps(codes), capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
