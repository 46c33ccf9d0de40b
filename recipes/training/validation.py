"""Validation scores during training, and the final report."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from openpali.data.collator import Collator
from openpali.data.mixture import TaskDataset
from openpali.data.sources import credits_of
from openpali.eval.answering.evaluate_task import TaskResult, evaluate_task
from openpali.eval.intervals.by_metric import add_intervals
from openpali.eval.report.json_numbers import json_numbers
from openpali.eval.report.page import gallery_images, write_report
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.run_folder import LOG_FILE
from openpali.recipes.training.progress import read_log
from openpali.recipes.training.target_lengths import TargetCounter
from openpali.recipes.training.validation_loss import held_out_loss

# letters of a text that is shown
LONGEST = 60


@dataclass
class Validation:
    """Scores a model on datasets; `evaluate` of `run_training`.

    Attributes:
        datasets: by name, which prefixes the metrics of several.
        processor: of the model.
        batch_size: examples a batch.
        limit: examples of each dataset.
        num_beams: 1 is greedy.
        mean: also compute `mean`, of the datasets' main metrics, which then picks the best weights.
        collators: by dataset, for its loss; a dataset without one has no loss.
        say: prints warnings.
        counted: datasets whose target lengths were checked.
        box_scores: rank boxes by their confidences, see `evaluate_task`.
        examples: predictions of each dataset to print beside their references.
        last: the latest results, by dataset.
        targets: the latest counts of targets, of the datasets that have a loss.
    """

    datasets: dict[str, TaskDataset]
    processor: Any
    batch_size: int
    limit: int
    num_beams: int = 1
    mean: bool = False
    collators: Mapping[str, Collator] = field(default_factory=dict)
    say: Callable[[str], None] = print
    counted: set[str] = field(default_factory=set)
    box_scores: bool = False
    examples: int = 0
    last: dict[str, TaskResult] = field(default_factory=dict)
    targets: dict[str, TargetCounter] = field(default_factory=dict)

    def results(self, model: PreTrainedModel, blank_images: bool = False) -> dict[str, TaskResult]:
        """Answers and scores of every dataset."""
        options: dict[str, Any] = {"batch_size": self.batch_size, "limit": self.limit, "progress": False}
        options |= {"num_beams": self.num_beams, "box_scores": self.box_scores}
        return {
            name: evaluate_task(model, self.processor, data, data.task, blank_images=blank_images, **options)
            for name, data in self.datasets.items()
        }

    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        """Metrics by name, with the `loss` of each dataset and the mean of these."""
        losses = self.losses(model)
        scores, chief = {}, []
        self.last = self.results(model)
        for name, result in self.last.items():
            for line in example_lines(name, result, self.examples):
                self.say(line)
            prefix = f"{name}_" if len(self.datasets) > 1 else ""
            numbers = {key: value for key, value in result.metrics.items() if key != "examples"}
            numbers |= {"loss": losses[name]} if name in losses else {}
            scores |= {f"{prefix}{key}": value for key, value in numbers.items()}
            chief.append(result.score)
        if losses:
            scores["loss"] = mean_of(list(losses.values()))
        return scores | ({"mean": mean_of(chief)} if self.mean else {})

    def losses(self, model: PreTrainedModel) -> dict[str, float]:
        """The loss of the references of every dataset that has a collator."""
        counts = Counter(self.processor.truncation_counts)
        found = {}
        for name, collator in self.collators.items():
            data, counter = self.datasets[name], TargetCounter(collator, self.datasets[name].task.max_new_tokens)
            examples = (data[index] for index in range(min(self.limit, len(data))))
            found[name] = held_out_loss(model, examples, counter, self.batch_size)
            self.targets[name] = counter
            if name not in self.counted and (warning := counter.warning(name)):
                self.say(warning)
            self.counted.add(name)
        # truncations in training are counted apart
        self.processor.truncation_counts.clear()
        self.processor.truncation_counts.update(counts)
        return found

    def chief_metric(self, name: str | None = None) -> str:
        """Key of the metric that picks the best weights, of the named dataset or of the first one."""
        if self.mean and name is None:
            return "mean"
        name = name or next(iter(self.datasets))
        key = self.datasets[name].task.metric_key
        return f"{name}_{key}" if len(self.datasets) > 1 else key


def example_lines(name: str, result: TaskResult, count: int) -> Iterator[str]:
    """A line for each of the first predictions: its prompt, the answer, and the reference.

    Args:
        name: of the dataset.
        result: its predictions.
        count: predictions to show.
    """
    for row in result.predictions[:count]:
        prompt, answer, reference = (shown(text) for text in (row["prefix"], row["text"], row["references"][0]))
        yield f"  {name}  {prompt}  predicted {answer}  reference {reference}"


def shown(text: str) -> str:
    """A text in quotation marks, on one line, cut where it is long."""
    words = " ".join(text.split())
    return f'"{words}"' if len(words) <= LONGEST else f'"{words[: LONGEST - 3]}..."'


def mean_of(values: Sequence[float]) -> float:
    """The mean of the values that are not nan; nan without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def format_number(value: float) -> str:
    """A number as it is printed."""
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def final_report(
    model: PreTrainedModel, test: Validation, run: RunArguments, title: str, settings: dict[str, Any]
) -> list[TaskResult]:
    """Score the trained model and the blind baseline, print both, and write `metrics.json` and `report.html`.

    Args:
        model: with its best weights.
        test: the test sets.
        run: its folder takes the files.
        title: heading of the report.
        settings: of the run, shown in the report.
    """
    results, images = [], {}
    blanks = test.results(model, blank_images=True)
    for name, result in test.results(model).items():
        result.name, result.blank_metrics = name, blanks[name].metrics
        images |= gallery_images(result, test.datasets[name])
        results.append(result)
        numbers = ", ".join(
            f"{key} {format_number(value)} ({format_number(blanks[name].metrics[key])} on blank images)"
            for key, value in result.metrics.items()
            if key != "examples"
        )
        run.say(f"{name}, {result.metrics['examples']:.0f} test examples: {numbers}")
    if run.process_index == 0:
        content: dict[str, Any] = {}
        for result in results:
            add_intervals(result, test.datasets[result.name].task.metric)
            content[result.name] = {"metrics": json_numbers(result.metrics), "intervals": result.intervals}
            content[result.name]["blank_images"] = json_numbers(result.blank_metrics or {})
        (run.folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")
        logs = read_log(run.folder / LOG_FILE)
        credits = " ".join(dict.fromkeys(filter(None, (credits_of(data.source) for data in test.datasets.values()))))
        path = write_report(run.folder / "report.html", title, results, images, logs, credits, settings=settings)
        run.say(f"Report: {path}")
    return results
