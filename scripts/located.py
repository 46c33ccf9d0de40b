"""`make located`: boxes and masks from a small PaLI-3, from nothing, on the built-in pictures and two CPU cores.

    python -m openpali.scripts.located

Stage 0, a dense stage 0b for the image encoder, stage 1 with boxes, and transfers to detection and to referring
segmentation, each with its shipped configuration; then one report on scenes that no stage has seen, with one object,
with two, and with one or two, beside blank images. Started again after a stop, it goes on where it was. The mask codec
is that of `make mask-vqvae`, which is trained first where it is missing.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import openpali
from openpali.data.mask_codec import DEFAULT_CODEC, load_codec
from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.sources.drawings import CREDITS
from openpali.data.tasks import load_task
from openpali.eval.evaluate_task import TaskResult, evaluate_task
from openpali.eval.loading import load_model
from openpali.eval.report import pictures, write_report
from openpali.recipes import contrastive, dense, mask_vqvae, pretrain, transfer
from openpali.recipes.callbacks import read_log
from openpali.scripts.demo import SCENES, Clock, draw_scenes

SETS: dict[str, list[int]] = {"one object": [1, 1], "two objects": [2, 2], "one or two": [1, 2]}
STAGES = ("contrastive", "dense", "located", "detect", "refer")
# held-out scenes of one or two objects, with their pictures
TARGETS = {"detect": ("f1", 0.6), "refer": ("mean_iou", 0.5)}


def train(folder: Path, codec: str, clock: Clock) -> None:
    """Run every stage that is not finished."""
    contrastive_, dense_, located, detect, refer = (str(folder / stage) for stage in STAGES)
    task = json.dumps({"name": "refer", "codec": codec})
    steps = {
        "stage 0": (contrastive, ["--config", "pali3/nano-contrastive", "--output_dir", contrastive_]),
        "stage 0b": (dense, ["--config", "pali3/nano-dense", "--output_dir", dense_, "--model", contrastive_]),
        "stage 1": (
            pretrain,
            ["--config", "pali3/nano-located", "--output_dir", located, "--vision_checkpoint", dense_],
        ),
        "detection": (transfer, ["--config", "transfers/detect", "--output_dir", detect, "--model", located]),
        "referring": (
            transfer,
            ["--config", "transfers/refer", "--output_dir", refer, "--model", located, "--task", task],
        ),
    }
    for title, (recipe, argv) in steps.items():
        clock.run(title, lambda recipe=recipe, argv=argv: recipe.main(argv))


def measure(folder: Path, codec: str, scenes: int) -> None:
    """Score both transfers on every set of held-out scenes, write the report, and say how far the targets are."""
    tasks: dict[str, dict[str, Any]] = {"detect": {"name": "detect"}, "refer": {"name": "refer", "codec": codec}}
    results, images, summary = [], {}, {}
    for stage, spec in tasks.items():
        model, processor = load_model(str(folder / stage))
        for name, objects in SETS.items():
            source = load_source(SCENES | {"objects": objects, "split": "test", "length": scenes})
            result, shown = score(model, processor, TaskDataset(source, load_task(spec)), f"{stage}, {name}")
            results.append(result)
            images |= shown
            summary[result.name] = {"metrics": result.metrics, "blank_images": result.blank_metrics}
            print(line(result), flush=True)
    (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
    logs = [{**row, "stage": stage} for stage in STAGES for row in read_log(folder / stage / "logs.jsonl")]
    settings = {"scenes": f"{scenes} held out for each row, 32 concepts, 64 px", "made by": "make located"}
    title = "Boxes and masks from a PaLI-3 trained on the built-in pictures"
    path = write_report(folder / "report.html", title, results, images, logs, CREDITS, settings=settings)
    for stage, (key, target) in TARGETS.items():
        print(against_target(f"{stage}, one or two", key, target, summary))
    print(f"Report: {path}")


def score(model: Any, processor: Any, dataset: TaskDataset, title: str) -> tuple[TaskResult, dict[str, Any]]:
    """Answers and scores with the pictures and with blank ones, and the pictures that the report shows."""
    result = evaluate_task(model, processor, dataset, dataset.task)
    blank = evaluate_task(model, processor, dataset, dataset.task, blank_images=True)
    result.name, result.blank_metrics = title, blank.metrics
    # one picture may be in several galleries, with other boxes
    for row in result.predictions:
        row["id"] = f"{title}: {row['id']}"
    return result, pictures(result, dataset)


def line(result: TaskResult) -> str:
    """Every score with the picture and without."""
    blank = result.blank_metrics or {}
    shown = [f"{key} {value:.3f} (blank {blank[key]:.3f})" for key, value in result.metrics.items()]
    return f"{result.name}: {', '.join(cell for cell in shown if not cell.startswith('examples'))}"


def against_target(name: str, key: str, target: float, summary: dict[str, Any]) -> str:
    """Whether a score reaches what it should."""
    value, blank = summary[name]["metrics"][key], summary[name]["blank_images"][key]
    verdict = "reached" if value >= target else f"missed by {target - value:.3f}"
    return f"{name}: {key} {value:.3f}, {blank:.3f} on blank images; {target} is {verdict}"


def main(argv: list[str] | None = None) -> None:
    """Train, measure, report."""
    parser = argparse.ArgumentParser(prog="make located", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/located"), help="where everything is written")
    parser.add_argument("--codec", default=DEFAULT_CODEC, help="mask codec, a folder or Hub name")
    parser.add_argument("--scenes", type=int, default=400, help="held-out scenes of each kind")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: boxes and masks from nothing, into {args.folder}")
    plan: dict[str, float] = {
        "pictures": 3,
        "stage 0": 200,
        "stage 0b": 180,
        "stage 1": 480,
        "detection": 280,
        "referring": 800,
    }
    missing = args.codec == DEFAULT_CODEC and not (Path(args.codec) / "model.safetensors").is_file()
    first: dict[str, float] = {"mask codec": 600} if missing else {}
    clock = Clock(first | plan | {"measuring": 60})
    if missing:
        clock.run("mask codec", lambda: mask_vqvae.main(["--config", "mask_vqvae/builtin"]))
    try:
        load_codec(args.codec)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    clock.run("pictures", draw_scenes)
    train(args.folder, args.codec, clock)
    clock.run("measuring", lambda: measure(args.folder, args.codec, args.scenes))
    print(f"\nOpen {args.folder / 'report.html'} in a browser, or ask about a picture of your own:")
    print(f"  openpali predict {args.folder / 'detect'} picture.png 'detect dog'")
    print(f"  openpali predict {args.folder / 'refer'} picture.png 'the dog on the left' --codec {args.codec}")


if __name__ == "__main__":
    main()
