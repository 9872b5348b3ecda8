"""This module runs a schedule where memory holds it up nowhere: what rings and shared bytes cost in time is told against that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.rings.capacity import ring_loads
from runner.rings.replay import Replay
from runner.rings.schedule import Schedule, Slot
from runner.rings.sizes import MIN_HEAP_BYTES, MIN_POOL, MIN_WINDOW, RingSizes
from runner.rings.timed import Timing, timed


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
    """A timed replay of `without_sharing` in `unlimited_sizes`; submissions keep their numbers, so `timing` is the schedule's."""
    return timed(without_sharing(schedule), unlimited_sizes(schedule), timing)
