"""`make nano`: a nano PaLI-3 and a nano PaliGemma through every training stage, on two CPU cores.

    python -m openpali.scripts.nano

Stage 0 trains one image encoder by SigLIP's loss. With either text model it goes through stage 1 (64 px, a mixture of
tasks), stage 2 (128 px, more OCR and detection) and fine-tuning on German, all with their shipped configurations. The
report has the metrics of every stage on test scenes, beside the blind baseline. Started again after a stop, it
resumes.
"""

import argparse
from pathlib import Path
from typing import Any

import openpali
from openpali.modeling.user_errors import command
from openpali.recipes import contrastive, pretrain, transfer
from openpali.recipes.training.best_weights import read_best
from openpali.scripts.chains.stage_report import ReportRow, cache_drawings, report_stages
from openpali.scripts.chains.step_timer import StepTimer

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


def report_rows(family: str) -> list[ReportRow]:
    """Rows of the report on a family."""
    reading: dict[str, Any] = {"name": "ocr", "order": "raster"}
    name, one, two = FAMILIES[family], {"objects": [1, 1]}, {"objects": [1, 2]}
    first, second, third = (f"{family}-{stage}" for stage in ("stage1", "stage2", "transfer"))
    return [
        ReportRow(f"{name}, stage 1: naming", first, ENGLISH, one),
        ReportRow(f"{name}, stage 1: captions", first, {"name": "caption"}, two),
        ReportRow(f"{name}, stage 2: naming", second, ENGLISH, one | LARGE),
        ReportRow(f"{name}, stage 2: captions", second, {"name": "caption"}, two | LARGE),
        ReportRow(f"{name}, stage 2: reading", second, reading, one | LARGE | {"words": True}),
        ReportRow(f"{name}, transfer: naming in German", third, ENGLISH | {"languages": ["de"]}, one | LARGE),
    ]


def train(folder: Path, timer: StepTimer) -> None:
    """Run every stage that is not finished."""
    stage0 = str(folder / "contrastive")
    timer.run("stage 0", lambda: contrastive.main(["--config", "pali3/nano-contrastive", "--output_dir", stage0]))
    for family, name in FAMILIES.items():
        first, second, third = (str(folder / f"{family}-{stage}") for stage in ("stage1", "stage2", "transfer"))
        argv = ["--config", CONFIGS[family]["stage1"], "--output_dir", first, "--vision_checkpoint", stage0]
        timer.run(f"{name}, stage 1", lambda argv=argv: pretrain.main(argv))
        argv = ["--config", CONFIGS[family]["stage2"], "--output_dir", second, "--model", first]
        timer.run(f"{name}, stage 2", lambda argv=argv: pretrain.main(argv))
        argv = ["--config", "transfers/what-de", "--output_dir", third, "--model", second, "--source.size", "128"]
        timer.run(f"{name}, transfer", lambda argv=argv: transfer.main(argv))


def report(folder: Path) -> None:
    """Write the report on every stage."""
    value = (read_best(folder / "contrastive") or {}).get("value")
    best = {"value": float("nan") if value is None else value}
    settings: dict[str, str | int] = {
        "scenes": f"{TEST_SCENES} test scenes for each row, 32 concepts; 64 px in stage 1, 128 px from stage 2",
        "stage 0": f"the nearest name is correct for {100 * best['value']:.1f} % of the validation scenes",
        "made by": "make nano",
    }
    stages = [
        "contrastive",
        *(f"{family}-{stage}" for family in FAMILIES for stage in ("stage1", "stage2", "transfer")),
    ]
    rows = [row for family in FAMILIES for row in report_rows(family)]
    report_stages(folder, rows, stages, TEST_SCENES, "Two small models through every stage", settings)
    print(f"stage 0: {settings['stage 0']}")


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Run the chain."""
    parser = argparse.ArgumentParser(prog="make nano", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/nano"), help="output folder")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: PaLI-3 and PaliGemma through every stage, into {folder}")
    plan: dict[str, float] = {"images": 3, "stage 0": 200}
    for family, name in FAMILIES.items():
        plan |= {
            f"{name}, {stage}": seconds for stage, seconds in zip(("stage 1", "stage 2", "transfer"), PLAN[family])
        }
    timer = StepTimer(plan | {"evaluation": 120})
    timer.run("images", cache_drawings)
    train(folder, timer)
    timer.run("evaluation", lambda: report(folder))


if __name__ == "__main__":
    main()
