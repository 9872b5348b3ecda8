"""`make figures`, part `strategies`: all strategies side by side on prefill and decode of flash.

Capacities are those that hold for every routing: `safe` of the program with every loop at its bound. What a ring shows and how
long a run takes is of one routing, `random:0`, in rings of 1 GiB, 0.5 us a submission, 20 us a task, workers without limit.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

from runner.capacity import program_peak_live, ring_loads, safe_heap
from runner.commands_common import console, table
from runner.figures_cases import BOUND, RANDOM, Case, mib, step
from runner.program import Program
from runner.progress import Replay, lagging
from runner.ring_sizes import RingSizes
from runner.schedule import Schedule
from runner.scope_stats import ring_stats
from runner.timed import timed, uniform_timing
from schedulers import get_scheduler

GIB = 2**30
STRATEGIES: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in ("unscoped", "manual", "auto", "annotated", "autoscope", "minpeak")},
    "minpeak, no sharing": ("minpeak", {"share": False}),
}
AMPLE = 2**24
"""Slots and pool entries: more than any of these programs has, so that heaps alone are compared."""


def cases() -> list[Case]:
    """Our defaults and the seed's constants; chunking is of prefill's attention, and made for ragged rows."""
    found = []
    for configs in (("flash",), ("flash", "seed")):
        for graph in ("prefill_fwd", "decode_fwd"):
            for ep in (2, 8):
                found += [Case(configs, graph, ep, (f"recv_layout={layout}",)) for layout in ("padded", "ragged")]
                if graph == "prefill_fwd":
                    found.append(Case(configs, graph, ep, ("recv_layout=ragged", "chunked=true")))
    found += [Case(("flash",), "prefill_fwd", 8, (f"max_context={context}",)) for context in (4096, 131072)]
    return found


@dataclass(frozen=True, slots=True)
class Row:
    """One strategy on one case. Bytes, percent of 1 GiB, microseconds; None where the rings of 1 GiB deadlock."""

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


def compare(case: Case, strategies: dict[str, tuple[str, dict[str, object]]] = STRATEGIES) -> list[Row]:
    """Every strategy on one case."""
    with step(f"{case.name}, routing {BOUND}"):
        bound = case.program(BOUND)
        least = program_peak_live(bound)
    safe = {}
    for name in strategies:
        with step(f"{name}, {len(bound.tasks):,} tasks"):
            safe[name] = tuple(safe_heap(load) for load in ring_loads(_planned(name, bound, strategies)))
    del bound
    gc.collect()
    with step(f"{case.name}, routing {RANDOM}, replays"):
        drawn = case.program(RANDOM)
        rows = [_row(name, _planned(name, drawn, strategies), safe[name], least) for name in strategies]
    return rows


def _planned(name: str, program: Program, strategies: dict[str, tuple[str, dict[str, object]]]) -> Schedule:
    strategy, given = strategies[name]
    return get_scheduler(strategy)(program, given)


def _row(name: str, schedule: Schedule, safe: tuple[int, ...], least: int) -> Row:
    sizes = RingSizes.from_lists([GIB] * 4, [AMPLE] * 4, [AMPLE] * 4)
    run, lag = timed(schedule, sizes, uniform_timing(0.5, 20)), lagging(schedule, sizes)
    return Row(name, safe, least, _worst_percent(run), _worst_percent(lag), None if run.deadlock else run.makespan_us)


def _worst_percent(replay: Replay) -> float | None:
    """The largest scope_high_water of any ring, in percent of the ring."""
    if replay.deadlock is not None:
        return None
    return max(100 * stats.high_water_bytes / GIB for stats in ring_stats(replay))


def print_strategies() -> None:
    """A table a case, each printed as soon as it is known."""
    print(f"safe capacities in MiB, rings 0 to 3, for any routing ({BOUND}); gap: total over the lower bound (peak live)")
    print(f"worst ring: scope_high_water in 1 GiB rings under timed and lagging; makespan under timed; routing {RANDOM}")
    for case in cases():
        rows = compare(case)
        title = f"\n{case.name}: lower bound {mib(rows[0].lower_bound_bytes)} MiB"
        columns = ("scheduler", "0>", "1>", "2>", "3>", "total>", "gap>", "timed %>", "lagging %>", "makespan ms>")
        out = table(*columns, title=title)
        for row in rows:
            sizes = [mib(size) for size in (*row.safe_bytes, row.total_bytes, row.gap_bytes)]
            percents = ["deadlock" if p is None else f"{p:.1f}" for p in (row.timed_percent, row.lagging_percent)]
            out.add_row(row.strategy, *sizes, *percents, "-" if row.makespan_us is None else f"{row.makespan_us / 1000:,.2f}")
        console().print(out)
