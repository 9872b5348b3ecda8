"""This module finds what a run's length came from: the longest chain of tasks, and the chain that the run waited for.

static     the longest chain of durations along edges: the run on cores without number, submitted at no cost
observed   from the task that ended last back to the first: each began when the last thing that it waited for was there

What a task waits for last is its gate:

data        a task that it waits for has ended
core        the task before it on its core has ended
submission  the submitting thread has submitted it
heap        the same, just after that thread had to wait for room on a ring until some task had ended

The observed chain covers the run without a gap: its kernels and waits add up to the makespan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

KINDS: tuple[str, ...] = ("data", "core", "submission", "heap")

TOLERANCE_US = 0.04
"""Two ticks of the slowest clock: what ends so little after another begins has let it begin."""


@dataclass(frozen=True)
class Observed:
    """A run as it was recorded, by numbers of submissions; times in microseconds.

    waits    of each task the tasks with times that it waits for
    slices   (core, task, start, end) of every block
    submits  (submission, start, end) in order, empty where they were not recorded
    freed    submissions that had to wait for room, each with the task whose end made it, None where that is not known
    """

    names: Mapping[int, str]
    start_us: Mapping[int, float]
    end_us: Mapping[int, float]
    waits: Mapping[int, Sequence[int]]
    slices: Sequence[tuple[int, int, float, float]]
    submits: Sequence[tuple[int, float, float]] = ()
    freed: Mapping[int, int | None] = field(default_factory=dict)

    @property
    def begin_us(self) -> float:
        return min([start for _, start, _ in self.submits] + [*self.start_us.values()], default=0.0)


@dataclass(frozen=True, slots=True)
class Gate:
    """What a task waited for last: `behind` is the task that ended, None where none did; `us` from then to the task's start.

    `submission_us` is the part of it after there was room on a ring again: the submitting thread's own.
    """

    kind: str
    behind: int | None
    us: float
    submission_us: float = 0.0


@dataclass(frozen=True)
class CriticalPath:
    """`static` and `observed` are tasks, first to last; `gates` are of all tasks, `waited_us` of the observed."""

    run: Observed
    static: tuple[int, ...]
    static_us: float
    static_finish_us: Mapping[int, float]
    observed: tuple[int, ...]
    makespan_us: float
    gates: Mapping[int, Gate]
    waited_us: Mapping[str, float]

    @property
    def kernels_us(self) -> float:
        """What tasks took of the observed chain."""
        return sum(self.run.end_us[task] - self.run.start_us[task] for task in self.observed)

    def as_json(self) -> dict[str, Any]:
        """The object of `ringgraph critical-path --json`."""
        return {
            "static": {"us": self.static_us, "tasks": [*self.static]},
            "observed": {
                "makespan_us": self.makespan_us,
                "kernels_us": self.kernels_us,
                "waited_us": dict(self.waited_us),
                "tasks": [*self.observed],
            },
            "tasks": [self.row(task) for task in sorted(self.run.start_us)],
        }

    def row(self, task: int) -> dict[str, Any]:
        run, gate = self.run, self.gates[task]
        return {
            "task": task,
            "name": run.names[task],
            "start_us": run.start_us[task],
            "end_us": run.end_us[task],
            "static_finish_us": self.static_finish_us[task],
            "waited_for": gate.kind,
            "behind": gate.behind,
            "gap_us": gate.us,
        }


def critical_path(run: Observed) -> CriticalPath:
    """Both chains of a run; of one without tasks both are empty."""
    finish, before = _static(run)
    static = _chain(max(finish, key=lambda task: finish[task], default=None), before)
    gates = _Gates(run).all()
    last = max(run.end_us, key=lambda task: (run.end_us[task], task), default=None)
    observed = _chain(last, {task: gate.behind for task, gate in gates.items()})
    waited = dict.fromkeys(KINDS, 0.0)
    for task in observed:
        gate = gates[task]
        waited["heap" if gate.submission_us else gate.kind] += gate.us - gate.submission_us
        waited["submission"] += gate.submission_us
    makespan = 0.0 if last is None else run.end_us[last] - run.begin_us
    return CriticalPath(run, static, max(finish.values(), default=0.0), finish, observed, makespan, gates, waited)


def observed_chain(run: Observed) -> list[tuple[int, Gate]]:
    """The observed chain alone, first to last, each task with what it waited for last: for runs too large for all gates."""
    gates, found = _Gates(run), []
    task = max(run.end_us, key=lambda task: (run.end_us[task], task), default=None)
    while task is not None:
        found.append((task, gates.gate(task)))
        task = found[-1][1].behind
    return found[::-1]


def _static(run: Observed) -> tuple[dict[int, float], dict[int, int | None]]:
    """Per task the length of the longest chain that ends with it, and the task before it there."""
    finish: dict[int, float] = {}
    before: dict[int, int | None] = {}
    for task in sorted(run.start_us):  # edges go from earlier submissions to later ones
        longest = max(run.waits.get(task, ()), key=lambda wait: finish[wait], default=None)
        before[task] = longest
        finish[task] = (0.0 if longest is None else finish[longest]) + run.end_us[task] - run.start_us[task]
    return finish, before


def _chain(last: int | None, before: Mapping[int, int | None]) -> tuple[int, ...]:
    found: list[int] = []
    while last is not None:
        found.append(last)
        last = before[last]
    return tuple(reversed(found))


class _Gates:
    """Finds what each task waited for last."""

    def __init__(self, run: Observed) -> None:
        self.run = run
        self.submitted = {submission: (start, end) for submission, start, end in run.submits}
        self.number = {submission: number for number, (submission, _, _) in enumerate(run.submits)}
        self.usual_us = median(end - start for _, start, end in run.submits) if run.submits else 0.0
        self.on_core = self.before_on_core()
        self.roomless: dict[int, tuple[int, int | None] | None] = {}  # the last one up to here that waited for room
        last: tuple[int, int | None] | None = None
        for submission, _, _ in run.submits:
            if submission in run.freed:
                last = submission, run.freed[submission]
            self.roomless[submission] = last

    def before_on_core(self) -> dict[int, int]:
        """Of each task the one that freed the core on which it began, the last if it began on several."""
        found: dict[int, int] = {}
        latest: dict[int, tuple[float, int]] = {}
        run = self.run
        for core, task, start, end in sorted(run.slices, key=lambda row: (row[2], row[3])):
            if core in latest and latest[core][1] != task and start <= run.start_us[task]:
                freed, earlier = latest[core]
                if freed <= start + TOLERANCE_US and (task not in found or freed > run.end_us[found[task]]):
                    found[task] = earlier
            latest[core] = max(latest.get(core, (end, task)), (end, task))
        return found

    def all(self) -> dict[int, Gate]:
        return {task: self.gate(task) for task in self.run.start_us}

    def gate(self, task: int) -> Gate:
        run, start = self.run, self.run.start_us[task]
        data = [wait for wait in run.waits.get(task, ()) if self.let_begin(wait, task)]
        found = [(run.end_us[wait], 2, "data", wait) for wait in data]
        core = self.on_core.get(task)
        if core is not None and self.let_begin(core, task):
            found.append((run.end_us[core], 1, "core", core))
        at = self.submit_end(task)
        best = max(found, default=None)
        if best is not None and (at is None or best[0] >= at - TOLERANCE_US):
            return Gate(best[2], best[3], start - best[0])
        return self.submission(task)

    def let_begin(self, first: int, second: int) -> bool:
        """Whether one task ended when another began; begun earlier, so that no chain goes round."""
        return self.run.end_us[first] <= self.run.start_us[second] + TOLERANCE_US and (
            (self.run.start_us[first], first) < (self.run.start_us[second], second)
        )

    def submit_end(self, task: int) -> float | None:
        """When a task was submitted; where its record ends after it began, when that began."""
        if task not in self.submitted:
            return None
        begun, ended = self.submitted[task]
        return ended if ended <= self.run.start_us[task] + TOLERANCE_US else begun

    def submission(self, task: int) -> Gate:
        """The gate of a task that began when it was submitted."""
        run, start = self.run, self.run.start_us[task]
        waited = self.roomless.get(task)
        submission, freed_by = (task, None) if waited is None else waited
        if freed_by is not None and self.let_begin(freed_by, task):
            ended = run.end_us[freed_by]
            since = max(0.0, start - max(ended, self.submitted[submission][1]))
            is_close = since <= 2 * self.usual_us * (self.number[task] - self.number[submission] + 1)
            return Gate("heap" if is_close else "submission", freed_by, start - ended, since)
        return Gate("submission", None, start - run.begin_us)
