"""Writers that the runtime still knows though later ones have written over some of what they wrote.

A reader has an edge to *every* registered writer that overlaps what it reads, not only to the last one. A writer is forgotten
when a task that reads and writes (INOUT) covers all that it wrote. One that covers only some leaves it, and so does one in a
manual scope, or whose mode is `existing` or `no_dep`. `Task.waits` are the last writers; `OverwrittenWriters` adds the others.
Mostly the last ones follow these, so that they change no order; but they take entries of the dependency pool.

Sweeps may forget a writer earlier, so a run has these edges or fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from runner.program.program import Region, Task

Entry = tuple[int, Region]
"""A task and what it wrote."""


@dataclass
class _Loop:
    """An open dynamic loop: the tasks of its present trip, and what to undo at its end, as no trip may run."""

    trip: set[int] = field(default_factory=set)
    covered: list[Entry] = field(default_factory=list)
    since: dict[int, int] = field(default_factory=dict)


@dataclass
class OverwrittenWriters:
    """Entries of writers that are not the last ones of all that they wrote, by tensor.

    Told of the tasks in the order of submission. `is_registered(task, tensor)` says whether a write of a tensor is noted by the
    runtime: not where the task creates it, nor in a manual scope. While there are neither `entries` nor `open`
    loops, tasks that only write what they create may be passed over.
    """

    tasks: Sequence[Task]
    is_registered: Callable[[int, int], bool]
    entries: dict[int, dict[Entry, None]] = field(default_factory=dict)
    _since: dict[int, int] = field(default_factory=dict)  # by tensor the last task that covered all of it
    _gone: set[Entry] = field(default_factory=set)  # what others covered
    _updates: dict[int, tuple[tuple[int, bool], ...]] = field(default_factory=dict)  # by the identity of `Task.like`
    open: list[_Loop] = field(default_factory=list)

    def follow(self, task: Task, manual: bool) -> Set[int]:
        """The tasks whose entries overlap what `task` reads or updates; then notes what it writes over."""
        found: set[int] = set()
        if self.entries and not manual:
            for name, region in zip(task.names, task.regions, strict=True):
                if region.tensor in self.entries and task.modes.get(name, "in") == "in":
                    found.update([entry[0] for entry in self.entries[region.tensor] if overlap(region, entry[1])])
        if self.open:
            self.open[-1].trip.add(task.id)
        if task.waits or task.unordered or self.entries:
            updated = self._updated(task)
            regions = tuple(task.regions) if updated else ()
            for place, has_mode in updated:
                self._overwrite(regions[place], task, manual or has_mode)
        return found

    def _updated(self, task: Task) -> tuple[tuple[int, bool], ...]:
        """Places of operands that write what the task has not created, and whether they have a mode: those of all tasks alike."""
        known = self._updates.get(id(task.like))
        if known is None:
            writes, creates, modes = task.writes, task.creates, task.modes
            known = self._updates[id(task.like)] = tuple(
                [
                    (place, name in modes)
                    for place, (name, region) in enumerate(zip(task.names, task.regions, strict=True))
                    if region.tensor in writes and region.tensor not in creates and modes.get(name) != "in"
                ]
            )
        return known

    def _overwrite(self, region: Region, task: Task, only_adds: bool) -> None:
        tensor, is_whole = region.tensor, region.box is None and region.part is None
        since = self._since.get(tensor, -1)
        for entry in self._written((*task.waits, *task.unordered), tensor) if only_adds or not is_whole else ():
            if entry[0] < since or entry in self._gone or not overlap(region, entry[1]):
                continue
            if only_adds or not covers(region, entry[1]):
                self.entries.setdefault(tensor, {})[entry] = None
            else:
                self._cover(entry)
        if only_adds:
            return
        for entry in [entry for entry in self.entries.get(tensor, ()) if covers(region, entry[1])]:
            self._cover(entry)
        if is_whole:
            if self.open:
                self.open[-1].since.setdefault(tensor, since)
            self._since[tensor] = task.id

    def _written(self, tasks: Sequence[int], tensor: int) -> Iterator[Entry]:
        for number in tasks:
            task = self.tasks[number]
            if tensor in task.writes and self.is_registered(number, tensor):
                for name, region in zip(task.names, task.regions, strict=True):
                    if region.tensor == tensor and task.modes.get(name) not in ("in", "no_dep"):
                        yield number, region

    def _cover(self, entry: Entry) -> None:
        """The entry goes; for those outside of a dynamic loop only if it came in the same trip, for else the trip may not run."""
        tensor = entry[1].tensor
        self._gone.add(entry)
        if tensor in self.entries:
            self.entries[tensor].pop(entry, None)
            if not self.entries[tensor]:
                del self.entries[tensor]
        if self.open and entry[0] not in self.open[-1].trip:
            self.open[-1].covered.append(entry)

    # --- dynamic loops ---

    def open_loop(self) -> None:
        """A dynamic loop begins."""
        self.open.append(_Loop())

    def next_trip(self) -> None:
        """A trip of the innermost loop begins."""
        self.open[-1].trip.clear()

    def close_loop(self) -> None:
        """The innermost loop has ended: what it covered is there if it made no trip."""
        loop = self.open.pop()
        self._since.update(loop.since)
        for entry in loop.covered:
            self._gone.discard(entry)
            self.entries.setdefault(entry[1].tensor, {})[entry] = None


def overlap(one: Region, other: Region) -> bool:
    """Whether two regions of a tensor share an element; parts with different keys do not."""
    if one.part is not None and other.part is not None and one.part != other.part:
        return False
    if one.box is None or other.box is None:
        return True
    return all(lo < end and low < hi for (lo, hi), (low, end) in zip(one.box, other.box, strict=True))


def covers(one: Region, other: Region) -> bool:
    """Whether a region has all of another one of its tensor."""
    if one.part is not None and one.part != other.part:
        return False
    if one.box is None:
        return True
    return other.box is not None and all(lo <= low and end <= hi for (lo, hi), (low, end) in zip(one.box, other.box, strict=True))
