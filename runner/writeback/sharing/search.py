"""The lists that are best under an objective: the fewest bytes, the fewest within a time, the shortest run within bytes.

A run in which memory holds nothing up says when tensors are in use. Lists for it are made with more or fewer trips of loops side
by side and more or less patience, and a run with the places that they give says what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.order import predecessors
from runner.rings.devices.timed_lives import Times, Work, run_free, run_placed
from runner.writeback.sharing.arranging import Proposal, Scene, Taste, proposal

WIDTHS = (1.0, 0.5, 0.25, 0.12)
"""Trips side by side that are tried first, as parts of those in use at once."""

STARTS = (1.0, 2.0)
"""Widths that others follow: the second where the first is not in time."""

STEPS = 4
"""Widths that are tried between one that is in time and one that is not."""

APARTS = (0.0, 0.03, 0.08, 0.2, 0.5)
"""Parts of all sizes up to which tensors keep apart from used graphs, the fewest bytes first."""

MOST_APARTS = 2
"""Of these, how many that are in time are followed."""

PATIENCE_US = (20.0, 200.0)
"""How long tensors may wait for bytes, beside not at all."""


WIDEST = Taste(0.0, 8.0, 1.0, 16.0)
"""As little waiting as lists can have."""


@dataclass(frozen=True)
class Found:
    """Lists, the units of their arenas, and how long a run with them takes."""

    proposal: Proposal
    height: int
    makespan_us: float


class ShareSearch:
    """Lists for one program; all that was tried is kept."""

    def __init__(self, scene: Scene, work: Work, stop: Callable[[], bool] = lambda: False) -> None:
        self.scene, self.work, self.stop = scene, work, stop
        self.tried: dict[Taste | None, Found | None] = {}
        self.free: Times | None = None
        touched = np.zeros(len(work.lives.size), bool)
        touched[work.lives.touches.values] = True
        self.touched = touched

    def fewest(self, limit_us: float | None) -> Found | None:
        """The fewest bytes, of runs within the limit if there is one; the shortest run if none is."""
        self._try(None)
        if limit_us is not None:
            for found in self._towards(limit_us):
                if found is not None and self.stop():
                    break
        known = [found for found in self.tried.values() if found is not None]
        in_time = [found for found in known if limit_us is None or found.makespan_us <= limit_us]
        if in_time:
            return min(in_time, key=lambda found: (found.height, found.makespan_us))
        return min(known, key=lambda found: (found.makespan_us, found.height), default=None)

    def fastest(self, most: int | None) -> Found | None:
        """The shortest run within so many units; the fewest units if none fit."""
        smallest = self._try(None)
        self._try(WIDEST)
        for apart in APARTS:
            for width in WIDTHS:
                self._try(Taste(0.0, width, apart))
        known = [found for found in self.tried.values() if found is not None]
        fitting = [found for found in known if most is None or found.height <= most]
        return min(fitting, key=lambda found: (found.makespan_us, found.height), default=smallest)

    def _towards(self, limit_us: float) -> Iterator[Found | None]:
        """Tries widths and patience, as long as that gives fewer bytes in time."""
        yield self._try(WIDEST)
        in_time: list[tuple[float, float]] = []
        for apart in APARTS:
            for start in STARTS:
                found = self._try(Taste(0.0, start, apart))
                yield found
                if found is not None and found.makespan_us <= limit_us:
                    in_time.append((apart, start))
                    break
            if len(in_time) == MOST_APARTS:
                break
        for apart, good in in_time:
            for width in self._widths(apart, limit_us, good, 0.0 if good == STARTS[0] else STARTS[0]):
                yield self._try(Taste(0.0, width, apart))
                good = width
            for patience in PATIENCE_US:
                found = self._try(Taste(patience, good, apart))
                yield found
                if found is None or found.makespan_us > limit_us:
                    break

    def _widths(self, apart: float, limit_us: float, good: float, late: float) -> Iterator[float]:
        """Widths in time, ever smaller ones."""

        def is_in_time(width: float) -> bool:
            found = self._try(Taste(0.0, width, apart))
            return found is not None and found.makespan_us <= limit_us

        for width in WIDTHS[1:] if not late else ():
            if not is_in_time(width):
                late = width
                break
            good = width
            yield width
        for _ in range(STEPS):
            middle = (good + late) / 2
            if is_in_time(middle):
                good = middle
                yield middle
            else:
                late = middle

    def _try(self, taste: Taste | None) -> Found | None:
        """What lists of a taste come to; None stands for those of submission order, where nothing but lives counts."""
        if taste not in self.tried:
            lives = self.work.lives
            if taste is None:
                made = proposal(self.scene, lives.first.astype(float), lives.end.astype(float), Taste(0.0))
            else:
                self.free = self.free or run_free(self.work)
                made = proposal(self.scene, self.free.begin, self.free.finish, taste)
            self.tried[taste] = None if made is None else self._measured(made)
        return self.tried[taste]

    def _measured(self, made: Proposal) -> Found:
        lives, at = self.work.lives, made.at
        offsets, listed = np.zeros(len(lives.size), np.int64), np.zeros(len(lives.size), bool)
        roots = at.instance[:, 0]
        tops = np.zeros(int(roots.max(initial=-1)) + 1, np.int64)
        np.maximum.at(tops, roots, made.places.offsets + at.size)
        offsets[at.locals] = made.places.offsets + (np.cumsum(tops) - tops)[roots]
        listed[at.locals] = True
        before = predecessors(np.flatnonzero(listed & self.touched), lives.first, offsets, lives.size)
        run = run_placed(self.work, [before.get(local, ()) for local in range(len(lives.size))])
        return Found(made, made.height, run.makespan_us)


def units(size_bytes: int) -> int:
    """Whole units of 1,024 bytes."""
    return size_bytes // BLOCK_ALIGN
