"""This module replays a schedule on ring heaps under a named model of how far execution has come at each submission.

eager    a task completes as soon as it is submitted: the least that a program can occupy
steps    tasks complete when a recording says so, and at no other time
lagging  nothing completes until the submitting thread has to wait, then only as much as it needs: the most
timed    a discrete-event run: a cost per submission, a duration per task, workers per core type (runner.rings.timed)

Source: the progress models of docs/memory-model.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from runner.base.records import collector_off
from runner.rings.heap import RingHeap
from runner.rings.parts.records import Deadlock, ScopeRecord
from runner.rings.schedule import Begin, End, Schedule, Step, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import StepWalk


@dataclass(frozen=True, slots=True)
class SlowWait:
    """A wait that the runtime takes for a deadlock: for `wait_us` nothing retires on `ring` that `submission` waits for.

    `code` is what the runtime ends the run with. For a host read (code 8) `submission` is the next one.
    """

    submission: int
    ring: int
    wait_us: float
    code: int


@dataclass(frozen=True, slots=True)
class RunTimes:
    """The times of a timed replay in rings of `sizes`; see `Replay`."""

    sizes: RingSizes
    stall_us: float | None
    makespan_us: float | None
    slow_waits: Sequence[SlowWait]
    was_short: bool

    def holds_in(self, sizes: RingSizes) -> bool:
        """Whether the run takes as long in rings of these sizes: nothing was ever short, and no ring is smaller."""
        pairs = [(self.sizes.heap, sizes.heap), (self.sizes.window, sizes.window), (self.sizes.pool, sizes.pool)]
        return not self.was_short and all(a <= b for old, new in pairs for a, b in zip(old, new, strict=True))


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay saw. Per ring: peaks of held bytes (head - tail) and live slots, and the submission that set the first.

    `offsets` are per submission, -1 where a deadlock came first. `stall_us` (how long the submitting thread stood still),
    `makespan_us`, `slow_waits` (at which the runtime would have given up) and `was_short` (whether a submission ever waited for
    bytes, a slot or entries) are of the timed model only.
    """

    schedule: Schedule
    sizes: RingSizes
    model: str
    offsets: Sequence[int]
    heap: RingHeap
    peak_bytes: Sequence[int]
    peak_slots: Sequence[int]
    peak_at: Sequence[int | None]
    deadlock: Deadlock | None
    stall_us: float | None = None
    makespan_us: float | None = None
    finish_us: Sequence[float] | None = None
    slow_waits: Sequence[SlowWait] = ()
    was_short: bool = False

    @property
    def times(self) -> RunTimes:
        """Its times alone, where the rest may be dropped."""
        makespan_us = self.makespan_us if self.deadlock is None else None
        return RunTimes(self.sizes, self.stall_us, makespan_us, self.slow_waits, self.was_short)

    @property
    def records(self) -> Sequence[ScopeRecord]:
        """What scope stats note; entries of the tensormap are counted when it is first asked for."""
        return self.heap.records

    @property
    def uncounted(self) -> Sequence[ScopeRecord]:
        """The same for who looks at rings alone: entries of the tensormap may not have been counted yet."""
        return self.heap.uncounted


class Driver:
    """Walks a schedule's steps over a RingHeap; subclasses say what completes when."""

    model = ""

    def __init__(self, schedule: Schedule, sizes: RingSizes, publish_every: int = 1, heap: RingHeap | None = None) -> None:
        self.schedule = schedule
        self.sizes = sizes
        self.heap = heap or RingHeap(schedule, sizes, publish_every)

    def run(self) -> Replay:
        with collector_off():
            return self.result(self.walk())

    def walk(self) -> Deadlock | None:
        """Take all steps; the facts if one of them cannot be taken."""
        deadlock = None
        heap, invalid = self.heap, self.heap.refused_submissions()
        for step in self.steps():
            if isinstance(step, Submit):
                number = step.submission
                deadlock = heap.invalid(number) if number in invalid else self.submit(number)
                if deadlock is not None:
                    break
            elif isinstance(step, Begin):
                deadlock = heap.invalid_scope(step.scope)
                if deadlock is not None:
                    break
                heap.begin(step.scope)
            elif isinstance(step, End):
                heap.end(step.scope)
            else:
                self.read(step.waits)
        return deadlock

    def steps(self) -> Iterator[Step]:
        return iter(StepWalk(self.schedule))

    def submit(self, submission: int) -> Deadlock | None:
        heap = self.heap
        while heap.try_submit(submission) is None:
            deadlock = heap.deadlock(submission) or self.wait(submission)
            if deadlock is not None:
                return deadlock
        self.submitted(submission)
        return None

    def submitted(self, submission: int) -> None:
        """A submission has its slot and block."""
        raise NotImplementedError

    def wait(self, submission: int) -> Deadlock | None:
        """Bring the retirement of the ring's oldest live task nearer; called when waiting can help. Facts where nothing moves."""
        raise NotImplementedError

    def read(self, waits: tuple[int, ...]) -> None:
        """The submitting thread blocks until these have completed."""
        raise NotImplementedError

    def result(self, deadlock: Deadlock | None) -> Replay:
        heap = self.heap
        return Replay(
            self.schedule,
            self.sizes,
            self.model,
            heap.offsets,
            heap,
            heap.peak_bytes,
            heap.peak_slots,
            heap.peak_at,
            deadlock,
        )


class _Eager(Driver):
    model = "eager"

    def submitted(self, submission: int) -> None:
        self.heap.complete(submission)

    def wait(self, submission: int) -> Deadlock | None:
        raise AssertionError("everything submitted has completed, so only an open scope can hold a ring")

    def read(self, waits: tuple[int, ...]) -> None:
        pass


class _Steps(Driver):
    model = "steps"

    def __init__(self, schedule: Schedule, sizes: RingSizes, completions: Mapping[int, Sequence[int]]) -> None:
        super().__init__(schedule, sizes)
        self._completions = completions

    def steps(self) -> Iterator[Step]:
        for index, step in enumerate(self.schedule.steps):
            for submission in self._completions.get(index, ()):
                self.heap.complete(submission)
            yield step

    def submitted(self, submission: int) -> None:
        pass

    def wait(self, submission: int) -> Deadlock | None:
        return self.heap.stuck(submission)

    def read(self, waits: tuple[int, ...]) -> None:
        pass


class _Lagging(Driver):
    model = "lagging"

    def __init__(self, schedule: Schedule, sizes: RingSizes) -> None:
        super().__init__(schedule, sizes)
        self._users: dict[int, list[int]] = {}  # of each block

    def submitted(self, submission: int) -> None:
        for held in self.schedule.submissions[submission].holds:
            self._users.setdefault(held, []).append(submission)

    def wait(self, submission: int) -> Deadlock | None:
        """Complete what the oldest live task's retirement needs: itself, the users of its block, and all that those wait for."""
        head = self.heap.blocker()
        assert head is not None
        self._finish(head)
        for user in self._users.get(head, ()):
            self._finish(user)

    def read(self, waits: tuple[int, ...]) -> None:
        for wait in waits:
            self._finish(wait)

    def _finish(self, submission: int) -> None:
        completed, items = self.heap.completed, self.schedule.submissions
        stack = [submission]
        while stack:
            top = stack[-1]
            if completed[top]:
                stack.pop()
                continue
            pending = [w for w in items[top].waits if not completed[w]]
            if pending:
                stack.extend(pending)
            else:
                self.heap.complete(top)
                stack.pop()


def eager(schedule: Schedule, sizes: RingSizes) -> Replay:
    """Replay with every task completing as soon as it is submitted."""
    return _Eager(schedule, sizes).run()


def in_steps(schedule: Schedule, sizes: RingSizes, completions: Mapping[int, Sequence[int]]) -> Replay:
    """Replay where `completions[k]`, and nothing else, completes just before step k; the schedule has no dynamic loops.

    A submission that has to wait then waits in vain, and the runtime gives up.
    """
    return _Steps(schedule, sizes, completions).run()


def lagging(schedule: Schedule, sizes: RingSizes) -> Replay:
    """Replay with nothing completing before the submitting thread has to wait for it."""
    return _Lagging(schedule, sizes).run()
