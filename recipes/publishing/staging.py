"""The folder that is uploaded: what others need to load a model and to know it, and nothing else of a run."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from openpali.eval.answering.base_weights import BASE_FILE
from openpali.eval.answering.load_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from openpali.modeling.configuration_paligemma import PALIGEMMA_TYPES
from openpali.modeling.export import export, load_whole
from openpali.modeling.four_bit import QUANTIZATION_FILE
from openpali.modeling.user_errors import UserError
from openpali.recipes.publishing.card import CARD_FILE, GEMMA, is_ours, local_name, make_card, marked, unmarked
from openpali.recipes.publishing.facts import Facts
from openpali.recipes.publishing.usage import OWN_TYPES, PLACEHOLDER

WEIGHTS = "*.safetensors"
FILES = ["config.json", "generation_config.json", SAFE_WEIGHTS_INDEX_NAME, "chat_template.jinja"]
FILES += ["processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
FILES += [
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
]
ADAPTER_FILES = [ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE, QUANTIZATION_FILE]
# what nobody reads for paths: a vocabulary may hold any text
_VOCABULARIES = ("tokenizer.json", "vocab.json")


def stage(facts: Facts, folder: Path, repository: str, licence: str | None = None, base: str | None = None) -> None:
    """Fill a folder with what is uploaded of a run.

    A PaLI-3 is exported with its code. Other models are linked or copied as they are, adapters without their base.

    Args:
        facts: of the run.
        folder: empty.
        repository: its Hub name, for the card.
        licence: of the model; the card's own when None.
        base: Hub name of the checkpoint that the run started from, where it is a folder of this machine.

    Raises:
        UserError: the run has not ended, its base cannot be named, or a file holds a path of this machine.
        CheckpointError: the model cannot be read.
    """
    check_finished(facts)
    folder.mkdir(parents=True, exist_ok=True)
    if facts.adapters:
        copy_files(facts.folder, folder, ADAPTER_FILES + [name for name in FILES if name != "config.json"])
        name_base(facts.folder, folder, base)
    elif facts.model_type in OWN_TYPES:
        export(*load_whole(str(facts.folder), "auto"), folder)
    else:
        copy_files(facts.folder, folder, [path.name for path in sorted(facts.folder.glob(WEIGHTS))] + FILES)
    (folder / CARD_FILE).write_text(staged_card(facts, repository, licence, base), "utf-8")
    refuse_paths(folder, facts.folder)


def check_finished(facts: Facts) -> None:
    """Raise UserError where there is no whole model or adapters in a folder."""
    folder = facts.folder
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder of a finished run, or of a model")
    if facts.adapters and (folder / ADAPTER_WEIGHTS).exists():
        return
    if not facts.adapters and not (folder / "config.json").exists() or not any(folder.glob(WEIGHTS)):
        what = "the run has not ended; the same command resumes it" if any(folder.glob("checkpoint-*")) else ""
        raise UserError(f"{folder} holds no model: {what or 'give the folder of a finished run, or of a model'}")
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    parts = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index.exists() else set()
    for part in sorted(parts):
        if not (folder / part).exists():
            raise UserError(f"{folder} is not whole: it lacks {part}, which {index.name} lists")


def copy_files(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy the files that are there; weights are linked where the disk allows it."""
    for name in names:
        path, target = source / name, folder / name
        if not path.exists():
            continue
        if target.match(WEIGHTS):
            try:
                os.link(path.resolve(), target)
                continue
            except OSError:
                pass  # another disk, or one without links
        shutil.copyfile(path, target)


def name_base(run: Path, folder: Path, base: str | None) -> None:
    """Name the base of adapters as others find it.

    Raises:
        UserError: it is a folder of this machine, and no Hub name is given.
    """
    path = folder / ADAPTER_CONFIG
    content = json.loads(path.read_text("utf-8"))
    named = base or content["base_model_name_or_path"]
    if Path(named).is_absolute() or Path(named).exists():
        raise UserError(
            f"{run} holds adapters of {named}, which others cannot find: push that checkpoint too and give its name"
            f" with --base, or push a whole model: openpali merge {run} NEW_FOLDER"
        )
    path.write_text(json.dumps(content | {"base_model_name_or_path": named}, indent=2) + "\n", "utf-8")
    prints = folder / BASE_FILE
    if prints.exists():
        prints.write_text(
            json.dumps(json.loads(prints.read_text("utf-8")) | {"base": named}, indent=2) + "\n", "utf-8"
        )


def staged_card(facts: Facts, repository: str, licence: str | None, base: str | None) -> str:
    """The card of the run, or a new one, for its repository.

    Raises:
        UserError: the metadata of an edited card cannot be read.
    """
    path = facts.folder / CARD_FILE
    text = path.read_text("utf-8") if path.exists() else marked(make_card(facts))
    name = repository.split("/")[-1]
    whole = unmarked(text).replace(PLACEHOLDER, repository)
    if is_ours(text):
        whole = re.sub(r"^# .*$", f"# {name}", whole, count=1, flags=re.MULTILINE)
    starts = facts.starts()
    if base and len(starts) == 1:
        whole = whole.replace(local_name(starts[0]), f"[{base}](https://huggingface.co/{base})")
    try:
        card = ModelCard(whole)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: its metadata cannot be read ({' '.join(str(error).split())}): mend them") from error
    data: Any = card.data
    if licence:
        data.license = licence
    if base:
        data.base_model = [base]
        data.base_model_relation = "adapter" if facts.adapters else "finetune"
    if data.eval_results:
        data.model_name = name
    return marked(str(card)) if text != unmarked(text) else str(card)


def licence_remark(folder: Path) -> str:
    """What to know about the licence in a staged card; empty where all is well."""
    data: Any = ModelCard.load(folder / CARD_FILE).data
    config = folder / "config.json"
    kind = json.loads(config.read_text("utf-8")).get("model_type") if config.exists() else None
    if not data.license:
        return "The card names no licence, and without one others may not use the model: give --licence, as apache-2.0"
    if {*PALIGEMMA_TYPES} & {kind, *(data.tags or ())} and data.license != GEMMA:
        return f"The licence is {data.license}; Gemma's terms also hold for what is trained from PaliGemma (gemma)"
    return ""


def is_staged(folder: Path) -> bool:
    """Whether a folder holds a card and files that `stage` writes, and no others."""
    if not folder.is_dir() or not (folder / CARD_FILE).exists():
        return False
    names = {*FILES, *ADAPTER_FILES, CARD_FILE}
    return all(path.name in names or path.match(WEIGHTS) or path.suffix == ".py" for path in folder.iterdir())


def refuse_paths(folder: Path, run: Path) -> None:
    """Raise UserError where a file that would be uploaded holds a path of this machine."""
    places = {str(Path.home()), str(Path.cwd()), str(run.resolve().parent)}
    private = [place for place in sorted(places) if len(Path(place).parts) > 2 or place == str(Path.home()) != "/"]
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.md")]):
        if path.name in _VOCABULARIES:
            continue
        text = path.read_text("utf-8", errors="replace")
        for place in private:
            if f"{place}/" in text:
                found = text[text.index(f"{place}/") :].split('"')[0].split()[0]
                raise UserError(
                    f"{run / path.name} names {found}, a path of this machine: take it out, and push again"
                )
