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
        loops = list(_walk(fold.loops))
        places = np.ones(num_tasks, np.int64)  # of each task, with the empty ones before it; none outside the template
        for loop in loops:
            places[loop.trip_start(1) : loop.end] = 0
        for loop in loops:
            places[[loop.start, loop.trip_start(1)]] += 1
        self.place = np.cumsum(places) - 1
        self.num_places = int(places.sum())
        self.beginning = Counter(loop.start for loop in loops)
        self.loops: list[LoopRange] = []
        inside = self.beginning.copy()
        for loop in loops:
            inside[loop.start] -= 1  # loops that begin there, inside this one
            start = int(self.place[loop.start]) - inside[loop.start]
            self.loops.append(LoopRange(loop, start, int(self.place[loop.trip_start(1) - 1]) + 1))

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


def depths_of(axis: Axis, scopes: Sequence[tuple[int, int, int]], one: Template, lives: Lives, fold: Fold) -> Ints:
    """Per tensor of the whole program the depth of the deepest scope that it lives in; scopes are (depth, first place, end)."""
    first, last = axis.lives(one, lives)
    found = np.zeros(len(first), np.int64)
    for depth in sorted({depth for depth, _, _ in scopes}):
        starts, ends = np.array(sorted((start, end) for d, start, end in scopes if d == depth)).T
        scope = np.maximum(np.searchsorted(starts, first, side="right") - 1, 0)
        found[(first >= starts[scope]) & (last < ends[scope])] = depth
    return unfold_offsets(fold, one.tensors, found, len(lives.size))
