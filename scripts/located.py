"""`make located`: a small PaLI-3 that predicts boxes and masks, from scratch on two CPU cores.

    python -m openpali.scripts.located

It runs stage 0, a dense stage 0b for the image encoder, stage 1 with boxes, and fine-tuning on detection and on
referring segmentation, each with its shipped configuration. The report has test scenes with one object, with two, and
with one or two, beside the blind baseline. Started again after a stop, it resumes. The mask tokenizer is that of
`make mask-vqvae`, which is trained first if it is missing.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import openpali
from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC, load_codec
from openpali.modeling.user_errors import at_least, command
from openpali.recipes import contrastive, dense, mask_vqvae, pretrain, transfer
from openpali.scripts.chains.stage_report import ReportRow, cache_drawings, report_stages
from openpali.scripts.chains.step_timer import StepTimer

SETS: dict[str, list[int]] = {"one object": [1, 1], "two objects": [2, 2], "one or two": [1, 2]}
STAGES = ("contrastive", "dense", "located", "detect", "refer")
# metric and target of each task, on test scenes of one or two objects
TARGETS = {"detect": ("f1", 0.6), "refer": ("mean_iou", 0.5)}


def train(folder: Path, codec: str, timer: StepTimer) -> None:
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
        timer.run(title, lambda recipe=recipe, argv=argv: recipe.main(argv))


def report(folder: Path, codec: str, scenes: int) -> None:
    """Evaluate both tasks on every set of test scenes, write the report, and compare with the targets."""
    tasks: dict[str, dict[str, Any]] = {"detect": {"name": "detect"}, "refer": {"name": "refer", "codec": codec}}
    rows = [
        ReportRow(f"{stage}, {name}", stage, task, {"objects": objects})
        for stage, task in tasks.items()
        for name, objects in SETS.items()
    ]
    settings: dict[str, str | int] = {"scenes": f"{scenes} test scenes for each row, 32 concepts, 64 px"}
    settings["made by"] = "make located"
    title = "Boxes and masks from a PaLI-3 trained on the built-in images"
    summary = report_stages(folder, rows, STAGES, scenes, title, settings)
    for stage, (key, target) in TARGETS.items():
        print(compare_with_target(f"{stage}, one or two", key, target, summary))


def compare_with_target(name: str, key: str, target: float, summary: dict[str, Any]) -> str:
    """A line on whether a score reaches its target."""
    value, blank = summary[name]["metrics"][key], summary[name]["blank_images"][key]
    comparison = "reached" if value >= target else f"missed by {target - value:.3f}"
    return f"{name}: {key} {value:.3f}, {blank:.3f} on blank images; the target {target} is {comparison}"


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Run the chain."""
    parser = argparse.ArgumentParser(prog="make located", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/located"), help="output folder")
    parser.add_argument("--codec", default=DEFAULT_CODEC, help="mask tokenizer, a folder or Hub name")
    parser.add_argument("--scenes", type=at_least(1), default=400, help="test scenes of each kind")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: boxes and masks from scratch, into {args.folder}")
    plan: dict[str, float] = {
        "images": 3,
        "stage 0": 200,
        "stage 0b": 180,
        "stage 1": 480,
        "detection": 280,
        "referring": 800,
    }
    missing = args.codec == DEFAULT_CODEC and not (Path(args.codec) / "model.safetensors").is_file()
    first: dict[str, float] = {"mask tokenizer": 600} if missing else {}
    timer = StepTimer(first | plan | {"evaluation": 60})
    if missing:
        timer.run("mask tokenizer", lambda: mask_vqvae.main(["--config", "mask_vqvae/builtin"]))
    try:
        load_codec(args.codec)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    timer.run("images", cache_drawings)
    train(args.folder, args.codec, timer)
    timer.run("evaluation", lambda: report(args.folder, args.codec, args.scenes))
    print(f"\nOpen {args.folder / 'report.html'} in a browser, or ask about an image of your own:")
    print(f"  openpali predict {args.folder / 'detect'} image.png 'detect dog'")
    print(f"  openpali predict {args.folder / 'refer'} image.png 'the dog on the left' --codec {args.codec}")


if __name__ == "__main__":
    main()
