"""Offsets of tensors in one arena: tensors that live at the same time may not overlap, and the arena is to be as low as can be.

This is dynamic storage allocation, NP-hard. Cheap first-fit orders come first, then orders that learn from what stuck out (every
tensor that ends above the target moves forward, by chance more or less), and for few tensors an exact search over canonical
packings, in which every tensor lies on the floor or on top of another one that lives at the same time. All sizes and offsets
share one unit.

Source: first-fit decreasing and "squeaky wheel" orders are folklore; the canonical form is the one that exact planners
(MiniMalloc) search; both are written from the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from schedulers.lifetimes import Floats, Ints, live_units

SEARCH_UP_TO = 40
"""Problems with at most this many tensors get the exact search."""

ROUNDS, EFFORT = 500, 60_000
"""Orders that are tried at most, and tensors that are placed in all of them together."""

MAX_PAIRS = 8_000_000
"""With more pairs of tensors alive at once than this, they are found anew for every order."""

STARTS: tuple[Callable[[Problem], tuple[Ints, Ints]], ...] = (
    lambda p: (-p.size, p.first - p.end),
    lambda p: (p.first - p.end, -p.size),
    lambda p: (p.size * (p.first - p.end), -p.size),
    lambda p: (p.first, -p.size),
    lambda p: (-p.end, -p.size),
)
"""First-fit orders as pairs of keys, the major one first: the largest, the longest, both, by first and by last use."""


@dataclass(frozen=True)
class Packing:
    """`offsets` per tensor and the `height` they reach; `optimal` when no packing of these lives is lower."""

    offsets: Ints
    height: int
    optimal: bool


@dataclass(frozen=True)
class Problem:
    """Tensors with half-open lives `[first, end)`; those with `fixed >= 0` stay at that offset.

    begin, finish  when given, tensors whose times `[begin, finish)` overlap should not share bytes either, as long as that keeps
                   them below `soft_limit`
    wall           when given, no tensor may straddle a multiple of it
    """

    first: Ints
    end: Ints
    size: Ints
    fixed: Ints
    begin: Floats | None = None
    finish: Floats | None = None
    soft_limit: int = 0
    wall: int = 0

    @classmethod
    def free(cls, first: Ints, end: Ints, size: Ints) -> Problem:
        return cls(first, end, size, np.full(len(size), -1, np.int64))

    def __len__(self) -> int:
        return len(self.size)

    def lower_bound(self) -> int:
        if not len(self):
            return 0
        top = int((self.fixed + self.size)[self.fixed >= 0].max(initial=0))
        return max(top, int(live_units(self.first, self.end, self.size, int(self.end.max())).max(initial=0)))


class _Neighbours:
    """Which tensors live at the same time as another one, listed once for all orders if there are not too many pairs."""

    def __init__(self, begin: Ints | Floats, end: Ints | Floats) -> None:
        self.begin, self.end = begin, end
        self.rows: list[Ints] | None = None
        by_begin = np.argsort(begin, kind="stable")
        # Of two that overlap, one begins while the other is alive: those after it in this order, up to its end.
        place = np.arange(len(begin))
        later = np.maximum(np.searchsorted(begin[by_begin], end[by_begin]) - place - 1, 0)
        num_pairs = int(later.sum())
        if num_pairs <= MAX_PAIRS:
            one = np.repeat(place, later)
            other = one + 1 + np.arange(num_pairs) - np.repeat(np.cumsum(later) - later, later)
            one, other = by_begin[one], by_begin[other]
            both = end[other] > begin[one]
            one, other = one[both], other[both]
            owners, values = np.concatenate([one, other]), np.concatenate([other, one])
            cuts = np.cumsum(np.bincount(owners, minlength=len(begin)))[:-1]
            self.rows = np.split(values[np.argsort(owners, kind="stable")], cuts)

    def of(self, tensor: int) -> Ints:
        if self.rows is not None:
            return self.rows[tensor]
        return ((self.begin < self.end[tensor]) & (self.end > self.begin[tensor])).nonzero()[0]


class FirstFit:
    """Places tensors in any order, each at the lowest place that is free during its life."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.in_order = _Neighbours(problem.first, problem.end)
        self.in_time: _Neighbours | None = None
        if problem.begin is not None and problem.finish is not None:
            self.in_time = _Neighbours(problem.begin, problem.finish)

    def offsets(self, order: Ints) -> Ints:
        """Offsets of all tensors when the free ones come in this order."""
        problem, wall = self.problem, self.problem.wall
        lows, highs = problem.fixed.copy(), problem.fixed + problem.size
        sizes, most = problem.size.tolist(), problem.soft_limit
        for tensor in order.tolist():
            meets, size, low = self.in_order.of(tensor), sizes[tensor], -1
            if self.in_time is not None:
                low = _lowest_gap(lows, highs, np.concatenate([meets, self.in_time.of(tensor)]), size, wall)
            if low < 0 or low + size > most > 0:
                low = _lowest_gap(lows, highs, meets, size, wall)
            lows[tensor], highs[tensor] = low, low + size
        return lows


def _lowest_gap(all_lows: Ints, all_highs: Ints, others: Ints, size: int, wall: int) -> int:
    """The lowest offset where `size` fits between the intervals `[low, high)` of `others` without straddling a multiple of
    `wall`; those with a negative low have no place yet."""
    lows, highs = all_lows[others], all_highs[others]
    by_low = lows.argsort()[np.count_nonzero(lows < 0) :]
    if not len(by_low):
        return 0
    lows = lows[by_low]
    floors = np.empty(len(lows) + 1, np.int64)
    floors[0] = 0
    np.maximum.accumulate(highs[by_low], out=floors[1:])
    if wall:
        floors = np.where(floors % wall + size > wall, -(-floors // wall) * wall, floors)
    gaps = (lows - floors[:-1] >= size).nonzero()[0]
    return int(floors[gaps[0]] if len(gaps) else floors[-1])


def pack(problem: Problem, *, target: int = 0, rounds: int = 0, nodes: int = 20_000) -> Packing:
    """A packing as low as `max(target, lower bound)` if one is found; `rounds` and `nodes` limit the effort. Deterministic."""
    bound = problem.lower_bound()
    free = np.flatnonzero(problem.fixed < 0)
    if not len(free):
        return Packing(problem.fixed.copy(), bound, True)
    goal = max(target, bound)
    searched = len(free) <= SEARCH_UP_TO and problem.begin is None
    rounds = rounds or min(60 if searched else ROUNDS, EFFORT // len(free))
    best = _greedy(problem, free, goal, rounds)
    height = _height(problem, best)
    if height > goal and searched:
        best, complete = _search(problem, free, best, height, goal, nodes)
        height = _height(problem, best)
        if complete or height <= goal:
            return Packing(best, height, complete or height == bound)
        longer = _greedy(problem, free, goal, ROUNDS)
        best = min(best, longer, key=lambda offsets: _height(problem, offsets))
        height = _height(problem, best)
    return Packing(best, height, height == bound)


def _height(problem: Problem, offsets: Ints) -> int:
    return int((offsets + problem.size).max(initial=0))


def _greedy(problem: Problem, free: Ints, goal: int, rounds: int) -> Ints:
    """The best of several first-fit orders, and of orders that grow out of them: what ends too high moves forward."""
    best: Ints | None = None
    lowest = 0
    ranks = [_ranked(np.lexsort((free, minor[free], major[free]))) for major, minor in (keys(problem) for keys in STARTS)]
    rng = np.random.default_rng(0)
    first_fit = FirstFit(problem)
    for at in range(max(1, rounds)):
        # Every start once, then each for its share of the rounds that are left.
        start = at if at < len(ranks) else (at - len(ranks)) * len(ranks) // max(1, rounds - len(ranks))
        offsets = first_fit.offsets(free[np.argsort(ranks[start], kind="stable")])
        height = _height(problem, offsets)
        if best is None or height < lowest:
            best, lowest = offsets, height
        if lowest <= goal:
            break
        high = (offsets + problem.size)[free] > min(lowest - 1, (goal + lowest) // 2)
        ranks[start] = _ranked(np.argsort(ranks[start] - high * rng.random(len(free)) * len(free) / 8, kind="stable"))
    assert best is not None
    return best


def _ranked(order: Ints) -> Ints:
    """The place of each entry in an order."""
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


# --- exact search ---------------------------------------------------------------------------------------------------


def _search(problem: Problem, free: Ints, best: Ints, height: int, goal: int, nodes: int) -> tuple[Ints, bool]:
    """Improve `best` over canonical packings, built bottom up; returns it and whether the search was complete.

    Every packing can be pushed down until each tensor lies on the floor, on a fixed tensor or on another one that lives at the
    same time. Adding tensors in the order of their offsets then gives each the highest top below it, or a gap above a fixed one.
    """
    limit = min(height, goal + 1) if problem.wall else height
    state = _Canonical(problem, free.tolist(), limit, goal, nodes)
    state.descend()
    if state.best is None:
        return best, not state.exhausted
    offsets = problem.fixed.copy()
    offsets[state.free] = state.best
    return offsets, not state.exhausted or state.limit <= goal


class _Canonical:
    """State of one exact search: `limit` is the height to beat, `nodes` what is left of the effort."""

    def __init__(self, problem: Problem, free: list[int], limit: int, goal: int, nodes: int) -> None:
        first, end, size = problem.first.tolist(), problem.end.tolist(), problem.size.tolist()
        # Equal lives and sizes are interchangeable: only the one with the lowest index may come first.
        self.free = sorted(free, key=lambda t: (-size[t], first[t], end[t], t))
        self.size = [size[t] for t in self.free]
        lives = [(first[t], end[t]) for t in self.free]
        times = sorted({time for life in lives for time in life})
        where = {time: k for k, time in enumerate(times)}
        self.sections = [range(where[a], where[b]) for a, b in lives]
        num = len(times)
        self.load = [0] * num  # bytes still to be placed in each section
        for k, section in enumerate(self.sections):
            for s in section:
                self.load[s] += self.size[k]
        self.twin = [
            k - 1 if k and self.size[k] == self.size[k - 1] and lives[k] == lives[k - 1] else -1 for k in range(len(lives))
        ]
        fixed = [t for t in range(len(problem)) if problem.fixed[t] >= 0]
        self.walls = [
            sorted((int(problem.fixed[t]), int(problem.fixed[t]) + size[t]) for t in fixed if first[t] < b and end[t] > a)
            for a, b in lives
        ]
        self.fixed_rows = [
            sorted((int(problem.fixed[t]), int(problem.fixed[t]) + size[t]) for t in fixed if first[t] <= time < end[t])
            for time in times
        ]
        self.limit, self.goal, self.nodes, self.wall = limit, goal, nodes, problem.wall
        self.offsets = [-1] * len(self.free)
        self.floor = [0] * num
        self.best: list[int] | None = None
        self.exhausted = False

    def descend(self) -> None:
        self._place(0, 0)

    def _place(self, depth: int, level: int) -> bool:
        """Try every tensor as the next lowest, at or above `level`; True to stop the whole search."""
        if depth == len(self.free):
            self.best = list(self.offsets)
            self.limit = max(o + s for o, s in zip(self.offsets, self.size, strict=True))
            return self.limit <= self.goal
        choices = self._choices(level)
        if choices is None:
            return False
        for low, k in choices:
            self.nodes -= 1
            if self.nodes < 0:
                self.exhausted = True
                return True
            if low + self.size[k] >= self.limit:
                continue
            saved = [self.floor[s] for s in self.sections[k]]
            top = low + self.size[k]
            for s in self.sections[k]:
                self.floor[s] = top
                self.load[s] -= self.size[k]
            self.offsets[k] = low
            stop = self._place(depth + 1, low)
            self.offsets[k] = -1
            for s, old in zip(self.sections[k], saved, strict=True):
                self.floor[s] = old
                self.load[s] += self.size[k]
            if stop:
                return True
        return False

    def _choices(self, level: int) -> list[tuple[int, int]] | None:
        """(offset, tensor) of what may come next, lowest first; None when the limit cannot be beaten from here."""
        for s, load in enumerate(self.load):
            if load and self._reach(s, level) >= self.limit:
                return None
        choices = []
        for k, offset in enumerate(self.offsets):
            if offset >= 0:
                continue
            twin = self.twin[k]
            if twin >= 0 and self.offsets[twin] < 0:
                continue
            floor = max(self.floor[s] for s in self.sections[k])
            choices += [(low, k) for low in self._landings(k, floor) if low >= level]
        choices.sort()
        if choices:
            # Something must be placed next; what begins above the lowest top of all choices can wait.
            lid = min(low + self.size[k] for low, k in choices)
            choices = [c for c in choices if c[0] < lid]
        return choices

    def _reach(self, section: int, level: int) -> int:
        """The least height that this section can end at: what is placed, what is missing, and fixed tensors above it."""
        floor = max(self.floor[section], level)
        above = sum(high - max(low, floor) for low, high in self.fixed_rows[section] if high > floor)
        return floor + self.load[section] + above

    def _landings(self, k: int, floor: int) -> list[int]:
        """Where tensor k can lie at or above `floor`: there, on a fixed tensor, or on a wall."""
        fixed, size = self.walls[k], self.size[k]
        lows = {floor, *(high for _, high in fixed if high > floor)}
        if self.wall:
            lows = {low if low % self.wall + size <= self.wall else -(-low // self.wall) * self.wall for low in lows}
            lows |= set(range(-(-floor // self.wall) * self.wall, self.limit, self.wall))
        if not fixed:
            return sorted(lows)
        return [low for low in sorted(lows) if all(low + size <= a or low >= b for a, b in fixed)]


def pack_bins(problem: Problem, num_bins: int, *, rounds: int = 20, nodes: int = 20_000) -> tuple[Packing, int]:
    """A packing into `num_bins` arenas of one height: bin k is `[k * height, (k + 1) * height)`; also returns that height.

    Heights are tried from the lower bound up, in steps of a thousandth; `optimal` when none was passed over without a proof.
    """
    largest = int(problem.size.max(initial=1))
    height = max(1, largest, -(-problem.lower_bound() // num_bins))
    proved = True
    while True:
        found = pack(replace(problem, wall=height), target=num_bins * height, rounds=rounds, nodes=nodes)
        if found.height <= num_bins * height:
            return Packing(found.offsets, found.height, proved), height
        step = max(1, height // 1000)
        proved = proved and found.optimal and step == 1
        height += step
