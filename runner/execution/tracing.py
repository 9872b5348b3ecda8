"""This module notes when what happened in a run, for its timeline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.execution.engines import Engine
    from runner.execution.run import Run
    from runner.execution.storage import Place


@dataclass
class Trace:
    """What one run noted, in nanoseconds of one clock.

    tasks    (submission, thread, start, end) as tasks end
    submits  (submission, start, end) of the submitting thread, waits for room included; a task that it runs itself is not
    scopes   (scope, start, end) as scopes end
    levels   (time, ring, bytes held, live slots) after each submission, with rings
    places   per submission where its block lies, None for one that was not submitted
    """

    tasks: list[tuple[int, int, int, int]] = field(default_factory=list)
    submits: list[tuple[int, int, int]] = field(default_factory=list)
    scopes: list[tuple[int, int, int]] = field(default_factory=list)
    levels: list[tuple[int, int, int, int]] = field(default_factory=list)
    places: list[Place | None] = field(default_factory=list)


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
