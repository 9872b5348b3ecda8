"""This module runs a schedule where memory holds it up nowhere: what rings and shared bytes cost in time is told against that."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runner.rings.capacity import ring_loads
from runner.rings.heap import RingHeap
from runner.rings.lowering.arrays import holds_of, slot_arrays
from runner.rings.parts.records import Deadlock
from runner.rings.replay import Replay, RunTimes
from runner.rings.schedule import MAX_SCOPES, NUM_RINGS, Begin, End, Schedule, ScopeInfo, Slot
from runner.rings.sizes import MIN_HEAP_BYTES, MIN_POOL, MIN_WINDOW, RingSizes
from runner.rings.steps import StepWalk
from runner.rings.tensormap import CAPACITY, SWEEP
from runner.rings.timed import TimedDriver, Timing, timed


def unlimited_sizes(schedule: Schedule) -> RingSizes:
    """Sizes in which every block, slot and pool entry of the schedule could stay until the end."""
    heap, window, pool = [], [], []
    for load in ring_loads(schedule):
        heap.append(max(MIN_HEAP_BYTES, sum(totals[-1] for totals in load.epochs)))
        window.append(max(MIN_WINDOW, 1 << load.num_tasks.bit_length()))
    edges = sum(len(submission.waits) for submission in schedule.submissions)
    pool = [max(MIN_POOL, edges)] * len(heap)
    return RingSizes.from_lists(heap, window, pool)


def without_sharing(schedule: Schedule) -> Schedule:
    """The schedule without the edges by which tensors take turns in one place; itself where every tensor has bytes of its own."""
    waits = own_waits(schedule)
    if waits is None:
        return schedule
    pairs = zip(schedule.submissions, waits, strict=True)
    return replace(schedule, submissions=tuple([s if s.waits is own else replace(s, waits=own) for s, own in pairs]))


def own_waits(schedule: Schedule) -> list[tuple[int, ...]] | None:
    """What each submission waits for without these edges; None where there are none."""
    program, submissions = schedule.program, schedule.submissions
    if program is None or not any(_overlap(submission.slots) for submission in submissions):
        return None
    of_task = [-1] * len(program.tasks)
    for k, submission in enumerate(submissions):
        if submission.task is not None:
            of_task[submission.task] = k
    found = []
    for submission in submissions:
        waits = submission.waits
        if submission.task is not None:
            task = program.tasks[submission.task]
            own = {of_task[w] for w in (task.waits + task.after if task.after else task.waits)}
            kept = tuple([w for w in waits if w in own or submissions[w].core is None])
            waits = kept if len(kept) < len(waits) else waits
        found.append(waits)
    return found


def _overlap(slots: Sequence[Slot]) -> bool:
    if len(slots) < 2:
        return False
    _, low, size = slot_arrays([slots])
    order = np.argsort(low, kind="stable")
    low, high = low[order], (low + size)[order]
    return bool((low[1:] < high[:-1]).any())


def run_unlimited(schedule: Schedule, timing: Timing) -> Replay:
    """A timed replay of `without_sharing` in `unlimited_sizes`; submissions keep their numbers, so `timing` is the schedule's.

    Nothing waits in such rings, so none are kept; unless the tensormap, which has one size whatever the rings have, could run
    short, or the runtime refuses some submission.
    """
    sizes, waits = unlimited_sizes(schedule), own_waits(schedule)
    run = _Unlimited(schedule, sizes, timing, waits)
    found = run.run()
    if run.is_refused or run.most_entries() > CAPACITY:
        return timed(without_sharing(schedule), sizes, timing)
    return found


def run_times(schedule: Schedule, sizes: RingSizes, timing: Timing) -> RunTimes:
    """The times of `timed(schedule, sizes, timing)`.

    Where each ring has bytes for all of its blocks at once, and pool entries for any run, the rings are kept only if the run
    without them shows that slots or the tensormap may have been short.
    """
    loads = ring_loads(schedule)
    fits = [sum(totals[-1] for totals in load.epochs) <= size for load, size in zip(loads, sizes.heap, strict=True)]
    if all(fits) and all(load.pool_bound <= pool for load, pool in zip(loads, sizes.pool, strict=True)):
        run = _Unlimited(schedule, sizes, timing)
        found = run.run()
        if not run.is_refused and run.most_entries() <= CAPACITY and run.has_slots(sizes.window):
            return found.times
    return timed(schedule, sizes, timing).times


class _NoRings(RingHeap):
    """Rings in which everything fits and that nobody looks at: only what has completed is known."""

    def __init__(self, schedule: Schedule) -> None:
        num = len(schedule.submissions)
        self.schedule, self.completed = schedule, bytearray(num)
        self.offsets, self._records, self._moments, self._known_alive = [-1] * num, [], [], []
        self.peak_bytes, self.peak_slots = [0] * NUM_RINGS, [0] * NUM_RINGS
        self.peak_at = list[int | None]([None] * NUM_RINGS)

    def begin(self, scope: int) -> None:
        pass

    def end(self, scope: int) -> None:
        pass

    def complete(self, submission: int) -> None:
        self.completed[submission] = 1


class _Unlimited(TimedDriver):
    """The run without rings; it notes when what happened, from which follows what the tensormap can have held."""

    def __init__(self, schedule: Schedule, sizes: RingSizes, timing: Timing, waits: list[tuple[int, ...]] | None = None) -> None:
        """`waits` in place of the schedule's."""
        super().__init__(schedule, sizes, timing, _NoRings(schedule))
        self._waits = waits or self._waits
        self._submit_us = array("d", bytes(8 * len(schedule.submissions)))
        self._members = [array("q") for _ in range(NUM_RINGS)]  # the submissions of each ring, in order
        self.is_refused = bool(self.heap.refused_submissions())
        self._close_us = array("d", bytes(8 * len(schedule.submissions)))

    def walk(self) -> Deadlock | None:
        around, inside = list[ScopeInfo](), list[list[range]]()  # the open scopes, and the submissions of each
        mine, members = list[range](), self._members[0]  # of the innermost scope, and of its ring
        walk = StepWalk(self.schedule)
        for step in () if self.is_refused else walk.runs():
            if isinstance(step, range):
                mine.append(step)
                members.extend(step)
                self._submit_all(step)
            elif isinstance(step, Begin):
                scope, mine = self.schedule.scopes[step.scope], []
                is_auto_in_manual = scope.mode == "auto" and bool(around) and around[-1].mode == "manual"
                self.is_refused |= len(around) >= MAX_SCOPES or is_auto_in_manual
                around.append(scope)
                inside.append(mine)
                members = self._members[walk.rings[-1]]
            elif isinstance(step, End):
                for run in mine:
                    self._close_us[run.start : run.stop] = array("d", [self._now]) * len(run)
                around.pop()
                inside.pop()
                if around:
                    mine, members = inside[-1], self._members[around[-1].ring]
            else:
                self.read(step.waits)
        return None

    def _submit_all(self, submissions: range) -> None:
        """Submit one after the other: `arrive` and `submitted`, for what never waits."""
        events, submit_us, completed = self._events, self._submit_us, self.heap.completed
        cores, cost_us, each_us = self._core, self._timing.submit_us, self._timing.submit_each_us
        for submission in submissions:
            self._now = now = self._now + (cost_us if each_us is None else each_us(submission))
            if events and events[0][0] <= now:
                self._run_until(now)
            submit_us[submission] = now
            core = cores[submission]
            if core is None:
                completed[submission] = 1
                continue
            self._start_or_wait(submission, core)
        self._next = submissions.stop

    def has_slots(self, windows: Sequence[int]) -> bool:
        """Whether no submission has had to wait for a slot, however late the thread hears of what has retired."""
        submit, consumed = np.asarray(self._submit_us), self._consumed_us
        for members, window in zip(map(np.asarray, self._members), windows, strict=True):
            retired = np.searchsorted(np.maximum.accumulate(consumed[members]), submit[members], "left")
            live = np.arange(len(members)) - np.clip(retired - self._timing.device.publish_every, 0, None)
            if live.max(initial=0) >= window - 1:
                return False
        return True

    @cached_property
    def _is_task(self) -> NDArray[np.bool_]:
        return np.array([core is not None for core in self._core], bool)

    @cached_property
    def _consumed_us(self) -> NDArray[np.float64]:
        """When the last reason to keep each block and slot had gone."""
        finish = np.where(self._is_task, np.asarray(self._finish_us), np.asarray(self._submit_us))
        consumed = np.maximum(finish, np.asarray(self._close_us))
        holds = holds_of(self.schedule)
        np.maximum.at(consumed, holds.values, finish[holds.owners()])
        return consumed

    def most_entries(self) -> int:
        """No fewer entries than the tensormap ever held: those of tasks that no later task of their ring can have swept, as it
        did not know, or had not known for long, that they had retired."""
        items = self.schedule.submissions
        entries = np.fromiter((len(item.entries) for item in items), np.int64, len(items))
        if entries.sum() <= CAPACITY:
            return int(entries.sum())
        submit, is_task, consumed = np.asarray(self._submit_us), self._is_task, self._consumed_us
        total = np.zeros(len(items), np.int64)
        late = SWEEP - 1 + self._timing.device.publish_every
        for members in map(np.asarray, filter(len, self._members)):
            sums = np.concatenate(([0], np.cumsum(entries[members])))
            retired = np.maximum.accumulate(consumed[members])
            known = np.searchsorted(retired, submit[members], "right")  # retired by the time of each of them
            held = sums[1:] - sums[np.clip(np.minimum(known, np.arange(len(members))) - late, 0, None)]
            tasks = is_task[members]
            if tasks.any():
                total += _since(members[tasks], held[tasks], len(items))
        return int(total.max())


def _since(at: NDArray[np.int64], values: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """Per index the value of the last of `at` up to it, 0 before the first."""
    place = np.searchsorted(at, np.arange(num), "right")
    return np.concatenate(([0], values))[place]
