"""The lists that are best under an objective: the fewest bytes, the fewest within a time, the shortest run within bytes.

A run says when tensors are in use: one in which memory holds nothing up, or one under a budget of bytes, which go where they are
needed. Lists for it are made with more or fewer trips of loops side by side, and a run with the places that they give says what
they cost. What waited for bytes on its longest chain is kept apart in the next lists, or gets more copies, until one is in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import product
from math import inf

import numpy as np

from runner.program.order import predecessors
from runner.rings.devices.timed_lives import Times, Work, run_in_budget, run_placed
from runner.writeback.sharing.arranging import Proposal, proposal
from runner.writeback.sharing.copying import grouped
from runner.writeback.sharing.critical import waits_for_bytes
from runner.writeback.sharing.found import MORE, WIDEST, Found, Remedy, at_fault, without_waiting
from runner.writeback.sharing.narrowing import Layout, Move
from runner.writeback.sharing.scene import Bar, Scene, Taste
from runner.writeback.sharing.squeezing import CLOSE, Squeeze
from runner.writeback.sharing.text import plain

EFFORT = 2_000_000
"""Tasks run in all tries together: two or three minutes."""

MIN_TRIES, MAX_TRIES = 12, 120
"""Tries of one search, whatever the number of tasks."""

BUDGETS = (1.0, 1.1, 1.25, 1.4, 1.6, 2.0, 3.0)
"""Budgets of which runs say when tensors are in use, as multiples of the most that is alive at once."""

NARROWER = (1.0, 0.95, 0.85)
"""Budgets of runs within given bytes, as parts of them: places do not fit as counted bytes do."""

SOURCES = 3
"""Runs that lists are made for, of those in time; the fewest bytes first."""

APARTS = (0.08, 0.0)
"""Parts of all sizes up to which tensors keep apart from used graphs."""

WIDTHS = (1.0, 0.5, 0.25)
"""Trips side by side, as parts of those in use at once."""

STEPS = 12
"""Lists that one way to make them leads to, each without what the run of the one before waited for."""

HOPELESS = 1.35
"""Runs that take longer than the limit by more than this are followed no further, nor is another run for lists made that way."""

WASTEFUL = 2.0
"""Nor where that takes as many times the bytes of the best."""

NARROWING = 0.5
"""The part of all tries that is kept for changes of the best lists."""

SQUEEZING = 0.4
"""The part of all tries, beside them, that goes into fewer copies of all that is high at once (`squeezing`)."""

MOST_KINDS = 4
"""Ways to make lists of which such are made; the one that is fastest with few bytes is followed."""

FINE = 1.04
"""How near the bytes of lists in time are to come to those that are late."""

LITTLE = 0.25
"""The part of the time that is left which a change may take as long as others may take less."""

STARTS = 2
"""Lists in time, of different kinds, that are changed."""

NEARLY, NEAR_STEPS = 1.06, 4
"""In place of `HOPELESS` and `STEPS` for lists by the run of some that are in time."""

MOVE = 0.4
"""What a change of one entry takes of a try: less than other lists, which are made from the first."""

LATER = (1.0, 1.1, 1.3)
"""How much longer than what is aimed at runs within given bytes may take, one after another, until lists fit."""

LATER_TRIES = 0.25
"""The part of all tries that each of these gets."""

MOST_MORE = 1.6
"""By how much copies grow at a time at most: by more than `MORE` as long as that costs no bytes."""

WAYS = (
    Taste(0.0),
    Taste(0.0, alone=True),
    Taste(0.0, alone=True, lazy=0.25),
    Taste(0.0, uses=True),
    Taste(0.0, uses=True, alone=True),
    Taste(0.0, uses=True, alone=True, lifts=True, rings=True),
    Taste(0.0, uses=True, alone=True, lifts=True, rings=True, lazy=0.25),
    Taste(0.0, uses=True, alone=True, lifts=True),
    Taste(0.0, uses=True, alone=True, lifts=True, lazy=0.25),
)
"""What gets copies of trips side by side: groups or single tensors, used graphs in loops too, or what these make, one by one or
in a ring."""


class ShareSearch:
    """Lists for one program; all that was tried is kept."""

    def __init__(self, scene: Scene, work: Work, stop: Callable[[], bool] = lambda: False) -> None:
        self.scene, self.work, self.stop = scene, work, stop
        self.tries = self.all_tries = float(max(MIN_TRIES, min(MAX_TRIES, EFFORT // max(1, work.lives.num_times))))
        self.found: list[Found] = []
        self.known: dict[tuple, Found] = {}
        self.peak = -(-work.lives.peak_live_bytes // 1024)
        touched = np.zeros(len(work.lives.size), bool)
        touched[work.lives.touches.values] = True
        self.touched = touched

    @cached_property
    def ways(self) -> list[Taste]:
        """Those of `WAYS` that differ: without rings where there is none."""

        def has_ring(way: Taste) -> bool:
            said = grouped(self.scene, self.work.free.begin, self.work.free.finish, way)
            return any(entry.ring for entries in said.values() for entry in entries)

        return [way for way in WAYS if not way.rings or has_ring(way)]

    def fewest(self, limit_us: float | None) -> Found | None:
        """The fewest bytes, of runs within the limit if there is one; the shortest run if none is."""
        least = self._by_lives()
        if least is None:
            return None
        if limit_us is not None and least.makespan_us > limit_us:
            self._in_time(limit_us)
        return self._best(limit_us)

    def as_fast(self, found: Found, limit_us: float, most: int) -> Found:
        """What was found, or of runs within a shorter limit the fewest bytes, if these are at most so many units."""
        for is_last in (False, True):
            fitting = [one for one in self.found if one.makespan_us <= limit_us and one.height <= most]
            if fitting:
                return min(fitting, key=lambda one: (one.height, one.makespan_us))
            if not is_last:
                self.tries += self.all_tries / 2
                self._in_time(limit_us)
        return found

    def fastest(self, most: int | None, limit_us: float) -> Found | None:
        """The shortest run within so many units, or the fewest units if none fit; it need not be shorter than a limit."""
        if self._by_lives() is None:
            return None
        self._by_ways(most)
        enough = inf if most is None else most
        for part in LATER:
            best = self._shortest(most)
            if best.makespan_us <= part * limit_us and best.height <= max(self.peak, enough):
                break
            self.tries = self.all_tries * LATER_TRIES
            self._in_time(part * limit_us, enough, LATER_TRIES)
        return self._shortest(most)

    def _shortest(self, most: int | None) -> Found:
        """Of all that was found the shortest run within so many units; the fewest units if none fit."""
        fitting = [found for found in self.found if most is None or found.height <= most]
        if fitting:
            return min(fitting, key=lambda found: (found.makespan_us, found.height))
        return min(self.found, key=lambda found: (found.height, found.makespan_us))

    def _by_ways(self, most: int | None) -> None:
        """Lists by several runs and of several widths, refined as long as that makes their runs shorter, or that fit."""
        free, ways = self.work.free, list(self.ways)
        self._try(free, WIDEST)
        runs = [free, *sorted(self._within(most), key=lambda run: run.makespan_us)]
        for width, apart in product(WIDTHS, APARTS if most is not None else APARTS[:1]):
            for way, times in product(tuple(ways), runs):
                first = self._refined(times, replace(way, width=width, apart=apart), free.makespan_us, most)
                if first is None or most is None or first.height <= most or self._fitted(first, most):
                    continue
                if first.height > WASTEFUL * most and way in ways:
                    ways.remove(way)

    def _fitted(self, found: Found, most: int) -> bool:
        """Whether fewer copies make lists fit into so many units; then what waited longest gets more again, as far as fits."""
        for _ in range(STEPS):
            if found.height <= most and found.times is not None:
                self._refined(found.times, found.pinned(), self.work.free.makespan_us, most)
                return True
            needed = [(abs(found.height - gain - most), key, count) for gain, key, count in found.fewer()]
            _, key, count = min(needed, default=(0, ("", ""), 0))
            less = None if found.times is None or not count else self._try(found.times, found.pinned({key: count}))
            if less is None or less.height >= found.height:
                return False
            found = less
        return False

    def _within(self, most: int | None) -> Iterator[Times]:
        """Runs under budgets of about so many units."""
        for part, in_order in product(NARROWER if most is not None else (), (False, True)):
            if (budget := int((most or 0) * part)) >= self.peak:
                yield run_in_budget(self.work, budget, in_order=in_order)

    def _by_lives(self) -> Found | None:
        """The lists of submission order, where nothing but lives counts."""
        lives = self.work.lives
        made = proposal(self.scene, lives.first.astype(float), lives.end.astype(float), Taste(0.0))
        return None if made is None else self._measured(made)

    def _in_time(self, limit_us: float, enough: float = 0, squeezing: float = 1.0) -> None:
        """Lists by several runs and of several widths, refined until they are in time or hopeless; the best with fewer copies,
        for a part of the tries that are kept for that, until some take no more units than are `enough`."""
        kept = self.tries * NARROWING
        widest = self._try(self.work.free, WIDEST)
        if widest is not None and widest.makespan_us > limit_us:
            self._try(self.work.free, replace(WIDEST, uses=True))
        runs = list(self._in_budgets(limit_us))
        ways = dict.fromkeys(self.ways, runs)
        for width, apart in product(WIDTHS, APARTS):
            for way, sources in list(ways.items()):
                if self._is_least(self._best(limit_us), limit_us, enough):
                    return
                tried: list[tuple[bool, float, Times]] = []
                for times in sources if self.tries > kept else ():
                    first = self._refined(times, replace(way, width=width, apart=apart), limit_us)
                    if (
                        first is None
                        or first.makespan_us > HOPELESS * limit_us
                        or first.height > WASTEFUL * self._best(limit_us).height
                    ):
                        del ways[way]
                        break
                    is_late = first.makespan_us > limit_us
                    tried.append((is_late, first.makespan_us if is_late else first.height, times))
                if way in ways and tried:
                    ways[way] = [min(tried, key=lambda one: one[:2])[2]]
        self._squeeze(limit_us, enough, squeezing)
        self._narrow(limit_us, enough)

    def _squeeze(self, limit_us: float, enough: float, part: float = 1.0) -> None:
        """Lists in time of the way that is the fastest with few bytes, of ever fewer, until those are late; then narrowed."""
        kept, self.tries = self.tries, self.all_tries * SQUEEZING * part
        low, high = max(self.peak, enough), self._best(limit_us).height
        best, squeeze = None, self._fastest_way(limit_us, int((low * high) ** 0.5)) if high > FINE * low else None
        while squeeze is not None and high > FINE * low and self.tries > 0:
            found = squeeze.in_time(most := int((low * high) ** 0.5), limit_us)
            if found is not None and found.makespan_us <= limit_us and found.height < high:
                best, high = found, found.height
            else:
                low = max(most, low + 1)
        if best is not None:
            self._narrowed(best, limit_us, self.tries, enough)
        self.tries = kept

    def _fastest_way(self, limit_us: float, most: int) -> Squeeze | None:
        """Of the best lists in time of each way, in which as many trips as are in use at once have bytes of their own, those that
        are the fastest with so few units."""
        kinds: dict[tuple, Found] = {}
        for found in sorted(self.found, key=lambda one: (abs(one.taste.width - max(WIDTHS)), one.height, one.makespan_us)):
            if found.makespan_us <= limit_us and found.times is not None:
                taste = found.taste
                kinds.setdefault((taste.uses, taste.alone, taste.lifts, taste.rings), found)
        starts = sorted(kinds.values(), key=lambda found: found.height)[:MOST_KINDS]
        ways = [Squeeze(self.scene, start, self._try) for start in starts]
        tried = [(found.makespan_us, place) for place, way in enumerate(ways) if (found := way.first(most)) is not None]
        return ways[min(tried)[1]] if tried else None

    def _narrow(self, limit_us: float, enough: float) -> None:
        """The best lists in time with fewer bytes, until some take no more units than are `enough`."""
        starts = self._starts(limit_us)
        for place, start in enumerate(starts):
            if not self._is_least(self._best(limit_us), limit_us, enough):
                self._narrowed(start, limit_us, self.tries / (len(starts) - place), enough)

    def as_small(self, limit_us: float, longer_us: float, most: int) -> Found:
        """The fewest bytes within a limit if these are at most so many units, else within a longer one, though hardly fewer."""
        self.tries += self.all_tries / 2
        self._squeeze(longer_us, most)
        self._narrow(longer_us, most)
        best = self._best(limit_us)
        return best if best.makespan_us <= limit_us and best.height <= most else self._best(longer_us)

    def _is_least(self, found: Found, limit_us: float, enough: float = 0) -> bool:
        """Whether lists are in time and as low as any can be, or as is enough."""
        return found.makespan_us <= limit_us and found.height <= max(self.peak, enough)

    def _starts(self, limit_us: float) -> list[Found]:
        """The best lists in time of different kinds, but for those of `_squeeze`, that with the fewest bytes first."""
        kinds: dict[tuple, Found] = {}
        for found in sorted(self.found, key=lambda found: (found.height, found.makespan_us)):
            if found.makespan_us <= limit_us and found.times is not None and found.taste.apart != CLOSE:
                taste = found.taste
                kinds.setdefault((taste.width, taste.apart, taste.uses, taste.alone, taste.lifts, taste.rings, taste.lazy), found)
        return [*kinds.values()][:STARTS]

    def _narrowed(self, best: Found, limit_us: float, tries: float, enough: float) -> None:
        """Lists by their own run, and from the best of these others, changed entry by entry as long as that is in time: first by
        what takes little of the time that is left, then by the rest."""
        kept, again = self.tries - tries, None
        while again is not best and self.tries > kept and not self._is_least(best, limit_us, enough):
            again, best = best, self._nearby(best, best.run, best.pinned(), limit_us)
        layout, failed, aside, apart = Layout(self.scene, best.proposal.said), set[Move](), set[Move](), set[Bar]()
        hurry = LITTLE
        while self.tries > kept and not self.stop() and not self._is_least(best, limit_us, enough):
            move = layout.best([move for move in layout.moves(apart) if move not in failed | aside])
            if move is None:
                if not aside:
                    return
                hurry, aside = 1.0, set()
                continue
            made = layout.made(move)
            found = None if made is None or made.height > best.height else self._measured(made, best.times, best.taste, MOVE)
            if found is None or found.makespan_us > limit_us:
                failed.add(move)
                apart |= set() if found is None else at_fault(found, move, limit_us)
            elif found.makespan_us > best.makespan_us + hurry * (limit_us - best.makespan_us):
                aside.add(move)
            else:
                best = found
                layout = Layout(self.scene, best.proposal.said)

    def _nearby(self, best: Found, times: Times | None, taste: Taste, limit_us: float) -> Found:
        """The best of some lists and of those that a run and a taste lead to."""
        assert times is not None, "these lists were made for a run"
        num = len(self.found)
        first = self._refined(times, taste, limit_us, best.height, most_steps=NEAR_STEPS, hopeless=NEARLY)
        every = [best, *self.found[num:], *([] if first is None else [first])]
        return min((one for one in every if one.makespan_us <= limit_us), key=lambda one: (one.height, one.makespan_us))

    def _best(self, limit_us: float | None) -> Found:
        """The fewest bytes in time; the shortest run if none is."""
        in_time = [found for found in self.found if limit_us is None or found.makespan_us <= limit_us]
        if in_time:
            return min(in_time, key=lambda found: (found.height, found.makespan_us))
        return min(self.found, key=lambda found: (found.makespan_us, found.height))

    def _in_budgets(self, limit_us: float) -> Iterator[Times]:
        """Runs under the least budgets with which they are in time, and the one in which memory holds nothing up."""
        free, num = self.work.free, 0
        for budget in BUDGETS:
            for in_order in (False, True):
                run = run_in_budget(self.work, int(self.peak * budget) + 1, limit_us, in_order=in_order)
                if run.makespan_us <= limit_us:
                    num += 1
                    yield run
            if num >= SOURCES - 1:
                break
        yield free

    def _refined(
        self,
        times: Times,
        taste: Taste,
        limit_us: float,
        most: int | None = None,
        most_steps: int = STEPS,
        hopeless: float = HOPELESS,
    ) -> Found | None:
        """Lists, which are returned, and from them others without what their runs waited for, until a run is in time."""
        more, before, spent, changed, first = MORE, (0, 0.0), set[Remedy](), set[Remedy](), None
        for step in range(most_steps):
            best = min((found.height for found in self.found if found.makespan_us <= limit_us), default=inf)
            num_found = len(self.found)
            found = self._try(times, taste)
            first = first or found
            if found is None or found.makespan_us <= limit_us or found.makespan_us > hopeless * limit_us:
                break
            is_known = step == 0 and len(self.found) == num_found  # another taste has led here, and on
            if is_known or found.height >= (best if most is None else most):
                break
            spent |= changed if before == (found.height, found.makespan_us) else set()
            more = min(MOST_MORE, more**2) if before[0] == found.height else MORE
            before = found.height, found.makespan_us
            taste, changed = without_waiting(found, taste, limit_us, more, spent)
            if not changed:
                break
        return first

    def _try(self, times: Times, taste: Taste) -> Found | None:
        """What lists of a taste for a run come to."""
        if self.tries <= 0 or self.stop():
            return None
        made = proposal(self.scene, times.begin, times.finish, taste, times.late)
        return None if made is None else self._measured(made, times, taste)

    def _measured(self, made: Proposal, times: Times | None = None, taste: Taste = WIDEST, cost: float = 1.0) -> Found:
        """The run with lists, which spends a try, or a part of one, unless it is known."""
        key = tuple((file, *map(str, plain(entries))) for file, entries in sorted(made.said.items()))
        if key not in self.known:
            self.tries -= cost
            self.known[key] = self._run(made, times, taste)
            self.found.append(self.known[key])
        return self.known[key]

    def _run(self, made: Proposal, times: Times | None, taste: Taste) -> Found:
        lives, at = self.work.lives, made.at
        offsets, listed = np.zeros(len(lives.size), np.int64), np.zeros(len(lives.size), bool)
        roots = at.instance[:, 0]
        tops = np.zeros(int(roots.max(initial=-1)) + 1, np.int64)
        np.maximum.at(tops, roots, made.places.offsets + at.size)
        offsets[at.locals] = made.places.offsets + (np.cumsum(tops) - tops)[roots]
        listed[at.locals] = True
        known = predecessors(np.flatnonzero(listed & self.touched), lives.first, offsets, lives.size)
        before = [known.get(local, ()) for local in range(len(lives.size))]
        run = run_placed(self.work, before)
        return Found(made, made.height, run.makespan_us, *waits_for_bytes(self.work, before, run), times, taste, run)
