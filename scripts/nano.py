"""`make nano`: a nano PaLI-3 and a nano PaliGemma through every stage, each from the last, on two CPU cores.

    python -m openpali.scripts.nano

Stage 0 trains one image encoder by SigLIP's loss. In front of either text model it goes through stage 1 (64 px, a
mixture of tasks), stage 2 (128 px, more reading and detection) and a transfer to German, all with their shipped
configurations. The report has the metrics of every stage on scenes that none has seen, beside blank images. Started
again after a stop, it goes on where it was.
"""

import argparse
from pathlib import Path
from typing import Any

import openpali
from openpali.modeling.user_errors import command
from openpali.recipes import contrastive, pretrain, transfer
from openpali.recipes.training.best_weights import read_best
from openpali.scripts.chains.chain import Clock, Row, draw_scenes, measure

ENGLISH: dict[str, Any] = {"name": "answer", "kinds": ["what"], "languages": ["en"]}
FAMILIES = {"pali3": "PaLI-3", "paligemma": "PaliGemma"}
CONFIGS = {
    "pali3": {"stage1": "pali3/nano-pretrain", "stage2": "pali3/nano-stage2"},
    "paligemma": {"stage1": "paligemma/nano-stage1", "stage2": "paligemma/nano-stage2"},
}
# seconds on two idle cores
PLAN = {"pali3": (230, 270, 240), "paligemma": (320, 220, 260)}
LARGE = {"size": 128}
TEST_SCENES = 200


def rows_of(family: str) -> list[Row]:
    """What is measured of a family, on the test split."""
    name, one, two = FAMILIES[family], {"objects": [1, 1]}, {"objects": [1, 2]}
    first, second, third = (f"{family}-{stage}" for stage in ("stage1", "stage2", "transfer"))
    return [
        Row(f"{name}, stage 1: naming", first, ENGLISH, one),
        Row(f"{name}, stage 1: captions", first, {"name": "caption"}, two),
        Row(f"{name}, stage 2: naming", second, ENGLISH, one | LARGE),
        Row(f"{name}, stage 2: captions", second, {"name": "caption"}, two | LARGE),
        Row(f"{name}, stage 2: reading", second, {"name": "ocr", "order": "raster"}, one | LARGE | {"words": True}),
        Row(f"{name}, transfer: naming in German", third, ENGLISH | {"languages": ["de"]}, one | LARGE),
    ]


def train(folder: Path, clock: Clock) -> None:
    """Run every stage that is not finished."""
    stage0 = str(folder / "contrastive")
    clock.run("stage 0", lambda: contrastive.main(["--config", "pali3/nano-contrastive", "--output_dir", stage0]))
    for family, name in FAMILIES.items():
        first, second, third = (str(folder / f"{family}-{stage}") for stage in ("stage1", "stage2", "transfer"))
        argv = ["--config", CONFIGS[family]["stage1"], "--output_dir", first, "--vision_checkpoint", stage0]
        clock.run(f"{name}, stage 1", lambda argv=argv: pretrain.main(argv))
        argv = ["--config", CONFIGS[family]["stage2"], "--output_dir", second, "--model", first]
        clock.run(f"{name}, stage 2", lambda argv=argv: pretrain.main(argv))
        argv = ["--config", "transfers/what-de", "--output_dir", third, "--model", second, "--source.size", "128"]
        clock.run(f"{name}, transfer", lambda argv=argv: transfer.main(argv))


def report(folder: Path) -> None:
    """Metrics of every stage."""
    value = (read_best(folder / "contrastive") or {}).get("value")
    best = {"value": float("nan") if value is None else value}
    settings: dict[str, str | int] = {
        "scenes": f"{TEST_SCENES} held out for each row, 32 concepts; 64 px in stage 1, 128 px from stage 2",
        "stage 0": f"nearest name is right for {100 * best['value']:.1f} % of the validation scenes",
        "made by": "make nano",
    }
    stages = [
        "contrastive",
        *(f"{family}-{stage}" for family in FAMILIES for stage in ("stage1", "stage2", "transfer")),
    ]
    rows = [row for family in FAMILIES for row in rows_of(family)]
    measure(folder, rows, stages, TEST_SCENES, "Two small models through every stage", settings)
    print(f"stage 0: {settings['stage 0']}")


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Train, measure, report."""
    parser = argparse.ArgumentParser(prog="make nano", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/nano"), help="where everything is written")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: PaLI-3 and PaliGemma through every stage, into {folder}")
    plan: dict[str, float] = {"pictures": 3, "stage 0": 200}
    for family, name in FAMILIES.items():
        plan |= {
            f"{name}, {stage}": seconds for stage, seconds in zip(("stage 1", "stage 2", "transfer"), PLAN[family])
        }
    clock = Clock(plan | {"measuring": 120})
    clock.run("pictures", draw_scenes)
    train(folder, clock)
    clock.run("measuring", lambda: report(folder))


if __name__ == "__main__":
    main()
