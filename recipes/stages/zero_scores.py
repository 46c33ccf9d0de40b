"""A warning, with its likely reason, when all predictions of a validation score zero."""

import re
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.target_lengths import TargetCounter
from openpali.recipes.training.validation import Validation, shown


class ZeroScores(TrainerCallback):
    """Warns once of a task whose predictions all score zero after a third of the steps, with the likely reason."""

    def __init__(self, validation: Validation, run: RunArguments, untrained: Mapping[str, str]):
        """Watch a validation.

        Args:
            validation: of the run.
            run: prints the warning.
            untrained: what is known to be wrong with the tokens of a task's answers, by task.
        """
        self.validation, self.run, self.untrained = validation, run, untrained
        self.warned: set[str] = set()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the scores of a validation."""
        if 3 * state.global_step < state.max_steps:
            return
        for name, result in self.validation.last.items():
            if name in self.warned or result.score != 0 or any(row["score"] for row in result.predictions):
                continue
            self.warned.add(name)
            reason = self.untrained.get(name) or likely_reason(
                result, self.validation.targets.get(name), self.run.learning_rate
            )
            self.run.say(
                f"Warning: {name}: all {len(result.predictions)} validation predictions score 0 after"
                f" {state.global_step} of {state.max_steps} steps. Likely reason: {reason}."
            )


def likely_reason(result: TaskResult, targets: TargetCounter | None, learning_rate: float) -> str:
    """Why all predictions of a task score zero.

    Args:
        result: its predictions.
        targets: counts of its targets, where they are known.
        learning_rate: of the run.
    """
    rows = result.predictions
    if targets is not None and 2 * targets.cut >= targets.examples:
        return (
            f"answers are cut, since {targets.cut} of {targets.examples} references are longer than max_new_tokens ="
            f" {targets.limit}: give --task.max_new_tokens {targets.longest}"
        )
    rate = f"learning_rate than {learning_rate:g}"
    if len(rows) > 1 and len({row["text"] for row in rows}) == 1:
        answer = shown(rows[0]["text"]) if rows[0]["text"].strip() else "empty"
        return f"every answer is {answer}, as of a model that learned nothing or forgot everything: try another {rate}"
    unread = [row for row in rows if isinstance(row["prediction"], list) and not row["prediction"]]
    if unread and 2 * len(unread) >= len(rows):
        what = f"{len(unread)} answers hold no box or mask that can be read, as {beside(unread[0])}"
        return f"the format: {what}: train longer, or try a larger {rate}"
    alike = [row for row in rows if letters(row["text"]) in map(letters, row["references"])]
    if alike:
        what = f"{len(alike)} answers differ from their references in case or punctuation alone, as {beside(alike[0])}"
        return f"the format: {what}: look at the data, or choose another metric"
    return f"answers can be read and are wrong: train longer, or try another {rate}"


def beside(row: dict[str, Any]) -> str:
    """An answer and its reference."""
    return f"{shown(row['text'])} for {shown(row['references'][0])}"


def letters(text: str) -> str:
    """The letters and digits of a text, without case."""
    return re.sub(r"\W+", "", text.casefold())
