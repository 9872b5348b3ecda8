"""A program as a tree of bodies, for the search over intervals: the whole, and the trips of its loops.

A body is a row of steps between boundaries. The bodies inside a step are the trips of a loop: of a dynamic one all trips, for a
scope lies inside one trip or around the whole loop; of a folded one the first, which stands for all; of any other loop one trip
a step, so that a scope may lie around several. Bodies of one kind have the same weights, and the same kinds of bodies inside.

Example: five tasks, of which a loop's two trips have two each. t0 makes `s`, which both trips read; t1 makes `a` for t2, t3 makes
`b` for t4.

    boundary     0    1    2    3    4    5       The trips are of one kind, which is solved once: two steps, and 8 units
    task         | t0 | t1 | t2 | t3 | t4 |       inside. The root has three steps, t0 and a trip each; a scope of its own
    trip              [=trip 0=][=trip 1=]        may lie around both trips, 1 to 5, and holds 16 units there, but not from 2
    s, 4 units   [===================]            to 4. All of it holds 20, with `s`.
    a, 8              [=========]
    b, 8                        [=========]

>>> from runner.base.tensor_spec import TensorSpec
>>> from runner.program.program import Program, Task, Tensor
>>> from runner.program.lifetimes import lives_of
>>> from schedulers.minpeak.folding import template, unfolded
>>> units, made, read = (4, 8, 8), ((0,), (1,), (), (2,), ()), ((), (0,), (1,), (0,), (2,))
>>> tensors = tuple(Tensor(t, name, TensorSpec("u8", (1024 * n,))) for t, (name, n) in enumerate(zip("sab", units)))
>>> tasks = tuple(Task(t, f"t{t}", "op", creates=made[t], uses=read[t]) for t in range(5))
>>> trips = tuple(Span("iteration", f"trip_{k}", (2 * k + 1, 2 * k + 2)) for k in range(2))
>>> lives = lives_of(Program("five", tensors, tasks, Span("root", "five", (0, Span("for", "trips", trips)))))
>>> root, kinds = body_tree(Axis(unfolded(5), 5), template(unfolded(5), lives), lives)
>>> root.at.tolist(), [[(body.at.tolist(), body.kind) for body in step] for step in root.inner]
([0, 1, 3, 5], [[], [([1, 2, 3], 0)], [([3, 4, 5], 0)]])
>>> kinds[0].weights.tolist()  # inside boundaries i to j of a trip
[[0, 0, 8], [0, 0, 0], [0, 0, 0]]
>>> kinds[1].weights.tolist()
[[0, 0, 8, 20], [0, 0, 8, 16], [0, 0, 0, 8], [0, 0, 0, 0]]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runner.program.lifetimes import Ints, Lives, distinct, live_units
from runner.program.program import Span
from runner.program.spans import last_task
from schedulers.minpeak.folding import Template
from schedulers.scopes.axis import Axis

MAX_BOUNDARIES = 200
"""Boundaries of one body, about: the search takes time by the third power of their number, half a second with so many."""

NEGLIGIBLE = 200
"""Loops whose trips together hold less than one part in so many of the peak are not cut: there is half a percent to gain."""


@dataclass(frozen=True)
class Kind:
    """What bodies that are alike have in common.

    weights  [i, j]: units of all tensors inside boundaries i to j, those of a folded loop as often as it has trips
    steps    per step the kinds of the bodies inside, each with its number of trips
    """

    weights: Ints
    steps: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True, eq=False)
class Body:
    """One body: places of its boundaries on the axis, the bodies inside each step, the number of its kind."""

    at: Ints
    inner: tuple[tuple[Body, ...], ...]
    kind: int


class _Trip(NamedTuple):
    """A body to be built: `[start, end)` on the axis, up to the end of its item if `end` is -1, standing for `num_trips`."""

    span: Span
    start: int
    end: int = -1
    num_trips: int = 1


Item = tuple[int, list[_Trip]]
"""From its place up to that of the next item: a task, one trip of a loop that may be parted, or a loop that may not."""


class _Builder:
    def __init__(self, axis: Axis, one: Template, lives: Lives, inner: bool) -> None:
        self.axis, self.inner = axis, inner
        first, last = axis.lives(one, lives)
        copies = np.ones(len(one.tensors), np.int64)
        for entry in axis.loops:
            low = np.searchsorted(one.tensors, entry.loop.base)
            high = np.searchsorted(one.tensors, entry.loop.base + entry.loop.num_locals)
            copies[low:high] *= entry.loop.num_trips
        order = np.argsort(first, kind="stable")
        self.first, self.last, self.weight = first[order], last[order], (one.size * copies)[order]
        self.peak = one.lower_bound()
        self.crossing = live_units(first + 1, last + 1, one.size, axis.num_places + 1)  # units that live on there
        self.folded = {(entry.loop.start, entry.loop.end): entry for entry in axis.loops}
        self.kinds: list[Kind] = []
        self.known: dict[tuple, int] = {}

    def body(self, span: Span, start: int, end: int, copies: int) -> Body:
        """The body of a trip; `copies` is how often it stands in the program."""
        items = list(self._items(span, start))
        starts = [at for at, _ in items]
        loops: dict[int, list[_Trip]] = {}
        must = {start, end}
        for (begin, trips), stop in zip(items, [*starts, end][1:], strict=True):
            if self.inner and trips and self._weights(np.array([begin, stop]))[0, 1] * NEGLIGIBLE >= self.peak * copies:
                loops[begin] = [trip._replace(end=stop) if trip.end < 0 else trip for trip in trips]
                must |= {begin, stop}
        at = self._boundaries(starts, must)
        steps: list[list[tuple[Body, int]]] = [[] for _ in at[1:]]
        for begin, trips in loops.items():
            step = steps[int(np.searchsorted(at, begin, side="right")) - 1]
            step += [(self.body(*trip[:3], copies * trip.num_trips), trip.num_trips) for trip in trips]
        kind = Kind(self._weights(at) // copies, tuple(tuple((body.kind, trips) for body, trips in step) for step in steps))
        number = self.known.setdefault((kind.weights.tobytes(), kind.steps), len(self.kinds))
        if number == len(self.kinds):
            self.kinds.append(kind)
        return Body(at, tuple(tuple(body for body, _ in step) for step in steps), number)

    def _items(self, span: Span, start: int) -> Iterator[Item]:
        """Items of a body that begins at place `start`; trips of loops that may be parted are items of their own."""
        for item in span.items:
            if isinstance(item, int):
                yield int(self.axis.place[item]), []
                continue
            first = next(item.tasks(), -1)
            if first < 0:
                continue
            at = max(start, self.axis.before(first))
            entry = self.folded.get((first, last_task(item) + 1)) if item.kind in ("for", "dynamic") else None
            trips = [trip for trip in item.items if isinstance(trip, Span) and next(trip.tasks(), -1) >= 0]
            starts = [max(start, self.axis.before(next(trip.tasks()))) for trip in trips]
            if entry is not None:
                yield at, [_Trip(trips[0], entry.start, entry.end, entry.loop.num_trips)]
            elif item.kind == "dynamic":
                yield at, list(map(_Trip, trips, starts, [*starts[1:], -1]))
            elif item.kind == "for":
                yield from ((begin, [_Trip(trip, begin)]) for trip, begin in zip(trips, starts, strict=True))
            else:
                yield from self._items(item, start)

    def _boundaries(self, starts: Sequence[int], must: set[int]) -> Ints:
        """Boundaries that may be cut: those of loops, and of the others those that the fewest live bytes cross."""
        places = np.array(sorted({*starts, *must}))
        if len(places) <= MAX_BOUNDARIES:
            return places
        size = -(-len(places) // MAX_BOUNDARIES)
        may = [int(row[np.argmin(self.crossing[row])]) for row in np.array_split(places[1:-1], len(places) // size)]
        kept = np.array(sorted(must)) if len(must) <= MAX_BOUNDARIES else places[[0, -1]]
        return distinct(np.concatenate([kept, may]))

    def _weights(self, at: Ints) -> Ints:
        """[i, j]: units of all tensors inside boundaries i to j."""
        num = len(at)
        mine = slice(*np.searchsorted(self.first, at[[0, -1]]).tolist())
        within = self.last[mine] < at[-1]
        table = np.zeros((num + 1, num + 1), np.int64)
        low = np.searchsorted(at, self.first[mine][within], side="right") - 1
        high = np.searchsorted(at, self.last[mine][within], side="right")
        np.add.at(table, (low, high), self.weight[mine][within])
        return np.cumsum(np.cumsum(table[::-1], axis=0)[::-1], axis=1)[:num, :num]


def body_tree(axis: Axis, one: Template, lives: Lives, inner: bool = True) -> tuple[Body, list[Kind]]:
    """The whole program as a body, and all kinds of bodies, those inside others first; without `inner` there is just the one."""
    builder = _Builder(axis, one, lives, inner)
    root = builder.body(lives.program.body, 0, axis.num_places, 1)
    return root, builder.kinds
