"""Ring sizes for schedules that run on the same rings, as prefill and decode of one model do."""

from __future__ import annotations

from collections.abc import Sequence

from runner.base.errors import ScheduleError
from runner.rings.capacity import RingLoad, fits, least_heap, least_window, ring_loads, robust_heap, safe_heap
from runner.rings.replay import eager
from runner.rings.schedule import NUM_RINGS, Schedule
from runner.rings.sizes import RingSizes

MIN_POOL = 4


def safe_sizes(schedules: Sequence[Schedule]) -> RingSizes:
    """The smallest sizes known to be safe for every one of `schedules`, whatever the trip counts of their dynamic loops.

    A ring's size is not simply the largest of the schedules' safe capacities: one that runs in its least capacity may deadlock
    in a larger one, though not from its robust one up.
    """
    loads = [ring_loads(schedule) for schedule in schedules]
    per_ring = [[load[ring] for load in loads] for ring in range(NUM_RINGS)]
    heap = [_common_heap(ring) for ring in per_ring]
    window = [max(least_window(load) for load in ring) for ring in per_ring]
    pool = [max(MIN_POOL, *(load.pool_bound for load in ring)) for ring in per_ring]
    return RingSizes.from_lists(heap, window, pool)


def _common_heap(loads: Sequence[RingLoad]) -> int:
    """The smallest capacity that holds for all loads: while one does not run, none below the next in which it does can do."""
    capacity = 0
    larger = max(safe_heap(load) for load in loads)
    while larger > capacity:
        capacity = larger
        larger = max(capacity if load.dynamic else least_heap(load, capacity) for load in loads)
    return capacity


def holds(load: RingLoad, size_bytes: int) -> bool:
    """Whether a heap of `size_bytes` is known to serve a ring for every trip count."""
    return size_bytes >= robust_heap(load) if load.dynamic else fits(load, size_bytes)


def refuse_deadlock(schedules: Sequence[Schedule], sizes: RingSizes) -> None:
    """Raises ScheduleError when some run of a schedule can deadlock in rings of `sizes`, naming what and the sizes that work."""
    for schedule in schedules:
        loads = ring_loads(schedule)
        problem = _deadlock(schedule, loads, sizes)
        if problem is not None:
            advised = safe_sizes(schedules)
            heap = ",".join(map(str, advised.heap))
            raise ScheduleError(
                f"schedule '{schedule.name}' can deadlock: {problem}", hint=f"sizes that work: --ring-heap {heap}"
            )


def _deadlock(schedule: Schedule, loads: Sequence[RingLoad], sizes: RingSizes) -> str | None:
    deadlock = eager(schedule, sizes).deadlock
    if deadlock is not None:
        return f"{deadlock.mark}: {deadlock}" if deadlock.mark else str(deadlock)
    for ring, load in enumerate(loads):
        if not holds(load, sizes.heap[ring]):
            needed = robust_heap(load)
            return (
                f"ring {ring} of {sizes.heap[ring]:,} bytes runs all trips of its dynamic loops, but not every number of them; "
                f"{needed:,} bytes do"
            )
    return None
