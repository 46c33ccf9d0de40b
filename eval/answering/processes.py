"""The processes that share an evaluation, as `accelerate launch` or `torchrun` start them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

# processes wait for the slowest: its last window may have the longest answers, and models are downloaded one by one
TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work.

    Attributes:
        index: of this process, from 0; process 0 scores and writes.
        count: of all.
        local_index: of this process on its machine.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0

    @property
    def main(self) -> bool:
        """Whether this process scores and writes."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until every process calls this."""
        if self.count > 1:
            torch.distributed.barrier()

    def gather(self, rows: list[Any]) -> list[Any]:
        """Rows of every process, in the order of the processes, on each of them."""
        if self.count == 1:
            return rows
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def device(self, chosen: str | None) -> str | None:
        """The device of this process: the chosen one, else its own accelerator among those of the machine."""
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if chosen or self.count == 1 or accelerator is None:
            return chosen
        return f"{accelerator.type}:{self.local_index % torch.accelerator.device_count()}"


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this launch; a single one without a launcher."""
    # a cluster may set it to anything for a command without a launcher
    given = os.environ.get("WORLD_SIZE", "")
    count = int(given) if given.isdecimal() else 1
    if count == 1:
        yield ALONE
        return
    # gloo: only rows of text are gathered, and models may be on any kind of device
    torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield Processes(torch.distributed.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        torch.distributed.destroy_process_group()
