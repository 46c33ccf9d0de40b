"""`make nano-release`: train the checkpoints that ship, pali3-nano and paligemma-nano, through every stage.

    python -m openpali.scripts.nano_release

Stage 0 contrasts images with captions, stage 0b locates objects and words on the patches of the image encoder, and a
mask tokenizer learns masks. With either text model the encoder then goes through stage 1 (64 px), stage 2 (96 px) and
a last stage on the same tasks whose learning rate falls to 0. Started again after a stop, it resumes. Logs and seeds
stay in the folder; `--pack` writes what ships.
"""

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import yaml

import openpali
from openpali.data.files.config import find_config
from openpali.data.masks.mask_tokenizer import OWN_CODEC, load_codec
from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.export import load_whole
from openpali.modeling.shipped import FOLDER as SHIPPED_FOLDER
from openpali.modeling.user_errors import command
from openpali.recipes import contrastive, dense, mask_vqvae, pretrain
from openpali.recipes.publishing.card import CARD_FILE
from openpali.recipes.publishing.facts import read_facts
from openpali.recipes.publishing.staging import staged_card
from openpali.scripts.chains.stage_report import cache_drawings
from openpali.scripts.chains.step_timer import StepTimer

FOLDER = Path("outputs/nano-release")
FAMILIES = ("pali3", "paligemma")
STAGES = ("stage1", "stage2", "mix")
# seconds on one core
PLAN = {"pali3": (2400, 1500, 1500), "paligemma": (3600, 1500, 1500)}
EXAMPLES, VOCABULARY = 3000, 1536
LICENCE, LARGEST = "apache-2.0", 12_000_000
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
    codec = str(FOLDER / "mask-vqvae")
    timer.run("images", cache_drawings)
    timer.run("tokenizer", lambda: make_tokenizer(FOLDER / "tokenizer"))
    timer.run("masks", lambda: mask_vqvae.main(["--config", "mask_vqvae/builtin", "--output_dir", codec]))
    timer.run("stage 0", lambda: contrastive.main(["--config", "nano/contrastive"]))
    timer.run("stage 0b", lambda: dense.main(["--config", "nano/dense"]))


def train_family(family: str, timer: StepTimer) -> None:
    """Every stage of a family that is not finished."""
    for stage in STAGES:
        argv = ["--config", f"nano/{family}-{stage}"]
        timer.run(f"{family}, {stage}", lambda argv=argv: pretrain.main(argv))


def pack(family: str, folder: Path) -> None:
    """Write what ships of a family: weights in bfloat16, processor, mask tokenizer and model card.

    Raises:
        SystemExit: a checkpoint would be larger than the package allows.
    """
    run, target = FOLDER / f"{family}-mix", folder / f"{family}-nano"
    model, processor = load_whole(str(run), "bfloat16")
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target)
    cast(Any, processor).save_pretrained(target)
    codec: Any = load_codec(str(run / OWN_CODEC))
    codec.to(torch.float16).save_pretrained(target / OWN_CODEC)
    card = staged_card(read_facts(run), f"openpali/{family}-nano", LICENCE, None)
    (target / CARD_FILE).write_text(card, "utf-8")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")
    if size > LARGEST:
        raise SystemExit(f"error: {target} is larger than {LARGEST / 1e6:.0f} MB")


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Run the chain."""
    parser = argparse.ArgumentParser(prog="make nano-release", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--family", choices=FAMILIES, help="train one family, in a process of its own; both by default"
    )
    parser.add_argument("--pack", action="store_true", help=f"then replace what ships, in {SHIPPED_FOLDER}")
    args = parser.parse_args(argv)
    families = (args.family,) if args.family else FAMILIES
    print(f"openpali {openpali.__version__}: the checkpoints that ship, into {FOLDER}")
    plan: dict[str, float] = {"images": 3, "tokenizer": 60, "masks": 600, "stage 0": 300, "stage 0b": 900}
    for name in families:
        plan |= {f"{name}, {stage}": seconds for stage, seconds in zip(STAGES, PLAN[name], strict=True)}
    timer = StepTimer(plan)
    train_shared(timer)
    for name in families:
        train_family(name, timer)
        if args.pack:
            pack(name, SHIPPED_FOLDER)


if __name__ == "__main__":
    main()
