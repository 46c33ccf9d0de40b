"""What a validation shows of its predictions, and the likely reason of scores that are all zero."""

from types import SimpleNamespace
from typing import Any

import pytest

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.recipes.stages.zero_scores import ZeroScores, likely_reason
from openpali.recipes.training.validation import example_lines

BOX = "<loc0001><loc0002><loc0900><loc0901> dog"
RATE = 1e-3


def row(text: str, reference: str, prediction: Any = None, score: float = 0.0) -> dict[str, Any]:
    one = {"prefix": "what is\nthis?", "text": text, "references": [reference], "score": score}
    return one | {"prediction": text if prediction is None else prediction}


def result(*rows: dict[str, Any], score: float = 0.0) -> TaskResult:
    return TaskResult("plain", {"exact_match": score}, list(rows), "exact_match")


def targets(cut: int, examples: int = 4) -> Any:
    return SimpleNamespace(cut=cut, examples=examples, limit=8, longest=30)


def test_an_example_is_one_short_line():
    found = list(example_lines("vqa", result(row("a  dog\n", "x" * 90), row("b", "c"), row("d", "e")), 2))
    assert found[0] == f'  vqa  "what is this?"  predicted "a dog"  reference "{"x" * 57}..."'
    assert len(found) == 2
    assert list(example_lines("vqa", result(row("a", "b")), 0)) == []


@pytest.mark.parametrize(
    ("rows", "counted", "reason"),
    [
        ([row("a", "a long one"), row("b", "another")], targets(2), "give --task.max_new_tokens 30"),
        ([row("a", "b"), row("a", "c")], targets(1), 'every answer is "a", '),
        ([row("", "b"), row(" ", "c")], None, "try another learning_rate than 0.001"),
        ([row("", "b"), row("", "c")], None, "every answer is empty, "),
        ([row("dog", BOX, []), row("cat", BOX, [])], None, f'no box or mask that can be read, as "dog" for "{BOX}"'),
        ([row("Dog.", "dog"), row("cat", "horse")], None, "1 answers differ from their references in case or punct"),
        ([row("dog", "cat"), row("cat", "horse")], None, "answers can be read and are wrong: train longer"),
        ([row(BOX, BOX, [{"box": 1}]), row("cat", BOX, [{"box": 2}])], None, "punctuation alone"),
    ],
)
def test_the_likely_reason(rows, counted, reason):
    assert reason in likely_reason(result(*rows), counted, RATE)


def watched(found: dict[str, TaskResult], untrained: dict[str, str] | None = None) -> tuple[ZeroScores, list[str]]:
    said: list[str] = []
    run: Any = SimpleNamespace(say=said.append, learning_rate=RATE)
    validation: Any = SimpleNamespace(last=found, targets={})
    return ZeroScores(validation, run, untrained or {}), said


def evaluate(watch: ZeroScores, step: int, steps: int = 30) -> None:
    state: Any = SimpleNamespace(global_step=step, max_steps=steps)
    watch.on_evaluate(None, state, None)  # type: ignore[arg-type]


def test_it_warns_once_after_a_third_of_the_steps():
    watch, said = watched({"vqa": result(row("a", "b"), row("c", "d"))}, {"vqa": "its tokens are new"})
    evaluate(watch, 9)
    assert said == []
    evaluate(watch, 10)
    evaluate(watch, 20)
    assert said == [
        "Warning: vqa: all 2 validation predictions score 0 after 10 of 30 steps. Likely reason: its tokens are new."
    ]


@pytest.mark.parametrize("score", [0.5, float("nan")])
def test_it_is_silent_where_something_scores(score):
    watch, said = watched({"vqa": result(row("a", "b"), score=score), "ocr": result(row("a", "b", score=1.0))})
    evaluate(watch, 30)
    assert said == []
