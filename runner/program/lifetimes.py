"""This module tells who touches which tensor when: a program's local tensors as arrays over its submission order.

Time is the index of a task in submission order. A local tensor lives from its first to its last *touch*: a task that is not an
alloc and reads, writes or creates it, or a value read on the submitting thread. Sizes are in units of 1,024 bytes, what a block
rounds to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from operator import attrgetter
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.program import Program, Task
from runner.program.spans import host_reads

Ints = NDArray[np.signedinteger]
Floats = NDArray[np.float64]

ASKED_AT_ONCE = 256
"""Tasks that are asked in about the time that a group of copies takes."""


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
    def of(cls, lists: Sequence[Collection[int]], dtype: type[np.signedinteger] = np.int64) -> Rows:
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

    def only(self, kept: NDArray[np.bool_]) -> Rows:
        """The same with only some rows: the others have no values."""
        lengths = np.diff(self.starts)
        return Rows(np.concatenate([[0], np.cumsum(lengths * kept)]), self.values[np.repeat(kept, lengths)])

    def picked(self, rows: Ints) -> Rows:
        """These rows, in this order."""
        if len(rows) == len(self) and (rows == np.arange(len(rows))).all():
            return self
        lengths = np.diff(self.starts)[rows]
        ends = np.cumsum(lengths)
        at = np.repeat(self.starts[rows] - ends + lengths, lengths) + np.arange(int(ends[-1]) if len(ends) else 0)
        return Rows(np.concatenate([[0], ends]), self.values[at])

    def where(self, kept: NDArray[np.bool_]) -> Rows:
        """The same rows with only some of their values."""
        return Rows(np.concatenate([[0], np.cumsum(kept)])[self.starts], self.values[kept])

    def row(self, index: int) -> list[int]:
        return self.values[self.starts[index] : self.starts[index + 1]].tolist()

    def owners(self) -> Ints:
        """For every value the row that it is in."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


@dataclass(frozen=True)
class _Group:
    """Tasks that are asked, by number, and copies of them that are not, so far behind them as `shifts` say (of the tasks, 0).

    `tensors` has a row per copy, what its tasks touch is among (`Task.among`); no columns where there are only the tasks.
    """

    tasks: Ints
    shifts: Ints
    tensors: Ints

    def of_copies(self, tensors: Ints) -> Ints:
        """What stands for tensors of the tasks that are asked in each copy, a row each."""
        if not self.tensors.shape[1]:
            return tensors[None]
        order = np.argsort(self.tensors[0])
        return self.tensors[:, order[np.searchsorted(self.tensors[0], tensors, sorter=order)]]


class TaskColumns:
    """What a program's tasks touch, as arrays. Of copies, of which large programs have hundreds that are alike, one is asked."""

    def __init__(self, program: Program) -> None:
        self.tasks, self._tensors, num = program.tasks, program.tensors, len(program.tasks)
        among = [task.among for task in self.tasks]
        like = np.fromiter(map(id, map(attrgetter("like"), self.tasks)), np.int64, num)
        cuts = [0, *(np.flatnonzero(np.diff(np.fromiter(map(id, among), np.int64, num))) + 1).tolist(), num]
        copies: dict[bytes, list[int]] = {}  # by what their tasks are like where they begin
        for start, end in pairwise(cuts if num else ()):
            copies.setdefault(like[start:end].tobytes(), []).append(start)
        self._groups: list[_Group] = []
        is_alone = np.ones(num, bool)
        for key, starts in copies.items():
            size = len(key) // like.itemsize
            if (len(starts) - 1) * size > ASKED_AT_ONCE:
                tasks, shifts = starts[0] + np.arange(size), np.array(starts) - starts[0]
                is_alone[tasks + shifts[:, None]] = False
                self._groups.append(_Group(tasks, shifts, np.array([among[start] for start in starts], np.int32)))
        self._groups.append(_Group(np.flatnonzero(is_alone), np.zeros(1, np.int64), np.zeros((1, 0), np.int32)))

    def tensors(self, of: Callable[[Task], Collection[int]]) -> Rows:
        """Per task the tensors that `of` gives, which are of operands, or created or used."""
        return self._rows(of, np.int32, _Group.of_copies)

    def numbers(self, of: Callable[[Task], Collection[int]]) -> Rows:
        """Per task numbers below 128 that are the same for all tasks alike."""
        return self._rows(of, np.int8, lambda _, numbers: numbers[None])

    def _rows(
        self, of: Callable[[Task], Collection[int]], dtype: type[np.signedinteger], of_copies: Callable[[_Group, Ints], Ints]
    ) -> Rows:
        tasks = self.tasks
        found = [Rows.of([of(tasks[number]) for number in group.tasks.tolist()], dtype) for group in self._groups]
        starts = np.zeros(len(tasks) + 1, np.int64)
        for group, rows in zip(self._groups, found, strict=True):
            starts[1 + group.tasks + group.shifts[:, None]] = np.diff(rows.starts)
        np.cumsum(starts, out=starts)
        values = np.zeros(int(starts[-1]), dtype)
        for group, rows in zip(self._groups, found, strict=True):
            if len(rows.values):
                first = np.repeat(starts[group.tasks] - rows.starts[:-1], np.diff(rows.starts)) + np.arange(len(rows.values))
                shifts = starts[group.tasks[0] + group.shifts] - starts[group.tasks[0]]
                values[first + shifts[:, None]] = of_copies(group, rows.values)
        return Rows(starts, values)

    @cached_property
    def is_alloc(self) -> NDArray[np.bool_]:
        """Which tasks are allocs."""
        return self.numbers(lambda task: (task.op is None,)).values.astype(bool)

    @cached_property
    def touches(self) -> Rows:
        """Per task what it creates and uses; an alloc uses nothing."""
        return self.tensors(lambda task: task.creates + task.uses)

    @cached_property
    def waits(self) -> Rows:
        """Per task the tasks that it waits for by what it touches."""
        return Rows.of([task.waits for task in self.tasks])

    @cached_property
    def with_after(self) -> list[Task]:
        """The tasks that name others in their `after:`."""
        return [task for task in self.tasks if task.after]

    @cached_property
    def edges(self) -> Rows:
        """Per task all tasks that it waits for."""
        return Rows.of([task.waits + task.after for task in self.tasks]) if self.with_after else self.waits

    @cached_property
    def size_bytes(self) -> Ints:
        """Bytes of each tensor; many share a spec."""
        specs = [tensor.spec for tensor in self._tensors]
        size = {key: spec.size_bytes for key, spec in {id(spec): spec for spec in specs}.items()}
        return np.fromiter((size[id(spec)] for spec in specs), np.int64, len(specs))


_known: list[tuple[ref[Program], TaskColumns]] = []
"""The program that was asked for last, while there is one: a plan asks for the same one many times."""


def task_columns(program: Program) -> TaskColumns:
    """What a program's tasks touch, as arrays."""
    if not _known or _known[0][0]() is not program:
        _known[:] = [(ref(program, lambda _: _known.clear()), TaskColumns(program))]
    return _known[0][1]


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
    tasks, tensors, columns = program.tasks, program.tensors, task_columns(program)
    own = [tensor for tensor in tensors if tensor.is_local]
    local_ids = np.array([tensor.id for tensor in own], np.int64)
    index = np.full(len(tensors) + 1, -1, np.int64)
    index[local_ids] = np.arange(len(local_ids))
    touched = _touches(columns, named_allocs(program) if allocs_touch else ())
    touches = Rows(touched.starts, index[touched.values])
    first, last = (times[local_ids] for times in _first_and_last(program, touched))
    created = columns.touches.only(columns.is_alloc)
    k, times = index[created.values], created.owners()
    is_untouched = last[k] < 0
    first[k[is_untouched]] = last[k[is_untouched]] = times[is_untouched]
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
    size = -(-columns.size_bytes[local_ids] // BLOCK_ALIGN)
    return Lives(program, local_ids, size, first, last + 1, touches, scope_last + 1)


def _touches(columns: TaskColumns, named: Collection[int] = ()) -> Rows:
    """Per task the local tensors that it touches; nothing for allocs, but for those that are `named`."""
    touching = ~columns.is_alloc
    touching[list(named)] = True
    return columns.touches.only(touching)


def _first_and_last(program: Program, touched: Rows) -> tuple[Ints, Ints]:
    first, last = np.full(len(program.tensors), len(program.tasks), np.int64), np.full(len(program.tensors), -1, np.int64)
    at = touched.owners()
    np.minimum.at(first, touched.values, at)
    np.maximum.at(last, touched.values, at)
    return first, last


def first_and_last_touches(program: Program) -> tuple[Ints, Ints]:
    """Per tensor the first and the last task that touches it and is no alloc; the number of tasks and -1 where there is none."""
    return _first_and_last(program, _touches(task_columns(program)))


def named_allocs(program: Program) -> frozenset[int]:
    """Allocs that some task names in its `after:`; they keep their place in the order."""
    tasks = program.tasks
    return frozenset(a for task in tasks for a in task.after if tasks[a].op is None)
