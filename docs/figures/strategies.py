"""`make figures`, part `strategies`: all strategies side by side on prefill and decode of flash.

All columns are of one routing, `random:0`; sizes that hold for any routing are in the part `targets`. What a ring shows is in
rings of 1 GiB, and a run takes 0.5 us a submission and 20 us a task, workers without limit.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass

from docs.figures.cases import RANDOM, SEED, Case, mib, safe_bytes, step
from runner.cli.shared import console, table
from runner.program.program import Program
from runner.recorded.scope_stats import ring_stats
from runner.rings.capacity import program_peak_live
from runner.rings.replay import Replay, lagging
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.rings.timed import timed, uniform_timing
from runner.verify.verify import check
from schedulers import get_scheduler

GIB = 2**30
Strategies = Mapping[str, tuple[str, Mapping[str, object]]]
STRATEGIES: Strategies = {
    **{name: (name, {}) for name in ("unscoped", "manual", "auto", "annotated", "autoscope", "minpeak")},
    "minpeak, no sharing": ("minpeak", {"share": False, "time_limit_s": float("inf")}),  # the same on a slow machine
}
AMPLE = 2**24
"""Slots and pool entries: more than any of these programs has, so that heaps alone are compared."""


def cases() -> list[Case]:
    """Our defaults in each layout, prefill in chunks too, which are made for ragged rows; the seed's constants in two."""
    padded, ragged, chunked = "recv_layout=padded", "recv_layout=ragged", "chunked=true"
    found = []
    for graph, variants in (
        ("prefill_fwd", ((padded,), (ragged,), (ragged, chunked))),
        ("decode_fwd", ((padded,), (ragged,))),
    ):
        found += [Case(("flash",), graph, ep, sets) for ep in (2, 8) for sets in variants]
    return [*found, Case(SEED, "prefill_fwd", 2, (padded,)), Case(SEED, "prefill_fwd", 8, (ragged,))]


@dataclass(frozen=True, slots=True)
class Row:
    """One strategy on one program. Bytes, percent of 1 GiB, microseconds; None where the rings of 1 GiB deadlock."""

    strategy: str
    safe_bytes: tuple[int, ...]
    lower_bound_bytes: int
    timed_percent: float | None
    lagging_percent: float | None
    makespan_us: float | None

    @property
    def total_bytes(self) -> int:
        return sum(self.safe_bytes)

    @property
    def gap_bytes(self) -> int:
        """Above the lower bound, the 1,024 bytes that an idle ring takes included."""
        return self.total_bytes - self.lower_bound_bytes


def compare(program: Program, strategies: Strategies = STRATEGIES) -> list[Row]:
    """Every strategy on one program."""
    least = program_peak_live(program)
    rows = []
    for name, (strategy, given) in strategies.items():
        with step(name):
            rows.append(_row(name, get_scheduler(strategy)(program, given), least))
    return rows


def _row(name: str, schedule: Schedule, least: int) -> Row:
    check(schedule, allow_missing_edges=schedule.strategy == "manual")
    sizes = RingSizes.from_lists([GIB] * 4, [AMPLE] * 4, [AMPLE] * 4)
    run, lag = timed(schedule, sizes, uniform_timing(0.5, 20)), lagging(schedule, sizes)
    makespan = None if run.deadlock else run.makespan_us
    return Row(name, safe_bytes(schedule), least, _worst_percent(run), _worst_percent(lag), makespan)


def _worst_percent(replay: Replay) -> float | None:
    """The largest scope_high_water of any ring, in percent of the ring."""
    if replay.deadlock is not None:
        return None
    return max(100 * stats.high_water_bytes / GIB for stats in ring_stats(replay))


def print_strategies() -> None:
    """A table a case, each printed as soon as it is known."""
    print(f"All of routing {RANDOM}. Safe capacities in MiB, rings 0 to 3; gap: total over the lower bound, peak live.")
    print("Worst ring: scope_high_water in rings of 1 GiB under timed and lagging; makespan in the same rings.")
    print("manual lacks the edges that make a run right: its makespan is not one that could be used.")
    for case in cases():
        with step(f"{case.name}, routing {RANDOM}"):
            program = case.program(RANDOM)
        print_rows(f"{case.name}, {len(program.tasks):,} tasks", compare(program))
        del program
        gc.collect()


def print_rows(name: str, rows: list[Row]) -> None:
    """The table of one program."""
    title = f"\n{name}: lower bound {mib(rows[0].lower_bound_bytes, 2)} MiB"
    columns = ("scheduler", "0>", "1>", "2>", "3>", "total>", "gap>", "timed %>", "lagging %>", "makespan ms>")
    out = table(*columns, title=title)
    for row in rows:
        sizes = [mib(size) for size in (*row.safe_bytes, row.total_bytes, row.gap_bytes)]
        percents = ["deadlock" if p is None else f"{p:.1f}" for p in (row.timed_percent, row.lagging_percent)]
        out.add_row(row.strategy, *sizes, *percents, "-" if row.makespan_us is None else f"{row.makespan_us / 1000:,.2f}")
    console().print(out)
