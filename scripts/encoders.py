"""`make encoders`: a multilingual SigLIP and its classification baseline, from nothing, on two CPU cores.

    python -m openpali.scripts.encoders

Both see the same images for as many steps: drawings with names in 36 languages. SigLIP is measured by retrieval on a
drawing style that it has never seen, one image for each thing, in every language, and by zero-shot classification of
things that it has never seen; both are measured by a linear probe on those. Started again after a stop, it goes on
where it was. Without npm, which `make data36` needs, the built-in images with names in 14 languages serve; they have
one drawing style, so that retrieval is on new scenes of it.
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
from openpali.scripts.chains.chain import Clock

TARGET = 20.0  # recall@1 from image to text, in multiples of chance
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
    """The sources, and what to change in the configurations: nothing where the 36-language images can be built."""
    if not (default_folder() / "build.json").is_file():
        if shutil.which("npm") is None:
            print("npm is missing: the built-in images with names in 14 languages serve instead")
            return BUILT_IN, ["--source", json.dumps(BUILT_IN["train"])]
        build_emoji36.main([])
    return EMOJI36, []


def measure(folder: Path, sources: dict[str, dict[str, Any]]) -> None:
    """Both reports, and how far the target is."""
    siglip, baseline = str(folder / "contrastive"), str(folder / "classification")
    retrieval, classes = folder / "retrieval", folder / "classes"
    argv = ["--model", siglip, "--source", json.dumps(sources["retrieval"]), "--output", str(retrieval)]
    encoders.main([*argv, "--tasks", "retrieval", "--title", "Retrieval on a drawing style never seen"])
    argv = ["--model", siglip, "--compare", baseline, "--source", json.dumps(sources["classes"])]
    argv += ["--shots_source", json.dumps(sources["shots"]), "--output", str(classes)]
    encoders.main(
        [*argv, "--tasks", "zero_shot", "probe", "--title", "SigLIP and classification on things never seen"]
    )
    found = json.loads((retrieval / "metrics.json").read_text())["retrieval"]
    score, chance = (found[key]["image_to_text_recall_at_1"] for key in ("mean", "chance"))
    told = "reached" if score >= TARGET * chance else "not reached"
    print(f"\nRecall@1 from image to text, averaged over languages: {100 * score:.1f} %;", end=" ")
    print(f"{score / chance:.0f} times chance ({100 * chance:.2f} %), where {TARGET:.0f} times is {told}")


@command("error")
def main(argv: list[str] | None = None) -> None:
    """Train both and measure them."""
    parser = argparse.ArgumentParser(prog="make encoders", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/encoders"), help="where everything is written")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"openpali {openpali.__version__}: SigLIP and its classification baseline on two CPU cores, into {folder}")
    clock = Clock({"SigLIP": 1100, "classification": 600, "measuring": 240})
    sources, changes = choose_images()
    languages = ["--languages", *LANGUAGES] if changes else []
    siglip = ["--config", "siglip/nano-36", "--output_dir", str(folder / "contrastive"), *changes, *languages]
    baseline = ["--config", "siglip/nano-36-classification", "--output_dir", str(folder / "classification"), *changes]
    clock.run("SigLIP", lambda: contrastive.main(siglip))
    clock.run("classification", lambda: classification.main(baseline))
    clock.run("measuring", lambda: measure(folder, sources))
    print(f"Open {folder / 'retrieval' / 'report.html'} and {folder / 'classes' / 'report.html'} in a browser.")


if __name__ == "__main__":
    main()
