"""Fewer copies at once of all that is high in lists, as far as their run stays in time.

Changes of one entry at a time end where each makes the run late, though some bytes elsewhere would give that time back: of a
ring of sixteen slots one of four is 120 MiB smaller, and later by less than two tensors of 2 KiB cost that wait for each other.
So copies are taken away first, down to so many bytes, by placing entries anew without a run; then what waits gets bytes of its
own, what takes few of them first and all at once, the rest by time for bytes, as long as they do not grow much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from runner.rings.devices.timed_lives import Times
from runner.writeback.sharing.found import MORE, PART, Found, Remedy, remedied
from runner.writeback.sharing.narrowing import Layout
from runner.writeback.sharing.scene import Scene, Taste

CLOSE = 0.01
"""Up to this part of all sizes, tensors keep apart from used graphs; what takes at most this part of all bytes takes few."""

ROOM = 1.08
"""By what part lists may take more bytes than they are brought down to."""

STEPS = 12
"""Lists on the way to some that are in time."""


class Squeeze:
    """Lists made for one run in one way. What waited in those for some bytes has bytes of its own in those for others too."""

    def __init__(self, scene: Scene, start: Found, tried: Callable[[Times, Taste], Found | None]) -> None:
        assert start.times is not None, "these lists were made for a run"
        self.layout, self.start, self.times, self.tried = Layout(scene, start.proposal.said), start, start.times, tried
        self.bars, self.more = start.taste.bars, dict[tuple[str, str], int]()

    def first(self, most: int) -> Found | None:
        """Lists with fewer copies, of about so many units."""
        return self.tried(self.times, self._taste(most))

    def _taste(self, most: int) -> Taste:
        return replace(self.start.pinned(self.more | self.layout.lowered(most)), apart=CLOSE, bars=self.bars)

    def in_time(self, most: int, limit_us: float) -> Found | None:
        """Of about so many units the lists with the shortest run, which need not be in time; None if there are none."""
        taste, spent, changed = self._taste(most), set[Remedy](), set[Remedy]()
        last: Found | None = None
        every: list[Found] = []
        for _ in range(STEPS):
            found = self.tried(self.times, taste)
            if found is None:
                break
            is_over = last is not None and found.height > ROOM * most
            if last is not None and (is_over or found.makespan_us >= last.makespan_us):
                spent |= changed
            if last is None or not is_over:
                last = found
                every.append(found)
            changed = set() if last.makespan_us <= limit_us else cheapest(last, limit_us, spent)
            if not changed:
                break
            taste = remedied(last.taste, changed, MORE)
        if last is not None:
            self.bars = last.taste.bars
            self.more = {key: count for key, count in last.counts.items() if key not in self.start.counts}
        return min(every, key=lambda one: (one.makespan_us, one.height), default=None)


def cheapest(found: Found, limit_us: float, spent: set[Remedy]) -> set[Remedy]:
    """What to say for less waiting: what takes few bytes if there is any, else what gains the most for its bytes; nothing of what
    is `spent`."""
    waited: dict[Remedy, float] = {}
    units: dict[Remedy, int] = {}
    for pair, late_us in found.blamed(limit_us).items():
        what = found.remedy(pair, is_whole=True)
        if what is not None and what not in spent | found.taste.bars:
            waited[what] = waited.get(what, 0.0) + late_us
            size = min(int(found.proposal.at.size[found.row[local]]) for local in pair)
            units[what] = max(units.get(what, 0), size)
    few = {what: late_us for what, late_us in waited.items() if units[what] <= CLOSE * found.height}
    worth = few or {what: late_us / max(units[what], 1) for what, late_us in waited.items()}
    most = max(worth.values(), default=0.0)
    return {what for what, gain in worth.items() if gain >= PART * most}
