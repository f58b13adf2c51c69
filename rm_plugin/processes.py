"""The processes of torchrun or accelerate that share one job, and each one's share of it.

    world = Processes.current()
    mine = shares([120, 40, 900, 64], world.size)[world.rank]      # indices of whole groups, balanced by tokens
    results = world.gather(work(mine))                             # those of all processes, in all

With one process every call returns at once and imports nothing.
"""

from __future__ import annotations

import heapq
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from .files import Journal

T = TypeVar("T")
# Process 0 may read or write a corpus for hours; torch would end the others after 10 minutes.
LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """The processes that share the work."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Those of torchrun or accelerate; call it before any model is loaded, as it chooses this process's device."""
        distributed = sys.modules.get("torch.distributed")
        started = distributed is not None and distributed.is_available() and distributed.is_initialized()
        if not started and int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        import torch
        from accelerate import PartialState

        # Without cpu=True accelerate 1.x takes two processes on a machine without GPU for two worlds of one.
        how = {} if started else {"cpu": not torch.accelerator.is_available(), "timeout": LONGEST_WAIT}
        state = PartialState(**how)
        return cls(state.process_index, state.num_processes)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in all."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def share(self, value: T) -> T:
        """The value of process 0, in all."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Until all processes are here."""
        self.gather(None)

    def on_first(self, function: Callable[[], T]) -> T:
        """What `function` returns, or the error that it raises, in process 0; the same in all."""
        value, error = None, None
        if self.rank == 0:
            try:
                value = function()
            except Exception as raised:
                if self.size == 1:
                    raise
                error = raised
        value, error = self.share((value, error))
        if error is not None:
            raise error
        return value


def leave() -> None:
    """Close the connection to the other processes, at a program's end: one that ends with it open may abort."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def shares(costs: Sequence[int], size: int) -> list[list[int]]:
    """
    Indices for each of `size` processes, so that the sums of their costs are balanced: the costliest goes first, to
    the process that has least. Equal in all processes; each share keeps the order.

    Example:
        >>> shares([5, 3, 3, 1], 2)
        [[0, 3], [1, 2]]
    """
    parts: list[list[int]] = [[] for _ in range(size)]
    loads = [(0, 0, rank) for rank in range(size)]  # costs, indices
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, number, rank = heapq.heappop(loads)
        parts[rank].append(index)
        heapq.heappush(loads, (load + costs[index], number + 1, rank))
    return [sorted(part) for part in parts]


def open_journal(
    world: Processes,
    output: str | os.PathLike | None,
    begin: Callable[[Journal], T],
    read: Callable[[Journal], Any] = dict,
) -> tuple[Journal, Any, T]:
    """
    The journal of an output that all processes work on: process 0 holds its lock and takes in the parts of processes
    that were killed, each other one appends to a part of its own.

    Args:
        world ([`Processes`]): who works.
        output (`str`, *optional*): the file; None keeps everything in memory.
        begin (`Callable`): called with the journal in process 0, to compare the settings ([`Journal.begin`]).
        read (`Callable`, *optional*, defaults to `dict`): what all get of it; `set` for the keys alone.

    Returns:
        `(Journal, Any, Any)`: to append to; every finished chunk by its key (as `read` has it); what `begin` returned.
    """
    opened: list[Journal] = []

    def first() -> tuple[dict[str, Any], Any, T]:
        opened.append(Journal(output))
        try:
            begun = begin(opened[0])
        except BaseException:
            opened.pop().close()
            raise
        return opened[0].settings, read(opened[0]), begun

    settings, done, begun = world.on_first(first)
    journal = opened[0] if opened else Journal(output, part=world.rank)
    if not opened and settings is not None:
        journal.begin(settings)
    return journal, done, begun
