"""`make demo-from-scratch`: a small PaLI-3 from scratch to a report, on the built-in images and two CPU cores.

    python -m openpali.scripts.demo_from_scratch

It runs the three training stages with their shipped configurations, evaluates the checkpoints on test scenes beside
the blind baseline, writes one report, and answers questions about three images through Transformers' pipeline. Started
again after a stop, it resumes.
"""

import argparse
import random
from pathlib import Path
from typing import Any

from transformers import pipeline

import openpali
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.modeling.user_errors import command
from openpali.recipes import contrastive, pretrain, transfer
from openpali.scripts.chains.stage_report import SCENES, ReportRow, cache_drawings, report_stages
from openpali.scripts.chains.step_timer import StepTimer

ENGLISH: dict[str, Any] = {"name": "answer", "kinds": ["what"], "languages": ["en"]}
GERMAN = ENGLISH | {"languages": ["de"]}
ROWS = (
    ReportRow("naming, stage 1", "pretrain", ENGLISH, {"objects": [1, 1]}),
    ReportRow("captions, stage 1", "pretrain", {"name": "caption"}, {"objects": [1, 2]}),
    ReportRow("naming in German, transfer", "transfer", GERMAN, {"objects": [1, 1]}),
)
STAGES = ("contrastive", "pretrain", "transfer")
TEST_SCENES = 400
PIPELINE_IMAGES = 3


def answer_images(folder: Path) -> None:
    """Ask both checkpoints what three images show, through Transformers' pipeline."""
    scenes = load_source(SCENES | {"split": "test", "length": 10_000, "objects": [1, 1]})
    (folder / "pictures").mkdir(exist_ok=True)
    pipelines = {
        checkpoint: (pipeline("image-text-to-text", model=str(folder / checkpoint)), load_task(task))
        for checkpoint, task in (("pretrain", ENGLISH), ("transfer", GERMAN))
    }
    rng = random.Random(0)
    for number in range(1, PIPELINE_IMAGES + 1):
        record = scenes[rng.randrange(len(scenes))]
        path = folder / "pictures" / f"{number}.png"
        record["image"].save(path)
        for checkpoint, (answer_with, task) in pipelines.items():
            example = task.example(record, rng)
            assert example is not None
            content = [{"type": "image", "path": str(path)}, {"type": "text", "text": example.prefix}]
            messages: Any = [{"role": "user", "content": content}]
            answer = answer_with(text=messages, max_new_tokens=16, return_full_text=False)[0]["generated_text"]
            print(f"{path}  {checkpoint}  {example.prefix!r} -> {answer!r}, reference {example.suffix!r}")


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Run the chain."""
    parser = argparse.ArgumentParser(prog="make demo-from-scratch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/demo-from-scratch"), help="output folder")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: a PaLI-3 from scratch on the built-in images, into {folder}")
    stage0, stage1, stage3 = (str(folder / name) for name in ("contrastive", "pretrain", "transfer"))
    timer = StepTimer({"images": 3, "stage 0": 200, "stage 1": 240, "transfer": 80, "evaluation": 15, "pipeline": 5})
    timer.run("images", cache_drawings)
    timer.run(
        "stage 0",
        lambda: contrastive.main(["--config", "pali3/nano-contrastive", "--output_dir", stage0]),
    )
    timer.run(
        "stage 1",
        lambda: pretrain.main(
            ["--config", "pali3/nano-pretrain", "--output_dir", stage1, "--vision_checkpoint", stage0]
        ),
    )
    timer.run(
        "transfer",
        lambda: transfer.main(["--config", "transfers/what-de", "--output_dir", stage3, "--model", stage1]),
    )
    settings: dict[str, str | int] = {"scenes": f"{TEST_SCENES} test scenes for each task, 32 concepts, 64 px"}
    settings["made by"] = "make demo-from-scratch"
    title = "A PaLI-3 trained on the built-in images"
    timer.run("evaluation", lambda: report_stages(folder, ROWS, STAGES, TEST_SCENES, title, settings))
    timer.run("pipeline", lambda: answer_images(folder))
    print(f"\nOpen {folder / 'report.html'} in a browser, or ask about an image of your own:")
    print(f"  openpali predict {stage1} {folder / 'pictures' / '1.png'} 'answer en what is this?'")


if __name__ == "__main__":
    main()
