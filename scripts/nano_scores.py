"""`make nano-scores`: score the checkpoints that ship on held-out scenes, by task and language.

    python -m openpali.scripts.nano_scores

Every task is measured beside the blind baseline (the same model with blank images). It writes a report for each model,
all scores as JSON, and the table of README and docs as Markdown.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openpali.data.masks.mask_tokenizer import codec_of
from openpali.eval.report.values import format_value
from openpali.modeling.shipped import SHIPPED
from openpali.modeling.user_errors import at_least, command
from openpali.scripts.chains.stage_report import ReportRow, report_stages

MODELS = tuple(dict.fromkeys(SHIPPED.values()))
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "zh": "Chinese"}
ONE: dict[str, Any] = {"objects": [1, 1], "size": 96}
TWO: dict[str, Any] = {"objects": [1, 2], "size": 96}
WORD: dict[str, Any] = {"objects": [0, 1], "size": 96, "words": [1, 1]}
# title: (key of the metric, target)
TARGETS = {
    "naming, English": ("exact_match", 0.9),
    "captions, English": ("cider", 140),
    "counting": ("count_accuracy", 0.85),
    "presence": ("exact_match", 0.85),
    "reading a word": ("exact_match", 0.5),
    "detection": ("f1", 0.85),
    "referring": ("mean_iou", 0.6),
}


def answer(kind: str, *languages: str) -> dict[str, Any]:
    """The task of questions of one kind."""
    return {"name": "answer", "kinds": [kind], "languages": list(languages or ["en"])}


def masks_of(model: str) -> dict[str, str]:
    """The option of tasks with masks that names a model's mask tokenizer."""
    return {"codec": codec_of(model)}


def rows(model: str) -> list[ReportRow]:
    """Tasks and scenes of a model."""
    codec = masks_of(model)
    named = [ReportRow(f"naming, {name}", model, answer("what", code), ONE) for code, name in LANGUAGES.items()]
    told = [
        ReportRow(f"captions, {name}", model, {"name": "caption", "languages": [code]}, TWO)
        for code, name in LANGUAGES.items()
    ]
    asked = [
        ReportRow("counting", model, answer("count"), TWO),
        ReportRow("presence", model, answer("presence"), TWO),
        ReportRow("colour", model, answer("colour"), TWO),
        ReportRow("place", model, answer("where"), TWO),
        ReportRow("reading a word", model, {"name": "ocr"}, WORD),
    ]
    located = [
        ReportRow("detection", model, {"name": "detect"}, TWO),
        ReportRow("segmentation", model, {"name": "segment"} | codec, TWO),
        ReportRow("referring", model, {"name": "refer"} | codec, TWO),
    ]
    return [*named, *told, *asked, *located]


def table(scores: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown table: a row for each task, two columns for each model."""
    yield "| task | metric | " + " | ".join(f"{model} | blank images" for model in scores) + " | target |"
    yield "|---" * (3 + 2 * len(scores)) + "|"
    for task in next(iter(scores.values())):
        entries = [one[task] for one in scores.values()]
        key = TARGETS.get(task, (next(iter(entries[0]["metrics"])), None))
        cells = [
            format_value(entry[part][key[0]], key[0]) for entry in entries for part in ("metrics", "blank_images")
        ]
        target = "" if key[1] is None else format_value(key[1], key[0])
        yield f"| {task} | {key[0].replace('_', ' ')} | " + " | ".join(cells) + f" | {target} |"


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Score both models."""
    parser = argparse.ArgumentParser(prog="make nano-scores", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/nano-scores"), help="output folder")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="shipped names")
    parser.add_argument("--scenes", type=at_least(1), default=400, help="test scenes of each task")
    args = parser.parse_args(argv)
    scores = {}
    for model in args.models:
        settings: dict[str, str | int] = {"scenes": f"{args.scenes} test scenes for each task, 32 concepts, 96 px"}
        settings["made by"] = "make nano-scores"
        folder = args.folder / model
        folder.mkdir(parents=True, exist_ok=True)
        title = f"{model} on held-out scenes"
        scores[model] = report_stages(folder, rows(model), (), args.scenes, title, settings)
    (args.folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    lines = list(table(scores))
    (args.folder / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
