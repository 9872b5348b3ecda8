"""Scopes for programs too long for `scoping.solve`: nested partitions of an interval, by dynamic programming over chosen
boundaries.

For given capacities of the rings 1 to 3, the least bytes left in the root follow bottom up: a scope of depth 3 holds all
tensors that live inside it; of an interval, as much as possible is covered by feasible scopes of depth 3, and what is not
covered is what a scope of depth 2 over it holds itself; and so on. The capacities are then searched. Loops are folded
(`schedulers.fold`): a tensor of a trip weighs as many times its size as there are trips, wherever a scope holds all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from runner.program import Span
from schedulers.boundaries import NO_CUT
from schedulers.fold import Fold, FoldedLoop, Template
from schedulers.lifetimes import Ints, Lives, last_task, live_units
from schedulers.scoping import Four, Goal, Lifetimes, Scoping, needs

MAX_BOUNDARIES = 400
_NONE = -(1 << 60)
"""Weight of what is no cover."""
_NEGLIGIBLE = 200
"""Loops whose trips together hold less than this part of the peak are not cut."""
_STEPS = (0.5, 0.75, 0.9, 0.97, 1.03, 1.1, 1.3, 2.0)
"""By which the best capacities are then changed, one at a time, for as long as that helps."""
_STARTS = 6
"""Capacities from which that begins, the best of all that were tried first."""

_SHARES = (1 / 16, 1 / 4, 1 / 32, 1 / 2, 1 / 8, 1.0)
"""Capacities that are tried first, as shares of the peak of live bytes."""


Three = tuple[int, int, int]


@dataclass(frozen=True)
class _LoopRange:
    """A folded loop on the axis: `[start, end)` are the tasks of its first trip, with one empty place before and one after.

    The places tell a scope around the whole loop, `[start - 1, end + 1)`, from one around a trip.
    """

    loop: FoldedLoop
    start: int
    end: int


class _Axis:
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
        self.loops: list[_LoopRange] = []
        self._number(fold.loops, 0, 0)

    def _number(self, loops: Sequence[FoldedLoop], task: int, place: int) -> tuple[int, int]:
        """Walk a frame from a task and its place; `place` is the place of the next item."""
        for loop in loops:
            place += loop.start - task
            at = len(self.loops)
            self.loops.append(_LoopRange(loop, place + 1, 0))
            task, inner_place = self._number(loop.inner[0], loop.start, place + 1)
            end = inner_place + loop.trip_start(1) - task
            self.loops[at] = _LoopRange(loop, place + 1, end)
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


class IntervalCuts:
    """The search over one program; times are places of the axis."""

    def __init__(self, axis: _Axis, one: Template, lives: Lives) -> None:
        self.axis, self.loops = axis, axis.loops
        self.first, self.last = axis.lives(one, lives)
        self.num_times = axis.num_places
        copies = np.ones(len(one.tensors), np.int64)
        for entry in self.loops:
            low = np.searchsorted(one.tensors, entry.loop.base)
            high = np.searchsorted(one.tensors, entry.loop.base + entry.loop.num_locals)
            copies[low:high] *= entry.loop.num_trips
        self.weight = one.size * copies
        self.peak = int(live_units(one.first, one.end, one.size, int(one.end.max(initial=0))).max(initial=0))
        self.at = self._boundaries(one)
        self._prepare()

    def _boundaries(self, one: Template) -> Ints:
        """Boundaries that may be cut: those of loops, and of the others those that the fewest live bytes cross."""
        crossing = np.zeros(self.num_times + 1, np.int64)
        spans = self.last > self.first
        np.add.at(crossing, self.first[spans] + 1, one.size[spans])
        np.add.at(crossing, self.last[spans] + 1, -one.size[spans])
        crossing = np.cumsum(crossing)
        may_not = np.zeros(self.num_times + 1, bool)
        must = {0, self.num_times}
        for entry in self.loops:
            own = int(self.weight[(self.first >= entry.start) & (self.last < entry.end)].sum())
            if own * _NEGLIGIBLE < self.peak:  # not worth a scope per trip
                may_not[entry.start : entry.end + 1] = True
            else:
                must |= {entry.start - 1, entry.start, entry.end, entry.end + 1}
        crossing[may_not] = crossing.max(initial=0) + 1
        size = max(1, self.num_times // MAX_BOUNDARIES)
        may = {low + int(np.argmin(crossing[low : low + size])) for low in range(1, self.num_times, size)}
        return np.array(sorted(t for t in must | may if not may_not[t]))

    def _prepare(self) -> None:
        """`weights[i, j]`: of all tensors inside boundaries i to j; `inside[i, j]`: trips that share that interval; `valid`."""
        num = len(self.at)
        low = np.searchsorted(self.at, self.first, side="right") - 1
        high = np.searchsorted(self.at, self.last, side="right")
        table = np.zeros((num + 1, num + 1), np.int64)
        np.add.at(table, (low, high), self.weight)
        self.weights = np.cumsum(np.cumsum(table[::-1], axis=0)[::-1], axis=1)[:num, :num]
        starts, ends = self.at[:, None], self.at[None, :]
        self.valid = starts < ends
        self.inside = np.ones((num, num), np.int64)
        for entry in self.loops:
            within = (starts >= entry.start) & (ends <= entry.end) & (starts < ends)
            around = (starts < entry.start) & (ends > entry.end)
            apart = (ends < entry.start) | (starts > entry.end)
            self.valid &= within | around | apart
            self.inside[within] *= entry.loop.num_trips

    def cover(self, feasible: np.ndarray) -> tuple[Ints, Ints]:
        """Per interval the most weight that feasible intervals cover, and where the last of them begins (or -1: not covered)."""
        num = len(self.at)
        best = np.full((num, num), _NONE, np.int64)  # lines are ends, columns are beginnings
        best[0, 0] = 0
        begin = np.full((num, num), -1, np.int64)
        for j in range(1, num):
            best[j, :j], best[j, j] = best[j - 1, :j], 0
            starts = np.flatnonzero(feasible[:j, j])
            if len(starts):
                got = best[starts, :j] + self.weights[starts, j][:, None]
                last = np.argmax(got, axis=0)
                most = got[last, np.arange(j)]
                better = most > best[j, :j]
                best[j, :j][better] = most[better]
                begin[:j, j][better] = starts[last[better]]
        return np.maximum(best.T, 0), begin

    def held(self, best: Ints | None) -> Ints:
        """Per interval what a scope over it holds itself, given what deeper scopes cover."""
        return (self.weights if best is None else self.weights - best) // self.inside

    def search(self, goal: Goal, stop: Callable[[], bool]) -> list[list[tuple[int, int]]]:
        """Intervals of the scopes of depth 1, 2 and 3, as pairs of boundaries."""
        shares = list(dict.fromkeys(int(self.peak * share) for share in _SHARES))
        tried: dict[Three, tuple[int, list[list[tuple[int, int]]]]] = {}
        cover3 = cache(lambda c3: self.cover(self.valid & (self.held(None) <= c3)))
        cover2 = cache(lambda c2, c3: self.cover(self.valid & (self.held(cover3(c3)[0]) <= c2)))

        def value(caps: Three) -> int:
            if caps not in tried:
                c1, c2, c3 = caps
                tops = self._top(self.valid & (self.held(cover2(c2, c3)[0]) <= c1))
                levels = self._levels(tops, cover2(c2, c3)[1], cover3(c3)[1])
                tried[caps] = (goal.value(self._need(levels)), levels)
            return tried[caps][0]

        for c3, c2, c1 in product(shares, repeat=3):
            if not tried or not (stop() or c2 + c3 > 2 * self.peak):
                value((c1, c2, c3))
        for caps in sorted(tried, key=value)[:_STARTS]:
            better = True
            while better:
                better = False
                for k, factor in product(range(3), _STEPS):
                    c1, c2, c3 = (int(c * factor) if i == k else c for i, c in enumerate(caps))
                    if not stop() and value((c1, c2, c3)) < value(caps):
                        caps, better = (c1, c2, c3), True
        best = min(tried, key=value)
        return tried[best][1]

    def _top(self, feasible: np.ndarray) -> list[tuple[int, int]]:
        """Scopes of depth 1 that cover the most of the whole program."""
        num = len(self.at)
        best, begin = np.zeros(num, np.int64), [-1] * num
        for j in range(1, num):
            best[j] = best[j - 1]
            starts = np.flatnonzero(feasible[:j, j])
            if len(starts):
                got = best[starts] + self.weights[starts, j]
                k = int(got.argmax())
                if got[k] > best[j]:
                    best[j], begin[j] = got[k], int(starts[k])
        return _walk_back(lambda j: begin[j], 0, num - 1)

    def _levels(self, tops: list[tuple[int, int]], begin2: Ints, begin3: Ints) -> list[list[tuple[int, int]]]:
        seconds = [part for i, j in tops for part in _walk_back(lambda e, i=i: int(begin2[i, e]), i, j)]
        thirds = [part for i, j in seconds for part in _walk_back(lambda e, i=i: int(begin3[i, e]), i, j)]
        return [tops, seconds, thirds]

    def _need(self, levels: list[list[tuple[int, int]]]) -> Four:
        outer = [(0, len(self.at) - 1)]
        need = []
        for parts, inner in zip([outer, *levels], [*levels, []], strict=True):
            covered = dict.fromkeys(parts, 0)
            k = 0
            for i, j in inner:
                while parts[k][1] < j:
                    k += 1
                covered[parts[k]] += int(self.weights[i, j])
            need.append(max(((int(self.weights[p]) - c) // int(self.inside[p]) for p, c in covered.items()), default=0))
        return (need[0], need[1], need[2], need[3])


def _walk_back(begin: Callable[[int], int], low: int, high: int) -> list[tuple[int, int]]:
    """Intervals of a cover of `[low, high]`, in order."""
    found = []
    while high > low:
        start = begin(high)
        if start >= 0:
            found.append((start, high))
            high = start
        else:
            high -= 1
    return found[::-1]


def _walk(loops: Sequence[FoldedLoop]) -> Iterator[FoldedLoop]:
    """Folded loops of the template, outer ones before inner ones."""
    for loop in loops:
        yield loop
        yield from _walk(loop.inner[0])


def cut_intervals(
    fold: Fold, one: Template, lives: Lives, loops: Sequence[Span], goal: Goal, stop: Callable[[], bool]
) -> Scoping:
    """A scoping of the whole program, never proved to be the best; `loops` are its dynamic loops, outer ones first."""
    axis = _Axis(fold, lives.num_times)
    search = IntervalCuts(axis, one, lives)
    levels = search.search(goal, stop)
    on_axis = np.full(axis.num_places + 1, NO_CUT, np.int64)
    for depth in (3, 2, 1):
        for i, j in levels[depth - 1]:
            on_axis[search.at[i]] = min(int(on_axis[search.at[i]]), depth)
            on_axis[search.at[j]] = min(int(on_axis[search.at[j]]), depth)
    return _unfold(axis, on_axis, lives, loops)


def template_mask(fold: Fold, num_tasks: int) -> np.ndarray:
    """Which tasks are in the template: of folded loops, the first trip."""
    mask = np.ones(num_tasks, bool)
    for loop in _walk(fold.loops):
        mask[loop.trip_start(1) : loop.end] = False
    return mask


def _unfold(axis: _Axis, on_axis: Ints, lives: Lives, loops: Sequence[Span]) -> Scoping:
    """Cuts and depths of the whole program from the cuts on the axis."""
    tasks = np.flatnonzero(axis.in_template)
    places = axis.place[tasks]
    cuts = np.full(lives.num_times, NO_CUT, np.int64)
    before = np.concatenate([[-1], places[:-1]])
    cuts[tasks] = [int(on_axis[a + 1 : b + 1].min()) for a, b in zip(before.tolist(), places.tolist(), strict=True)]
    for entry in sorted(axis.loops, key=lambda e: e.end - e.start):  # inner ones first
        loop = entry.loop
        table = cuts[loop.start : loop.end].reshape(loop.num_trips, -1)
        table[1:] = table[0]
        table[1:, 0] = int(on_axis[entry.start : entry.end + 1].min())
    for loop in reversed(loops):
        _honour(loop, cuts)
    ends = np.maximum(lives.end, lives.scope_end)
    depth = _deepest(cuts, lives.first, ends)
    all_cuts = (*cuts.tolist(), 1)
    need = needs(Lifetimes(lives.first, ends, lives.size, lives.num_times), all_cuts, depth)
    return Scoping(all_cuts, tuple(depth.tolist()), need, False)


def _honour(loop: Span, cuts: Ints) -> None:
    """If scopes begin or end inside a dynamic loop, let them do so at its start, its end and between all of its trips."""
    starts = [next(trip.tasks(), -1) for trip in loop.items if isinstance(trip, Span)]
    starts = [task for task in starts if task >= 0]
    end = last_task(loop) + 1
    level = int(cuts[starts[0] + 1 : end].min(initial=NO_CUT))
    if level < NO_CUT:
        at = np.array([*starts, end] if end < len(cuts) else starts)
        cuts[at] = np.minimum(cuts[at], level)


def _deepest(cuts: Ints, first: Ints, end: Ints) -> Ints:
    """Per tensor the depth below the lowest level of the cuts inside its life."""
    depth = np.full(len(first), 3, np.int64)
    for level in (3, 2, 1):
        counts = np.cumsum(cuts <= level)
        depth[counts[end - 1] > counts[first]] = level - 1
    return depth
