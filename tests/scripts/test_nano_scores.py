"""The tables of README and docs are those of the committed scores."""

import json
import re
from pathlib import Path

from openpali.scripts.nano_scores import MODELS, TARGETS, rows, table

ROOT = Path(__file__).parents[2]
SCORES = json.loads((ROOT / "benchmarks" / "results" / "nano.json").read_text("utf-8"))


def test_the_table_of_the_docs_is_that_of_the_scores():
    results = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert "\n".join(table(SCORES)) in results


def test_the_scores_are_of_every_task_and_model():
    assert set(SCORES) == set(MODELS)
    for model, scores in SCORES.items():
        assert list(scores) == [row.title for row in rows(model)]
        assert set(TARGETS) <= set(scores)


def test_a_row_has_the_metric_the_scores_and_the_target():
    one = {"metrics": {"cider": 141.52, "examples": 4.0}, "blank_images": {"cider": 9.0, "examples": 4.0}}
    other = {"metrics": {"f1": 0.5, "precision": 1.0}, "blank_images": {"f1": 0.0, "precision": 0.0}}
    lines = list(table({"a-nano": {"captions, English": one, "segmentation": other}}))
    assert lines[0] == "| task | metric | a-nano | blank images | target |"
    assert re.fullmatch(r"\|(---\|){5}", lines[1])
    assert lines[2:] == [
        "| captions, English | cider | 141.5 | 9.0 | 140.0 |",
        "| segmentation | f1 | 50.0 % | 0.0 % |  |",
    ]
