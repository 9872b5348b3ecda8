"""This module tells which tasks have to hand on what they wait for, where they lie in trips that do not run.

A task that is never submitted orders nothing. The executor lets it hand on what it waits for; orchestration code has to do so too
where nothing else orders the tasks on both sides of it:

    a: writes t                    no trip runs, so that c, which takes t's bytes as well,
    trip of a loop:                waits for b no more: it has to wait for a
      b: takes t's bytes
    c: reads what b writes

The runtime infers that c waits for b. All edges of b, and this one, are written down, as what an edge to b stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.program.order import Order, pruned
from runner.program.spans import Around, implied
from runner.rings.schedule import Read, Repeat, Schedule, Submit
from runner.rings.steps import StepWalk


@dataclass(frozen=True, slots=True)
class Handing:
    """`edges` are pairs of a submission and one that it waits for, and that hands on to it; all edges of `tasks` are needed."""

    edges: frozenset[tuple[int, int]] = frozenset()
    tasks: frozenset[int] = frozenset()


def handing(schedule: Schedule) -> Handing:
    """Who hands on in a schedule; nobody where nothing is decided at run time."""
    if not any(isinstance(step, Repeat) for step in schedule.steps):
        return Handing()
    found = _Handing(schedule)
    found.walk()
    return Handing(frozenset(found.edges), frozenset(found.tasks))


class _Handing:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.waits = [made.waits for made in schedule.submissions]
        self.order = Order()  # per submission what surely comes before it if it runs
        self.trips: list[Around] = []
        self.gate: list[int] = []  # what the submitting thread has surely waited for
        self.edges: set[tuple[int, int]] = set()
        self.tasks: set[int] = set()

    def walk(self) -> None:
        walk = StepWalk(self.schedule)
        for step in walk:
            around = tuple((loop.at, loop.trip) for loop in walk.loops)
            if isinstance(step, Submit):
                waits = self.waits[step.submission]
                before = self._before(waits, around)
                self.edges.update((step.submission, wait) for wait in self._handing(waits, around, before))
                self.order.append(before)
                self.trips.append(around)
            elif isinstance(step, Read | Repeat) and step.waits:
                self._handing(step.waits, around, self._before(step.waits, around))
                if not around:
                    certain = {wait for wait in step.waits if not self.trips[wait]}
                    self.gate = pruned(certain.union(self.gate), 0, len(self.trips), self.order)

    def _before(self, waits: Sequence[int], around: Around) -> int:
        """The set of what surely comes before something in the trips `around` that waits for these."""
        return self.order.ancestors([*self.gate, *(wait for wait in waits if implied(self.trips[wait], around))])

    def _handing(self, waits: Sequence[int], around: Around, before: int) -> list[int]:
        """Those of `waits` that hand on; they, and all behind them, are noted."""
        found = [wait for wait in waits if not implied(self.trips[wait], around) and self._matters(wait, before)]
        stack = list(found)
        while stack:
            task = stack.pop()
            if task not in self.tasks and self.trips[task]:
                self.tasks.add(task)
                stack += self.waits[task]
        return found

    def _matters(self, task: int, before: int) -> bool:
        """Whether something behind a task that does not run may run, and is not in the set `before`."""
        end, stack, seen = len(self.trips), [task], {task}
        while stack:
            for wait in self.waits[stack.pop()]:
                if wait in seen or self.order.has(before, wait, end):
                    continue
                if not implied(self.trips[task], self.trips[wait]):
                    return True
                seen.add(wait)
                stack.append(wait)
        return False
