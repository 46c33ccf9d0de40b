"""The commands and code that pages show, and how each is run: in this process where that is possible."""

import ast
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

from accelerate.commands.launch import launch_command_parser

import openpali.recipes
import openpali_cli  # pyright: ignore[reportMissingImports]
from openpali.modeling.transformers_versions import peft_refusal

ROOT = Path(openpali.recipes.__file__).parents[1]
PROGRAMS = ("openpali", "python", "accelerate", "torchrun", "make", "pip", "hf", "tensorboard", "transformers", "npm")
PROGRAMS += ("scripts/launch/train.sh", "sbatch")

# the shortest training that there is; everything else is as the page says
TRAINING = {"max_steps": 1, "use_cpu": "true", "bf16": "false", "tensorboard": "false", "dataloader_num_workers": 0}
TRAINING |= {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "gradient_accumulation_steps": 1}
TRAINING |= {"eval_steps": 1, "save_steps": 1, "logging_steps": 1, "warmup_steps": 0, "eval_limit": 2}
QUICK: dict[str, dict[str, Any]] = {
    "recipes.transfer": TRAINING | {"test_limit": 2, "task.max_new_tokens": 6, "overwrite": "true"},
    "recipes.reward": TRAINING | {"test_limit": 2, "samples": 2, "reward_examples": 4, "task.max_new_tokens": 6},
    "recipes.pretrain": TRAINING | {"test_limit": 2},
    "recipes.contrastive": TRAINING | {"tokenizer_records": 20},
    "recipes.classification": TRAINING,
    "recipes.captioner": TRAINING | {"tokenizer_records": 20},
    "recipes.denoise": TRAINING,
    "recipes.dense": TRAINING,
    "recipes.mask_vqvae": TRAINING | {"train_masks": 4, "test_masks": 2},
    "eval.run": {"limit": 2, "device": "cpu"},
    "eval.predict": {"max_new_tokens": 6, "device": "cpu"},
    "eval.web_demo": {"device": "cpu"},
    "eval.encoders": {"limit": 40, "device": "cpu"},
    "scripts.web.command": {"workers": 1},
}

RUN_ALL = "import json, sys\nfor code in json.load(sys.stdin):\n    exec(compile(code, 'block', 'exec'), {})\n"


@dataclass(frozen=True)
class Block:
    """A block of a page: the page, its language and what stands in it."""

    page: Path
    language: str
    text: str

    def commands(self) -> list[str]:
        """The lines of a block of commands, each in one piece and without its comment; none of any other block."""
        if self.language not in ("", "bash", "sh"):
            return []
        lines = [re.sub(r"\s+# .*", "", line).strip() for line in re.sub(r" *\\\n *", " ", self.text).split("\n")]
        return [line for line in lines if line and not line.startswith("{")]


def words(command: str) -> list[str]:
    """As a shell parts them."""
    return shlex.split(command)


def blocks(page: Path) -> list[Block]:
    """Fenced blocks, and indented ones that begin with a program, in their order."""
    text = page.read_text("utf-8")
    fenced = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```$", re.DOTALL | re.MULTILINE)
    assert text.count("```") == 2 * len(fenced.findall(text)), f"{page}: a fence is not closed"
    indented = re.compile(rf"^()(?: {{4}}({'|'.join(map(re.escape, PROGRAMS))}) .*\n)+", re.MULTILINE)
    found = [(match.start(), match[1], match[2]) for match in fenced.finditer(text)]
    # the same length, so that places stay
    rest = fenced.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    found += [(match.start(), "", match[0]) for match in indented.finditer(rest)]
    return [Block(page, language, inside) for _, language, inside in sorted(found)]


def mentioned(page: Path) -> list[str]:
    """Commands in the sentences and tables of a page, each once."""
    text = re.sub(r"^[ ]*```.*?^[ ]*```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    program = re.compile(rf"(\w+=\S+ )*({'|'.join(map(re.escape, PROGRAMS))})( |$)")
    return list(dict.fromkeys(span for span in spans if program.match(span)))


def started(command: str) -> tuple[str, list[str]]:
    """The module whose main() a command calls, and the arguments; AssertionError where it is none of ours."""
    program, *rest = words(command)
    if program == "openpali":
        return openpali_cli.VERBS[rest[0]][0], rest[1:]
    if program == "accelerate":
        assert rest[0] == "launch", command
        args = launch_command_parser().parse_args(rest[1:])
        assert args.module, command
        return args.training_script, args.training_script_args
    assert (program, rest[0]) == ("python", "-m"), f"{command} is neither run nor listed as not run"
    return rest[1], rest[2:]


def as_words(options: dict[str, Any]) -> list[str]:
    """Of a command line."""
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def run_command(command: str, quick: dict[str, dict[str, Any]] = QUICK) -> None:
    """Any command: a verb or a module by its main(), with what makes it quick; the text behind `python -c` here."""
    if command.startswith("python -c "):
        exec(compile(words(command)[2], command, "exec"), {"__name__": "__main__"})
        return
    if words(command)[:2] in (["openpali", "--help"], ["openpali", "--version"]):
        main, arguments = openpali_cli.main, words(command)[1:]
    else:
        module, arguments = started(command)
        assert not hasattr(importlib.import_module(module), "StepTimer"), (
            f"{command} takes minutes: list it as not run"
        )
        main = importlib.import_module(module).main
        if "--help" not in arguments:
            arguments = arguments + as_words(quick.get(module.removeprefix("openpali."), {}))
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    refusal = peft_refusal()
    if refusal and ("--peft" in command or command.startswith("openpali merge")):
        # where Transformers refuses every peft there is, this is what a user is told, and nothing is there to merge
        assert refusal in str(status) or "holds no adapters" in str(status), f"{command}: {status}"
        return
    assert not status, f"{command}: {status}"


def run_python(block: Block, names: dict[str, Any]) -> Any:
    """A block of Python that may use these names; the value of its last line where that is an expression.

    It is changed in one place: it trains a single step.
    """
    tree, where = ast.parse(re.sub(r"max_steps=\d+", "max_steps=1", block.text)), str(block.page)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    names["__name__"] = "block"
    exec(compile(tree, where, "exec"), names)
    return eval(compile(ast.Expression(last.value), where, "eval"), names) if isinstance(last, ast.Expr) else None


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
