"""This module owns what the executor drives, an engine, and the one that runs every task at once; `workers` has the other.

`Traced` notes the calls of either.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter_ns
from typing import Protocol

from runner.execution.fusions import Fusions
from runner.execution.run import Run
from runner.execution.tracing import Trace


class Engine(Protocol):
    """How tasks get run: what the executor drives."""

    def begin(self, scope: int) -> None: ...

    def end(self, scope: int) -> None: ...

    def submit(self, submission: int) -> None: ...

    def wait(self, submissions: Iterable[int]) -> None:
        """Returns when these have completed (those that were never submitted count by what they waited for)."""
        ...

    def drain(self) -> None:
        """Returns when everything submitted has completed."""
        ...

    def leave_out(self, first: int, end: int) -> None:
        """Submissions `first` to `end - 1` will not come."""
        ...


class InOrder:
    """Every task runs on the calling thread when it is submitted, but units of a fusion, which wait for more of their kind.

    Nothing else runs before them, so that no one misses their results, and no memory is written that they read.
    """

    def __init__(self, run: Run, fusions: Fusions | None = None):
        self._run = run
        run.is_in_order = True
        self._storage = run.storage
        self._take, self._complete = run.storage.take, run.storage.complete
        self._places = run.places
        self._has_op = run.binder.has_op
        self._units = fusions.units if fusions is not None else {}
        self._waiting: list[int] = []

    def begin(self, scope: int) -> None:
        self._storage.begin(scope)

    def end(self, scope: int) -> None:
        self._storage.end(scope)

    def submit(self, submission: int) -> None:
        run = self._run
        place = self._take(submission)
        assert place is not None, "nothing is in flight, so a submission fits or never will"
        self._places[submission] = place
        run.num_submissions += 1
        if self._has_op[submission]:
            run.num_tasks += 1
            waiting, unit = self._waiting, self._units.get(submission)
            if unit is None:
                if waiting:
                    self.drain()
                run.call(submission)
            else:
                if waiting and unit.fusion is not self._units[waiting[-1]].fusion:
                    self.drain()
                self._waiting.append(submission)
        self._complete(submission)

    def wait(self, submissions: Iterable[int]) -> None:
        if self._waiting and any(submission >= self._waiting[0] for submission in submissions):
            self.drain()

    def drain(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._run.call_units(self._units, waiting)

    def leave_out(self, first: int, end: int) -> None:
        self._storage.leave_out(first, end)


class Traced:
    """An engine that notes the calls of another in a trace, which it empties first; see `engines.Engine`."""

    def __init__(self, engine: Engine, run: Run, trace: Trace):
        for noted in (trace.tasks, trace.submits, trace.scopes, trace.levels):
            noted.clear()
        trace.places = run.places
        self._engine = engine
        self._storage = run.storage
        self._trace = trace
        self._open: list[int] = []

    def begin(self, scope: int) -> None:
        self._open.append(perf_counter_ns())
        self._engine.begin(scope)

    def end(self, scope: int) -> None:
        self._engine.end(scope)
        self._trace.scopes.append((scope, self._open.pop(), perf_counter_ns()))

    def submit(self, submission: int) -> None:
        start, tasks = perf_counter_ns(), self._trace.tasks
        self._engine.submit(submission)
        end = perf_counter_ns()
        if tasks and tasks[-1][0] == submission:  # it runs already, perhaps on this very thread
            end = tasks[-1][2]
        self._trace.submits.append((submission, start, end))
        held = self._storage.held()
        if held is not None:
            self._trace.levels.append((end, *held))

    def wait(self, submissions: Iterable[int]) -> None:
        self._engine.wait(submissions)

    def drain(self) -> None:
        self._engine.drain()

    def leave_out(self, first: int, end: int) -> None:
        self._engine.leave_out(first, end)
