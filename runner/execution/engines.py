"""This module owns what the executor drives, an engine, and the one that runs every task at once; `workers` has the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from runner.execution.run import Run


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
    """Every task runs on the calling thread when it is submitted."""

    def __init__(self, run: Run):
        self._run = run
        self._storage = run.storage

    def begin(self, scope: int) -> None:
        self._storage.begin(scope)

    def end(self, scope: int) -> None:
        self._storage.end(scope)

    def submit(self, submission: int) -> None:
        run = self._run
        place = self._storage.take(submission)
        assert place is not None, "nothing is in flight, so a submission fits or never will"
        run.places[submission] = place
        run.num_submissions += 1
        if run.schedule.submissions[submission].op is not None:
            run.num_tasks += 1
            run.call(submission)
        self._storage.complete(submission)

    def wait(self, submissions: Iterable[int]) -> None:
        pass

    def drain(self) -> None:
        pass

    def leave_out(self, first: int, end: int) -> None:
        self._storage.leave_out(first, end)
