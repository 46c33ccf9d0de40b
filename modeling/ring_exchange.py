"""Ring exchange: every process passes its tensors to the next one, until all processes have had them."""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed import P2POp, ProcessGroup

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextlib.contextmanager
def each_process_alone() -> Iterator[None]:
    """Context in which every ring is one of one process: where all processes evaluate the same batches."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


@dataclass
class Ring:
    """The processes of a group, in order of their ranks; without torch.distributed, a ring of one.

    Attributes:
        rows: number of rows of each process's own tensors; they may differ.
        rank: of this process within the group.
        group: None for the default one.
    """

    rows: list[int]
    rank: int = 0
    group: ProcessGroup | None = None

    @classmethod
    def of(cls, rows: int, device: torch.device, group: ProcessGroup | None = None) -> "Ring":
        """The ring of the running processes; each of them calls this with its own number of rows.

        Raises:
            ValueError: a process has no rows.
        """
        if _ALONE.get() or not (dist.is_available() and dist.is_initialized()):
            counts, rank = [rows], 0
        else:
            own = torch.tensor([rows], device=device)
            gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
            dist.all_gather(gathered, own, group=group)
            counts, rank = [int(count) for count in torch.cat(gathered)], dist.get_rank(group)
        if min(counts) < 1:
            raise ValueError(f"processes hold {counts} rows: each needs at least one; drop the incomplete last batch")
        return cls(counts, rank, group)

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self.rows)

    @property
    def start(self) -> int:
        """Index of this process's first row among the rows of all processes."""
        return sum(self.rows[: self.rank])

    def pass_on(self, tensors: Sequence[torch.Tensor], hops: int) -> list[torch.Tensor]:
        """Send tensors to the next process, and receive those of the previous one.

        Args:
            tensors: with as many rows as the process has that they started from.
            hops: number of processes that they have left, this one included: 1 for own tensors. After `size` hops
                they are back.
        """
        if self.size == 1:
            return list(tensors)
        rows = self.rows[(self.rank - hops) % self.size]
        received = [tensor.new_empty((rows, *tensor.shape[1:])) for tensor in tensors]
        after, before = (self._peer(self.rank + step) for step in (1, -1))
        # kept until the requests are done
        sent = [tensor.contiguous() for tensor in tensors]
        operations = [P2POp(dist.isend, tensor, after, self.group) for tensor in sent]
        operations += [P2POp(dist.irecv, tensor, before, self.group) for tensor in received]
        for request in dist.batch_isend_irecv(operations):
            request.wait()
        return received

    def _peer(self, rank: int) -> int:
        rank %= self.size
        return rank if self.group is None else dist.get_global_rank(self.group, rank)
