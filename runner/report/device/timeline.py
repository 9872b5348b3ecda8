"""This module owns the timeline of a run: what ran when on which core, when it was submitted, and what the rings held.

A timeline comes from a `timed` replay (`traced`) or from a measured run (`measured`). Times are microseconds from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from runner.rings.replay import Replay
from runner.rings.schedule import Begin, End, Schedule, Step, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import StepWalk, submission_rings
from runner.rings.timed import AIV_PER_MIX, TimedDriver, Timing


class BlockRun(NamedTuple):
    """One block of a submission's task on the cores that it takes: several for a MIX block."""

    submission: int
    cores: tuple[int, ...]
    start_us: float
    end_us: float


class Submitting(NamedTuple):
    """What one submission took of the submitting thread, waits for room included."""

    submission: int
    start_us: float
    end_us: float


class OpenScope(NamedTuple):
    """How long a scope was open on the submitting thread."""

    scope: int
    start_us: float
    end_us: float


class Level(NamedTuple):
    """What a ring holds from a time on: bytes between tail and head, and live slots."""

    time_us: float
    ring: int
    held_bytes: int
    slots: int


@dataclass(frozen=True)
class Timeline:
    """`cores` are the types (`aic`, `aiv`) of all cores by number; `scopes` are in the order in which they open.

    `levels` is empty where a run had no rings.
    """

    cores: tuple[str, ...]
    runs: tuple[BlockRun, ...]
    submits: tuple[Submitting, ...]
    scopes: tuple[OpenScope, ...]
    levels: tuple[Level, ...] = ()


# --- identity ---------------------------------------------------------------------------------------------------------


def task_ids(schedule: Schedule, was_submitted: Sequence[bool]) -> list[int | None]:
    """Per submission the device's id, `ring << 32 | number on the ring`; None for what was not submitted."""
    counts = [0] * 256
    found: list[int | None] = [None] * len(schedule.submissions)
    for submission, ring in submission_rings(schedule):
        if was_submitted[submission]:
            found[submission] = ring << 32 | counts[ring]
            counts[ring] += 1
    return found


def kernel_of(schedule: Schedule, submission: int) -> str:
    """The name of a submission's kernel: its op, else its own."""
    item = schedule.submissions[submission]
    return item.op or item.name


# --- of a timed replay ------------------------------------------------------------------------------------------------


def traced(schedule: Schedule, sizes: RingSizes, timing: Timing) -> tuple[Replay, Timeline]:
    """A `timed` replay and its timeline; of a run that deadlocks up to there."""
    tracer = _Tracer(schedule, sizes, timing)
    replay = tracer.run()
    return replay, tracer.timeline(replay)


class _Tracer(TimedDriver):
    def __init__(self, schedule: Schedule, sizes: RingSizes, timing: Timing) -> None:
        super().__init__(schedule, sizes, timing)
        self._counts = {"aic": timing.aic, "aiv": timing.aiv}
        self._dispatched: list[tuple[int, int, float, float]] = []
        self._submits: list[Submitting] = []
        self._open: list[tuple[int, float]] = []
        self._scopes: list[OpenScope] = []
        self._levels: list[Level] = []

    def steps(self) -> Iterator[Step]:
        walk = StepWalk(self.schedule)
        for step in walk:
            start = self._now
            if isinstance(step, Begin):
                self._open.append((step.scope, start))
            yield step
            if isinstance(step, Submit):
                ring = self.heap.rings[walk.rings[-1]]
                self._submits.append(Submitting(step.submission, start, self._now))
                self._levels.append(Level(self._now, walk.rings[-1], ring.head_bytes - ring.tail_bytes, ring.live))
            elif isinstance(step, End):
                self._scopes.append(OpenScope(*self._open.pop(), start))

    def _begin(self, submission: int, core: str, blocks: int, now: float) -> int:
        begun = super()._begin(submission, core, blocks, now)
        if begun:
            self._dispatched.append((submission, begun, now, now + self._timing.block_us(submission)))
        return begun

    def timeline(self, replay: Replay) -> Timeline:
        end = self._now if replay.makespan_us is None else replay.makespan_us
        scopes = self._scopes + [OpenScope(scope, start, end) for scope, start in self._open]
        cores = _Cores(self._counts)
        core_of = [item.core or "" for item in self.schedule.submissions]
        taken = [
            (submission, cores.take(core_of[submission], start, until), start, until)
            for submission, blocks, start, until in self._dispatched
            for _ in range(blocks)
        ]
        runs = tuple(BlockRun(s, cores.numbers(named), start, until) for s, named, start, until in taken)
        ordered = tuple(sorted(scopes, key=lambda open_scope: open_scope.scope))
        return Timeline(cores.types(), runs, tuple(self._submits), ordered, tuple(self._levels))


@dataclass
class _Cores:
    """Deals cores to blocks in the order in which they start: the free one with the least number.

    The replay counts workers, so a type never runs out of cores; without a limit there are as many as it takes.
    """

    limits: dict[str, int | None]
    free: dict[str, list[int]] = field(default_factory=lambda: {"aic": [], "aiv": []})
    busy: list[tuple[float, str, int]] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=lambda: {"aic": 0, "aiv": 0})

    def take(self, core: str, start: float, end: float) -> list[tuple[str, int]]:
        while self.busy and self.busy[0][0] <= start:
            _, kind, number = heappop(self.busy)
            heappush(self.free[kind], number)
        kinds = ["aic"] + ["aiv"] * AIV_PER_MIX if core == "MIX" else [core.lower()]
        return [(kind, self.one(kind, end)) for kind in kinds]

    def one(self, kind: str, end: float) -> int:
        if self.free[kind]:
            number = heappop(self.free[kind])
        else:
            number = self.used[kind]
            self.used[kind] += 1
        heappush(self.busy, (end, kind, number))
        return number

    def count(self, kind: str) -> int:
        return max(self.limits[kind] or 0, self.used[kind])

    def numbers(self, named: Iterable[tuple[str, int]]) -> tuple[int, ...]:
        """The cores' numbers among all: AIC cores come first."""
        return tuple(number + (self.count("aic") if kind == "aiv" else 0) for kind, number in named)

    def types(self) -> tuple[str, ...]:
        return ("aic",) * self.count("aic") + ("aiv",) * self.count("aiv")


# --- of a measured run ------------------------------------------------------------------------------------------------


def measured(
    schedule: Schedule,
    tasks: Sequence[tuple[int, int, int, int]],
    submits: Sequence[tuple[int, int, int]],
    scopes: Sequence[tuple[int, int, int]],
    levels: Sequence[tuple[int, int, int, int]],
) -> Timeline:
    """The timeline of what a run noted in nanoseconds (`runner.execution.tracing.Trace` says of each what it is).

    Every thread counts as two cores, one of each type, of which a task takes that of its own type.
    """
    threads: dict[int, int] = {}
    for _, thread, _, _ in tasks:
        threads.setdefault(thread, len(threads))
    zero = min((start for rows in (submits, scopes) for _, start, _ in rows), default=0)

    def us(time_ns: int) -> float:
        return (time_ns - zero) / 1000

    runs = []
    for submission, thread, start, end in sorted(tasks, key=lambda row: row[2]):
        core = threads[thread] + (len(threads) if schedule.submissions[submission].core == "AIV" else 0)
        runs.append(BlockRun(submission, (core,), us(start), us(end)))
    return Timeline(
        ("aic",) * len(threads) + ("aiv",) * len(threads),
        tuple(runs),
        tuple(Submitting(submission, us(start), us(end)) for submission, start, end in submits),
        tuple(OpenScope(scope, us(start), us(end)) for scope, start, end in sorted(scopes)),
        tuple(Level(us(time), ring, held, slots) for time, ring, held, slots in levels),
    )
