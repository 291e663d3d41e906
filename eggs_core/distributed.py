"""The processes that share one run's work, one on each device: `torchrun --nproc-per-node k`.

Calibration windows are sharded, statistics summed, layers dealt out to be solved. All processes hold the same
block at any time and make the same decisions, the first one also writes, measures and reports.

A sum over processes rounds differently from one over windows, as do batches of other sizes in one process. Masks
are those of a single process but where that rounding tips a choice; bytes repeat for one number of processes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from eggs_core.errors import TooManyProcesses

T = TypeVar("T")

# Processes wait as long as the first one measures a model. One that dies is noticed by its closed connections,
# and by torchrun.
_PATIENCE = timedelta(days=30)


class Group:
    """One process alone; what is said of several holds for one."""

    rank = 0
    size = 1

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def shard(self, windows: Tensor) -> Tensor:
        """This process's part of (windows, …): each `size`-th. Raises `TooManyProcesses` for fewer than that."""
        if len(windows) < self.size:
            raise TooManyProcesses(
                f"{self.size} processes cannot share {len(windows)} calibration windows. Ask for {self.size} "
                f"samples or more, or start {len(windows)} processes or fewer."
            )
        return windows[self.rank :: self.size]

    def sum(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over the processes, in place, to the same bits in each."""
        return tensor

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """Overwrites a contiguous tensor by that of process `source`."""
        return tensor

    def concatenate(self, rows: Tensor) -> Tensor:
        """The rows of all processes, one after the other; of a float dtype of 32 bits or fewer."""
        return rows

    def gather(self, value: T) -> list[T]:
        """The value of every process, in the order of their ranks. Tensors in it should lie on the CPU."""
        return [value]

    def share(self, owners: Sequence[int], work: Callable[[int], T]) -> list[T]:
        """`work(i)` for every i, done by process `owners[i]` alone and known to all; for values, see `gather`.

        What `work` raises in one process is raised in every one: of several errors that of the least i.
        """
        return [work(i) for i in range(len(owners))]

    def first(self, work: Callable[[], T]) -> T:
        """`work()` done by the first process, while the others wait for its value, or for what it raises."""
        return self.share([0], lambda _: work())[0]

    def each(self, work: Callable[[], T]) -> T:
        """`work()` done by every process, each with a value of its own; what one raises is raised in all."""
        own: list[T] = []
        self.share(range(self.size), lambda _: own.append(work()))
        return own[0]


ALONE = Group()


class _Joined(Group):
    """One of several processes, by the default group of torch.distributed."""

    def __init__(self, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._device = device

    @property
    def device(self) -> torch.device:
        return self._device

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        dist.broadcast(tensor, source)
        return tensor

    def concatenate(self, rows: Tensor) -> Tensor:
        counts = self.gather(len(rows))
        own = slice(sum(counts[: self.rank]), sum(counts[: self.rank + 1]))
        # Each one's rows at their place among zeros; a float32 holds all of them exactly, and so do the sums.
        together = torch.zeros(sum(counts), *rows.shape[1:], device=rows.device)
        together[own] = rows
        return self.sum(together).to(rows.dtype)

    def gather(self, value: T) -> list[T]:
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def share(self, owners: Sequence[int], work: Callable[[int], T]) -> list[T]:
        done: dict[int, T] = {}
        errors: dict[int, Exception] = {}
        for i in (i for i, owner in enumerate(owners) if owner == self.rank):
            try:
                done[i] = work(i)
            except Exception as error:
                errors[i] = error
                break
        all_done: dict[int, T] = {}
        all_errors: dict[int, Exception] = {}
        for theirs, their_errors in self.gather((done, errors)):
            all_done |= theirs
            all_errors |= their_errors
        if all_errors:
            first = min(all_errors)
            raise errors.get(first, all_errors[first])  # one's own knows where it was raised
        return [all_done[i] for i in range(len(owners))]


def deal(costs: Sequence[float], size: int) -> list[int]:
    """An owner out of `size` for each task, the dearest first and each to the one who has least to do."""
    load = [0.0] * size
    owners = [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda task: -costs[task]):
        owners[task] = min(range(size), key=lambda owner: load[owner])
        load[owners[task]] += costs[task]
    return owners


@contextmanager
def joined() -> Iterator[Group]:
    """The group of the processes that torchrun started, or this process alone where it did not.

    Each has the GPU of its local rank. Raises `TooManyProcesses` where a machine has GPUs, but fewer.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    device = torch.device("cpu")
    if torch.cuda.is_available():
        wanted, there = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if wanted > there:
            raise TooManyProcesses(f"{wanted} processes need a GPU each, and {there} are here. Start {there}.")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # What lies on the CPU goes by gloo, so that waiting for the first process keeps no GPU busy.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield _Joined(device)
    # Not after an error: others may be gone, and there would be none to wait for.
    dist.destroy_process_group()
