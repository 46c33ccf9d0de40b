"""A loader of streams whose position is saved in checkpoints, so that a resumed run reads the next batch."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from openpali.data.files.config import ConfigError
from openpali.data.streaming.stream import ExampleStream
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.training.bad_data import ErrorCatchingStream
from openpali.recipes.training.sampling import loader_options


class StreamLoader(StatefulDataLoader):
    """The batches of this process for the whole run; the stream itself reads this process's share.

    Its state counts the batches taken from it, not those that workers have prepared ahead.
    """

    def __init__(self, stream: ExampleStream, args: RunArguments, collate: Callable[[list], Any]) -> None:
        """Create the loader of a stream of this process."""
        if (stream.rank, stream.world_size) != (args.process_index, args.world_size):
            raise ValueError(
                f"the stream is for process {stream.rank} of {stream.world_size},"
                f" this is {args.process_index} of {args.world_size}"
            )
        self.batches = args.max_steps * args.gradient_accumulation_steps
        super().__init__(
            ErrorCatchingStream(stream),
            collate_fn=collate,
            **loader_options(args),
            # workers' seeds would otherwise come from the model's random numbers
            generator=torch.Generator().manual_seed(args.seed),
        )

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'set_vital' is deprecated")
            return super().__iter__()

    def close(self) -> None:
        """End the workers, which would otherwise run as long as the loader exists."""
        self._iterator = None


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
