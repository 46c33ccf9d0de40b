"""Errors of the data in loader workers: caught there, and raised again in the process that trains.

An exception that a worker raises would end the worker, and reach the user as another exception with the traceback in
its text. The wrappers here return a `CaughtError` instead.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from openpali.data.example import Example
from openpali.data.images.open_image import BadImage
from openpali.data.records import BadRecord
from openpali.data.streaming.stream import ExampleStream

RECORD_NAMES, CAUGHT_ERROR = "record_names", "failure"
DATA_ERRORS = (BadRecord, BadImage)


class CaughtError:
    """An error of the data, in place of the item or batch that could not be made."""

    def __init__(self, error: Exception):
        self.error = error


class ErrorCatchingDataset(Dataset):
    """A map-style dataset that returns a `CaughtError` where it would raise."""

    def __init__(self, data: Any):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.data[index]
        except DATA_ERRORS as error:
            return CaughtError(error)


class ErrorCatchingStream(IterableDataset):
    """The same of a stream."""

    def __init__(self, stream: ExampleStream) -> None:
        self.stream = stream

    def __iter__(self) -> "ErrorCatchingIterator":
        return ErrorCatchingIterator(iter(self.stream))


class ErrorCatchingIterator(Iterator[Any]):
    """The iterator of an `ErrorCatchingStream`; its state is the stream's."""

    def __init__(self, examples: Any) -> None:
        self.examples = examples

    def __next__(self) -> Any:
        try:
            return next(self.examples)
        except DATA_ERRORS as error:
            return CaughtError(error)

    def state_dict(self) -> dict[str, Any]:
        """Of the stream."""
        return self.examples.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Of the stream."""
        self.examples.load_state_dict(state)


class ErrorCatchingCollator:
    """A collator that returns the first `CaughtError` of its items, or its own, in place of a batch."""

    def __init__(self, collator: Callable[[list], Any]):
        self.collator = collator

    def __call__(self, items: Any) -> Any:
        """The collator's batch."""
        for item in items if isinstance(items, list) else [items]:
            if isinstance(item, CaughtError):
                return item
        try:
            return self.collator(items)
        except DATA_ERRORS as error:
            return CaughtError(error)


class RecordNamingCollator(ErrorCatchingCollator):
    """A collator that adds the names of the records to each batch; the trainer takes them out again."""

    def __call__(self, items: Sequence[Any]) -> Any:
        """The collator's batch; with names where the items are examples."""
        batch = super().__call__(list(items))
        if isinstance(batch, CaughtError):
            return {CAUGHT_ERROR: batch.error}
        if all(isinstance(item, Example) for item in items):
            batch[RECORD_NAMES] = [item.id for item in items]
        return batch


def raise_caught(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader; raises the error of the first `CaughtError` among them."""
    for batch in batches:
        if isinstance(batch, CaughtError):
            raise batch.error
        yield batch
