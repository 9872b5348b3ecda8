"""This module makes the report of a schedule: per ring what it takes and needs, and for a deadlock what would help."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.base.errors import DeadlockError, Mark
from runner.recorded.scope_stats import ring_stats
from runner.rings.capacity import RingLoad, fits, least_heap, least_window, program_peak_live, ring_loads, robust_heap, safe_heap
from runner.rings.parts.records import Deadlock
from runner.rings.replay import Replay, RunTimes, SlowWait
from runner.rings.schedule import Schedule
from runner.rings.sizes import MIN_POOL, RingSizes
from runner.rings.tensormap import CAPACITY as TENSORMAP_ENTRIES
from runner.rings.tensormap import entries_bound


@dataclass(frozen=True, slots=True)
class RingReport:
    """One ring. Bytes: `high_water` is the largest scope_high_water, `occupancy` the largest real_occupancy, `peak` the most
    that was held at any moment. `dynamic`: blocks depend on trip counts, so that `least` holds for these counts only.
    """

    ring: int
    capacity_bytes: int
    high_water_bytes: int
    occupancy_bytes: int
    peak_bytes: int
    least_bytes: int
    robust_bytes: int
    safe_bytes: int
    num_blocks: int
    num_tasks: int
    peak_scope: str | None
    peak_slots: int
    window: int
    least_window: int
    pool: int
    pool_bound: int
    dynamic: bool

    @property
    def proved(self) -> bool:
        """Whether the ring's capacity holds for every trip count, not only for those replayed."""
        return not self.dynamic or self.capacity_bytes >= self.robust_bytes


@dataclass(frozen=True, slots=True)
class ScheduleReport:
    """`stall_us` and `makespan_us` are of the timed model, whatever model the rings' figures are of; None after a deadlock.

    `unlimited_stall_us` and `unlimited_makespan_us` are of a run that memory holds up nowhere (`rings.unlimited`): what is left
    of the stall there are values that the submitting thread reads.
    """

    rings: tuple[RingReport, ...]
    progress: str
    peak_live_bytes: int | None
    num_tasks: int
    deadlock: Deadlock | None
    stall_us: float | None
    makespan_us: float | None
    unlimited_stall_us: float | None
    unlimited_makespan_us: float | None
    sizes: RingSizes
    tensormap_bound: int
    slow_waits: tuple[SlowWait, ...] = ()

    @property
    def smallest(self) -> RingSizes:
        """The smallest sizes known to be safe; the pools are as large as the bounds that hold for every run."""
        rings = self.rings
        return RingSizes.from_lists(
            [ring.safe_bytes for ring in rings],
            [ring.least_window for ring in rings],
            [max(MIN_POOL, ring.pool_bound) for ring in rings],
        )

    @property
    def window_saving_bytes(self) -> int:
        """What the smallest task windows save against the present ones."""
        return self.sizes.memory()["window_bytes"] - self.smallest.memory()["window_bytes"]

    @property
    def safe_total_bytes(self) -> int:
        return sum(ring.safe_bytes for ring in self.rings)


def make_report(replay: Replay, timing: RunTimes | None, unlimited: RunTimes | None = None) -> ScheduleReport:
    """The report of a replay; `timing` are times of the same schedule, `unlimited` of a run that memory does not hold up."""
    schedule = replay.schedule
    loads = ring_loads(schedule)
    program = schedule.program
    return ScheduleReport(
        tuple(_ring_reports(replay, loads)),
        replay.model,
        None if program is None else program_peak_live(program),
        sum(1 for submission in schedule.submissions if submission.core is not None),
        replay.deadlock,
        timing and timing.stall_us,
        timing and timing.makespan_us,
        unlimited and unlimited.stall_us,
        unlimited and unlimited.makespan_us,
        replay.sizes,
        entries_bound(schedule, replay.sizes.window),
        () if timing is None else tuple(timing.slow_waits),
    )


def _ring_reports(replay: Replay, loads: Sequence[RingLoad]) -> Iterator[RingReport]:
    scopes = replay.schedule.scopes
    for stats, load in zip(ring_stats(replay), loads, strict=True):
        ring = stats.ring
        yield RingReport(
            ring,
            replay.sizes.heap[ring],
            stats.high_water_bytes,
            stats.occupancy_bytes,
            replay.peak_bytes[ring],
            least_heap(load),
            robust_heap(load),
            safe_heap(load),
            load.num_blocks,
            load.num_tasks - load.num_allocs,
            None if stats.peak_scope is None else scopes[stats.peak_scope].name,
            replay.peak_slots[ring],
            replay.sizes.window[ring],
            least_window(load),
            replay.sizes.pool[ring],
            load.pool_bound,
            load.dynamic,
        )


def slow_wait_text(wait: SlowWait, schedule: Schedule) -> str:
    """Which wait the runtime would take for a deadlock."""
    name = f"'{schedule.submissions[wait.submission].name}'" if wait.submission < len(schedule.submissions) else "the end"
    who = f"the value read before {name}" if wait.code == 8 else f"the submission of {name} on ring {wait.ring}"
    return f"{who} waits for {wait.wait_us / 1000:,.0f} ms in which nothing moves: the runtime gives up with code {wait.code}"


# --- deadlocks --------------------------------------------------------------------------------------------------------


def remedies(report: ScheduleReport) -> list[str]:
    """Lines to paste: the smallest heaps that work, and windows and pools where those of the plan's rings may be too small."""
    rings = report.rings
    lines = [f"PTO2_RING_HEAP={_four(ring.safe_bytes for ring in rings)}"]
    if any(ring.least_window > ring.window for ring in rings):
        lines.append(f"PTO2_RING_TASK_WINDOW={_four(ring.least_window for ring in rings)}")
    if any(ring.pool_bound > ring.pool for ring in rings):
        lines.append(f"PTO2_RING_DEP_POOL={_four(max(MIN_POOL, ring.pool_bound) for ring in rings)}")
    return lines


_OPTIONS = {"PTO2_RING_TASK_WINDOW": "--ring-window", "PTO2_RING_DEP_POOL": "--ring-pool"}


def deadlock_error(schedule: Schedule, sizes: RingSizes, report: ScheduleReport) -> DeadlockError:
    """The refusal of a schedule that cannot run: who, what pins the ring, where both are written, and what works."""
    deadlock = report.deadlock
    assert deadlock is not None
    lines = [f"{deadlock.name}: {deadlock}"]
    lines += [f"  {what}: {mark}" for what, mark in _places(deadlock) if mark is not None]
    if deadlock.code == 5:  # no sizes help
        return DeadlockError("\n".join(lines), deadlock)
    loads = ring_loads(schedule)
    heap = [size if fits(load, size) else safe_heap(load) for size, load in zip(sizes.heap, loads, strict=True)]
    options = [f"{_OPTIONS[name]} {four}" for name, _, four in (line.partition("=") for line in remedies(report)[1:])]
    if options:
        lines.append(f"options that help: {' '.join(options)}")
    if deadlock.code == 2:
        lines.append(f"smallest capacity that works: {heap[deadlock.ring]:,} (--ring-heap {_four(heap)})")
    lines += ["smallest sizes that work for all rings:", *(f"  {line}" for line in remedies(report))]
    return DeadlockError("\n".join(lines), deadlock)


def _places(deadlock: Deadlock) -> list[tuple[str, Mark | None]]:
    return [
        (f"'{deadlock.block}' is allocated at", deadlock.mark),
        (f"scope '{deadlock.scope}' is opened at", deadlock.scope_mark),
        (f"'{deadlock.oldest}' is allocated at", deadlock.oldest_mark),
    ]


def _four(values: Iterable[int]) -> str:
    return ",".join(map(str, values))


# --- JSON -------------------------------------------------------------------------------------------------------------


def report_json(report: ScheduleReport) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {
        "progress": report.progress,
        "rings": [_ring_json(ring) for ring in report.rings],
        "peak_live_bytes": report.peak_live_bytes,
        "num_tasks": report.num_tasks,
        "safe_total_bytes": report.safe_total_bytes,
        "memory": report.sizes.memory()
        | {"smallest": report.smallest.memory(), "window_saving_bytes": report.window_saving_bytes},
        "slow_waits": [asdict(wait) for wait in report.slow_waits],
        "warnings": report.sizes.warnings(),
        "tensormap": {"capacity": TENSORMAP_ENTRIES, "bound": report.tensormap_bound},
        "stall_us": report.stall_us,
        "makespan_us": report.makespan_us,
        "unlimited_stall_us": report.unlimited_stall_us,
        "unlimited_makespan_us": report.unlimited_makespan_us,
        "deadlock": None if report.deadlock is None else _deadlock_json(report, report.deadlock),
    }


def _ring_json(ring: RingReport) -> dict[str, Any]:
    return asdict(ring) | {"proved": ring.proved}


def _deadlock_json(report: ScheduleReport, deadlock: Deadlock) -> dict[str, Any]:
    names = ("code", "name", "how", "ring", "submission", "block", "size_bytes", "capacity_bytes", "held_bytes", "held_slots")
    found: dict[str, Any] = {name: getattr(deadlock, name) for name in names}
    found |= {"scope": deadlock.scope, "oldest": deadlock.oldest, "message": str(deadlock)}
    for name in ("mark", "scope_mark", "oldest_mark"):
        mark = getattr(deadlock, name)
        found[name] = None if mark is None else str(mark)
    return found | {"remedies": remedies(report)}
