"""A loader of streams whose position is saved in checkpoints, so that a resumed run reads the next batch."""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from openpali.data.files.config import ConfigError
from openpali.data.streaming.stream import ExampleStream
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.bad_data import CaughtError, ErrorCatchingIterator, ErrorCatchingStream
from openpali.recipes.training.sampling import loader_options, with_step


@contextmanager
def without_vital_warning() -> Iterator[None]:
    """Hide a warning of PyTorch at torchdata, about which a user can do nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")
        yield


class StreamLoader(StatefulDataLoader):
    """The batches of this process for the whole run; the stream itself reads this process's share.

    Its state counts the batches taken from it, not those that workers have prepared ahead.
    """

    def __init__(
        self, stream: ExampleStream, args: RunArguments, collate: Callable[[list], Any], by_step: bool = False
    ) -> None:
        """Create the loader of a stream of this process; with `by_step` its examples know their optimizer step."""
        if (stream.rank, stream.world_size) != (args.process_index, args.world_size):
            raise ValueError(
                f"the stream is for process {stream.rank} of {stream.world_size},"
                f" this is {args.process_index} of {args.world_size}"
            )
        self.batches = args.max_steps * args.gradient_accumulation_steps
        with without_vital_warning():
            super().__init__(
                SteppedStream(stream, args) if by_step else ErrorCatchingStream(stream),
                collate_fn=collate,
                **loader_options(args),
                # workers' seeds would otherwise come from the model's random numbers
                generator=torch.Generator().manual_seed(args.seed),
            )

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Any:
        with without_vital_warning():
            return super().__iter__()

    def close(self) -> None:
        """End the workers, which would otherwise run as long as the loader exists."""
        self._iterator = None


class SteppedStream(ErrorCatchingStream):
    """A stream whose examples know their step: the loader takes its batches from the workers in turn."""

    def __init__(self, stream: ExampleStream, args: RunArguments) -> None:
        super().__init__(stream)
        self.batch, self.accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps

    def __iter__(self) -> "SteppedIterator":
        info = get_worker_info()
        return SteppedIterator(iter(self.stream), self, (info.id, info.num_workers) if info else (0, 1))


class SteppedIterator(ErrorCatchingIterator):
    """The iterator of a `SteppedStream` in one worker; its state has the number of examples given."""

    def __init__(self, examples: Any, stream: SteppedStream, worker: tuple[int, int]) -> None:
        super().__init__(examples)
        self.stream, self.worker, self.given = stream, worker, 0

    def __next__(self) -> Any:
        example = super().__next__()
        number, workers = self.worker
        batch = self.given // self.stream.batch * workers + number
        self.given += 1
        if isinstance(example, CaughtError):
            return example
        return with_step(example, batch // self.stream.accumulation)

    def state_dict(self) -> dict[str, Any]:
        """Of the stream, and the number of examples given."""
        return super().state_dict() | {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Of the stream, and the number of examples given."""
        super().load_state_dict(state)
        self.given = state["given"]


def position_file(checkpoint: Path, process: int) -> Path:
    """File of a checkpoint with the position of one process."""
    return checkpoint / f"data_position_{process}.json"


def save_position(checkpoint: Path, loader: StreamLoader, args: RunArguments) -> None:
    """Save the position of this process in its stream."""
    kept = {"processes": args.world_size, "workers": args.dataloader_num_workers, "loader": loader.state_dict()}
    position_file(checkpoint, args.process_index).write_text(json.dumps(kept))


def load_position(checkpoint: Path, loader: StreamLoader, args: RunArguments) -> None:
    """Restore a loader's position from a checkpoint.

    Raises:
        ConfigError: the checkpoint has no position of this process, or other numbers of processes and workers.
    """
    remedy = (
        "give them again, or --ignore_data_skip true to begin the data anew (with another --seed in another order)"
    )
    path = position_file(checkpoint, args.process_index)
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): the position in the data is lost; {remedy}") from error
    before = (kept["processes"], kept["workers"])
    if before != (args.world_size, args.dataloader_num_workers):
        raise ConfigError(
            f"{checkpoint} has the data's position of {before[0]} processes with {before[1]} loader workers each, this"
            f" run has {args.world_size} with {args.dataloader_num_workers}: {remedy}"
        )
    loader.load_state_dict(kept["loader"])
