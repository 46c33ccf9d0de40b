"""`make web`: a nano web through `openpali web`, scored, and stage 1 on what was kept and on the raw shards.

    python -m openpali.scripts.nano_web_chain --seeds 3

It builds raw shards with planted noise, trains a small SigLIP on clean pairs, filters, deduplicates and labels the
shards on two workers, and prints what was found and what was lost. Then it trains stage 1 on the made set and, for as
many steps, on the raw one, and prints how many test scenes either names. Started again after a stop, it resumes.
"""

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

import torch

import openpali
from openpali import Pali3ForConditionalGeneration
from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.sources.builtin.drawings import CREDITS
from openpali.data.tasks import load_task
from openpali.eval.answering.evaluate_task import evaluate_task
from openpali.eval.answering.load_model import load_model
from openpali.modeling.shipped import shipped
from openpali.modeling.user_errors import at_least, command
from openpali.recipes import contrastive, pretrain
from openpali.scripts.chains.step_timer import StepTimer
from openpali.scripts.web import command as web
from openpali.scripts.web.nano.build import NanoWeb, build
from openpali.scripts.web.nano.captions import WANTED
from openpali.scripts.web.nano.images import TEST
from openpali.scripts.web.nano.scores import percent, score, table
from openpali.scripts.web.pages.card import write_card
from openpali.scripts.web.pages.made_set import MadeSet
from openpali.scripts.web.pages.report import urls_of, write_web_report
from openpali.scripts.web.running.files import write_json

# seconds on two idle cores
PLAN: dict[str, float] = {
    "raw shards": 30,
    "the SigLIP that filters": 240,
    "openpali web": 240,
    "scores and pages": 10,
}
STAGE_1, NAMING = 120, 20
SETS = {"made": "made/shards", "raw": "raw/shards"}
TEST_SCENES = 200


def build_raw(folder: Path, samples: int) -> None:
    """Build the raw shards, unless they are there."""
    if not (folder / "raw" / "truth.jsonl").exists():
        build(folder / "raw", NanoWeb(samples=samples, elsewhere=samples, evaluation=max(1, samples // 40)))


def train_filter(folder: Path) -> None:
    """Train the SigLIP on clean pairs, from the image encoder of a shipped checkpoint."""
    encoder = folder / "encoder"
    if not encoder.exists():
        start = Pali3ForConditionalGeneration.from_pretrained(shipped("pali3-nano"), dtype=torch.float32)
        start.model.encoder.vision_tower.save_pretrained(encoder)
    source = f"{{name: webdataset, path: {json.dumps(str(folder / 'raw' / 'elsewhere'))}}}"
    argv = ["--config", "siglip/nano-web", "--output_dir", str(folder / "siglip"), "--source", source]
    contrastive.main([*argv, "--vision_checkpoint", str(encoder)])


def run_pipeline(folder: Path, workers: int) -> None:
    """Run `openpali web` on the raw shards."""
    argv = ["--config", "web/nano", "--input", str(folder / "raw" / "shards"), "--output", str(folder / "made")]
    argv += ["--steps.evaluation_images.against", json.dumps([str(folder / "raw" / "evaluation")])]
    web.main([*argv, "--steps.similarity.model", str(folder / "siglip"), "--workers", str(workers)])


def write_pages(folder: Path) -> None:
    """Print the scores of the steps, and write the report and the card."""
    made = MadeSet(folder / "made")
    print("\n".join(table(score(folder / "raw", made.folder))))
    page = write_web_report(made, urls_of([str(folder / "raw" / "shards")]), credits=CREDITS)
    print(f"Report: {page}. Card: {write_card(made)}")


def train_stage_1(folder: Path, name: str, seed: int, steps: int) -> None:
    """Train stage 1 on a set."""
    source = f"{{name: webdataset, path: {json.dumps(str(folder / SETS[name]))}}}"
    argv = ["--config", "pali3/nano-web", "--output_dir", str(run_folder(folder, name, seed)), "--source", source]
    argv += ["--vision_checkpoint", str(folder / "siglip"), "--seed", str(seed), "--max_steps", str(steps)]
    pretrain.main([*argv, "--tokenizer", shipped("pali3-nano")])


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """Folder of a training on a set."""
    return folder / f"stage1-{name}-{seed}"


def naming(checkpoint: Path) -> dict[str, float]:
    """Share of test scenes of one thing whose caption names it and nothing else, for prompts in each language."""
    model, processor = load_model(str(checkpoint))
    source: Any = load_source({"name": "emoji"} | TEST | {"length": TEST_SCENES})
    found = {}
    for language in WANTED:
        task = load_task({"name": "caption", "languages": [language]})
        rows = evaluate_task(model, processor, TaskDataset(source, task), task).predictions
        things = [source[row["index"]]["objects"][0]["concept"] for row in rows]
        named = [names_only(row["text"], thing, source.concepts, language) for row, thing in zip(rows, things)]
        found[language] = statistics.fmean(named)
    return found


def names_only(text: str, thing: str, concepts: list[dict[str, Any]], language: str) -> bool:
    """Whether a text names a thing in a language, and no other thing."""
    words = {one["concept"]: re.escape(one["names"][language].lower()) for one in concepts}
    return {name for name, word in words.items() if re.search(rf"\b{word}\b", text.lower())} == {thing}


def report_naming(folder: Path, seeds: int) -> None:
    """Score every training, print the means, and write naming.json."""
    found = {name: [naming(run_folder(folder, name, seed)) for seed in range(seeds)] for name in SETS}
    write_json(folder / "naming.json", found)
    print("test scenes that stage 1 names in the language of the prompt, at equal steps:")
    for name, runs in found.items():
        cells = [f"{key} {spread([run[key] for run in runs])}" for key in runs[0]]
        print(f"  trained on the {name} set: {', '.join(cells)}")


def spread(values: list[float]) -> str:
    """A mean in per cent, with the standard deviation of several."""
    text = percent(statistics.fmean(values))
    return text if len(values) == 1 else f"{text} (± {100 * statistics.stdev(values):.1f}, {len(values)} seeds)"


@command("error", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Run the chain."""
    parser = argparse.ArgumentParser(prog="make web", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/web"), help="output folder")
    parser.add_argument("--samples", type=at_least(50), default=NanoWeb.samples, help="of the raw set")
    parser.add_argument("--workers", type=at_least(1), default=2, help="processes of openpali web")
    parser.add_argument("--seeds", type=at_least(1), default=1, help="trainings on each set")
    parser.add_argument("--steps", type=at_least(1), default=400, help="of each training")
    args = parser.parse_args(argv)
    folder: Path = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: a nano web through `openpali web`, into {folder}")
    trainings = [(name, seed) for seed in range(args.seeds) for name in SETS]
    plan: dict[str, float] = PLAN | {f"stage 1 on the {name} set, seed {seed}": STAGE_1 for name, seed in trainings}
    timer = StepTimer(plan | {"naming": NAMING * len(trainings)})
    timer.run("raw shards", lambda: build_raw(folder, args.samples))
    timer.run("the SigLIP that filters", lambda: train_filter(folder))
    timer.run("openpali web", lambda: run_pipeline(folder, args.workers))
    timer.run("scores and pages", lambda: write_pages(folder))
    for name, seed in trainings:
        step = f"stage 1 on the {name} set, seed {seed}"
        timer.run(step, lambda name=name, seed=seed: train_stage_1(folder, name, seed, args.steps))
    timer.run("naming", lambda: report_naming(folder, args.seeds))


if __name__ == "__main__":
    main()
