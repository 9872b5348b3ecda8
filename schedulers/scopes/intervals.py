"""Scopes for programs of any length: nested covers of intervals of bodies, by dynamic programming over chosen boundaries.

For given capacities of the rings 1 to 3, the least bytes left in the root follow bottom up: a scope of depth 3 holds all
tensors that live inside it; of an interval, as much as possible is covered by feasible scopes of depth 3, and what is not
covered is what a scope of depth 2 over it holds itself; and so on. The capacities are then searched.

A program is a tree of bodies (`schedulers.scopes.bodies`): a scope lies inside one trip of a loop or around whole trips, and
bodies that are alike, such as layers and row tiles, are solved once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain, product

import numpy as np

from runner.program.lifetimes import Ints, Lives
from schedulers.minpeak.folding import Fold, Template
from schedulers.scopes.axis import Axis, depths_of
from schedulers.scopes.bodies import Body, Kind, body_tree
from schedulers.scopes.cover import Cover, cover
from schedulers.scopes.scoping import Four, Goal

_SHARES = (1 / 16, 1 / 4, 1 / 32, 1 / 2, 1 / 8, 1.0)
"""Capacities that are tried first, as shares of the peak of live units: halves down to what a ring of scratch takes."""

_STARTS = 6
"""Capacities from which a descent begins, the best of all that were tried first: each takes some dozens of tries."""

_STEPS = (0.5, 0.75, 0.9, 0.97, 1.0, 1.03, 1.1, 1.3, 2.0)
"""Factors by which a descent changes what one ring needs; 1.0 stands for one unit less, the least change that matters."""

_NEAR = 0.05
"""Kinds whose weights differ by at most this part of the whole are taken for one in a first, rough search, so that layers that
are nearly alike are solved once."""

_ROUGH = 0.7
"""The rough search's share of the time: the exact one begins near its end, and then needs less."""

Three = tuple[int, int, int]

Over = Callable[[float], bool]
"""Whether this share of the time is over."""

Level = Sequence[Cover]
"""Scopes of one depth: a cover for each kind of body."""

Interval = tuple[Body, int, int]
"""Two boundaries of a body."""


class _Search:
    """The search for capacities; of kinds with the same number in `alike`, the one with that number stands for all."""

    def __init__(self, root: Body, kinds: Sequence[Kind], alike: Sequence[int], goal: Goal, stop: Callable[[], bool]) -> None:
        self.root, self.kinds, self.alike, self.goal, self.stop = root, kinds, alike, goal, stop
        self.tried: dict[Three, tuple[int, Four]] = {}
        self.least: int | None = None
        self.covers: dict[tuple[int, bytes, tuple[int, ...], bool], Cover] = {}  # what fits is often the same for many capacities
        self.third = cache(lambda c3: self._level(c3, None))
        self.second = cache(lambda c2, c3: self._level(c2, self.third(c3)))

    def levels(self, caps: Three) -> list[Level]:
        c1, c2, c3 = caps
        return [self._level(c1, self.second(c2, c3), whole=True), self.second(c2, c3), self.third(c3)]

    def value(self, caps: Three) -> int:
        """The goal's value for scopes of these capacities; a very large one where they alone are no better than the best."""
        if caps not in self.tried:
            if self.least is not None and (self.goal.value((0, *caps)) >= self.least or self.stop()):  # the clock costs more
                return 1 << 60
            need = self._need(self.levels(caps))
            self.tried[caps] = (self.goal.value(need), need)
            self.least = min(self.tried[caps][0], self.least or 1 << 60)
        return self.tried[caps][0]

    def best(self, count: int) -> list[Three]:
        return sorted(self.tried, key=self.value)[:count]

    def descend(self, caps: Three) -> None:
        """Change one capacity at a time, for as long as that helps."""
        better = True
        while better:
            better = False
            for k, factor in product(range(3), _STEPS):
                used = self.tried[caps][1][1:]
                c1, c2, c3 = (int(n * factor) - (factor == 1) if i == k else n for i, n in enumerate(used))
                if self.value((c1, c2, c3)) < self.value(caps):
                    caps, better = (c1, c2, c3), True

    def _level(self, cap: int, deeper: Level | None, whole: bool = False) -> Level:
        """Scopes that hold at most `cap` themselves, for every interval, or for whole bodies only."""
        found: list[Cover] = []
        for number, kind in enumerate(self.kinds):  # inner ones come first
            if self.alike[number] < number:
                found.append(found[self.alike[number]])
                continue
            steps = [sum(found[inner].full * trips for inner, trips in step) for step in kind.steps]
            fits = (kind.weights if deeper is None else kind.weights - deeper[number].best) <= cap
            key = (number, np.packbits(fits).tobytes(), tuple(steps), whole)
            if key not in self.covers:
                self.covers[key] = cover(kind.weights, fits, steps, whole)
            found.append(self.covers[key])
        return found

    def _need(self, levels: Sequence[Level]) -> Four:
        """What each ring needs."""
        most = [0, 0, 0, 0]
        for depth, scopes in enumerate(self.scopes(levels, once=True)):
            for body, i, j in scopes:
                covered = levels[depth][body.kind].best[i, j] if depth < len(levels) else 0
                most[depth] = max(most[depth], int(self.kinds[self.alike[body.kind]].weights[i, j] - covered))
        return (most[0], most[1], most[2], most[3])

    def scopes(self, levels: Sequence[Level], once: bool = False) -> list[list[Interval]]:
        """The scopes of each depth, the root first; with `once` not those that another of the same kind stands for."""
        found: list[list[Interval]] = [[(self.root, 0, len(self.root.at) - 1)]]
        for level in levels:
            seen: set[int] | None = set() if once else None
            scopes = [inside for scope in found[-1] for inside in self._inside(level, scope, seen)]
            unlike = {(self.alike[body.kind], i, j): (body, i, j) for body, i, j in scopes}
            found.append(list(unlike.values()) if once else scopes)
        return found

    def _inside(self, level: Level, interval: Interval, seen: set[int] | None) -> Iterator[Interval]:
        """The scopes of a level inside an interval of a body, in order; of kinds in `seen` there is one body already."""
        body, low, high = interval
        for i, j in [*level[body.kind].scopes(low, high), (high, high)]:
            for inner in chain.from_iterable(body.inner[low:i]):
                if seen is None or self.alike[inner.kind] not in seen:
                    if seen is not None:
                        seen.add(self.alike[inner.kind])
                    yield from self._inside(level, (inner, 0, len(inner.at) - 1), seen)
            if i < j:
                yield (body, i, j)
            low = j


def _alike(kinds: Sequence[Kind]) -> list[int]:
    """For each kind the first with as many steps and nearly the same weights."""
    found: list[int] = []
    for number, kind in enumerate(kinds):
        near = _NEAR * int(kind.weights[0, -1])
        like = (first for first in dict.fromkeys(found) if kinds[first].weights.shape == kind.weights.shape)
        found.append(next((first for first in like if np.abs(kinds[first].weights - kind.weights).max() <= near), number))
    return found


def cut_intervals(fold: Fold, one: Template, lives: Lives, goal: Goal, over: Over, bodies: bool = True) -> Ints:
    """Depths of the whole program's tensors, never proved to be the best; without `bodies` no scope lies inside a trip."""
    axis = Axis(fold, lives.num_times)
    root, kinds = body_tree(axis, one, lives, bodies)
    rough = _Search(root, kinds, _alike(kinds), goal, lambda: over(_ROUGH))
    step = max((int(kind.weights[k, k + 1]) for kind in kinds for k, inner in enumerate(kind.steps) if not inner), default=0)
    peak = one.lower_bound()
    for top in dict.fromkeys((peak, max(peak, step))):  # where few boundaries are kept, a step may hold more than lives
        for c3, c2, c1 in product(dict.fromkeys(int(top * share) for share in _SHARES), repeat=3):
            rough.value((c1, c2, c3))
    for caps in rough.best(_STARTS):
        rough.descend(caps)
    exact = _Search(root, kinds, range(len(kinds)), goal, lambda: over(1.0))
    for c1, c2, c3 in rough.best(_STARTS):
        for more in (1 + _NEAR, 1):  # what was taken for alike may not fit by so much
            exact.value((int(c1 * more), int(c2 * more), int(c3 * more)))
    exact.descend(exact.best(1)[0])
    depths = enumerate(exact.scopes(exact.levels(exact.best(1)[0])))
    scopes = [(depth, int(body.at[i]), int(body.at[j])) for depth, found in depths if depth for body, i, j in found]
    return depths_of(axis, scopes, one, lives, fold)
