"""The axis on which scopes of long programs are searched: the tasks of first trips, with empty places around every loop.

Boundaries are numbered on it, and `depths_of` turns scopes between its places into depths of the whole program's tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runner.program.lifetimes import Ints, Lives
from schedulers.minpeak.folding import Fold, FoldedLoop, Template, unfold_offsets


@dataclass(frozen=True)
class LoopRange:
    """A folded loop on the axis: `[start, end)` are the tasks of its first trip, with one empty place before and one after.

    The places tell a scope around the whole loop, `[start - 1, end + 1)`, from one around a trip.
    """

    loop: FoldedLoop
    start: int
    end: int


class Axis:
    """First trips of loops, then places before and after every loop: what boundaries are numbered on.

    `place` gives per task of the whole program its place, valid for those in the template.
    """

    def __init__(self, fold: Fold, num_tasks: int) -> None:
        self.in_template = template_mask(fold, num_tasks)
        loops = list(_walk(fold.loops))
        extra = np.zeros(num_tasks + 1, np.int64)
        for loop in loops:
            extra[loop.start] += 1
            extra[loop.trip_start(1)] += 1
        self.place = np.cumsum(self.in_template) - 1 + np.cumsum(extra[:-1])
        self.num_places = int(self.in_template.sum()) + 2 * len(loops)
        self.loops: list[LoopRange] = []
        self._number(fold.loops, 0, 0)
        self.beginning = Counter(entry.loop.start for entry in self.loops)

    def _number(self, loops: Sequence[FoldedLoop], task: int, place: int) -> tuple[int, int]:
        """Walk a frame from a task and its place; `place` is the place of the next item."""
        for loop in loops:
            place += loop.start - task
            at = len(self.loops)
            self.loops.append(LoopRange(loop, place + 1, 0))
            task, inner_place = self._number(loop.inner[0], loop.start, place + 1)
            end = inner_place + loop.trip_start(1) - task
            self.loops[at] = LoopRange(loop, place + 1, end)
            task, place = loop.end, end + 1
        return task, place

    def lives(self, one: Template, lives: Lives) -> tuple[Ints, Ints]:
        """First and last place of the template's tensors; lives that enter a loop from outside go to its empty places."""
        first = lives.first[one.tensors]
        last = np.maximum(lives.end, lives.scope_end)[one.tensors] - 1
        places = [np.full(len(first), -1, np.int64), np.full(len(first), -1, np.int64)]
        for entry in self.loops:  # outer loops come before inner ones
            loop = entry.loop
            foreign = (one.tensors < loop.base) | (one.tensors >= loop.base + loop.num_locals * loop.num_trips)
            for place, times, new in ((places[0], first, entry.start - 1), (places[1], last, entry.end)):
                place[foreign & (times >= loop.start) & (times < loop.end) & (place < 0)] = new
        for place, times in zip(places, (first, last), strict=True):
            place[place < 0] = self.place[times[place < 0]]
        return places[0], places[1]

    def before(self, task: int) -> int:
        """The place where a scope begins that holds a task of the template and all folded loops that begin there."""
        return int(self.place[task]) - self.beginning.get(task, 0)


def _walk(loops: Sequence[FoldedLoop]) -> Iterator[FoldedLoop]:
    """Folded loops of the template, outer ones before inner ones."""
    for loop in loops:
        yield loop
        yield from _walk(loop.inner[0])


def template_mask(fold: Fold, num_tasks: int) -> np.ndarray:
    """Which tasks are in the template: of folded loops, the first trip."""
    mask = np.ones(num_tasks, bool)
    for loop in _walk(fold.loops):
        mask[loop.trip_start(1) : loop.end] = False
    return mask


def depths_of(axis: Axis, scopes: Sequence[tuple[int, int, int]], one: Template, lives: Lives, fold: Fold) -> Ints:
    """Per tensor of the whole program the depth of the deepest scope that it lives in; scopes are (depth, first place, end)."""
    first, last = axis.lives(one, lives)
    found = np.zeros(len(first), np.int64)
    for depth in sorted({depth for depth, _, _ in scopes}):
        starts, ends = np.array(sorted((start, end) for d, start, end in scopes if d == depth)).T
        scope = np.maximum(np.searchsorted(starts, first, side="right") - 1, 0)
        found[(first >= starts[scope]) & (last < ends[scope])] = depth
    return unfold_offsets(fold, one.tensors, found, len(lives.size))
