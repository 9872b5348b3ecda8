"""This module owns the tensormap: the one table in which the runtime notes who writes which bytes of a tensor that exists.

An INOUT or `existing` argument of a task in an auto scope takes an entry. Entries go

- when an INOUT of a later task covers all that they stand for (at the same address);
- when a task (no alloc) is submitted on the ring of their task, if 64 of its tasks have retired since the last sweep there, or
  the new task has the slot at which that sweep ended: then those of all retired tasks of the ring go;
- on all rings, when a task needs more entries than are free.

Source: docs/memory-model.md, which restates the public `simpler` runtime (`tensormap_and_ringbuffer`, a2a3).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from runner.rings.schedule import NUM_RINGS, MapEntry, Schedule
from runner.rings.steps import StepWalk

CAPACITY = 65_536
"""Entries of the table, fixed when the runtime is built."""

SWEEP = 64
"""Tasks that retire on a ring before its entries are swept."""

Address = tuple[int, int]
"""Where a tensor begins: ring and offset; ring -1 and a number for a tensor from outside."""


Held = list[int]
"""An entry: ring and number of its task, -1 once it is covered, and the bytes of the tensor that it stands for (begin, end)."""

_begin = itemgetter(2)


class TensorMap:
    """Entries in use. Tasks are told by ring and number on it; `alive` lists each ring's oldest live task.

    `used` counts the entries, `peak` is the most that were in use.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.used = self.peak = 0
        self._held: dict[
            Address, list[Held]
        ] = {}  # by begin; what was swept is dropped when an INOUT covers it, or when it is most
        self._tasks: list[deque[Held]] = [deque() for _ in range(NUM_RINGS)]
        self._swept = [0] * NUM_RINGS  # up to which task entries have gone
        self._seen = [0] * NUM_RINGS  # the oldest live task when the ring was last looked at

    def sync(self, ring: int, number: int, alive: int, window: int) -> None:
        """A task gets `number` on its ring, of which `alive` is the oldest live one: sweep if that is due."""
        self._seen[ring] = alive
        swept = self._swept[ring]
        if alive - swept >= SWEEP or (number - swept) % window == 0:
            self._sweep(ring, alive)

    def room(self, needed: int, alive: Sequence[int]) -> bool:
        """Whether `needed` entries are free, after a sweep of all rings where they are not."""
        if self.used + needed > self.capacity:
            for ring in range(NUM_RINGS):
                self._seen[ring] = alive[ring]
                self._sweep(ring, alive[ring])
        return self.used + needed <= self.capacity

    def cover(self, entries: Sequence[MapEntry], addresses: Sequence[Address]) -> None:
        """Take out what the INOUT arguments among the entries of a task cover; their tensors begin at `addresses`.

        The task's own entries may go where these were, so this comes before it looks for room.
        """
        known = self._held
        for address, (_, _, begin, end, covers) in zip(addresses, entries, strict=True):
            if covers and address in known:
                self._cover(known[address], begin, end)

    def register(self, ring: int, number: int, entries: Sequence[MapEntry], addresses: Sequence[Address]) -> None:
        """Put in the entries of a task, for which there is room."""
        known, tasks = self._held, self._tasks[ring]
        for address, (_, _, begin, end, _) in zip(addresses, entries, strict=True):
            held = [ring, number, begin, end]
            tasks.append(held)
            if address in known:
                others = known[address]
                insort(others, held, key=_begin)
                if len(others) > 2 * self.used + SWEEP:
                    others[:] = [other for other in others if other[1] >= self._swept[other[0]]]
            else:
                known[address] = [held]
        self.used += len(entries)
        if self.used > self.peak:
            self.peak = self.used

    def _cover(self, entries: list[Held], begin: int, end: int) -> None:
        """Takes out a tensor's entries within these bytes; those of tasks that are known to have retired wait for a sweep."""
        start = bisect_left(entries, begin, key=_begin)
        stop = bisect_left(entries, end, start, key=_begin)
        kept = []
        for held in entries[start:stop]:
            ring, number, first, last = held
            if number >= self._seen[ring] and first < last <= end:
                held[1] = -1
                self.used -= 1
            elif number >= self._swept[ring]:
                kept.append(held)
        entries[start:stop] = kept

    def _sweep(self, ring: int, alive: int) -> None:
        self._swept[ring] = alive
        tasks = self._tasks[ring]
        while tasks and tasks[0][1] < alive:
            if tasks.popleft()[1] >= 0:
                self.used -= 1


def entries_bound(schedule: Schedule, windows: Sequence[int]) -> int:
    """Entries that can be in use at any moment of any run in these task windows, whatever the trip counts.

    A sweep comes at the latest when 64 tasks of a ring have retired, and `window - 1` may be live: so the entries of a ring are
    those of its last `window + 62` submissions. Which these are depends on trip counts; then those with most entries are taken.
    """
    entries = np.fromiter((len(submission.entries) for submission in schedule.submissions), np.int64, len(schedule.submissions))
    if not entries.any():
        return 0
    runs: list[list[range]] = [[] for _ in range(NUM_RINGS)]
    varying = [False] * NUM_RINGS
    walk = StepWalk(schedule)
    for step in walk.runs():
        if isinstance(step, range):
            runs[walk.rings[-1]].append(step)
            varying[walk.rings[-1]] |= bool(walk.loops)
    counts = [entries[np.fromiter(chain.from_iterable(ring), np.int64)] for ring in runs]
    return sum(map(_most_in_a_row, counts, [window + SWEEP - 2 for window in windows], varying))


def _most_in_a_row(counts: NDArray[np.int64], length: int, varying: bool) -> int:
    if len(counts) <= length:
        return int(counts.sum())
    if varying:
        return int(np.sort(counts)[-length:].sum())
    totals = np.concatenate(([0], np.cumsum(counts)))
    return int((totals[length:] - totals[:-length]).max())
