"""Which runs of items of each body get a scope, so that for given capacities of the rings 1 to 3 the least is left in the root.

Bottom up over the bodies, by dynamic programming over the runs of each. A scope of depth d holds the tensors whose life lies in
it and in no scope inside; what outlives it is allocated before it. In a body at depth D, from the deepest level up: scopes of
depth 3 that fit their ring save the most of what scopes of depth 2 would hold, and so on up to D. The capacities are then walked:
each ring's next one is below what the last answer needed. A text that is met at several depths is decided for the deepest.
`schedulers.scopes.cover` draws how scopes side by side are chosen; here they lie in each other.

Example: the five tasks of `runner.writeback.bodies`. What the scopes hold, in units, by the capacities of rings 1 and 2:

    root       | head |         loop          |       any, any     ring 0: s    ring 1: w, in a scope per trip
    trips             | wide last | wide last |       < 8, any     ring 0: s    ring 1: none, in a scope around the loop
    s, 4       [==============================]                                 ring 2: w, in a scope per trip inside it
    w, 8              [===========]                   any, < 8     as the first
    w, 6                          [===========]       < 8, < 8     ring 0: s and both w, 18

>>> from runner.writeback.bodies import Made, Node
>>> from schedulers.scopes.scoping import TOTAL
>>> first = Made(0, 0)  # either text makes one tensor, in item 0, and touches it last in item 1
>>> trip = Body("iteration", (None, None), ("task", "task"), ("wide", "last"), False, last={first: 1}, from_item={first: 0})
>>> trip.nodes = [Node(trip, k, ((first, units),), ((), ()), 1) for k, units in enumerate((8, 6))]
>>> root = Body("root", (None, None), ("task", "for"), ("head", "loop"), False, last={first: 1}, from_item={first: 0})
>>> root.nodes = [Node(root, 0, ((first, 4),), ((), tuple((node, 1) for node in trip.nodes)), 1)]
>>> cuts = WrittenCuts(Written((trip, root), root.nodes[0], {}))
>>> for value, choices in cuts.candidates(TOTAL, lambda: False):  # an empty ring counts for one unit
...     print(value, *(sorted(choices[body].runs) for body in (root, trip)))
14 [] [(0, 2)]
14 [(1, 2)] [(0, 2)]
14 [] [(0, 2)]
21 [] []
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import product
from typing import Any, TypeVar

import numpy as np

from runner.program.lifetimes import Ints
from runner.writeback.bodies import Body, Written
from schedulers.scopes.cover import Cover, Run, cover
from schedulers.scopes.scoping import Four, Goal

DEEPEST = 3
UNLIMITED = 1 << 50
"""Units of a ring that everything fits into."""
_TIGHTER = (0.999, 0.9, 0.75)
"""Factors by which a ring is tightened below what the best answer needed: by the least that changes it, and by more."""

_HOPELESS = 1.2
"""What lies in the root alone, over the least value so far, from which less in ring 1 is not tried: the root then only grows."""


@dataclass(frozen=True)
class Choice:
    """What is decided about one text: `runs` of items `[k, l)` that get a scope, and scopes (as items) that are taken out."""

    runs: frozenset[Run] = frozenset()
    dropped: frozenset[int] = frozenset()

    def around(self, item: int) -> list[Run]:
        """The runs that hold an item, outermost first."""
        return sorted((run for run in self.runs if run[0] <= item < run[1]), key=lambda run: run[0] - run[1])


NOTHING = Choice()
Choices = dict[Body, Choice]
T = TypeVar("T")


@dataclass(frozen=True)
class _Saved:
    """The scopes of one depth in a body, and per node and interval what they take off the depth above.

    `inside` is the same without a scope over the whole of the interval; `need` is per run what its scope holds, the most over
    the nodes.
    """

    cover: Cover
    all: Ints
    inside: Ints
    need: Ints


@dataclass(frozen=True)
class _Level:
    """A body at some depth: per node the bytes that it leaves there, and what its scopes need on the rings.

    `chosen` is the need of those scopes alone that a capacity could have ruled out.
    """

    own: Ints
    need: Sequence[int]
    chosen: Sequence[int]
    choice: Choice


def _remembered(method: Callable[[Any, Body, int], T]) -> Callable[[Any, Body, int], T]:
    """Remembers what is found for a body at a depth, none deeper than the last, until a ring below that gets another capacity."""

    @wraps(method)
    def found(cuts: WrittenCuts, body: Body, depth: int) -> T:
        known, key = cuts.known[min(depth, DEEPEST)], (method.__name__, body)
        if key not in known:
            known[key] = method(cuts, body, min(depth, DEEPEST))
        return known[key]

    return found


@dataclass
class WrittenCuts:
    """The search over one program's bodies."""

    written: Written
    shrink: float = 1.0
    """By what factor capacities fall at least from one try to the next."""

    least: int = 0
    """Scopes of a depth whose ring would have no more units than this are not worth having."""

    def __post_init__(self) -> None:
        self.caps, self.needed = [UNLIMITED] * 4, [0] * 4
        self.known: list[dict[tuple[str, Body], Any]] = [{} for _ in range(4)]
        self.covers: dict[tuple[Body, bytes, bytes], tuple[Cover, Ints, Ints]] = {}  # often the same for many capacities
        self.may = {body: body.allowed() for body in self.written.bodies}
        self.inside = {body: _inside(body) for body in self.written.bodies}
        self.total = {body: np.array([sum(s for _, s in node.tensors) for node in body.nodes]) for body in self.written.bodies}
        self.children = {body: [_counts(body, item) for item in range(body.num_items)] for body in self.written.bodies}
        self.weight = {body: np.array([node.count for node in body.nodes], np.int64) for body in self.written.bodies}

    def candidates(self, goal: Goal, stop: Callable[[], bool]) -> Iterator[tuple[int, Choices]]:
        """Choices with their value in this model, for all capacities that are walked; then for some around the best."""
        best: tuple[int, list[int], Four] | None = None
        for _ in self._walk(3, stop):
            for _ in self._walk(2, stop):
                for _ in self._walk(1, stop):
                    value, need = self._tried(goal)
                    yield value, self.choices()
                    if best is None or value < best[0]:
                        best = (value, list(self.caps), need)
                    if goal.value((need[0], 0, 0, 0)) > _HOPELESS * best[0]:
                        break
        if self.shrink < 1 and best is not None:
            yield from self._nearby(goal, *best, stop)

    def _tried(self, goal: Goal) -> tuple[int, Four]:
        found = self.level(self.written.root.body, 0)
        _, first, second, third = found.need
        need = (int(found.own[0]), first, second, third)
        self.needed = [*map(max, self.needed, found.chosen)]
        return goal.value(need), need

    def _nearby(
        self, goal: Goal, value: int, caps: list[int], need: Four, stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Choices]]:
        """Tightens one ring at a time below what the best answer needed, as long as that helps."""
        better = True
        while better and not stop():
            better = False
            for depth, factor in product((3, 2, 1), _TIGHTER):
                tried = [*map(min, caps, need)]
                tried[depth] = int(need[depth] * factor)
                for given in (tried, [UNLIMITED] * depth + tried[depth:]):
                    for k in (3, 2, 1):
                        self._set(k, given[k])
                    new, new_need = self._tried(goal)
                    if new < value:
                        yield new, self.choices()
                        value, caps, need, better = new, given, new_need, True

    def _walk(self, depth: int, stop: Callable[[], bool]) -> Iterator[None]:
        """Sets the capacity of one ring to ever less, until scopes of its depth hold nothing."""
        cap = UNLIMITED
        while True:
            self._set(depth, cap)
            yield
            # By any answer with this capacity: a larger one would not have changed them. Scopes that stay in any case do not
            # count, as no capacity rules them out: with them this would not end.
            most = self.needed[depth]
            if most <= 0 or stop():
                return
            cap = min(most - 1, int(most * self.shrink))
            cap = cap if cap > self.least else 0

    def _set(self, depth: int, cap: int) -> None:
        self.caps[depth], self.needed[depth] = cap, 0
        for known in self.known[:depth]:
            known.clear()

    # --- one body -----------------------------------------------------------------------------------------------------

    @_remembered
    def level(self, body: Body, depth: int) -> _Level:
        """A body whose items lie at `depth` unless it puts them into scopes."""
        n = body.num_items
        own = self.total[body] + self._items(body, depth).sum(1)
        runs: list[Run] = []
        chosen = [0, 0, 0, 0]
        if depth < DEEPEST:
            own = own - self.saved(body, depth).all[:, 0, n]
            self._collect(body, (0, n), depth, runs, chosen)
        need, choice, dropped = list(chosen), Choice(frozenset(runs)), list[int]()
        for item in range(n):
            at = depth + len(choice.around(item))
            for child in self.children[body][item]:
                kept = child.kind == "scope" and self._keeps(body, item, child, at)
                inner = self.level(child, at + kept)
                if kept:
                    ring = min(at + 1, DEEPEST)
                    need[ring] = max(need[ring], int(inner.own.max()))
                    if item not in body.fixed and at < DEEPEST:
                        chosen[ring] = max(chosen[ring], int(inner.own.max()))
                elif child.kind == "scope":
                    dropped.append(item)
                need, chosen = [*map(max, need, inner.need)], [*map(max, chosen, inner.chosen)]
        return _Level(own, need, chosen, Choice(choice.runs, frozenset(dropped)))

    def _collect(self, body: Body, within: Run, depth: int, runs: list[Run], need: list[int]) -> None:
        """Adds the scopes in a run at `depth`, deeper ones too, to `runs`, and what they hold to `need`."""
        saved = self.saved(body, depth)
        for run in saved.cover.scopes(*within, inside=within in runs):
            runs.append(run)
            need[depth + 1] = max(need[depth + 1], int(saved.need[run]))
            if depth + 1 < DEEPEST:
                self._collect(body, run, depth + 1, runs, need)

    def _keeps(self, body: Body, item: int, scope: Body, depth: int) -> bool:
        """Whether a scope that is written at `depth` + 1 stays."""
        return item in body.fixed or depth >= DEEPEST or int(self.level(scope, depth + 1).own.max()) <= self.caps[depth + 1]

    def _items(self, body: Body, depth: int) -> Ints:
        """int64[nodes, items]: bytes that what lies inside the items leaves at `depth`."""
        own = np.zeros((len(body.nodes), body.num_items), np.int64)
        for item, children in enumerate(self.children[body]):
            for child, counts in children.items():
                if child.kind != "scope" or depth == DEEPEST or not self._keeps(body, item, child, depth):
                    own[:, item] += counts @ self.level(child, depth).own
        return own

    @_remembered
    def _gross(self, body: Body, depth: int) -> Ints:
        """int64[nodes, n + 1, n + 1]: bytes of the items k to l - 1 that a scope over them would take from `depth`."""
        sums = np.zeros((len(body.nodes), body.num_items + 1), np.int64)
        np.cumsum(self._items(body, depth), 1, out=sums[:, 1:])
        return self.inside[body] + np.maximum(sums[:, None, :] - sums[:, :, None], 0)

    @_remembered
    def saved(self, body: Body, depth: int) -> _Saved:
        """The best scopes of depth + 1 in a body at `depth`; a run that saves no more than a shorter one gets none."""
        saves, holds, may = self._gross(body, depth), self._gross(body, depth + 1), self.may[body]
        if depth + 1 < DEEPEST:
            holds = holds - self.saved(body, depth + 1).inside
        worth = np.tensordot(self.weight[body], saves, 1)
        useful = may & (holds <= self.caps[depth + 1]).all(0) & (worth > 0)
        useful[:-1] &= ~(may[1:] & (worth[1:] >= worth[:-1]))
        useful[:, 1:] &= ~(may[:, :-1] & (worth[:, :-1] >= worth[:, 1:]))
        key = (body, saves.tobytes(), np.packbits(useful).tobytes())
        if key not in self.covers:
            found = cover(worth, useful, nested=True)
            saved, inside = np.zeros_like(saves), np.zeros_like(saves)
            for end in range(1, body.num_items + 1):
                rows = np.arange(end)
                for table, begin in ((inside, found.inner[:end, end]), (saved, found.begin[:end, end])):
                    in_scope = saved[:, rows, begin] + saves[:, begin, end]
                    table[:, :end, end] = np.where(begin < 0, saved[:, :end, end - 1], in_scope)
            self.covers[key] = found, saved, inside
        return _Saved(*self.covers[key], holds.max(0))

    # --- the whole ----------------------------------------------------------------------------------------------------

    def choices(self) -> Choices:
        """What the levels say about every text, each decided for the deepest place where it is met."""
        depths: dict[Body, int] = {}
        for _ in range(8):
            met: dict[Body, int] = {}
            self._meet(self.written.root.body, 0, depths, met, set())
            if met == depths:
                break
            depths = {body: max(depth, depths.get(body, 0)) for body, depth in met.items()}
        return {body: self.level(body, depth).choice for body, depth in depths.items()}

    def _meet(self, body: Body, depth: int, depths: dict[Body, int], met: dict[Body, int], seen: set) -> None:
        depth = min(depth, DEEPEST)
        if (body, depth) in seen:
            return
        seen.add((body, depth))
        met[body] = max(depth, met.get(body, 0))
        choice = self.level(body, max(depth, depths.get(body, 0))).choice
        for item in range(body.num_items):
            at = depth + len(choice.around(item))
            for child in self.children[body][item]:
                self._meet(child, at + (child.kind == "scope" and item not in choice.dropped), depths, met, seen)


def _counts(body: Body, item: int) -> dict[Body, Ints]:
    """Per text inside an item how many of each of its nodes every node of the body holds: int64[nodes, nodes of the text]."""
    found: dict[Body, Ints] = {}
    for node in body.nodes:
        for child, count in node.children[item]:
            table = found.setdefault(child.body, np.zeros((len(body.nodes), len(child.body.nodes)), np.int64))
            table[node.number, child.number] += count
    return found


def _inside(body: Body) -> Ints:
    """int64[nodes, n + 1, n + 1]: bytes of the body's own tensors whose life lies within items k to l - 1."""
    n = body.num_items
    found = np.zeros((len(body.nodes), n + 1, n + 1), np.int64)
    for k, node in enumerate(body.nodes):
        for made, units in node.tensors:
            found[k, : made.item + 1, body.last[made] + 1 :] += units
    return found
