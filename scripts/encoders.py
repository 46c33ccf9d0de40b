"""`make encoders`: a multilingual SigLIP and its classification baseline, from scratch on two CPU cores.

    python -m openpali.scripts.encoders

Both are trained on the same images for the same number of steps: drawings with names in 36 languages. SigLIP is
evaluated by retrieval on a held-out drawing style, one image for each concept, in every language, and by zero-shot
classification of held-out concepts; both are evaluated by a linear probe on those concepts. Started again after a
stop, it resumes. Without npm, which `make data36` needs, it uses the built-in images with names in 14 languages; they
have one drawing style, so retrieval is on test scenes of it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import openpali
from openpali.data.sources.builtin.emoji36_folder import default_folder
from openpali.data.sources.builtin.phrases import LANGUAGES
from openpali.eval import encoders
from openpali.modeling.user_errors import command
from openpali.recipes import classification, contrastive
from openpali.scripts import build_emoji36
from openpali.scripts.chains.step_timer import StepTimer

TARGET = 20.0  # image-to-text recall@1, in multiples of chance
IMAGES_OF_CLASSES = 2000

EMOJI36: dict[str, dict[str, Any]] = {
    "retrieval": {"name": "emoji36", "split": "test", "style_split": "held_out", "gallery": True},
    "classes": {"name": "emoji36", "split": "test", "concept_split": "held_out", "length": IMAGES_OF_CLASSES},
    "shots": {"name": "emoji36", "split": "validation", "concept_split": "held_out", "length": IMAGES_OF_CLASSES},
}
_SCENES: dict[str, Any] = {"name": "emoji", "objects": [1, 1], "length": IMAGES_OF_CLASSES}
BUILT_IN: dict[str, dict[str, Any]] = {
    "train": {"name": "emoji", "split": "train", "objects": [1, 1], "concepts": 204, "length": 400_000},
    "retrieval": _SCENES | {"split": "test", "concepts": 204, "length": 500},
    "classes": _SCENES | {"split": "test", "concept_split": "held_out", "concepts": 50},
    "shots": _SCENES | {"split": "validation", "concept_split": "held_out", "concepts": 50},
}


def choose_images() -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The sources, and options for the configurations: none if the 36-language images can be built."""
    if not (default_folder() / "build.json").is_file():
        if shutil.which("npm") is None:
            print("npm is missing: using the built-in images with names in 14 languages instead")
            return BUILT_IN, ["--source", json.dumps(BUILT_IN["train"])]
        build_emoji36.main([])
    return EMOJI36, []


def evaluate(folder: Path, sources: dict[str, dict[str, Any]]) -> None:
    """Write both reports, and compare retrieval with its target."""
    siglip, baseline = str(folder / "contrastive"), str(folder / "classification")
    retrieval, classes = folder / "retrieval", folder / "classes"
    argv = ["--model", siglip, "--source", json.dumps(sources["retrieval"]), "--output", str(retrieval)]
    encoders.main([*argv, "--tasks", "retrieval", "--title", "Retrieval on a held-out drawing style"])
    argv = ["--model", siglip, "--compare", baseline, "--source", json.dumps(sources["classes"])]
    argv += ["--shots_source", json.dumps(sources["shots"]), "--output", str(classes)]
    encoders.main(
        [*argv, "--tasks", "zero_shot", "probe", "--title", "SigLIP and classification on held-out concepts"]
    )
    metrics = json.loads((retrieval / "metrics.json").read_text())["retrieval"]
    score, chance = (metrics[key]["image_to_text_recall_at_1"] for key in ("mean", "chance"))
    outcome = "reached" if score >= TARGET * chance else "not reached"
    print(f"\nImage-to-text recall@1, averaged over languages: {100 * score:.1f} %;", end=" ")
    print(f"{score / chance:.0f} times chance ({100 * chance:.2f} %); the target of {TARGET:.0f} times is {outcome}")


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Train and evaluate both."""
    parser = argparse.ArgumentParser(prog="make encoders", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/encoders"), help="output folder")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: SigLIP and its classification baseline on two CPU cores, into {folder}")
    timer = StepTimer({"SigLIP": 1100, "classification": 600, "evaluation": 240})
    sources, options = choose_images()
    languages = ["--languages", *LANGUAGES] if options else []
    siglip = ["--config", "siglip/nano-36", "--output_dir", str(folder / "contrastive"), *options, *languages]
    baseline = ["--config", "siglip/nano-36-classification", "--output_dir", str(folder / "classification"), *options]
    timer.run("SigLIP", lambda: contrastive.main(siglip))
    timer.run("classification", lambda: classification.main(baseline))
    timer.run("evaluation", lambda: evaluate(folder, sources))
    print(f"Open {folder / 'retrieval' / 'report.html'} and {folder / 'classes' / 'report.html'} in a browser.")


if __name__ == "__main__":
    main()
