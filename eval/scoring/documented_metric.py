"""Base class of the metrics: documentation and columns for `evaluate`."""

from typing import Any, ClassVar

import datasets
import evaluate

NUMBER, TEXT = datasets.Value("float64"), datasets.Value("string")


class DocumentedMetric(evaluate.Metric):
    """A metric that gives its documentation and columns as attributes.

    Import the module, not this class: `evaluate` takes the first metric that it finds in a file.

    Attributes:
        documentation: description, citation, and arguments with results.
        columns: features of `predictions` and `references`.
        by_confidence: it also takes `confidences`, a number in [0, 1] for each prediction.
    """

    documentation: ClassVar[tuple[str, str, str]]
    columns: ClassVar[dict[str, Any]]
    by_confidence: ClassVar[bool] = False

    def _info(self) -> evaluate.MetricInfo:
        description, citation, inputs = self.documentation
        return evaluate.MetricInfo(
            description=description,
            citation=citation,
            inputs_description=inputs,
            features=datasets.Features(self.columns),
        )

    def add(self, *, prediction: Any, reference: Any, **kwargs: object) -> None:
        """Add one prediction and its reference, checked as `add_batch` does."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)
