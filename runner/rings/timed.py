"""This module owns the `timed` progress model: a discrete-event run of a schedule on a device with workers per core type.

The submitting thread spends `submit_us` on every submission and stops when a ring is short or a value is read. A task is ready
when it was submitted and all that it waits for has completed; its blocks then run on free workers of its core type, first come,
first served. A MIX block takes one AIC and two AIV workers: one cluster of an a2a3 device.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from runner.base.errors import ConfigError
from runner.base.reading import MAX_DIGITS
from runner.rings.defaults import DEVICE, MOST_US
from runner.rings.devices.devices import Device, device
from runner.rings.heap import RingHeap
from runner.rings.parts.records import Deadlock
from runner.rings.replay import Driver, Replay, SlowWait
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes

AIV_PER_MIX = 2


@dataclass(frozen=True, slots=True)
class Timing:
    """What the timed model assumes.

    `submit_us` is what one submission costs the submitting thread. `block_us` gives the duration of one block of a submission's
    task. `aic` and `aiv` are worker counts, None for as many as it takes. `device` says how retirement is made known, and how
    long the runtime waits before it gives up. `submit_each_us` gives the cost of each submission where that was measured.
    """

    submit_us: float
    block_us: Callable[[int], float]
    aic: int | None = None
    aiv: int | None = None
    device: Device = field(default_factory=lambda: device(DEVICE))
    submit_each_us: Callable[[int], float] | None = None

    def cost_us(self, submission: int) -> float:
        """What submitting one costs."""
        return self.submit_us if self.submit_each_us is None else self.submit_each_us(submission)


def parse_cores(text: str) -> tuple[int | None, int | None]:
    """`unlimited` or `aic=24,aiv=48` as (aic, aiv), None for unlimited; raises ConfigError."""
    if text == "unlimited":
        return None, None
    found: dict[str, int] = {}
    for part in text.split(","):
        name, equals, count = part.strip().lower().partition("=")
        if name not in ("aic", "aiv") or not equals or not count.isdecimal() or len(count) > MAX_DIGITS or int(count) < 1:
            raise ConfigError(f"--cores {text}: got '{part}'", hint="write 'unlimited' or counts such as 'aic=24,aiv=48'")
        if name in found:
            raise ConfigError(f"--cores {text}: '{name}' is given twice")
        found[name] = int(count)
    if found.get("aiv", AIV_PER_MIX) < AIV_PER_MIX:
        raise ConfigError(f"--cores {text}: a MIX task needs {AIV_PER_MIX} AIV workers")
    return found.get("aic"), found.get("aiv")


_CORES = ("AIC", "AIV", "MIX")


class TimedDriver(Driver):
    """The run behind `timed`; who wants to know what ran when derives from it (`runner.report.device.timeline`)."""

    model = "timed"

    def __init__(self, schedule: Schedule, sizes: RingSizes, timing: Timing, heap: RingHeap | None = None) -> None:
        super().__init__(schedule, sizes, timing.device.publish_every, heap)
        submissions = schedule.submissions
        self._timing = timing
        self._now = 0.0  # of the submitting thread
        self._stall = 0.0
        self._since = (-1, 0, 0.0)  # the submission that waits, what changes on progress, and when that last changed
        self._slow: dict[int, SlowWait] = {}
        self._finish_us = array("d", bytes(8 * len(submissions)))
        self._asked = 0.0  # when a waiting submission is told what has retired
        self._next = 0  # the next submission
        self._last = 0.0  # when the last block finished
        self._events: list[tuple[float, int, int]] = []  # (time, submission, blocks that finish)
        self._waits = [s.waits for s in submissions]
        self._core = [s.core for s in submissions]
        self._left = [s.num_blocks for s in submissions]  # blocks that have not finished
        self._pending = [0] * len(submissions)  # producers that have not completed, of submissions that wait
        self._users: dict[int, list[int]] = {}  # of submissions that have not, who waits for them
        self._ready: dict[str, deque[list[int]]] = {core: deque() for core in _CORES}  # [submission, blocks not started yet]
        self._queued = 0  # tasks there
        self._settled = True  # since tasks were started, no worker got free: of those that wait none can start
        self._aic, self._aiv = timing.aic or float("inf"), timing.aiv or float("inf")  # free workers

    def submit(self, submission: int) -> Deadlock | None:
        self.arrive(submission)
        return super().submit(submission)

    def arrive(self, submission: int) -> None:
        """The submitting thread has come to a submission."""
        each_us = self._timing.submit_each_us
        self._now += self._timing.submit_us if each_us is None else each_us(submission)
        if self._events and self._events[0][0] <= self._now:
            self._run_until(self._now)
        self._next = submission + 1

    def submitted(self, submission: int) -> None:
        core = self._core[submission]
        if core is not None:
            self._start_or_wait(submission, core)

    def _start_or_wait(self, submission: int, core: str) -> None:
        """Start what waits for nothing that is under way; else note what it waits for."""
        completed, users = self.heap.completed, self._users
        pending = [wait for wait in self._waits[submission] if not completed[wait]]
        for wait in pending:
            if wait in users:
                users[wait].append(submission)
            else:
                users[wait] = [submission]
        if pending:
            self._pending[submission] = len(pending)
        else:
            self._start(submission, core, self._now)

    def wait(self, submission: int) -> None:
        code, ring, progress = self.heap.waits_for
        if self._since[0] != submission:
            self._since = (submission, progress, self._now)
            self._asked = self._now + self._timing.device.ask_us
        events, heap = self._events, self.heap
        if any(r.alive != r.retired for r in heap.rings) and (not events or self._asked <= events[0][0]):
            self._stall_until(self._asked)
            heap.publish()
        else:
            self._stall_until(events[0][0])
        wait_us = self._now - self._since[2]
        if wait_us > self._timing.device.stall_us:
            before = self._slow.get(submission)
            if before is None or wait_us > before.wait_us:
                self._slow[submission] = SlowWait(submission, ring, wait_us, code)
        if heap.waits_for[2] != progress:
            self._since = (submission, heap.waits_for[2], self._now)

    def read(self, waits: tuple[int, ...]) -> None:
        self._run_until(self._now)
        begin = self._now
        for wait in waits:
            self._run_until(self._now, wait)
        if self._now - begin > self._timing.device.host_read_us:
            self._slow[self._next] = SlowWait(self._next, -1, self._now - begin, 8)

    def result(self, deadlock: Deadlock | None) -> Replay:
        if deadlock is None:
            self._run_until(float("inf"))
        makespan = max(self._now, self._last)
        slow = tuple(self._slow.values())
        found = replace(super().result(deadlock), stall_us=self._stall, makespan_us=makespan, finish_us=self._finish_us)
        return replace(found, slow_waits=slow, was_short=self._since[0] >= 0)

    def _stall_until(self, time: float) -> None:
        if time > self._now:
            self._stall += time - self._now
            self._now = time
        self._run_until(self._now)

    def _run_until(self, time: float, wait: int = -1) -> None:
        """Handle all that happens up to and including `time`; with `wait`, the thread then stands still until that is done."""
        events, left, core_of, users, pending = self._events, self._left, self._core, self._users, self._pending
        completed, complete = self.heap.completed, self.heap.complete
        while events:
            if events[0][0] > time:
                if wait < 0 or completed[wait]:
                    return
                time = events[0][0]
                self._stall += time - self._now
                self._now = time
            now, submission, blocks = heappop(events)
            core = core_of[submission]
            if core != "AIV":
                self._aic += blocks
            if core != "AIC":
                self._aiv += blocks * AIV_PER_MIX if core == "MIX" else blocks
            self._settled = False
            left[submission] -= blocks
            if not left[submission]:
                self._last = self._finish_us[submission] = now
                complete(submission)
                for user in users.pop(submission, ()):
                    pending[user] -= 1
                    if not pending[user]:
                        self._start(user, core_of[user] or "", now)
            if self._queued and not self._settled:
                self._dispatch(now)

    def _start(self, submission: int, core: str, now: float) -> None:
        """Start a ready task as far as its core type has room, and queue what is left of it; with any task queued, in turn."""
        left = self._left[submission]
        if not self._queued:
            left -= self._begin(submission, core, left, now)
            if not left:
                return
        self._ready[core].append([submission, left])
        self._queued += 1
        if not self._settled or self._room(core) >= 1:
            self._dispatch(now)

    def _begin(self, submission: int, core: str, blocks: int, now: float) -> int:
        """Start so many blocks of a task, or as many as there is room for; returns how many."""
        room = self._aiv if core == "AIV" else self._room(core)
        if room < blocks:
            blocks = int(room)
        if blocks:
            if core != "AIV":
                self._aic -= blocks
            if core != "AIC":
                self._aiv -= blocks * AIV_PER_MIX if core == "MIX" else blocks
            heappush(self._events, (now + self._timing.block_us(submission), submission, blocks))
        return blocks

    def _room(self, core: str) -> float:
        """Blocks that could start on the free workers."""
        if core == "AIV":
            return self._aiv
        return self._aic if core == "AIC" else min(self._aic, self._aiv / AIV_PER_MIX)

    def _dispatch(self, now: float) -> None:
        """Start what is queued and has room now."""
        for core, queue in self._ready.items():
            while queue and (self._aiv if core == "AIV" else self._room(core)) >= 1:
                first = queue[0]
                blocks = self._begin(first[0], core, first[1], now)
                if blocks < first[1]:
                    first[1] -= blocks
                    break
                queue.popleft()
                self._queued -= 1
        self._settled = True


def timed(schedule: Schedule, sizes: RingSizes, timing: Timing) -> Replay:
    """Replay on simulated workers; `stall_us` is how long the submitting thread stood still, `makespan_us` until all was done."""
    return TimedDriver(schedule, sizes, timing).run()


def refuse_times(submit_us: float, task_us: float) -> None:
    """Raises ConfigError for a time that cannot be, in the words of the options."""
    for name, time_us in (("--submit-us", submit_us), ("--task-us", task_us)):
        if not 0 <= time_us <= MOST_US:
            raise ConfigError(f"{name} {time_us:g}: expected 0 to {MOST_US:g} microseconds")


def uniform_timing(
    submit_us: float, task_us: float, cores: tuple[int | None, int | None] = (None, None), on: Device | None = None
) -> Timing:
    """Every block of every task takes `task_us`; raises ConfigError for a time that cannot be."""
    refuse_times(submit_us, task_us)
    return Timing(submit_us, lambda submission: task_us, *cores, on or device(DEVICE))


def default_timing() -> Timing:
    """What every command assumes, with the duration of a task whose op's cost is not known for all."""
    on = device(DEVICE)
    return uniform_timing(on.submit_us, on.task_us, (on.aic, on.aiv), on)
