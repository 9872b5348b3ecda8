"""This module tells who touches which tensor when: a program's local tensors as arrays over its submission order.

Time is the index of a task in submission order. A local tensor lives from its first to its last *touch*: a task that is not an
alloc and reads, writes or creates it, or a value read on the submitting thread. Sizes are in units of 1,024 bytes, what a block
rounds to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from runner.base.tensor_spec import BLOCK_ALIGN, block_bytes
from runner.program.program import Program
from runner.program.spans import host_reads

Ints = NDArray[np.signedinteger]
Floats = NDArray[np.float64]

TOGETHER = 1 << 12
"""Tasks that are looked at together, which stay in the processor's cache meanwhile."""


def distinct(values: Ints) -> Ints:
    """The values, ascending, each once.

    It sorts: `numpy.unique` hashes since numpy 2.3, and takes a hundred times as long for a million integers far apart.
    """
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


@dataclass(frozen=True)
class Rows:
    """Lists of integers, one per row, laid end to end: row i is `values[starts[i] : starts[i + 1]]`."""

    starts: Ints
    values: Ints

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]], dtype: type[np.signedinteger] = np.int64) -> Rows:
        starts = np.zeros(len(lists) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)), out=starts[1:])
        return cls(starts, np.fromiter(chain.from_iterable(lists), dtype, int(starts[-1])))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of one part behind those of the other."""
        lengths = [np.zeros(1, np.int64), *(np.diff(part.starts) for part in parts)]
        return cls(np.cumsum(np.concatenate(lengths)), np.concatenate([np.zeros(0, np.int64), *(part.values for part in parts)]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> list[int]:
        return self.values[self.starts[index] : self.starts[index + 1]].tolist()

    def owners(self) -> Ints:
        """For every value the row that it is in."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


@dataclass(frozen=True)
class Lives:
    """Lives of a program's local tensors, in the order in which its tasks are numbered.

    locals   tensor ids, ascending; every other array has one entry for each
    size     in units of 1,024 bytes
    first    time of the first touch
    end      time after the last touch: the tensor lives in `[first, end)`
    touches  per task the locals (as indices into `locals`) that it touches; nothing for most allocs (see `lives_of`)
    scope_end  like `end`, but a value read on the host counts as a touch by the next task: its scope must still be open then
    """

    program: Program
    locals: Ints
    size: Ints
    first: Ints
    end: Ints
    touches: Rows
    scope_end: Ints

    @property
    def num_times(self) -> int:
        return len(self.touches)

    def live_bytes(self) -> Ints:
        """Bytes alive at every time, int64[num_times]."""
        return live_units(self.first, self.end, self.size, self.num_times) * BLOCK_ALIGN

    @property
    def peak_live_bytes(self) -> int:
        """The most bytes alive at once: no allocator needs less for this submission order."""
        return int(self.live_bytes().max(initial=0))


def live_units(first: Ints, end: Ints, size: Ints, num_times: int) -> Ints:
    """Sum of the sizes alive at each time."""
    change = np.zeros(num_times + 1, np.int64)
    np.add.at(change, first, size)
    np.add.at(change, end, -size)
    return np.cumsum(change[:-1])


def lives_of(program: Program, *, allocs_touch: bool = True) -> Lives:
    """Lives of all local tensors of a program; tensors that nothing touches live for the time of their alloc alone.

    An alloc that `after:` names touches what it creates, whose block must be there when the alloc's turn comes, unless
    `allocs_touch` is False: an arena's block always is, and an alloc without a block of its own runs nothing that could wait.
    """
    tasks, tensors = program.tasks, program.tensors
    own = [tensor for tensor in tensors if tensor.is_local]
    local_ids = np.array([tensor.id for tensor in own], np.int64)
    index = np.full(len(tensors) + 1, -1, np.int64)
    index[local_ids] = np.arange(len(local_ids))
    named = named_allocs(program) if allocs_touch else frozenset()
    is_alloc = [task.op is None for task in tasks]
    touched = _touches(program, named)
    touches = Rows(touched.starts, index[touched.values])
    first, last = (times[local_ids] for times in _first_and_last(program, touched, remember=not named))
    for time in np.flatnonzero(is_alloc).tolist():
        for k in index[list(tasks[time].creates)].tolist():
            if last[k] < 0:
                first[k] = last[k] = time
    scope_last = last.copy()
    for next_task, trips in host_reads(program.body):
        for tensor in trips.reads:
            k = index[tensor]
            if k >= 0:
                last[k] = max(last[k], next_task - 1)
                scope_last[k] = max(scope_last[k], min(next_task, len(tasks) - 1))
    for tensor in program.outputs.values():  # a result is read after the last task
        if index[tensor] >= 0:
            last[index[tensor]] = scope_last[index[tensor]] = len(tasks) - 1
    size = np.array(block_bytes([tensor.spec for tensor in own]), np.int64) // BLOCK_ALIGN
    return Lives(program, local_ids, size, first, last + 1, touches, scope_last + 1)


def _touches(program: Program, named: frozenset[int] = frozenset()) -> Rows:
    """Per task the local tensors that it touches; nothing for allocs, but for those that are `named`."""
    parts = []
    for start in range(0, len(program.tasks), TOGETHER):
        tasks = program.tasks[start : start + TOGETHER]
        parts.append(Rows.of([() if t.op is None and t.id not in named else t.creates + t.uses for t in tasks]))
    return Rows.joined(parts)


_known: tuple[ref[Program], Ints, Ints] | None = None
"""The program whose tensors' touches were found last, and these: a plan asks for them at its begin and at its end."""


def _first_and_last(program: Program, touched: Rows, *, remember: bool) -> tuple[Ints, Ints]:
    global _known
    first, last = np.full(len(program.tensors), len(program.tasks), np.int64), np.full(len(program.tensors), -1, np.int64)
    at = touched.owners()
    np.minimum.at(first, touched.values, at)
    np.maximum.at(last, touched.values, at)
    if remember:
        _known = ref(program), first, last
    return first, last


def first_and_last_touches(program: Program) -> tuple[Ints, Ints]:
    """Per tensor the first and the last task that touches it and is no alloc; the number of tasks and -1 where there is none."""
    if _known is None or _known[0]() is not program:
        return _first_and_last(program, _touches(program), remember=True)
    return _known[1:]


def named_allocs(program: Program) -> frozenset[int]:
    """Allocs that some task names in its `after:`; they keep their place in the order."""
    tasks = program.tasks
    return frozenset(a for task in tasks for a in task.after if tasks[a].op is None)
