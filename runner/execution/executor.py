"""This module owns the run of a schedule: a submitting thread takes blocks and waits under back-pressure, and tasks run.

With one worker every task runs on the calling thread as soon as it is submitted. With more, the calling thread only submits, and
worker threads run whatever is ready, oldest first (`workers`). Both are driven through the same steps with the same storage, and
an op sees the same operands either way, so results do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch

from runner.base.errors import ExecutionError
from runner.execution.binding import Binder
from runner.execution.capture import Capture
from runner.execution.engines import Engine, InOrder, Traced
from runner.execution.fusions import Fusions
from runner.execution.layouts import Weight
from runner.execution.run import Run, TaskTime
from runner.execution.storage import PlainStorage, RingStorage, Storage
from runner.execution.tracing import Trace
from runner.execution.workers import Workers
from runner.program.ops import OpRegistry
from runner.rings.parts.records import ScopeRecord
from runner.rings.schedule import Begin, End, Repeat, Schedule, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import StepWalk

PROGRESS_TASKS = 256
"""Tasks between two calls of `progress`."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run did. `captured` maps tensor ids to copies, taken when their last task was done."""

    num_tasks: int
    num_submissions: int
    elapsed_s: float
    peak_bytes: int
    ring_peaks: tuple[int, ...] = ()
    captured: Mapping[int, torch.Tensor] = field(default_factory=dict)


class TripCounts:
    """How many trips the dynamic loops of a schedule make: where one element decides, worked out once for each of its values."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[tuple[int, tuple[int, ...]], dict[int, int]]] = {}  # by `id` of a step of the schedule

    def of(self, run: Run, step: Repeat) -> int:
        """Trips that a loop makes now; raises ExecutionError for more than the schedule holds."""
        if step.trips is None:
            return len(step.starts)
        known = self._known.get(id(step))
        if known is not None:
            trips = known[1].get(run.element(*known[0]))
            if trips is not None:
                return trips
        read: dict[tuple[int, tuple[int, ...]], int] = {}

        def element(tensor: int, index: tuple[int, ...]) -> int:
            value = read[tensor, index] = run.element(tensor, index)
            return value

        trips = step.trips.evaluate(element)
        if not 0 <= trips <= len(step.starts):
            where = f"{step.trips.mark}: " if step.trips.mark else ""
            raise ExecutionError(
                f"{where}'{step.trips.path}' would run {trips} times, expected 0 to {len(step.starts)}",
                hint="its 'max' is what memory was planned for; raise it",
            )
        if len(read) == 1:  # what is read first is always the same, and here it decides alone
            ((place, value),) = read.items()
            self._known.setdefault(id(step), (place, {}))[1][value] = trips
        return trips


def drive(run: Run, engine: Engine, counts: TripCounts, capture: Capture | None, progress: Callable[[int], None] | None) -> None:
    """Drives `engine` through the steps; of a dynamic loop through as many trips as its tensors say."""
    passed = 0  # everything before this submission was submitted or left out

    def left_out(first: int, end: int) -> None:
        nonlocal passed
        engine.leave_out(first, end)
        passed = end

    for step in StepWalk(run.schedule, lambda repeat: counts.of(run, repeat), left_out):
        if capture is not None:
            capture.passed(passed, engine)
        if isinstance(step, Submit):
            engine.submit(step.submission)
            passed = step.submission + 1
            if progress is not None and passed % PROGRESS_TASKS == 0:
                progress(run.num_tasks)
        elif isinstance(step, Begin):
            engine.begin(step.scope)
        elif isinstance(step, End):
            engine.end(step.scope)
        else:
            engine.wait(step.waits)
    engine.drain()
    if capture is not None:
        capture.passed(len(run.schedule.submissions), engine)


class CompiledSchedule:
    """A schedule bound to its externals, to be run any number of times; the externals' contents may change between runs.

    Args:
        externals: tensor id -> torch tensor of the declared shape and dtype, for every tensor that is not local; a weight may be
            laid out (`layouts`).
        rings: sizes of the ring heaps; without them every block has memory of its own.
        workers: up to 1 runs in order on the calling thread.
        comm: what ops that need `comm` are given.

    Raises ExecutionError when externals do not fit.
    """

    def __init__(
        self,
        schedule: Schedule,
        registry: OpRegistry,
        externals: Mapping[int, Weight],
        *,
        rings: RingSizes | None = None,
        workers: int = 1,
        comm: object = None,
        device: torch.device | str = "cpu",
    ):
        self.schedule = schedule
        self._binder = Binder(schedule, registry, externals, comm)
        self._fusions = Fusions(schedule, registry, comm)
        self._trip_counts = TripCounts()
        where = torch.device(device)
        self._workers = workers
        self._storage: Storage = RingStorage(schedule, rings, where) if rings else PlainStorage(schedule, where)

    def run(
        self,
        *,
        scope_stats: list[ScopeRecord] | None = None,
        profile: list[TaskTime] | None = None,
        progress: Callable[[int], None] | None = None,
        on_task: Callable[[str], None] | None = None,
        capture: Iterable[int] = (),
        trace: Trace | None = None,
    ) -> RunResult:
        """Runs it once.

        `scope_stats` gets one record at each scope's begin and end (with rings), `profile` one `TaskTime` a task, `progress` the
        number of tasks submitted now and then, `on_task` the path of every task just before it runs. `capture` names tensors
        to copy when they are done. `trace` gets when everything happened, in place of what it has.

        Raises ExecutionError for a failing op and DeadlockError for a submission that can never be placed.
        """
        start = perf_counter()
        storage = self._storage
        storage.restart()
        run = Run(self.schedule, self._binder, storage, profile, on_task, trace)
        wanted = set(capture)
        copies = Capture(run, wanted) if wanted else None
        try:
            with torch.inference_mode(), self._engine(run, wanted) as engine:
                drive(run, engine if trace is None else Traced(engine, run, trace), self._trip_counts, copies, progress)
        finally:
            if scope_stats is not None:
                scope_stats += storage.records
        elapsed = perf_counter() - start
        captured = copies.copies if copies else {}
        return RunResult(run.num_tasks, run.num_submissions, elapsed, storage.peak_bytes, storage.ring_peaks, captured)

    @contextmanager
    def _engine(self, run: Run, wanted: set[int]) -> Iterator[Engine]:
        if self._workers <= 1:
            is_noted = run.profile is not None or run.trace is not None  # each task by itself
            yield InOrder(run, None if is_noted or wanted & self._fusions.inner else self._fusions)
            return
        engine = Workers(run, self._workers)
        try:
            yield engine
        finally:
            engine.stop()
        engine.interrupts.check()


def execute(
    schedule: Schedule,
    registry: OpRegistry,
    externals: Mapping[int, Weight],
    *,
    rings: RingSizes | None = None,
    workers: int = 1,
    comm: object = None,
    device: torch.device | str = "cpu",
    scope_stats: list[ScopeRecord] | None = None,
    profile: list[TaskTime] | None = None,
    progress: Callable[[int], None] | None = None,
    capture: Iterable[int] = (),
    trace: Trace | None = None,
) -> RunResult:
    """Runs a schedule once; see `CompiledSchedule` and its `run`."""
    compiled = CompiledSchedule(schedule, registry, externals, rings=rings, workers=workers, comm=comm, device=device)
    return compiled.run(scope_stats=scope_stats, profile=profile, progress=progress, capture=capture, trace=trace)
