"""The axis on which scopes of long programs are searched: the tasks of first trips, with empty places around every loop.

Boundaries are numbered on it, and `unfold` turns cuts at its places into cuts of the whole program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runner.program.program import Span
from schedulers.lifetimes import Ints, Lives, last_task
from schedulers.minpeak.folding import Fold, FoldedLoop, Template, unfold_offsets
from schedulers.scopes.boundaries import NO_CUT
from schedulers.scopes.exact import Lifetimes, Scoping, needs


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


def unfold(
    axis: Axis, scopes: Sequence[tuple[int, int, int]], one: Template, lives: Lives, loops: Sequence[Span], fold: Fold
) -> Scoping:
    """Cuts and depths of the whole program from scopes on the axis (depth, first place, place after the last); every tensor goes
    into the deepest of them that it lives in, as far as all trips of dynamic loops allow."""
    on_axis = np.full(axis.num_places + 1, NO_CUT, np.int64)
    first, last = axis.lives(one, lives)
    depth_of = np.zeros(len(first), np.int64)
    for depth in sorted({depth for depth, _, _ in scopes}):
        starts, ends = np.array(sorted((start, end) for d, start, end in scopes if d == depth)).T
        for at in (starts, ends):
            on_axis[at] = np.minimum(on_axis[at], depth)
        scope = np.maximum(np.searchsorted(starts, first, side="right") - 1, 0)
        depth_of[(first >= starts[scope]) & (last < ends[scope])] = depth
    cuts = _unfold_cuts(axis, on_axis, lives.num_times)
    for loop in reversed(loops):
        _honour(loop, cuts)
    whole = Lifetimes(lives.first, np.maximum(lives.end, lives.scope_end), lives.size, lives.num_times)
    depth = np.minimum(unfold_offsets(fold, one.tensors, depth_of, len(lives.size)), _deepest(cuts, whole))
    all_cuts = (*cuts.tolist(), 1)
    return Scoping(all_cuts, tuple(depth.tolist()), needs(whole, all_cuts, depth), False)


def _unfold_cuts(axis: Axis, on_axis: Ints, num_tasks: int) -> Ints:
    """Levels of the cuts before each task of the whole program."""
    tasks = np.flatnonzero(axis.in_template)
    places = axis.place[tasks]
    cuts = np.full(num_tasks, NO_CUT, np.int64)
    before = np.concatenate([[-1], places[:-1]])
    cuts[tasks] = [int(on_axis[a + 1 : b + 1].min()) for a, b in zip(before.tolist(), places.tolist(), strict=True)]
    for entry in sorted(axis.loops, key=lambda e: e.end - e.start):  # inner ones first
        loop = entry.loop
        table = cuts[loop.start : loop.end].reshape(loop.num_trips, -1)
        table[1:] = table[0]
        table[1:, 0] = int(on_axis[entry.start : entry.end + 1].min())
    return cuts


def _honour(loop: Span, cuts: Ints) -> None:
    """If scopes begin or end inside a dynamic loop, let them do so at its start, its end and between all of its trips."""
    starts = [next(trip.tasks(), -1) for trip in loop.items if isinstance(trip, Span)]
    starts = [task for task in starts if task >= 0]
    end = last_task(loop) + 1
    level = int(cuts[starts[0] + 1 : end].min(initial=NO_CUT))
    if level < NO_CUT:
        at = np.array([*starts, end] if end < len(cuts) else starts)
        cuts[at] = np.minimum(cuts[at], level)


def _deepest(cuts: Ints, lives: Lifetimes) -> Ints:
    """Per tensor the depth below the lowest level of the cuts inside its life."""
    depth = np.full(len(lives.first), 3, np.int64)
    for level in (3, 2, 1):
        counts = np.cumsum(cuts <= level)
        depth[counts[lives.end - 1] > counts[lives.first]] = level - 1
    return depth
