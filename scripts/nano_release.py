"""`make nano-release`: train the checkpoints that ship, pali3-nano and paligemma-nano, through every stage.

    python -m openpali.scripts.nano_release

Stage 0 contrasts images with captions, stage 0b locates objects and words on the patches of the image encoder, and a
mask tokenizer learns masks. With either text model the encoder then goes through stage 1 (64 px), stage 2 (96 px) and
a last stage on the same tasks whose learning rate falls to 0. Started again after a stop, it resumes. Logs and seeds
stay in the folder; `--pack` writes what ships.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import openpali
from openpali.data.files.config import find_config
from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.user_errors import command
from openpali.recipes import contrastive, dense, mask_vqvae, pretrain
from openpali.scripts.chains.stage_report import cache_drawings
from openpali.scripts.chains.step_timer import StepTimer

FOLDER = Path("outputs/nano-release")
FAMILIES = ("pali3", "paligemma")
STAGES = ("stage1", "stage2", "mix")
# seconds on one core
PLAN = {"pali3": (2400, 1500, 1500), "paligemma": (3600, 1500, 1500)}
EXAMPLES, VOCABULARY = 3000, 1536
_TOKEN = re.compile(r"<(loc[0-9]{4}|seg[0-9]{3})>")


def mixture_texts(config: dict[str, Any], examples: int) -> Iterator[str]:
    """Prompts and targets of the first examples of every entry of a mixture, without location and mask tokens."""
    for entry in config["mixture"].values():
        # masks would need their tokenizer, and are no text
        task = entry["task"] | ({"boxes_only": True} if entry["task"]["name"] == "refer" else {})
        if task["name"] == "segment":
            continue
        source = load_source(entry.get("source", config["source"]) | {"length": examples})
        dataset = TaskDataset(source, load_task(task), split="train")
        for index in range(examples):
            yield from (dataset[index].prefix, _TOKEN.sub("", dataset[index].suffix))


def make_tokenizer(folder: Path) -> None:
    """Train and save the tokenizer of both families, unless it is there."""
    if not (folder / "tokenizer.json").is_file():
        config = yaml.safe_load(find_config("nano/pali3-stage1").read_text("utf-8"))
        train_tokenizer(mixture_texts(config, EXAMPLES), VOCABULARY).save_pretrained(folder)


def train_shared(timer: StepTimer) -> None:
    """The image encoder, the mask tokenizer and the text tokenizer of both families."""
    codec, contrast = str(FOLDER / "mask-vqvae"), str(FOLDER / "contrastive")
    timer.run("images", cache_drawings)
    timer.run("tokenizer", lambda: make_tokenizer(FOLDER / "tokenizer"))
    timer.run("masks", lambda: mask_vqvae.main(["--config", "mask_vqvae/builtin", "--output_dir", codec]))
    timer.run("stage 0", lambda: contrastive.main(["--config", "pali3/nano-contrastive", "--output_dir", contrast]))
    timer.run("stage 0b", lambda: dense.main(["--config", "nano/dense"]))


def train_family(family: str, timer: StepTimer) -> None:
    """Every stage of a family that is not finished."""
    for stage in STAGES:
        argv = ["--config", f"nano/{family}-{stage}"]
        timer.run(f"{family}, {stage}", lambda argv=argv: pretrain.main(argv))


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Run the chain."""
    parser = argparse.ArgumentParser(prog="make nano-release", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--family", choices=FAMILIES, help="train one family, in a process of its own; both by default"
    )
    family = parser.parse_args(argv).family
    families = (family,) if family else FAMILIES
    print(f"openpali {openpali.__version__}: the checkpoints that ship, into {FOLDER}")
    plan: dict[str, float] = {"images": 3, "tokenizer": 60, "masks": 600, "stage 0": 300, "stage 0b": 900}
    for name in families:
        plan |= {f"{name}, {stage}": seconds for stage, seconds in zip(STAGES, PLAN[name], strict=True)}
    timer = StepTimer(plan)
    train_shared(timer)
    for name in families:
        train_family(name, timer)


if __name__ == "__main__":
    main()
