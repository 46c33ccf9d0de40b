"""Names of the steps of `openpali web`, in the order in which a run usually has them."""

from importlib import import_module
from typing import Any

# name in a configuration: the class, in the module of that name
STEPS = {
    "language": "Language",
    "text_rules": "TextRules",
    "image_rules": "ImageRules",
    "safety": "Safety",
    "hashes": "Hashes",
    "evaluation_images": "EvaluationImages",
    "duplicates": "Duplicates",
    "similarity": "Similarity",
    "best_share": "BestShare",
    "ocr": "Ocr",
    "boxes": "Boxes",
    "masks": "Masks",
    "questions": "Questions",
    "translations": "Translations",
}


def step_class(name: str) -> type[Any]:
    """The class of a step, by its name in a configuration.

    Raises:
        ValueError: there is no such step.
        ImportError: a package that it needs is missing.
    """
    if name not in STEPS:
        raise ValueError(f"there is no step {name!r}; known are {', '.join(STEPS)}")
    return getattr(import_module(f"openpali.scripts.web.steps.{name}"), STEPS[name])
