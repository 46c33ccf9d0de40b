"""`make located`: boxes and masks from a small PaLI-3, from nothing, on the built-in images and two CPU cores.

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
from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC, load_codec
from openpali.modeling.user_errors import at_least, command
from openpali.recipes import contrastive, dense, mask_vqvae, pretrain, transfer
from openpali.scripts.chains.chain import Clock, Row, draw_scenes, measure

SETS: dict[str, list[int]] = {"one object": [1, 1], "two objects": [2, 2], "one or two": [1, 2]}
STAGES = ("contrastive", "dense", "located", "detect", "refer")
# held-out scenes of one or two objects, with their images
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


def judge(folder: Path, codec: str, scenes: int) -> None:
    """Score both transfers on every set of held-out scenes, write the report, and say how far the targets are."""
    tasks: dict[str, dict[str, Any]] = {"detect": {"name": "detect"}, "refer": {"name": "refer", "codec": codec}}
    rows = [
        Row(f"{stage}, {name}", stage, task, {"objects": objects})
        for stage, task in tasks.items()
        for name, objects in SETS.items()
    ]
    settings: dict[str, str | int] = {"scenes": f"{scenes} held out for each row, 32 concepts, 64 px"}
    settings["made by"] = "make located"
    title = "Boxes and masks from a PaLI-3 trained on the built-in images"
    summary = measure(folder, rows, STAGES, scenes, title, settings)
    for stage, (key, target) in TARGETS.items():
        print(against_target(f"{stage}, one or two", key, target, summary))


def against_target(name: str, key: str, target: float, summary: dict[str, Any]) -> str:
    """Whether a score reaches what it should."""
    value, blank = summary[name]["metrics"][key], summary[name]["blank_images"][key]
    verdict = "reached" if value >= target else f"missed by {target - value:.3f}"
    return f"{name}: {key} {value:.3f}, {blank:.3f} on blank images; {target} is {verdict}"


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Train, measure, report."""
    parser = argparse.ArgumentParser(prog="make located", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/located"), help="where everything is written")
    parser.add_argument("--codec", default=DEFAULT_CODEC, help="mask codec, a folder or Hub name")
    parser.add_argument("--scenes", type=at_least(1), default=400, help="held-out scenes of each kind")
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
    clock.run("measuring", lambda: judge(args.folder, args.codec, args.scenes))
    print(f"\nOpen {args.folder / 'report.html'} in a browser, or ask about an image of your own:")
    print(f"  openpali predict {args.folder / 'detect'} image.png 'detect dog'")
    print(f"  openpali predict {args.folder / 'refer'} image.png 'the dog on the left' --codec {args.codec}")


if __name__ == "__main__":
    main()
