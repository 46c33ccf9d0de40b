"""README and the pages of docs: every command that they show is started, on tiny models and data with one step, or is
listed here with what is looked at instead; Python is run as it stands. The guide's blocks have a test of their own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_folders as given
import pytest
import torch
from made_web import make_web
from page_blocks import ROOT, blocks, mentioned, run_command, run_python, words
from page_checks import begins, compiles, installs, is_known, launches, logs_in, makes

from openpali.data.collator import Collator
from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.eval.answering.load_model import load_model

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# its blocks are run by a test of their own
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
Prepared = list[tuple[Callable[..., None], tuple[Any, ...]]]

# page: what it takes for granted
BEFORE: dict[str, Prepared] = {
    "README": [
        (given.paligemma, ("google/paligemma-3b-mix-224", "google/paligemma2-3b-pt-448")),
        (given.coco, ("my-folder/annotations.json", "my-folder/images")),
        (given.save_images, ("photo.png",)),
    ],
    "conversion": [(given.released_paligemma, ("paligemma-3b-pt-224.npz", "gemma-2b"))],
    "encoders": [
        (given.names_in_36_languages, ()),
        (given.miniature, ("xm3600",)),
        (given.siglip, ("google/siglip-base-patch16-224", "outputs/encoders/contrastive")),
        (given.classifier, ("outputs/encoders/classification",)),
        (given.jsonl, ("pairs.jsonl", 40)),
        (given.shards, ("raw/{:03}.tar", 5)),
        (given.save_images, ("eval_images/1.png", "eval_images/2.png")),
        (given.metrics, ()),
    ],
    "engines": [
        (given.paligemma, ("google/paligemma-3b-pt-224",)),
        (given.miniature, ("vqav2",)),
    ],
    "evaluation": [
        (given.paligemma, ("outputs/vqav2", "outputs/coco35l", "outputs/textvqa")),
        (given.florence, ("florence-community/Florence-2-base-ft",)),
        (given.miniature, ("vqav2",)),
        (given.miniature, ("coco35l",)),
        (given.miniature, ("textvqa",)),
        (given.miniature, ("mmvp",)),
        (given.miniature, ("objaverse",)),
        (given.metrics, ()),
    ],
    "predicting": [
        (given.paligemma, ("google/paligemma-3b-mix-224",)),
        (given.save_images, ("photo.jpg", "photos/1.jpg", "photos/more/1.jpg")),
        (given.clip, ("clip.mp4",)),
    ],
    "experiments": [(make_web, (Path("outputs/web"),))],
    "masks": [
        (given.pali3, ("outputs/located/refer", "MODEL")),
        (given.coco, ("instances.json", "train")),
        (given.save_images, ("photo.png",)),
    ],
    "paligemma": [
        (given.paligemma, ("google/paligemma2-3b-pt-224", "outputs/my-run")),
        (given.jsonl, ("my.jsonl",)),
        (given.save_images, ("dog.png",)),
    ],
    "training": [
        (given.paligemma, ("google/paligemma2-3b-pt-224",)),
        (given.jsonl, ("my.jsonl",)),
        (given.siglip, ("google/siglip-so400m-patch14-224",)),
        (given.umt5, ("google/umt5-base",)),
    ],
    "transfers": [
        (given.paligemma, ("google/paligemma-3b-pt-224", "google/paligemma-3b-pt-896")),
        (given.pali3, ("outputs/pali3-1064",)),
        (given.miniature, ("vqav2",)),
        (given.miniature, ("docvqa",)),
        (given.miniature, ("pope",)),
    ],
}

CONTRASTIVE = "accelerate launch -m openpali.recipes.contrastive --config "
# command: what is looked at instead, and why it is not run
NOT_RUN: dict[str, tuple[Callable[[str], None], str]] = {
    f"{CONTRASTIVE}siglip/b16-224": (begins, "a hundred million parameters and 10,000 shards"),
    f"{CONTRASTIVE}siglip/b16-384": (begins, "the same"),
    f"{CONTRASTIVE}siglip/mb16-224": (begins, "the same"),
    f"{CONTRASTIVE}pali3/stage0-224": (begins, "the same"),
    "accelerate launch --num_machines 8 --num_processes 64 -m openpali.recipes.captioner --config captioner/b16-224": (
        begins,
        "the same",
    ),
    "accelerate launch --cpu --num_processes 2": (is_known, "no script; tests/recipes/run/test_ways_in.py starts one"),
    "openpali transfer … --pack_length 2048": (is_known, "the rest is left out"),
    "openpali export … --onnx": (is_known, "the rest is left out"),
    'lmms-eval --model openpali --model_args "pretrained=outputs/vqav2,prompt=answer en {},first_line=True"'
    " --tasks vqav2_val --batch_size 8": (
        is_known,
        "lmms-eval is not installed; tests/eval/test_lmms_eval_adapter.py reads this line",
    ),
    "scripts/launch/train.sh RECIPE CONFIG [--key value ...]": (is_known, "words to be replaced"),
    "python -m openpali.scripts.nano_web_chain --seeds 3 --steps 100": (
        is_known,
        "a quarter of an hour; tests/docs/test_chains.py runs it with few samples and steps",
    ),
}
# what a program prints, in a block without a language
PRINTED = ("Engine: ", "Warning: ")


def kind(command: str) -> Callable[[str], None] | None:
    """What is looked at for a command of a kind that is never run here."""
    program = words(command)[0]
    if "train.sh " in command or "train.sbatch " in command:
        return launches
    if re.match(r"python \S+\.py", command):
        return compiles
    return {"make": makes, "pip": installs, "hf": logs_in}.get(program)


def is_part(command: str) -> bool:
    """Whether it is only spoken of: a program or a verb by its name, or with something left out."""
    given = words(command)
    named = len(given) < 2 or (len(given) == 2 and kind(command) is None) or given[-2] == "-m"
    return named or given[-1].startswith("--") or bool(re.search(r"…|\.\.\.", command))


def start(command: str) -> None:
    """Run it, or look at what is looked at instead."""
    check = NOT_RUN[command][0] if command in NOT_RUN else kind(command) or run_command
    check(command)


def names_for(page: str) -> dict[str, Any]:
    """What the Python of a page calls yours."""
    if page == "encoders":
        rows = torch.eye(4).tolist()
        return {"text_embeds": rows, "image_of_text": [0, 1, 2, 3], "image_embeds": rows}
    if page == "evaluation":
        model, processor = load_model("nano")
        task = load_task({"name": "answer", "kinds": ["what"], "max_new_tokens": 6})
        dataset = TaskDataset(load_source({"name": "emoji", "split": "test", "size": 64, "length": 2}), task)
        return {"model": model, "processor": processor, "dataset": dataset, "task": task}
    if page == "training":
        model, processor = load_model("outputs/nano-pretrain")
        dataset = TaskDataset(load_source({"name": "jsonl", "path": "my.jsonl"}), load_task({"name": "plain"}))
        yours = {"evaluate": lambda model: {"accuracy": 1.0}, "collator": Collator(processor)}
        return {"model": model, "processor": processor, "train_dataset": dataset} | yours
    return {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if page.stem == "encoders":
        monkeypatch.setenv("OPENPALI_CACHE", str(tmp_path / "cache"))
    # starting Java for every score would take most of the time
    monkeypatch.setattr("openpali.eval.scoring.caption_tokenizer.shutil.which", lambda name: None)
    # the page is served and closed again
    monkeypatch.setattr("openpali.eval.web_demo.wait", lambda: None)
    for prepare, arguments in BEFORE.get(page.stem, []):
        prepare(*arguments)
    values: list[Any] = []
    names: dict[str, Any] = {}
    # what its commands make is what its code reads, wherever that stands
    for block in sorted(blocks(page), key=lambda block: block.language == "python"):
        for command in block.commands():
            if not command.startswith(PRINTED):
                start(command)
        if block.language == "python":
            names = names or names_for(page.stem)
            values.append(run_python(block, names))
        assert block.language in ("", "bash", "sh", "python", "json", "yaml", "bibtex")
    must_be_as_told(page.stem, values, names, capsys.readouterr().out)


def must_be_as_told(page: str, values: list[Any], names: dict[str, Any], printed: str) -> None:
    """Where a page says what comes out, or a number follows from what it shows."""
    if page == "README":
        assert isinstance(names["answers"][0]["generated_text"], str)
    if page == "paligemma":
        assert isinstance(values[0][0]["generated_text"], str)
    if page == "data":
        assert re.search(r"^(answer|caption) (en|de).* -> .+", printed, re.MULTILINE)
        assert printed.count("what is the largest thing?") == 10
    if page == "evaluation":
        assert [next(iter(value.values())) for value in values[:2]] == [1.0, 1.0]
    if page == "encoders":
        assert values[-1]["text_to_image_recall_at_1"] == 1.0
        assert type(names["encoder"]).__name__ == "SiglipVisionModel"


@pytest.mark.parametrize("page", [*PAGES, *GUIDE], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_mentions_is_there(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given.released_codec("vae-oid.npz")
    shown = {command for block in blocks(page) for command in block.commands()}
    for command in mentioned(page):
        if is_part(command) and command not in NOT_RUN:
            is_known(command)
        elif command not in shown:
            start(command)


def test_nothing_is_listed_as_not_run_that_no_page_shows():
    shown = [command for page in PAGES for block in blocks(page) for command in block.commands()]
    assert set(NOT_RUN) <= {*shown, *(command for page in PAGES for command in mentioned(page))}
    assert set(BEFORE) <= {page.stem for page in PAGES}
