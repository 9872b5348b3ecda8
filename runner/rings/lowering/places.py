"""Where every tensor lies: in the block of an alloc that a placement has, else in that of the task that creates it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter

import numpy as np

from runner.base.records import builder
from runner.program.lifetimes import Ints, Rows
from runner.program.program import Program
from runner.rings.lowering.arrays import ArenaSlots
from runner.rings.lowering.facts import Facts
from runner.rings.lowering.order import NOWHERE, Order
from runner.rings.placement import PlacedAlloc
from runner.rings.schedule import Slot

_new_slot = builder(Slot)


class Places:
    """The places of a program's tensors.

    submitted   the submissions of tasks, ascending, and in `tasks` the task of each
    owner       per tensor the submission in whose block it lies, `NOWHERE` for one from outside
    offset      per tensor where in the block, in bytes
    in_arena    per submission whether its block is an arena, one tensor for the runtime
    slots       per submission the places in its block, and in `size_bytes` the block's size
    """

    def __init__(self, program: Program, walk: Order, facts: Facts) -> None:
        order = np.array(walk.order, np.int64)
        self.submitted = np.flatnonzero(order >= 0)
        self.tasks = order[self.submitted]
        self.owner = np.array(walk.owner, np.int64)
        self.offset = np.zeros(len(walk.owner), np.int64)
        self.in_arena = np.zeros(len(order) + 1, bool)  # the last stands for NOWHERE
        self.slots: list[Sequence[Slot]] = [()] * len(order)
        self.size_bytes = [0] * len(order)
        self._program, self._sizes, self._known = program, facts.block_bytes, dict[int, int]()
        for at in np.flatnonzero(order < 0).tolist():
            self._alloc(at, walk.allocs[~walk.order[at]])
        self._created(facts.creates)

    def _alloc(self, at: int, item: PlacedAlloc) -> None:
        tensors = np.array(item.tensors, np.int64)
        sizes = self._sizes[tensors]
        offsets = np.array(item.offsets, np.int64) if item.offsets else np.cumsum(sizes) - sizes
        self.offset[tensors] = offsets
        self.in_arena[at] = bool(item.offsets)
        in_arena = ArenaSlots(self._program.tensors, tensors, offsets, sizes)
        self.slots[at] = in_arena if item.offsets else self._placed(tensors, offsets)
        self.size_bytes[at] = max(item.size_bytes, int((offsets + sizes).max(initial=0)))

    def _created(self, creates: Rows) -> None:
        """What lies in the blocks of the tasks that create it, one tensor behind the other."""
        created = creates.picked(self.tasks)
        by = np.repeat(self.submitted, np.diff(created.starts))
        is_own = self.owner[created.values] == NOWHERE
        late = ~is_own & (self.owner[created.values] > by)
        assert not late.any(), f"tensor {self._program.tensors[created.values[late][0]].name!r} is placed twice"
        own, by = created.values[is_own], by[is_own]
        if not len(own):
            return
        self.owner[own] = by
        sizes = self._sizes[own]
        at = np.cumsum(sizes) - sizes
        starts = np.flatnonzero(np.diff(by, prepend=-1))
        self.offset[own] = offsets = at - np.repeat(at[starts], np.diff(starts, append=len(own)))
        slots = self._placed(own, offsets)
        cuts = [*starts.tolist(), len(own)]
        sums = np.add.reduceat(sizes, starts).tolist()
        for at, (low, high), size_bytes in zip(by[starts].tolist(), pairwise(cuts), sums, strict=True):
            self.slots[at], self.size_bytes[at] = slots[low:high], self._known.setdefault(size_bytes, size_bytes)

    def _placed(self, numbers: Ints, offsets: Ints) -> tuple[Slot, ...]:
        """Slots of tensors. Numbers that many have are kept once."""
        tensors, once = [self._program.tensors[number] for number in numbers.tolist()], self._known.setdefault
        columns = (map(once, values, values) for values in (offsets.tolist(), self._sizes[numbers].tolist()))
        return tuple(map(_new_slot, map(attrgetter("id"), tensors), *columns, map(attrgetter("name"), tensors)))
