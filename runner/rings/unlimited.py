"""This module runs a schedule where memory holds it up nowhere: what rings and shared bytes cost in time is told against that."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runner.rings.capacity import ring_loads
from runner.rings.heap import Deadlock, RingHeap
from runner.rings.replay import Replay
from runner.rings.schedule import MAX_SCOPES, NUM_RINGS, Begin, End, Schedule, Slot, Submit
from runner.rings.sizes import MIN_HEAP_BYTES, MIN_POOL, MIN_WINDOW, RingSizes
from runner.rings.steps import submission_rings
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
    program = schedule.program
    if program is None or not any(_overlap(submission.slots) for submission in schedule.submissions):
        return schedule
    submissions = list(schedule.submissions)
    of_task = {s.task: k for k, s in enumerate(submissions) if s.task is not None}
    for task, k in of_task.items():
        own = {of_task.get(w) for w in (*program.tasks[task].waits, *program.tasks[task].after)}
        waits = submissions[k].waits
        kept = tuple([w for w in waits if w in own or submissions[w].core is None])
        if len(kept) < len(waits):
            submissions[k] = replace(submissions[k], waits=kept)
    return replace(schedule, submissions=tuple(submissions))


def _overlap(slots: Sequence[Slot]) -> bool:
    end = 0
    for slot in sorted(slots, key=lambda slot: slot.offset):
        if slot.offset < end:
            return True
        end = slot.offset + slot.size_bytes
    return False


def run_unlimited(schedule: Schedule, timing: Timing) -> Replay:
    """A timed replay of `without_sharing` in `unlimited_sizes`; submissions keep their numbers, so `timing` is the schedule's.

    Nothing waits in such rings, so none are kept; unless the tensormap, which has one size whatever the rings have, could run
    short, or the runtime refuses some submission.
    """
    free, sizes = without_sharing(schedule), unlimited_sizes(schedule)
    run = _Unlimited(free, sizes, timing)
    found = run.run()
    return timed(free, sizes, timing) if run.is_refused or run.most_entries() > CAPACITY else found


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

    def __init__(self, schedule: Schedule, sizes: RingSizes, timing: Timing) -> None:
        super().__init__(schedule, sizes, timing, _NoRings(schedule))
        self._submit_us = array("d", bytes(8 * len(schedule.submissions)))
        self._open: list[list[int]] = []
        self.is_refused = bool(self.heap.refused_submissions())
        self._close_us = array("d", bytes(8 * len(schedule.submissions)))

    def walk(self) -> Deadlock | None:
        open_scopes, modes, scopes = self._open, list[str](), self.schedule.scopes
        for step in () if self.is_refused else self.steps():
            if isinstance(step, Submit):
                open_scopes[-1].append(step.submission)
                self.submit(step.submission)
            elif isinstance(step, Begin):
                mode = scopes[step.scope].mode
                self.is_refused |= len(modes) >= MAX_SCOPES or (mode == "auto" and modes[-1:] == ["manual"])
                open_scopes.append([])
                modes.append(mode)
            elif isinstance(step, End):
                modes.pop()
                for submission in open_scopes.pop():
                    self._close_us[submission] = self._now
            else:
                self.read(step.waits)
        return None

    def submit(self, submission: int) -> Deadlock | None:
        self.arrive(submission)
        self._submit_us[submission] = self._now
        if self._core[submission] is None:
            self.heap.completed[submission] = 1
        self.submitted(submission)
        return None

    def most_entries(self) -> int:
        """No fewer entries than the tensormap ever held: those of tasks that no later task of their ring can have swept, as it
        did not know, or had not known for long, that they had retired."""
        items = self.schedule.submissions
        entries = np.fromiter((len(item.entries) for item in items), np.int64, len(items))
        if entries.sum() <= CAPACITY:
            return int(entries.sum())
        submit, is_task = np.asarray(self._submit_us), np.fromiter((item.core is not None for item in items), bool, len(items))
        finish = np.where(is_task, np.asarray(self._finish_us), submit)
        consumed = np.maximum(finish, np.asarray(self._close_us))
        for index, item in enumerate(items):
            for held in item.holds:
                consumed[held] = max(consumed[held], finish[index])
        rings: list[list[int]] = [[] for _ in range(NUM_RINGS)]
        for submission, ring in submission_rings(self.schedule):
            rings[ring].append(submission)
        total = np.zeros(len(items), np.int64)
        late = SWEEP - 1 + self._timing.device.publish_every
        for members in map(np.array, filter(None, rings)):
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
