"""The lowest arena with which a program runs within a given time, and the shortest run within an arena of given height.

A run under a budget of bytes (`runner.rings.devices.timed_lives`) says when each tensor is in use if memory is short but well
spent. First fit then gives bytes that go from one tensor to another only where the one has been used for the last time before
the other begins, in order and in that run: such edges cost nothing. What does not fit below the height that is aimed at goes
where it waits for as short as can be: that spends slack. A run with the places as they are says what comes of it, and what lay
on its critical path keeps bytes of its own in the next try, which takes its times from that run.

What is tried is the product of budgets, of the rule by which tasks get bytes under them, and of first-fit orders; at first
without a height, then below the lowest that was found, in steps that get smaller. What is left of the effort goes to orders that
are changed by chance. All this is the same every time, unless `stop` ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf

import numpy as np

from runner.program.lifetimes import Ints
from runner.rings.devices.timed_lives import Times, Work, run_at, run_in_budget, run_in_turn
from runner.rings.schedule import NUM_RINGS
from schedulers.minpeak.arenas import PARTED_UP_TO, Arenas, parted
from schedulers.minpeak.packing import FirstFit, Packing, Problem

EFFORTS = ((1_200_000, 200), (8_000, 800))
"""Tasks run in all tries of a search together, and tries at most; the more of both. The first is about half a minute, as a try of
10,000 tasks takes a quarter of a second; of a few tasks one takes a millisecond, and a unit is a large part of their bytes."""

WIDER = (1.0, 1.03)
"""Budgets that are tried, as multiples of the least with which the run is in time: places do not fit as counted bytes do."""

NARROWER = (0.97, 0.985, 0.955, 0.94, 1.0, 0.9, 0.85)
"""Budgets that are tried for an arena of given height, as parts of it."""

NEAREST = 4
"""Ways to place that were nearest to a height, which are tried first for the next."""

CHANCE_UP_TO = 1_000
"""Tasks of programs whose first-fit orders are changed by chance, and in which a tensor may wait until it would make something
late: in larger ones the first hardly ever helps, and by the second all would wait at once."""

STEPS = (0.08, 0.04, 0.02, 0.01, 0.005, 0.0025)
"""Parts of the height by which it is lowered, each for as long as that succeeds."""

NEAR = 1.02
"""Runs that take longer than the limit by more than this are not worth placing: places only add to the waiting."""

FAR = 1.2
"""Runs are not followed beyond the limit by more than this."""

JUMP = 1 / 4
"""The part of a first-fit order that chance moves; as often, any order is tried and nobody looks at times."""

Rule = Callable[[Work, int, float], Times]

RULES: tuple[Rule, ...] = (partial(run_in_budget, in_order=True), partial(run_in_budget, in_order=False), run_in_turn)
"""How tasks get bytes under a budget."""

Order = Callable[[Problem], tuple[Ints, ...]]

ORDERS: tuple[Order, ...] = (
    lambda p: (-p.size, p.first),
    lambda p: (p.first, -np.log2(np.maximum(1, p.size)).astype(np.int64)),
    lambda p: (p.first, -p.size),
    lambda p: (p.first - p.end, -p.size),
)
"""First-fit orders as keys, the major one last: by first use; by power of two, or by size, and then first use; the longest of the
largest first."""


@dataclass(frozen=True)
class Placed:
    """Offsets of all locals in units, their arenas, the units of these and of idle rings if they count, and the run's length."""

    arenas: Arenas
    units: int
    makespan_us: float


@dataclass
class _Variant:
    """A way to place: first fit in an order of ranks, by the times of a run if any; `excess` is how far the last try failed, and
    `anywhere` has the places without a height, where these were asked for."""

    times: Times | None
    ranks: Ints
    excess: float = 0.0
    anywhere: Ints | None = None


class Search:
    """Searches for one program. Whatever is asked, `found` has all that is placed, none of it beaten by another. `starts` are the
    ways to place by the run that nothing holds up, empty at first: searches of the same work share them, and find the same."""

    def __init__(self, work: Work, stop: Callable[[], bool] = lambda: False, starts: list[_Variant] | None = None) -> None:
        self.work, self.lives, self.stop = work, work.lives, stop
        self.is_small = self.lives.num_times <= PARTED_UP_TO
        self.peak = -(-self.lives.peak_live_bytes // 1024)
        self.tries = self.most_tries = max(min(most, effort // max(1, work.lives.num_times)) for effort, most in EFFORTS)
        self.known: dict[tuple[int, Rule], Times] = {}
        self.fits: dict[Times | None, FirstFit] = {}
        self.any_fit: FirstFit | None = None
        self.found: list[Placed] = []
        self.starts = starts if starts is not None else []
        self.starts += () if self.starts else self._placing(work.free)

    # --- what is asked ------------------------------------------------------------------------------------------------

    def lowest(self, limit_us: float) -> None:
        """Finds the lowest arena whose run takes at most so long, of small programs the fastest of that height."""
        variants = self.starts.copy()
        for variant in variants:
            self._try(variant, 0, limit_us)
        high = min([p.units for p in self.found if p.makespan_us <= limit_us * NEAR], default=int(self.lives.size.sum()))
        least = self._least_budget(limit_us, high)
        for budget in dict.fromkeys(min(int(least * wider), high) for wider in WIDER):
            for variant in self._under(budget, limit_us):
                variants.append(variant)
                self._try(variant, 0, limit_us)
        for step in STEPS:
            while (best := self._best(limit_us)) and self._lower(variants, int(best.units * (1 - step)), limit_us):
                pass
        self._by_chance(variants, limit_us)
        if self.is_small and (best := self._best(limit_us)):
            self.tries = self.most_tries
            self._by_chance(variants, limit_us, best.units)

    def fastest(self, most: int | None) -> Placed | None:
        """The shortest run found in an arena of at most so many units: runs under budgets of about so many are placed, the
        shortest first, as long as they are shorter than what was found, as places only add to the waiting."""
        variants = self.starts.copy()
        for variant in variants:
            self._try(variant, most or 0, 0.0)
        runs, parts = {self.work.free.starts.tobytes(): self.work.free}, sorted(NARROWER)  # each run once
        for rule in RULES if most is not None else ():
            for part in (parts[0], parts[-1], *parts[1:-1]):
                if self.tries > 0 and not self.stop() and (budget := int((most or 0) * part)) >= self.peak:
                    times = self._run(budget, rule, inf)
                    runs.setdefault(times.starts.tobytes(), times)
                    if not (self._is_promising(times, most) if part == parts[-1] else times.is_held_up):
                        break  # with fewer bytes it hardly gets shorter; where there are more nothing waits either
        for times in sorted(islice(runs.values(), 1, None), key=lambda times: times.makespan_us):
            for variant in self._placing(times):
                if self._is_promising(times, most):
                    variants.append(variant)
                    self._try(variant, most or 0, 0.0)
        if most is not None:
            self._by_chance(variants, inf, most)
        return self._fastest(most)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _fastest(self, most: int | None) -> Placed | None:
        fitting = (p for p in self.found if most is None or p.units <= most)
        return min(fitting, key=lambda p: (p.makespan_us, p.units), default=None)

    def _is_promising(self, times: Times, most: int | None) -> bool:
        """Whether places by a run may be faster than what was found; in small programs any may, or take less."""
        best = None if self.is_small else self._fastest(most)
        return best is None or times.makespan_us + self.work.alloc_us < best.makespan_us

    def _best(self, limit_us: float) -> Placed | None:
        return min((p for p in self.found if p.makespan_us <= limit_us), key=lambda p: (p.units, p.makespan_us), default=None)

    def _run(self, budget: int, rule: Rule, until_us: float) -> Times:
        """The run of a rule under a budget; if it was endless under a larger one, that."""
        if (budget, rule) not in self.known:
            more = (run for (larger, by), run in self.known.items() if by is rule and larger > budget and run.makespan_us == inf)
            if (endless := next(more, None)) is None:
                self.tries -= 1
            self.known[budget, rule] = endless or rule(self.work, budget, until_us)
        return self.known[budget, rule]

    def _least_budget(self, limit_us: float, high: int) -> int:
        """About the least units under which a run is in time."""
        low = self.peak
        while high - low > max(1, low // 100) and self.tries > 0 and not self.stop():
            middle = (low + high) // 2
            is_in_time = any(self._run(middle, rule, limit_us * NEAR).makespan_us <= limit_us for rule in RULES)
            low, high = (low, middle) if is_in_time else (middle + 1, high)
        return high

    def _under(self, budget: int, limit_us: float) -> Iterator[_Variant]:
        """Ways to place by the runs under a budget that are nearly in time."""
        for rule in RULES:
            if self.tries > 0 and (times := self._run(budget, rule, limit_us * NEAR)).makespan_us <= limit_us * NEAR:
                yield from self._placing(times)

    def _placing(self, times: Times) -> Iterator[_Variant]:
        problem, known = self._problem(times, 0), set[bytes]()
        for keys in ORDERS:
            ranks = np.argsort(np.lexsort(keys(problem)))
            if ranks.tobytes() not in known:
                known.add(ranks.tobytes())
                yield _Variant(times, ranks)

    def _problem(self, times: Times | None, most: int) -> Problem:
        lives = self.lives
        if times is None:
            return Problem(lives.first, lives.end, lives.size)
        late = times.late if lives.num_times <= CHANCE_UP_TO else None
        return Problem(lives.first, lives.end, lives.size, times.begin, times.finish, late, most)

    def _try(self, variant: _Variant, most: int, limit_us: float, aim: int = 0, walls: tuple[int, ...] = ()) -> bool:
        """Place and run; whether that is in time and below the height that is wanted, if one is. It may rise above `aim`."""
        if self.tries <= 0 or self.stop():
            return False
        self.tries -= 1
        offsets = self._offsets(variant, aim or most, walls)
        height = int((offsets + self.lives.size).max(initial=0))
        arenas = Arenas(offsets, (0, height), Packing(offsets, (height, height, height)))
        ways = parted(arenas, self.lives.size) if self.is_small else [arenas]
        units = height + self.num_idle(ways[-1])
        variant.excess = units / most if most and units > most else 0.0
        if variant.excess:
            return False
        run_us = self.work.length_us(offsets, limit_us * FAR or inf)
        variant.excess = run_us / limit_us if limit_us else 0.0
        new = [Placed(way, height + self.num_idle(way), run_us + self.work.alloc_us * (len(way.edges) - 1)) for way in ways]
        for one in new:
            if not any(old.units <= one.units and old.makespan_us <= one.makespan_us for old in self.found):
                self.found = [old for old in self.found if old.units < one.units or old.makespan_us < one.makespan_us]
                self.found.append(one)
        return any(one.makespan_us <= limit_us for one in new if not most or one.units <= most)

    def _offsets(self, variant: _Variant, most: int, walls: tuple[int, ...]) -> Ints:
        """Where first fit places all, below `most` if it can: without a height where that is low enough."""
        if variant.anywhere is None or walls or 0 < most < (variant.anywhere + self.lives.size).max(initial=0):
            if variant.times not in self.fits:
                self.fits = self.fits if self.lives.num_times <= CHANCE_UP_TO else {}
                self.any_fit = self.fits[variant.times] = FirstFit(self._problem(variant.times, 0), self.any_fit)
            offsets = self.fits[variant.times].offsets(np.argsort(variant.ranks, kind="stable"), most, walls)
            if most or walls:
                return offsets
            variant.anywhere = offsets
        return variant.anywhere

    def num_idle(self, arenas: Arenas) -> int:
        """Units of rings without an arena, if they count."""
        return NUM_RINGS + 1 - len(arenas.edges) if self.is_small else 0

    def _lower(self, variants: list[_Variant], most: int, limit_us: float) -> bool:
        """Whether any way to place is in time below a height: what was nearest is tried first, then runs under its budgets."""
        if most < self.peak:
            return False
        if any(self._try(variant, most, limit_us) for variant in sorted(variants, key=lambda v: v.excess)[:NEAREST]):
            return True
        for narrower in NARROWER:
            budget = int(most * narrower)
            if budget < self.peak or (budget, RULES[0]) in self.known or self.tries <= 0 or self.stop():
                continue
            for variant in self._under(budget, limit_us):
                variants.append(variant)
                if self._try(variant, most, limit_us):
                    return True
        return False

    def _by_chance(self, variants: list[_Variant], limit_us: float, most: int | None = None) -> None:
        """What is left of the effort goes to orders that are changed by chance, and to the times of the best run: for
        fewer units in time or, within `most` units, for less time."""
        rng, free_us = np.random.default_rng(0), self.work.free.makespan_us + self.work.alloc_us
        while self.peak and self.lives.num_times <= CHANCE_UP_TO and self.tries > 0 and not self.stop():
            best = self._best(limit_us) if most is None else self._fastest(most)
            high = best.units - 1 if best and most is None else most or 0
            if (most is not None and (limit_us := best.makespan_us if best else inf) <= free_us) or high < self.peak:
                return
            near = sorted(variants, key=lambda v: v.excess)[: len(ORDERS)]
            one = near[int(rng.integers(len(near)))]
            draw = rng.random()
            reruns = best if JUMP <= draw < 2 * JUMP else None
            times = None if draw < JUMP else run_at(self.work, reruns.arenas.offsets) if reruns else one.times
            moves = rng.random(len(one.ranks)) < JUMP
            moved = one.ranks - moves * rng.random(len(one.ranks)) * len(one.ranks)
            ranks = np.argsort(np.argsort(moved, kind="stable")) if times is not None else rng.permutation(len(moved))
            aim, walls = int(rng.integers(self.peak, high + 1)), ()
            if self.is_small and rng.random() >= JUMP:  # heights of some tensors, one upon the other
                walls = tuple(np.cumsum(rng.choice(self.lives.size, int(rng.integers(1, NUM_RINGS)))).tolist())
            new = _Variant(times, ranks)
            if self._try(new, high, limit_us, aim, walls):
                variants.append(new)
