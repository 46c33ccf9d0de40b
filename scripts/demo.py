"""`make demo`: a small PaLI-3 from nothing to a report, on the built-in images and two CPU cores.

    python -m openpali.scripts.demo

It runs the three training stages with their shipped configurations, measures the results on scenes that no stage
has seen, with and without their images, writes one report, and asks the finished checkpoints about three images
through Transformers' pipeline. Started again after a stop, it goes on where it was.
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
from openpali.scripts.chains.chain import SCENES, Clock, Row, draw_scenes, measure

ENGLISH: dict[str, Any] = {"name": "answer", "kinds": ["what"], "languages": ["en"]}
GERMAN = ENGLISH | {"languages": ["de"]}
MEASURED = (
    Row("naming, stage 1", "pretrain", ENGLISH, {"objects": [1, 1]}),
    Row("captions, stage 1", "pretrain", {"name": "caption"}, {"objects": [1, 2]}),
    Row("naming in German, transfer", "transfer", GERMAN, {"objects": [1, 1]}),
)
STAGES = ("contrastive", "pretrain", "transfer")
TEST_SCENES = 400
SHOWN = 3


def answer_images(folder: Path) -> None:
    """Ask both checkpoints what three images show, as a user would: through the pipeline."""
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


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/demo"), help="where everything is written")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: a PaLI-3 from nothing on the built-in images, into {folder}")
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
    settings: dict[str, str | int] = {"scenes": f"{TEST_SCENES} held out for each task, 32 concepts, 64 px"}
    settings["made by"] = "make demo"
    title = "A PaLI-3 trained on the built-in images"
    clock.run("measuring", lambda: measure(folder, MEASURED, STAGES, TEST_SCENES, title, settings))
    clock.run("pipeline", lambda: answer_images(folder))
    print(f"\nOpen {folder / 'report.html'} in a browser, or ask about an image of your own:")
    print(f"  openpali predict {stage1} {folder / 'pictures' / '1.png'} 'answer en what is this?'")


if __name__ == "__main__":
    main()
