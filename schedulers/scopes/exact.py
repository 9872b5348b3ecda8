"""Scopes without sharing: which runs of tasks become scopes, and in which scope each tensor lies.

A scope's tensors go into one block at its beginning. Then the ring of a depth is empty whenever a scope of that depth opens, so
it needs exactly the largest sum of bytes that one scope of that depth holds directly, for any trip counts; and no placement
needs less, because at a scope's end all that it holds directly is alive. docs/memory-model.md has the proofs, and why scopes
deeper than 3 gain nothing. What is left is a search over cuts (`boundaries`) and depths: a tensor may lie at any depth
below the lowest level of the cuts inside its life.

`solve` walks the boundaries once and keeps, of all ways to come this far, those that no other beats in every respect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from schedulers.lifetimes import Ints, live_units
from schedulers.scopes.boundaries import NO_CUT, Boundary

NUM_DEPTHS = 4
Four = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scoping:
    """`cuts` per boundary (before each task, and after the last), `depth` per tensor, `need` per depth in units.

    `complete` when no scoping is better under the objective that it was searched for.
    """

    cuts: tuple[int, ...]
    depth: tuple[int, ...]
    need: Four
    complete: bool


@dataclass(frozen=True)
class Goal:
    """What to make small: `value` of the needs of the four rings, at least `floor` of bytes that must be somewhere at once."""

    value: Callable[[Four], int]
    floor: Callable[[int], int]


def _total(need: Four) -> int:
    return max(1, need[0]) + max(1, need[1]) + max(1, need[2]) + max(1, need[3])


TOTAL = Goal(_total, lambda units: max(NUM_DEPTHS, units))
"""Sum of all four rings, where even an unused one has 1,024 bytes."""

WORST = Goal(max, lambda units: -(-units // NUM_DEPTHS))
"""The largest ring."""


@dataclass(frozen=True, slots=True)
class _Label:
    """One way to come to a boundary: bytes of the open scopes per depth, the largest so far per depth, how it came about.

    `current[d]` are the units held directly by the open scope of depth d, counting only tensors that have died; `peak[d]` is the
    most that any scope of that depth has held.
    """

    current: Four
    peak: Four
    parent: _Label | None
    cut: int = NO_CUT
    placed: tuple[tuple[int, int], ...] = ()  # (tensor, depth) decided in this step


@dataclass(frozen=True)
class Lifetimes:
    """Tensors for a scoping search: `[first, end)` in tasks; `size` in units."""

    first: Ints
    end: Ints
    size: Ints
    num_tasks: int


WIDTHS = (16, 128, 2_048, 30_000)
"""Labels that may be kept at a boundary, in rounds: each round starts from the best scoping of the one before."""


def solve(
    lives: Lifetimes,
    marks: list[Boundary],
    goal: Goal,
    *,
    bound: int = 0,
    max_width: int = WIDTHS[-1],
    stop: Callable[[], bool] = lambda: False,
) -> Scoping:
    """The best scoping under `goal` that is found; `complete` if it is proved. `bound` is a value that no scoping can beat."""
    best: _Label | None = None
    complete = False
    for width in (w for w in WIDTHS if w <= max_width):
        walk = _Walk(lives, marks, goal, width, None if best is None else goal.value(best.peak), stop)
        best = walk.run() or best
        complete = not walk.pruned or (best is not None and goal.value(best.peak) <= bound)
        if complete or stop():
            break
    if best is None:
        return _all_in_root(lives)
    return _unroll(best, lives, complete)


def _all_in_root(lives: Lifetimes) -> Scoping:
    need = (int(lives.size.sum()), 0, 0, 0)
    return Scoping((NO_CUT,) * lives.num_tasks + (1,), (0,) * len(lives.size), need, False)


class _Walk:
    def __init__(
        self,
        lives: Lifetimes,
        marks: list[Boundary],
        goal: Goal,
        width: int,
        limit: int | None,
        stop: Callable[[], bool],
    ) -> None:
        self.lives, self.marks, self.goal, self.width, self.limit = lives, marks, goal, width, limit
        self.stop = stop
        self.pruned = False
        self.born: list[list[int]] = [[] for _ in range(lives.num_tasks + 1)]
        self.dying: list[list[int]] = [[] for _ in range(lives.num_tasks + 1)]
        for tensor in range(len(lives.size)):
            self.born[int(lives.first[tensor])].append(tensor)
            self.dying[int(lives.end[tensor]) - 1].append(tensor)
        self.sizes: list[int] = lives.size.tolist()
        self.unborn = [0] * (lives.num_tasks + 1)
        for at in range(lives.num_tasks - 1, -1, -1):
            self.unborn[at] = self.unborn[at + 1] + sum(self.sizes[t] for t in self.born[at])
        live = live_units(lives.first, lives.end, lives.size, lives.num_tasks + 1)
        self.ahead = np.maximum.accumulate(live[::-1])[::-1].tolist()

    def run(self) -> _Label | None:
        # A state is (levels of the open loops, depth limits of the open tensors); labels of one state compete.
        zero = (0, 0, 0, 0)
        states: dict[tuple[tuple[int, ...], tuple[int, ...]], list[_Label]] = {((), ()): [_Label(zero, zero, None)]}
        open_loops: list[int] = []
        open_tensors: list[int] = []
        for at in range(self.lives.num_tasks):
            states, open_loops = self._cut(states, open_loops, open_tensors, at)
            states, open_tensors = self._task(states, open_tensors, at)
            states = self._thin(states)
            if not states or self.stop():
                self.pruned = self.pruned or bool(states)
                break
        labels = [label for group in states.values() for label in group]
        if not labels or self.stop():
            return None
        return min(labels, key=lambda label: self.goal.value(label.peak))

    def _cut(self, states, open_loops: list[int], open_tensors: list[int], at: int):
        """Choose levels for the loops that start here and a cut for the boundary before task `at`."""
        mark = self.marks[at]
        after = [k for k in open_loops if k not in mark.ends] + mark.starts
        found: dict = {}
        later = self.unborn[at] + sum(self.sizes[t] for t in open_tensors)
        for (levels, limits), labels in states.items():
            level_of = dict(zip(open_loops, levels, strict=True))
            for chosen in _loop_levels(len(mark.starts)):
                level_of.update(zip(mark.starts, chosen, strict=True))
                allowed = _allowed(mark, level_of) if at else [NO_CUT]
                free = max(limits, default=0) + 1  # such a cut pushes no tensor outwards, so nothing deeper is worth a try
                for cut in [c for c in allowed if c <= free] if free in allowed else allowed:
                    group = [_cut_off(b, cut) for b in labels if cut == free or self._useful(b, cut, allowed, later)]
                    if group:
                        state = (tuple(level_of[k] for k in after), tuple(min(limit, cut - 1) for limit in limits))
                        found.setdefault(state, []).extend(group)
        return found, after

    @staticmethod
    def _useful(label: _Label, cut: int, allowed: list[int], later: int) -> bool:
        """Whether a cut does what the next deeper one does not: it ends a scope that could still grow past the peak."""
        if cut == NO_CUT or cut + 1 not in allowed:
            return True
        return label.current[cut] > 0 and label.current[cut] + later > label.peak[cut]

    def _task(self, states, open_tensors: list[int], at: int):
        """Tensors are born, and those that die choose a depth."""
        tensors = open_tensors + self.born[at]
        dying = set(self.dying[at])
        staying = [t for t in tensors if t not in dying]
        found: dict = {}
        for (levels, limits), labels in states.items():
            limit_of = dict(zip(tensors, (*limits, *(3,) * len(self.born[at])), strict=True))
            state = (levels, tuple(limit_of[t] for t in staying))
            group = labels
            later = self.unborn[at + 1] + sum(self.sizes[t] for t in tensors)
            for tensor in sorted(dying, key=lambda t: (-self.sizes[t], t)):
                later -= self.sizes[tensor]
                group = [self._put(b, tensor, d) for b in group for d in self._depths(b, tensor, limit_of[tensor], later)]
                group = _cheapest([b for b in group if self._hopeful(b, at)])
            found.setdefault(state, []).extend(group)
        return found, staying

    def _depths(self, label: _Label, tensor: int, limit: int, later: int) -> range | tuple[int]:
        """Depths worth a try: one alone where room is left whatever else (`later` units at most) may join the scope."""
        for depth in range(limit, -1, -1):
            if label.current[depth] + self.sizes[tensor] + later <= label.peak[depth]:
                return (depth,)
        return range(limit + 1)

    def _hopeful(self, label: _Label, at: int) -> bool:
        """Whether the limit can still be beaten: what lies in the root stays there beside all that is alive later."""
        if self.limit is None:
            return True
        ahead = label.current[0] + self.ahead[at + 1]
        return self.goal.value(label.peak) < self.limit and self.goal.floor(ahead) < self.limit

    def _put(self, label: _Label, tensor: int, depth: int) -> _Label:
        current = list(label.current)
        current[depth] += self.sizes[tensor]
        peak = list(label.peak)
        peak[depth] = max(peak[depth], current[depth])
        return _Label(
            (current[0], current[1], current[2], current[3]),
            (peak[0], peak[1], peak[2], peak[3]),
            label.parent,
            label.cut,
            (*label.placed, (tensor, depth)),
        )

    def _thin(self, states):
        """Drop labels that cannot beat the limit or that another of their state beats; keep at most `width` in all."""
        found = {}
        for state, labels in states.items():
            found[state] = _cheapest(labels)
        count = sum(map(len, found.values()))
        if count > self.width:
            self.pruned = True
            ranked = sorted(
                (
                    (self.goal.value(b.peak), sum(b.current), k, state)
                    for state, group in found.items()
                    for k, b in enumerate(group)
                ),
                key=lambda entry: entry[:3],
            )
            kept: dict = {}
            for _, _, k, state in ranked[: self.width]:
                kept.setdefault(state, []).append(found[state][k])
            found = kept
        return found


def _cut_off(label: _Label, cut: int) -> _Label:
    return _Label((*label.current[:cut], *(0,) * (NUM_DEPTHS - cut)), label.peak, label, cut)  # type: ignore[arg-type]


def _loop_levels(num_loops: int) -> list[tuple[int, ...]]:
    """Levels for loops that start at one boundary, outermost first: an inner one is never above an outer one."""
    found: list[tuple[int, ...]] = [()]
    for _ in range(num_loops):
        found = [(*chosen, level) for chosen in found for level in range(chosen[-1] if chosen else 1, NO_CUT + 1)]
    return found


def _allowed(mark: Boundary, level_of: dict[int, int]) -> list[int]:
    """Cut levels that a boundary may have, given the levels of its loops."""
    low = max((level_of[k] for k in mark.inside + mark.borders), default=1)
    high = min((level_of[k] for k in mark.borders + mark.starts + mark.ends), default=NO_CUT)
    return list(range(low, high + 1))


def _cheapest(labels: list[_Label]) -> list[_Label]:
    """Labels that no other one matches or beats in every number."""
    if len(labels) < 2:
        return labels
    numbers = np.array([(*b.peak, *b.current) for b in labels])
    order = np.lexsort((*numbers.T, numbers.sum(1)))  # what beats another comes before it
    kept = np.empty_like(numbers)
    found: list[_Label] = []
    for k in order.tolist():
        num = len(found)
        if num and (kept[:num] <= numbers[k]).all(1).any():
            continue
        kept[num] = numbers[k]
        found.append(labels[k])
    return found


def _unroll(label: _Label, lives: Lifetimes, complete: bool) -> Scoping:
    depth = [0] * len(lives.size)
    cuts: list[int] = []
    at: _Label | None = label
    while at is not None and at.parent is not None:
        cuts.append(at.cut)
        for tensor, chosen in at.placed:
            depth[tensor] = chosen
        at = at.parent
    return Scoping((*reversed(cuts), 1), tuple(depth), label.peak, complete)


def needs(lives: Lifetimes, cuts: tuple[int, ...] | list[int], depth: Ints) -> Four:
    """What each depth needs: the largest sum of one scope's own tensors."""
    levels = np.asarray(cuts[:-1])
    found = []
    for d in range(NUM_DEPTHS):
        scope_of_task = np.cumsum(levels <= d) if len(levels) else np.zeros(0, np.int64)
        mine = np.flatnonzero(np.asarray(depth) == d)
        sums = np.bincount(scope_of_task[lives.first[mine]], lives.size[mine]) if len(mine) else np.zeros(1)
        found.append(int(sums.max(initial=0)))
    return (found[0], found[1], found[2], found[3])
