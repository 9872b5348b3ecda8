"""What lowering asks of a program, whatever the placement: arrays that several placements of one program share."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.lifetimes import Rows, TaskColumns, distinct, task_columns
from runner.program.program import Program, Task
from runner.rings.schedule import remembered

Bools = NDArray[np.bool_]


class Facts:
    """Arrays of a program.

    touches      per task the local tensors that it creates or uses
    creates      per task those that it creates, in block order
    waits        per task those that it waits for by what it touches
    is_alloc     which tasks are allocs
    has_boxes    which tasks write a box of a tensor, or have operands for which less than all edges are inferred
    writes       per other task the tensors of operands that write all of one, or a part with a key, in order
    are_parts    whether each of these is a part
    with_after   the tasks that name others in their `after:`
    near_overwritten  which tasks touch a tensor that some task updates though one that it waits for has written it;
                 `runner.program.registered` need not know of the others: nothing that they write stays registered beside a
                 later writer
    block_bytes  bytes of each tensor in a block
    size_bytes   bytes of each tensor
    """

    def __init__(self, program: Program) -> None:
        columns = task_columns(program)
        self.touches, self.waits = columns.touches, columns.waits
        self.is_alloc, self.with_after = columns.is_alloc, columns.with_after
        self.creates = columns.tensors(attrgetter("creates"))
        asked = _once()
        self.has_boxes = columns.numbers(lambda task: (asked(task).has_boxes,)).values.astype(bool)
        self.writes = columns.tensors(lambda task: [region.tensor for region in asked(task).plain])
        parts = columns.numbers(lambda task: [region.part is not None for region in asked(task).plain])
        self.are_parts = Rows(self.writes.starts, parts.values)
        self.size_bytes = columns.size_bytes
        self.block_bytes = -(-self.size_bytes // BLOCK_ALIGN) * BLOCK_ALIGN
        self.near_overwritten = self._near_overwritten(columns, asked)

    def _near_overwritten(self, columns: TaskColumns, asked: Callable[[Task], _Writes]) -> Bools:
        tensors = np.int64(len(self.size_bytes))
        updates, writes = columns.tensors(lambda task: asked(task).updates), columns.tensors(lambda task: asked(task).writes)
        is_updated, is_overwritten = np.zeros((2, tensors), bool)
        is_updated[updates.values] = True
        writes = writes.where(is_updated[writes.values])
        updaters = np.flatnonzero(np.diff(updates.starts))
        updated = distinct(updates.owners() * tensors + updates.values)
        for before in (self.waits, Rows.of([task.unordered for task in columns.tasks], np.int32)):
            near = before.picked(updaters)
            written = writes.picked(near.values)
            by = np.repeat(np.repeat(updaters, np.diff(near.starts)), np.diff(written.starts))
            keys = by * tensors + written.values
            if len(keys):
                at = np.minimum(np.searchsorted(updated, keys), len(updated) - 1)
                is_overwritten[written.values[updated[at] == keys]] = True
        touched = columns.tensors(lambda task: asked(task).operands)
        found = np.zeros(len(touched), bool)
        found[touched.owners()[is_overwritten[touched.values]]] = True
        return found


facts_of = remembered(Facts)


class _Writes:
    """The tensors that a task writes, those of its operands, and of these the ones that it updates.

    `plain` are the regions that its operands write; nothing if it `has_boxes`.
    """

    def __init__(self, task: Task) -> None:
        self.writes, regions, creates = task.writes, task.regions, task.creates
        written = [region for region in regions if region.tensor in self.writes]
        self.operands = [region.tensor for region in regions]
        self.updates = [region.tensor for region in written if region.tensor not in creates]
        self.has_boxes = bool(task.modes) or any(region.box is not None for region in written)
        self.plain = [] if self.has_boxes else written


def _once() -> Callable[[Task], _Writes]:
    """Finds what a task writes, once of each that is asked."""
    known: dict[int, _Writes] = {}
    return lambda task: known.get(task.id) or known.setdefault(task.id, _Writes(task))
