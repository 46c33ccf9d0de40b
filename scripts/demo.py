"""`make demo`: the shipped PaLI-3 answers about scenes that it has never seen and is fine-tuned, in three minutes.

    python -m openpali.scripts.demo

It asks `nano` eight prompts about each of two images, fine-tunes it on German, which it does not know, and
writes a report on both checkpoints with images, boxes and masks of held-out scenes beside the blind baseline. Started
again after a stop, it resumes.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import openpali
from openpali.data.masks.mask_tokenizer import with_codec
from openpali.data.sources import load_source
from openpali.data.tasks import load_task
from openpali.eval import predict
from openpali.modeling.user_errors import command
from openpali.recipes import transfer
from openpali.scripts.chains.stage_report import SCENES, ReportRow, cache_drawings, report_stages
from openpali.scripts.chains.step_timer import StepTimer
from openpali.scripts.nano_scores import ONE, TWO, answer, masks_of

MODEL, TRANSFER, TEST_SCENES, SHOWN = "nano", "german", 100, 2
OF_TWO = SCENES | TWO | {"split": "test", "length": 1000, "objects": [2, 2]}
ASKED: tuple[dict[str, Any], ...] = (
    {"name": "caption"},
    {"name": "caption", "languages": ["it"]},
    answer("what"),
    answer("presence"),
    answer("where"),
    {"name": "detect"},
    {"name": "segment"},
    {"name": "refer"},
)


def report_rows() -> list[ReportRow]:
    """The shipped model on tasks that it knows, and both on German."""
    masks, german = masks_of(MODEL), answer("what", "de")
    return [
        ReportRow("nano: naming", MODEL, answer("what"), ONE),
        ReportRow("nano: captions", MODEL, {"name": "caption"}, TWO),
        ReportRow("nano: detection", MODEL, {"name": "detect"}, TWO),
        ReportRow("nano: referring", MODEL, {"name": "refer"} | masks, TWO),
        ReportRow("nano: naming in German", MODEL, german, ONE),
        ReportRow("fine-tuned: naming in German", TRANSFER, german, ONE),
    ]


def suggestions(folder: Path, tuned: str) -> list[str]:
    """Commands that ask about saved scenes what can be seen on them; the scene of one thing is saved here."""
    two = load_source(OF_TWO)[1]
    one = load_source(SCENES | ONE | {"split": "test"})[3]
    one["image"].save(folder / "one.png")
    thing = two["objects"][0]["concept"]
    question = load_task(answer("what", "de")).example(one, random.Random(0))
    assert question is not None
    return [
        f"openpali predict {MODEL} {folder / '1.png'} 'detect {thing}'",
        f"openpali predict {tuned} {folder / 'one.png'} '{question.prefix}'",
    ]


def ask(folder: Path) -> None:
    """Save held-out scenes, and answer prompts about them as `openpali predict` does."""
    folder.mkdir(exist_ok=True)
    tasks = [load_task(with_codec(task, MODEL)) for task in ASKED]
    scenes = load_source(OF_TWO)
    for number in range(1, SHOWN + 1):
        record, path, rng = scenes[number], folder / f"{number}.png", random.Random(number)
        record["image"].save(path)
        examples = [example for task in tasks if (example := task.example(record, rng))]
        prompts = [part for example in examples for part in ("--prompt", example.prefix)]
        print(f"{path}:")
        predict.main([MODEL, str(path), *prompts, "--save", str(folder / "drawn")])


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/demo"), help="output folder")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: the shipped PaLI-3 on images that it has never seen, into {folder}")
    timer = StepTimer({"images": 3, "answers": 5, "fine-tuning": 70, "evaluation": 60})
    timer.run("images", cache_drawings)
    timer.run("answers", lambda: ask(folder / "images"))
    tuned = str(folder / TRANSFER)
    argv = ["--config", "transfers/what-de", "--model", MODEL, "--output_dir", tuned, "--source.size", "96"]
    timer.run("fine-tuning", lambda: transfer.main([*argv, "--max_steps", "200", "--eval_steps", "100"]))
    settings: dict[str, str | int] = {"scenes": f"{TEST_SCENES} test scenes for each task, 32 concepts, 96 px"}
    settings["made by"] = "make demo"
    title = "The shipped PaLI-3, and the same fine-tuned on German"
    timer.run("evaluation", lambda: report_stages(folder, report_rows(), (TRANSFER,), TEST_SCENES, title, settings))
    print(f"\nOpen {folder / 'report.html'} in a browser, or ask about an image of your own:")
    for line in suggestions(folder / "images", tuned):
        print(f"  {line}")


if __name__ == "__main__":
    main()
