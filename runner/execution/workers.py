"""This module owns the worker threads that run a schedule's tasks out of order.

The calling thread submits. A task is ready when all that it waits for has completed; a submission that was left out (a trip of a
dynamic loop that did not run) counts as what it waits for itself. Of the ready tasks the oldest runs first, since memory is
reclaimed in that order. One lock guards all bookkeeping; ops run outside of it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from heapq import heappop, heappush
from threading import Condition, Lock, Thread, current_thread, main_thread

import torch

from runner.execution.run import Run

AHEAD_PER_WORKER = 256
"""Submissions that may be in flight per worker: enough to find parallel work in, few enough to keep what is live small."""

INTERRUPT_POLL_S = 0.1
"""How often the submitting thread looks for Ctrl-C while it waits."""

_WAITING, _SUBMITTED, _COMPLETED = 0, 1, 2


class Interrupts:
    """Ctrl-C, counted instead of raised: an exception at any place could leave the lock taken and the workers waiting.

    Only where Ctrl-C would raise KeyboardInterrupt in this thread; `check` raises it, at a place that is safe.
    """

    def __init__(self) -> None:
        self.count = 0
        self._active = current_thread() is main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._active:
            signal.signal(signal.SIGINT, self._note)

    def _note(self, *_: object) -> None:
        self.count += 1

    def check(self) -> None:
        if self.count:
            raise KeyboardInterrupt

    def restore(self) -> None:
        if self._active:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Workers:
    """The out-of-order engine; see `engines.Engine`. `stop` must be called whatever happens."""

    def __init__(self, run: Run, num_workers: int):
        self._run = run
        self._storage = run.storage
        self._state = bytearray(len(run.schedule.submissions))
        self._open_waits: dict[int, int] = {}
        self._dependents: dict[int, list[int]] = {}
        self._left_out: dict[int, frozenset[int]] = {}
        self._ready: list[int] = []
        self._in_flight = 0
        self._most_in_flight = AHEAD_PER_WORKER * num_workers
        self._last_comm: int | None = None
        self._failures: dict[int, BaseException] = {}
        self._stopping = False
        self.interrupts = Interrupts()
        lock = Lock()
        self._work = Condition(lock)  # workers wait here for tasks
        self._progress = Condition(lock)  # the submitting thread waits here for completions
        self._intra_op_threads = torch.get_num_threads()
        self._threads = [Thread(target=self._serve, name=f"ringgraph-worker-{i}", daemon=True) for i in range(num_workers)]
        for thread in self._threads:
            thread.start()

    def begin(self, scope: int) -> None:
        with self._progress:
            self._storage.begin(scope)

    def end(self, scope: int) -> None:
        with self._progress:
            self._storage.end(scope)

    def submit(self, submission: int) -> None:
        run = self._run
        known = run.schedule.submissions[submission]
        with self._progress:
            while self._in_flight >= self._most_in_flight:
                self._await_progress()
            place = self._storage.take(submission)
            while place is None:
                self._await_progress()
                place = self._storage.take(submission)
            self._check()
            run.places[submission] = place
            run.num_submissions += 1
            if known.op is None:
                self._state[submission] = _COMPLETED
                self._storage.complete(submission)
                return
            run.num_tasks += 1
            self._enqueue(submission, self._waits(submission))

    def wait(self, submissions: Iterable[int]) -> None:
        with self._progress:
            for submission in self._present(submissions):
                while self._state[submission] != _COMPLETED:
                    self._await_progress()
            self._check()

    def drain(self) -> None:
        with self._progress:
            while self._in_flight:
                self._await_progress()
            self._check()

    def leave_out(self, first: int, end: int) -> None:
        with self._progress:
            self._storage.leave_out(first, end)

    def stop(self) -> None:
        """Starts no more tasks and waits until those that run have ended; a second Ctrl-C stops waiting for them."""
        with self._work:
            self._stopping = True
            self._work.notify_all()
        for thread in self._threads:
            while thread.is_alive() and self.interrupts.count < 2:
                thread.join(INTERRUPT_POLL_S)
        self.interrupts.restore()

    def _waits(self, submission: int) -> set[int]:
        waits = set(self._present(self._run.schedule.submissions[submission].waits))
        if self._run.binder.binding(submission).uses_comm:
            # Collectives must be called in one order on all ranks: the order of submission.
            if self._last_comm is not None:
                waits.add(self._last_comm)
            self._last_comm = submission
        return waits

    def _present(self, submissions: Iterable[int]) -> set[int]:
        """`submissions`, those that were left out replaced by what they wait for.

        All of `submissions` lie before the submitting thread's place in the schedule: one not submitted yet never will be.
        """
        found: set[int] = set()
        for submission in submissions:
            if self._state[submission] != _WAITING:
                found.add(submission)
            else:
                found |= self._behind(submission)
        return found

    def _behind(self, left_out: int) -> frozenset[int]:
        """What a left-out submission waits for, none of it left out itself; without recursion, chains can be long."""
        stack = [left_out]
        while stack:
            current = stack[-1]
            waits = self._run.schedule.submissions[current].waits
            unknown = [w for w in waits if self._state[w] == _WAITING and w not in self._left_out]
            if unknown:
                stack.extend(unknown)
                continue
            present: set[int] = set()
            for w in waits:
                if self._state[w] == _WAITING:
                    present |= self._left_out[w]
                else:
                    present.add(w)
            self._left_out[current] = frozenset(present)
            stack.pop()
        return self._left_out[left_out]

    def _enqueue(self, submission: int, waits: set[int]) -> None:
        self._state[submission] = _SUBMITTED
        self._in_flight += 1
        pending = [w for w in waits if self._state[w] != _COMPLETED]
        for wait in pending:
            self._dependents.setdefault(wait, []).append(submission)
        if pending:
            self._open_waits[submission] = len(pending)
        else:
            heappush(self._ready, submission)
            self._work.notify()

    def _await_progress(self) -> None:
        self._check()
        assert self._in_flight, "the submitting thread waits for nothing"
        self._progress.wait(INTERRUPT_POLL_S)
        self._check()

    def _check(self) -> None:
        self.interrupts.check()
        if self._failures:
            raise self._failures[min(self._failures)]

    def _serve(self) -> None:
        torch.set_num_threads(self._intra_op_threads)  # a thread of its own default would change how sums are split
        with torch.inference_mode():
            while True:
                with self._work:
                    while not self._ready and not self._stopping:
                        self._work.wait()
                    if self._stopping:
                        return
                    submission = heappop(self._ready)
                try:
                    self._run.call(submission)
                except BaseException as error:
                    with self._progress:
                        self._failures[submission] = error
                        self._stopping = True
                        self._work.notify_all()
                        self._progress.notify()
                    return
                with self._progress:
                    self._complete(submission)

    def _complete(self, submission: int) -> None:
        self._state[submission] = _COMPLETED
        self._in_flight -= 1
        self._storage.complete(submission)
        for dependent in self._dependents.pop(submission, ()):
            self._open_waits[dependent] -= 1
            if not self._open_waits[dependent]:
                del self._open_waits[dependent]
                heappush(self._ready, dependent)
                self._work.notify()
        self._progress.notify()
