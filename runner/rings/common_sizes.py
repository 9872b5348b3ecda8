"""This module owns ring sizes for schedules that run on the same rings, as prefill and decode of one model do.

Sizes come as `RingSizes` to run with, and as `DeviceSizes` to give a device in the spellings that runtimes and programs read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import le
from typing import Any

from runner.base.errors import ScheduleError
from runner.rings.capacity import RingLoad, fits, least_heap, least_window, ring_loads, robust_heap, safe_heap
from runner.rings.replay import eager, lagging
from runner.rings.schedule import NUM_RINGS, Schedule
from runner.rings.sizes import MIN_POOL, Four, RingSizes
from runner.rings.tensormap import CAPACITY as TENSORMAP_ENTRIES
from runner.rings.tensormap import entries_bound

GIB = 2**30


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
        problem = _deadlock(schedule, ring_loads(schedule), sizes)
        if problem is not None:
            raise ScheduleError(f"schedule '{schedule.name}' can deadlock: {problem}", hint=_advice(schedules, sizes))


def refuse_pools(schedule: Schedule, sizes: RingSizes) -> None:
    """Raises ScheduleError where some run, of any trip counts, may need more pool entries than there are.

    One replay does not decide that: another trip count or another order of completions needs other entries.
    """
    for problem in _short_pools(ring_loads(schedule), sizes):
        raise ScheduleError(f"schedule '{schedule.name}' can deadlock: {problem}", hint=_advice([schedule], sizes))


def _short_pools(loads: Sequence[RingLoad], sizes: RingSizes) -> list[str]:
    return [
        f"ring {ring} has a pool of {sizes.pool[ring]:,} entries; a run may need {load.pool_bound:,}"
        for ring, load in enumerate(loads)
        if load.pool_bound > sizes.pool[ring]
    ]


def _deadlock(schedule: Schedule, loads: Sequence[RingLoad], sizes: RingSizes) -> str | None:
    deadlock = eager(schedule, sizes).deadlock
    short_pools = _short_pools(loads, sizes)
    if deadlock is None and (short_pools or _map_may_fill(schedule, sizes)):
        deadlock = lagging(schedule, sizes).deadlock
    if deadlock is not None:
        return f"{deadlock.mark}: {deadlock}" if deadlock.mark else str(deadlock)
    for ring, load in enumerate(loads):
        if not holds(load, sizes.heap[ring]):
            needed = robust_heap(load)
            return (
                f"ring {ring} of {sizes.heap[ring]:,} bytes runs all trips of its dynamic loops, but not every number of them; "
                f"{needed:,} bytes do"
            )
    return short_pools[0] if short_pools else None


def _map_may_fill(schedule: Schedule, sizes: RingSizes) -> bool:
    """Whether a run may have to wait for tensormap entries: what it then keeps may be what eager progress has reclaimed."""
    total = sum([len(submission.entries) for submission in schedule.submissions])
    return total > TENSORMAP_ENTRIES and entries_bound(schedule, sizes.window) > TENSORMAP_ENTRIES


def _advice(schedules: Sequence[Schedule], sizes: RingSizes) -> str:
    """The options whose values are too small for some schedule, with values that work for all."""
    advised = safe_sizes(schedules)
    per_ring = list(zip(*(ring_loads(schedule) for schedule in schedules), strict=True))
    heaps = all(holds(load, size) for loads, size in zip(per_ring, sizes.heap, strict=True) for load in loads)
    found = {
        "--ring-heap": (advised.heap, heaps),
        "--ring-window": (advised.window, all(map(le, advised.window, sizes.window))),
        "--ring-pool": (advised.pool, all(map(le, advised.pool, sizes.pool))),
    }
    return "sizes that work: " + " ".join(f"{option} {_commas(four)}" for option, (four, enough) in found.items() if not enough)


# --- for a device -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RingNeed:
    """What one ring needs for one schedule alone; `safe_bytes` holds for this schedule, `robust_bytes` and all above too."""

    graph: str
    ring: int
    safe_bytes: int
    robust_bytes: int
    pool_bound: int
    num_tasks: int


@dataclass(frozen=True, slots=True)
class DeviceSizes:
    """Sizes that serve every schedule.

    `power_heap` are heaps for `RunConfig`, which takes powers of two only: per ring the smallest one in which every schedule
    runs. Bytes saved are those of `sizes.heap`. `tensormap_bound` is the most entries that any run of one of them has in use.
    """

    sizes: RingSizes
    power_heap: Four
    needs: tuple[RingNeed, ...]
    tensormap_bound: int = 0

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes.heap)

    @property
    def uniform_bytes(self) -> int:
        """What four rings of the largest ring's size take."""
        return NUM_RINGS * max(self.sizes.heap)

    @property
    def saved_against_uniform_bytes(self) -> int:
        return self.uniform_bytes - self.total_bytes

    @property
    def saved_against_gib_bytes(self) -> int:
        """Against four rings of 1 GiB; negative where those would be too small."""
        return NUM_RINGS * GIB - self.total_bytes

    @property
    def window_saving_bytes(self) -> int:
        """What these task windows save against the runtime's default ones."""
        return RingSizes().memory()["window_bytes"] - self.sizes.memory()["window_bytes"]

    def environment(self) -> list[str]:
        """`PTO2_RING_*` lines, four values each."""
        sizes = self.sizes
        return [
            f"PTO2_RING_HEAP={_commas(sizes.heap)}",
            f"PTO2_RING_TASK_WINDOW={_commas(sizes.window)}",
            f"PTO2_RING_DEP_POOL={_commas(sizes.pool)}",
        ]

    def run_config(self) -> str:
        """The keyword arguments of pypto's `RunConfig`.

        Source: pypto docs/en/dev/05-runtime-ring-sizing.md (field names; heaps and windows are powers of two).
        """
        fields = (
            ("ring_heap", self.power_heap),
            ("ring_task_window", self.sizes.window),
            ("ring_dep_pool", self.sizes.pool),
        )
        lines = [f"    {name}=[{', '.join(map(str, values))}],\n" for name, values in fields]
        return f"RunConfig(\n{''.join(lines)})"

    def as_json(self) -> dict[str, Any]:
        return {
            "ring_heap": list(self.sizes.heap),
            "ring_task_window": list(self.sizes.window),
            "ring_dep_pool": list(self.sizes.pool),
            "run_config": {
                "ring_heap": list(self.power_heap),
                "ring_task_window": list(self.sizes.window),
                "ring_dep_pool": list(self.sizes.pool),
            },
            "total_bytes": self.total_bytes,
            "uniform_bytes": self.uniform_bytes,
            "saved_against_uniform_bytes": self.saved_against_uniform_bytes,
            "saved_against_4x1gib_bytes": self.saved_against_gib_bytes,
            "memory": self.sizes.memory() | {"window_saving_bytes": self.window_saving_bytes},
            "tensormap": {"capacity": TENSORMAP_ENTRIES, "bound": self.tensormap_bound},
            "needs": [asdict(need) for need in self.needs],
        }


def device_sizes(schedules: Sequence[Schedule], names: Sequence[str]) -> DeviceSizes:
    """Sizes for all of `schedules`, of which `names` are the names to show."""
    loads = [ring_loads(schedule) for schedule in schedules]
    needs = [_need(name, ring, load[ring]) for name, load in zip(names, loads, strict=True) for ring in range(NUM_RINGS)]
    sizes = safe_sizes(schedules)
    a, b, c, d = (_power_heap([load[ring] for load in loads], sizes.heap[ring]) for ring in range(NUM_RINGS))
    entries = max((entries_bound(schedule, sizes.window) for schedule in schedules), default=0)
    return DeviceSizes(sizes, (a, b, c, d), tuple(needs), entries)


def _need(name: str, ring: int, load: RingLoad) -> RingNeed:
    return RingNeed(name, ring, safe_heap(load), robust_heap(load), load.pool_bound, load.num_tasks)


def _power_heap(loads: Sequence[RingLoad], at_least: int) -> int:
    """The smallest power of two from `at_least` up that serves all loads; a larger heap than one that works may deadlock."""
    size = 1 << (at_least - 1).bit_length()
    while not all(holds(load, size) for load in loads):
        size *= 2
    return size


def _commas(values: Sequence[int]) -> str:
    return ",".join(map(str, values))
