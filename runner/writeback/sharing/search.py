"""The lists that are best under an objective: the fewest bytes, the fewest within a time, the shortest run within bytes.

A run says when tensors are in use: one in which memory holds nothing up, or one under a budget of bytes, which go where they are
needed. Lists for it are made with more or fewer trips of loops side by side, and a run with the places that they give says what
they cost. What waited for bytes on its longest chain is kept apart in the next lists, or gets more copies, until one is in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import inf

import numpy as np

from runner.language.graph import EVERY
from runner.program.order import predecessors
from runner.rings.devices.timed_lives import Times, Work, run_in_budget, run_placed
from runner.writeback.sharing.arranging import Proposal, proposal
from runner.writeback.sharing.critical import Pairs, waits_for_bytes
from runner.writeback.sharing.scene import Bar, Scene, Taste
from runner.writeback.sharing.text import plain

EFFORT = 1_000_000
"""Tasks run in all tries together: about a minute."""

MIN_TRIES, MAX_TRIES = 12, 120
"""Tries of one search, whatever the number of tasks."""

BUDGETS = (1.0, 1.1, 1.25, 1.4, 1.6, 2.0, 3.0)
"""Budgets of which runs say when tensors are in use, as multiples of the most that is alive at once."""

SOURCES = 3
"""Runs that lists are made for, of those in time; the fewest bytes first."""

APARTS = (0.08, 0.0)
"""Parts of all sizes up to which tensors keep apart from used graphs."""

WIDTHS = (1.0, 0.5, 0.25)
"""Trips side by side, as parts of those in use at once."""

STEPS = 12
"""Lists that one way to make them leads to, each without what the run of the one before waited for."""

MOST_BARS = 16
"""Pairs that are kept apart in all lists: people read them."""

HOPELESS = 1.35
"""Runs that take longer than the limit by more than this are followed no further."""

PART = 0.2
"""What waited for less than this part of what waited longest is looked at again in the next run."""

PARTS = (0.25, 0.1, 0.0)
"""By which parts of them copies are taken away at a time, at least one."""

MORE, MOST_MORE = 1.08, 1.6
"""By how much copies grow at a time: by more, up to the second, as long as that costs no bytes."""

WIDEST = Taste(0.0, 8.0, 1.0, 16.0)
"""As little waiting as lists can have."""


Said = Bar | tuple[str, str]
"""What keeps apart, or the file and name of an entry that gets more copies."""


@dataclass(frozen=True)
class Found:
    """Lists, the units of their arenas, how long a run with them takes, and what waited in it (`waits_for_bytes`)."""

    proposal: Proposal
    height: int
    makespan_us: float
    late: Pairs
    held: Pairs
    times: Times | None = None
    taste: Taste = WIDEST

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Per file and entry how many copies it has, of those that have any; the most bytes first."""
        found: dict[tuple[str, str], int] = {}
        for file, entries in self.proposal.said.items():
            found |= {(file, entry.name): entry.copies[EVERY] for entry in entries if entry.copies.get(EVERY, 1) > 1}
        return found


class ShareSearch:
    """Lists for one program; all that was tried is kept."""

    def __init__(self, scene: Scene, work: Work, stop: Callable[[], bool] = lambda: False) -> None:
        self.scene, self.work, self.stop = scene, work, stop
        self.tries = max(MIN_TRIES, min(MAX_TRIES, EFFORT // max(1, work.lives.num_times)))
        self.found: list[Found] = []
        self.known: dict[tuple, Found] = {}
        touched = np.zeros(len(work.lives.size), bool)
        touched[work.lives.touches.values] = True
        self.touched = touched

    def fewest(self, limit_us: float | None) -> Found | None:
        """The fewest bytes, of runs within the limit if there is one; the shortest run if none is."""
        least = self._by_lives()
        if least is None:
            return None
        if limit_us is not None and least.makespan_us > limit_us:
            self._in_time(limit_us)
        return self._best(limit_us)

    def fastest(self, most: int | None) -> Found | None:
        """The shortest run within so many units; the fewest units if none fit."""
        least, free = self._by_lives(), self.work.free
        self._try(free, WIDEST)
        for width in WIDTHS:
            self._refined(free, Taste(0.0, width), free.makespan_us, most)
        fitting = [found for found in self.found if most is None or found.height <= most]
        return min(fitting, key=lambda found: (found.makespan_us, found.height), default=least)

    def _by_lives(self) -> Found | None:
        """The lists of submission order, where nothing but lives counts."""
        lives = self.work.lives
        made = proposal(self.scene, lives.first.astype(float), lives.end.astype(float), Taste(0.0))
        return None if made is None else self._measured(made)

    def _in_time(self, limit_us: float) -> None:
        """Lists by several runs and of several widths, refined until they are in time or hopeless."""
        widest = self._try(self.work.free, WIDEST)
        if widest is not None and widest.makespan_us > limit_us:
            self._try(self.work.free, replace(WIDEST, uses=True))
        runs = list(self._in_budgets(limit_us))
        for width in WIDTHS:
            for apart in APARTS:
                for times in runs:
                    for uses, alone in product((False, True), repeat=2):
                        self._refined(times, Taste(0.0, width, apart, uses=uses, alone=alone), limit_us)
        self._polished(limit_us)

    def _polished(self, limit_us: float) -> None:
        """The best lists with fewer copies of one entry after the other, as long as they are in time."""
        for part in PARTS:
            for key in self._best(limit_us).counts:
                while True:
                    best = self._best(limit_us)
                    count = best.counts.get(key, 1)
                    fewer = count - max(1, int(count * part))
                    if best.times is None or count < 2 or self.tries <= 0:
                        break
                    kept = tuple(one for one in best.taste.counts if one[:2] != key)
                    self._try(best.times, replace(best.taste, counts=(*kept, (*key, fewer))))
                    if self._best(limit_us) is best:
                        break

    def _best(self, limit_us: float | None) -> Found:
        """The fewest bytes in time; the shortest run if none is."""
        in_time = [found for found in self.found if limit_us is None or found.makespan_us <= limit_us]
        if in_time:
            return min(in_time, key=lambda found: (found.height, found.makespan_us))
        return min(self.found, key=lambda found: (found.makespan_us, found.height))

    def _in_budgets(self, limit_us: float) -> Iterator[Times]:
        """Runs under the least budgets with which they are in time, and the one in which memory holds nothing up."""
        free, num = self.work.free, 0
        peak = -(-self.work.lives.peak_live_bytes // 1024)
        for budget in BUDGETS:
            for in_order in (False, True):
                run = run_in_budget(self.work, int(peak * budget) + 1, limit_us, in_order=in_order)
                if run.makespan_us <= limit_us:
                    num += 1
                    yield run
            if num >= SOURCES - 1:
                break
        yield free

    def _refined(self, times: Times, taste: Taste, limit_us: float, most: int | None = None) -> None:
        """Lists, and from them others without what their runs waited for, until a run is in time."""
        more, before, spent, changed = MORE, (0, 0.0), set[Said](), set[Said]()
        for step in range(STEPS):
            best = min((found.height for found in self.found if found.makespan_us <= limit_us), default=inf)
            num_found = len(self.found)
            found = self._try(times, taste)
            if found is None or found.makespan_us <= limit_us or found.makespan_us > HOPELESS * limit_us:
                return
            is_known = step == 0 and len(self.found) == num_found  # another taste has led here, and on
            if is_known or found.height >= (best if most is None else most):
                return
            spent |= changed if before == (found.height, found.makespan_us) else set()
            more = min(MOST_MORE, more**2) if before[0] == found.height else MORE
            before = found.height, found.makespan_us
            taste, changed = self._without_waiting(found, taste, limit_us, more, spent)
            if not changed:
                return

    def _without_waiting(
        self, found: Found, taste: Taste, limit_us: float, factor: float, spent: set[Said]
    ) -> tuple[Taste, set[Said]]:
        """The taste without what waited longest, on the run's longest chain if that waited for as long as the run is late; and
        what changed, which is nothing of what is `spent`."""
        at = found.proposal.at
        rows = {local: row for row, local in enumerate(at.locals.tolist())}
        waited: dict[Said, float] = {}
        late = found.late if sum(found.late.values()) >= found.makespan_us - limit_us else found.held
        for (old, new), late_us in late.items():
            what = self._said(found, rows[old], rows[new])
            if what is not None and what not in spent:
                waited[what] = waited.get(what, 0.0) + late_us
        longest = max(waited.values(), default=0.0)
        bars, more = set(taste.bars), {(file, name): by for file, name, by in taste.more}
        changed = {what for what, late_us in waited.items() if late_us >= PART * longest and what not in bars}
        for what in changed:
            if len(what) == 2:
                more[what] = more.get(what, 1.0) * factor
            elif len(bars) < MOST_BARS:
                bars.add(what)
        return replace(taste, bars=frozenset(bars), more=tuple((*what, by) for what, by in sorted(more.items()))), changed

    def _said(self, found: Found, old: int, new: int) -> Said | None:
        """What to say that a tensor no longer waits for that of another row: a pair to keep apart, or an entry with copies."""
        at = found.proposal.at
        level = int(((at.instance[old] == at.instance[new]) & (at.instance[old] >= 0)).sum()) - 1
        if level < 0:
            return None  # in arenas of their own
        ways = [[at.units[unit] for unit in at.unit[row, level:].tolist() if unit >= 0] for row in (old, new)]
        file = at.leaves[int(at.leaf[old, level])][0].file
        one, other = (way[0] for way in ways)
        if one.number == other.number:
            return file, ways[0][0].name
        if one.used is not None or (other.used is None and other.inside is None and one.inside is not None):
            ways.reverse()  # a tensor says from what in a used graph or group it keeps apart
        path = [unit.name for place, unit in enumerate(ways[1]) if not place or unit.inside is None]
        return file, ways[0][0].name, ".".join(path)

    def _try(self, times: Times, taste: Taste) -> Found | None:
        """What lists of a taste for a run come to."""
        if self.tries <= 0 or self.stop():
            return None
        made = proposal(self.scene, times.begin, times.finish, taste)
        return None if made is None else self._measured(made, times, taste)

    def _measured(self, made: Proposal, times: Times | None = None, taste: Taste = WIDEST) -> Found:
        """The run with lists, which spends a try unless it is known."""
        key = tuple((file, *map(str, plain(entries))) for file, entries in sorted(made.said.items()))
        if key not in self.known:
            self.tries -= 1
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
        return Found(made, made.height, run.makespan_us, *waits_for_bytes(self.work, before, run), times, taste)
