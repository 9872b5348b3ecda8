"""Offsets of tensors in one arena: tensors that live at the same time may not overlap, and the arena is to be as low as can be.

This is dynamic storage allocation, NP-hard. First fit in a few orders comes first, then orders that learn from what stuck out:
every tensor that ends above the target moves forward, by chance more or less. All sizes and offsets share one unit.

Source: first-fit decreasing and "squeaky wheel" orders are folklore; both are written from the definition.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from runner.base.tensor_spec import with_block_ends
from runner.program.lifetimes import Floats, Ints, live_units
from runner.rings.devices.pairs import Neighbours
from schedulers.minpeak.techniques import ALL, Techniques

ROUNDS = 500
"""Orders tried at most. Cut rectangles of 50 to 300 tensors get no lower with more in a bearable time (`make bench`)."""

EFFORT = 60_000
"""Tensors placed in all orders of one packing together: about half a second, whatever the number of tensors."""

BIN_ROUNDS = 20
"""Orders tried for each height of equal bins, of which there are many; a height that takes more is passed over."""

BIN_STEP = 1 / 1000
"""Part of the height by which bins grow when a packing was not found: what `worst` may lose by it is as small."""

JUMP = 1 / 8
"""The furthest that a tensor moves forward at once, as a part of the order: further forgets what the order had learned."""

_NOWHERE = 1 << 62

STARTS: tuple[Callable[[Problem], tuple[Ints, Ints]], ...] = (
    lambda p: (-p.size, p.first - p.end),
    lambda p: (p.first - p.end, -p.size),
    lambda p: (p.size * (p.first - p.end), -p.size),
    lambda p: (p.first, -p.size),
    lambda p: (-p.end, -p.size),
)
"""First-fit orders as pairs of keys, the major one first: the largest, the longest, both, by first and by last use."""


@dataclass(frozen=True)
class Problem:
    """Tensors with half-open lives `[first, end)` and sizes, int64[num_tensors] each.

    begin, finish  when given, of two tensors that share bytes the one that comes first in order should also finish before the
                   other begins, as long as that keeps them below `soft_limit`; else the one is to begin as soon as can be
    late           by when each must begin, its `begin` if missing: who waits no longer is not late
    walls          offsets, ascending, that no tensor may straddle
    """

    first: Ints
    end: Ints
    size: Ints
    begin: Floats | None = None
    finish: Floats | None = None
    late: Floats | None = None
    soft_limit: int = 0
    walls: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.size)

    def lower_bound(self) -> int:
        """The most units alive at once."""
        return int(live_units(self.first, self.end, self.size, int(self.end.max(initial=0))).max(initial=0))


@dataclass(frozen=True)
class Packing:
    """`offsets` per tensor, and the `heights` that were reached by the first order, by all orders, and after learning."""

    offsets: Ints
    heights: tuple[int, int, int]

    @property
    def height(self) -> int:
        return self.heights[-1]


class FirstFit:
    """Places tensors in any order, each at the lowest place that is free during its life; `like` knows these lives, if given."""

    def __init__(self, problem: Problem, like: FirstFit | None = None) -> None:
        self.problem = problem
        self.in_order = like.in_order if like else Neighbours((problem.first, problem.end))
        self.in_time: Neighbours | None = None
        if problem.begin is not None and problem.finish is not None:
            self.in_time = Neighbours((problem.first, problem.end), (problem.begin, problem.finish))

    def offsets(self, order: Ints, soft_limit: int | None = None, walls: tuple[int, ...] = ()) -> Ints:
        """Offsets of all tensors when they come in this order; `soft_limit` and `walls` if they are not the problem's."""
        problem, walls = self.problem, walls or self.problem.walls
        most = problem.soft_limit if soft_limit is None else soft_limit
        lows = np.full(len(problem) + 1, _NOWHERE, np.int64)  # the last stands for none
        highs, sizes = lows.copy(), problem.size.tolist()
        highs[-1] = 0
        for tensor in order.tolist():
            size, low = sizes[tensor], -1
            if self.in_time is not None:
                low = _lowest_gap(lows, highs, self.in_time.of(tensor), size, walls)
                if low + size > most > 0:
                    low = self._soonest(tensor, lows, highs, most, with_block_ends(walls, most))
            if low < 0:
                low = _lowest_gap(lows, highs, self.in_order.of(tensor), size, walls)
            lows[tensor], highs[tensor] = low, low + size
        return lows[:-1]

    def _soonest(self, tensor: int, lows: Ints, highs: Ints, most: int, walls: tuple[int, ...]) -> int:
        """The place below `most` where a tensor waits, and makes others wait, for as short as can be; -1 if there is none.

        The lowest such place lies on top of a tensor, or at a wall, or at 0, since from elsewhere it could slide down.
        """
        problem, size = self.problem, int(self.problem.size[tensor])
        assert self.in_time is not None and problem.begin is not None and problem.finish is not None
        hard, met = (near[lows[near] < _NOWHERE] for near in (self.in_order.of(tensor), self.in_time.of(tensor)))
        late = problem.begin if problem.late is None else problem.late
        is_later = problem.first[met] < problem.first[tensor]
        delay = np.where(is_later, problem.finish[met] - late[tensor], problem.finish[tensor] - late[met])
        met, delay = met[delay > 0], delay[delay > 0]  # hard ones too: the longer wait counts
        lows, highs = (np.concatenate([ends[met], ends[hard], walls]).astype(np.int64) for ends in (lows, highs))
        by_low, waits = lows.argsort(), np.append(delay, [inf] * (len(hard) + len(walls)))
        lows, highs, waits = lows[by_low], highs[by_low], waits[by_low]
        places = np.append(highs[highs + size <= most], [0] * (size <= most)).astype(np.int64)
        num_below, furthest = lows.searchsorted(places + size), np.zeros(len(lows) + 1, np.int64)

        def free(wait: float) -> Ints:
            """Where all that begin below its end, and with which one waits for longer, end below it."""
            np.maximum.accumulate(np.where(waits > wait, highs, 0), out=furthest[1:])
            return places[furthest[num_below] <= places]

        steps = np.sort(np.append(waits, [0.0, inf]))
        least = steps[bisect_left(steps, True, hi=len(steps) - 1, key=lambda wait: len(free(wait)) > 0)]
        return int(free(least).min()) if least < inf else -1


def _lowest_gap(all_lows: Ints, all_highs: Ints, others: Ints, size: int, walls: tuple[int, ...]) -> int:
    """The lowest offset where `size` fits between the intervals `[low, high)` of `others` without straddling one of the
    `walls`. What has no place yet lies at `_NOWHERE`; `others` end with one that is none, which begins there and ends at 0.

    Below a gap as many intervals end as begin: it lies between the k-th end and the next begin, whosever they are.
    """
    floors, ceilings = all_highs.take(others), all_lows.take(others)
    floors.sort()
    ceilings.sort()
    low = int(floors[(ceilings - floors >= size).argmax()])
    if any(low < wall < low + size for wall in with_block_ends(walls, low + size)):
        for wall in with_block_ends(walls, max((int(floors[floors < _NOWHERE][-1]), *walls)) + 2 * size):
            floors = np.where((floors < wall) & (floors + size > wall), wall, floors)
        low = int(floors[(ceilings - floors >= size).argmax()])
    return low


def pack(problem: Problem, techniques: Techniques = ALL, *, target: int = 0, rounds: int = ROUNDS) -> Packing:
    """A packing as low as `max(target, lower bound)` if one is found in so many rounds; the same every time.

    Every starting order is tried once, then each has its share of the rounds that are left: what ends above the middle between
    the goal and the lowest height so far moves forward.
    """
    if not len(problem):
        return Packing(np.zeros(0, np.int64), (0, 0, 0))
    starts = STARTS if "orders" in techniques else STARTS[:1]
    goal, first_fit, rng = max(target, problem.lower_bound()), FirstFit(problem), np.random.default_rng(0)
    # The ranks, places of the tensors in an order, are what sorts that order.
    ranks = [np.argsort(np.lexsort((minor, major))) for major, minor in (keys(problem) for keys in starts)]
    rounds = max(1, min(rounds if "learning" in techniques else len(ranks), EFFORT // len(problem)))
    best, heights = np.zeros(0, np.int64), list[int]()
    for at in range(rounds):
        start = at if at < len(ranks) else (at - len(ranks)) * len(ranks) // max(1, rounds - len(ranks))
        offsets = first_fit.offsets(np.argsort(ranks[start], kind="stable"))
        tops = offsets + problem.size
        height = int(tops.max())
        best = offsets if not heights or height < heights[-1] else best
        heights.append(min([height, *heights[-1:]]))
        if heights[-1] <= goal:
            break
        high = tops > min(heights[-1] - 1, (goal + heights[-1]) // 2)
        moved = ranks[start] - high * rng.random(len(high)) * len(high) * JUMP
        ranks[start] = np.argsort(np.argsort(moved, kind="stable"))
    return Packing(best, (heights[0], heights[: len(ranks)][-1], heights[-1]))


def pack_bins(problem: Problem, num_bins: int, techniques: Techniques = ALL) -> tuple[Packing, int]:
    """A packing into `num_bins` arenas of one height, and that height: bin k is `[k * height, (k + 1) * height)`.

    Heights are tried from the lower bound up.
    """
    largest = int(problem.size.max(initial=1))
    height = max(1, largest, -(-problem.lower_bound() // num_bins))
    while True:
        walled = replace(problem, walls=tuple(height * k for k in range(1, num_bins)))
        found = pack(walled, techniques, target=num_bins * height, rounds=BIN_ROUNDS)
        if found.height <= num_bins * height:
            return found, height
        height += max(1, int(height * BIN_STEP))
