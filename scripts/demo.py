"""`make demo`: a small PaLI-3 from nothing to a report, on the built-in pictures and two CPU cores.

    python -m openpali.scripts.demo

It runs the three training stages with their shipped configurations, measures the results on scenes that no stage
has seen, with and without their pictures, writes one report, and asks the finished checkpoints about three pictures
through Transformers' pipeline. Started again after a stop, it goes on where it was.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import pipeline

import openpali
from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.sources.drawings import CREDITS
from openpali.data.tasks import load_task
from openpali.eval.evaluate_task import TaskResult, evaluate_task
from openpali.eval.loading import load_model
from openpali.eval.report import pictures, write_report
from openpali.recipes import contrastive, pretrain, transfer
from openpali.recipes.callbacks import read_log

SCENES = {"name": "emoji", "size": 64, "concepts": 32}
ENGLISH: dict[str, Any] = {"name": "answer", "kinds": ["what"], "languages": ["en"]}
GERMAN = ENGLISH | {"languages": ["de"]}
# what the report shows: (title, folder, task, scenes) measured on the test split
MEASURED = (
    ("naming, stage 1", "pretrain", ENGLISH, {"objects": [1, 1]}),
    ("captions, stage 1", "pretrain", {"name": "caption"}, {"objects": [1, 2]}),
    ("naming in German, transfer", "transfer", GERMAN, {"objects": [1, 1]}),
)
TEST_SCENES = 400
SHOWN = 3


@dataclass
class Clock:
    """Says which step begins and about how long is left.

    Attributes:
        plan: seconds of each step as measured on two cores, by title.
    """

    plan: dict[str, float]
    pace: float = 1.0

    def run(self, title: str, step: Callable[[], object]) -> None:
        """Do a step; what it took against the plan corrects the time that is left."""
        titles = list(self.plan)
        left = self.pace * sum(self.plan[later] for later in titles[titles.index(title) :])
        print(f"\n[{titles.index(title) + 1}/{len(titles)}] {title}: about {minutes(left)} left in all", flush=True)
        begin = time.perf_counter()
        step()
        seconds = time.perf_counter() - begin
        # a step that a former run had finished says nothing of the pace
        if seconds > 0.3 * self.plan[title]:
            self.pace = seconds / self.plan[title]
        print(f"[{title}] took {minutes(seconds)}", flush=True)


def minutes(seconds: float) -> str:
    """Such as 2:05 minutes."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} minutes"


def draw_scenes() -> None:
    """Rasterise every drawing once; it is kept for later runs."""
    scenes = load_source(SCENES | {"split": "test", "length": 500})
    for index in range(len(scenes)):
        scenes[index]


def measure(folder: Path) -> None:
    """Score the checkpoints on held-out scenes, with their pictures and with blank ones, and write the report."""
    results, images = [], {}
    for title, checkpoint, task_spec, options in MEASURED:
        model, processor = load_model(str(folder / checkpoint))
        task = load_task(task_spec)
        source = load_source(SCENES | options | {"split": "test", "length": TEST_SCENES})
        dataset = TaskDataset(source, task)
        result = evaluate_task(model, processor, dataset, task)
        blank = evaluate_task(model, processor, dataset, task, blank_images=True)
        result.name, result.blank_metrics = title, blank.metrics
        # one picture may be in several galleries, with other boxes
        for row in result.predictions:
            row["id"] = f"{title}: {row['id']}"
        images |= pictures(result, dataset)
        results.append(result)
        print(f"{title}: {describe(result)}", flush=True)
    logs = [
        {**row, "stage": stage}
        for stage in ("contrastive", "pretrain", "transfer")
        for row in read_log(folder / stage / "logs.jsonl")
    ]
    settings = {"scenes": f"{TEST_SCENES} held out for each task, 32 concepts, 64 px", "made by": "make demo"}
    title = "A PaLI-3 trained on the built-in pictures"
    path = folder / "report.html"
    write_report(path, title, results, images, logs, CREDITS, settings=settings)
    print(f"Report: {path}")
    summary = {result.name: {"metrics": result.metrics, "blank_images": result.blank_metrics} for result in results}
    (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")


def describe(result: TaskResult) -> str:
    """The chief metric with pictures and without."""
    blank = (result.blank_metrics or {})[result.metric_key]
    return f"{result.metric_key} {result.score:.3f} on held-out scenes, {blank:.3f} on blank images"


def answer_pictures(folder: Path) -> None:
    """Ask both checkpoints what three pictures show, as a user would: through the pipeline."""
    scenes = load_source(SCENES | {"split": "test", "length": 10_000, "objects": [1, 1]})
    (folder / "pictures").mkdir(exist_ok=True)
    askers = {
        checkpoint: (pipeline("image-text-to-text", model=str(folder / checkpoint)), load_task(task))
        for checkpoint, task in (("pretrain", ENGLISH), ("transfer", GERMAN))
    }
    rng = random.Random(0)
    for number in range(1, SHOWN + 1):
        record = scenes[rng.randrange(len(scenes))]
        path = folder / "pictures" / f"{number}.png"
        record["image"].save(path)
        for checkpoint, (ask, task) in askers.items():
            example = task.example(record, rng)
            assert example is not None
            content = [{"type": "image", "path": str(path)}, {"type": "text", "text": example.prefix}]
            messages: Any = [{"role": "user", "content": content}]
            answer = ask(text=messages, max_new_tokens=16, return_full_text=False)[0]["generated_text"]
            print(f"{path}  {checkpoint}  {example.prefix!r} -> {answer!r}, where {example.suffix!r} is right")


def main(argv: list[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/demo"), help="where everything is written")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: a PaLI-3 from nothing on the built-in pictures, into {folder}")
    stage0, stage1, stage3 = (str(folder / name) for name in ("contrastive", "pretrain", "transfer"))
    clock = Clock({"pictures": 3, "stage 0": 200, "stage 1": 240, "transfer": 80, "measuring": 15, "pipeline": 5})
    clock.run("pictures", draw_scenes)
    clock.run(
        "stage 0",
        lambda: contrastive.main(["--config", "pali3/nano-contrastive", "--output_dir", stage0]),
    )
    clock.run(
        "stage 1",
        lambda: pretrain.main(
            ["--config", "pali3/nano-pretrain", "--output_dir", stage1, "--vision_checkpoint", stage0]
        ),
    )
    clock.run(
        "transfer",
        lambda: transfer.main(["--config", "transfers/what-de", "--output_dir", stage3, "--model", stage1]),
    )
    clock.run("measuring", lambda: measure(folder))
    clock.run("pipeline", lambda: answer_pictures(folder))
    print(f"\nOpen {folder / 'report.html'} in a browser, or ask about a picture of your own:")
    print(f"  openpali predict {stage1} {folder / 'pictures' / '1.png'} 'answer en what is this?'")


if __name__ == "__main__":
    main()
