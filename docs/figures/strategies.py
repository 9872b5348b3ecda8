"""Part `strategies`: all strategies side by side on prefill and decode of flash.

All columns are of one routing, `random:0`; sizes that hold for any routing are in the part `targets`. What a ring shows is in
rings of 1 GiB, and a run takes 0.5 us a submission and 20 us a task, workers without limit.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

from docs.figures.cases import CASES, RANDOM, Case, mib, safe_bytes, step
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
    **{name: (name, {}) for name in ("unscoped", "manual", "auto", "annotated", "autoscope")},
    "minpeak": ("minpeak", {"objective": "total"}),
    "minpeak, no sharing": (
        "minpeak",
        {"objective": "total", "share": False, "time_limit_s": float("inf")},
    ),  # the same on a slow machine
}
AMPLE = 2**24
"""Slots and pool entries: more than any of these programs has, so that heaps alone are compared."""


def cases() -> list[Case]:
    """Our defaults in each layout, prefill in chunks too, which are made for ragged rows; the seed's constants in two."""
    return [Case.of(entry) for entry in CASES["strategies"]]


def compare(program: Program, strategies: Strategies = STRATEGIES) -> list[dict[str, Any]]:
    """Every strategy on one program: MiB, percent of 1 GiB, milliseconds; None where the rings of 1 GiB deadlock."""
    rows = []
    for name, (strategy, given) in strategies.items():
        with step(name):
            rows.append({"strategy": name} | _figures(get_scheduler(strategy)(program, given)))
    return rows


def _figures(schedule: Schedule) -> dict[str, float | None]:
    check(schedule, allow_missing_edges=schedule.strategy == "manual")
    sizes = RingSizes.from_lists([GIB] * 4, [AMPLE] * 4, [AMPLE] * 4)
    run, lag = timed(schedule, sizes, uniform_timing(0.5, 20)), lagging(schedule, sizes)
    makespan_us = None if run.deadlock is not None else run.makespan_us
    return {
        "total_mib": mib(sum(safe_bytes(schedule))),
        "timed_percent": _worst_percent(run),
        "lagging_percent": _worst_percent(lag),
        "makespan_ms": None if makespan_us is None else round(makespan_us / 1000, 3),
    }


def _worst_percent(replay: Replay) -> float | None:
    """The largest scope_high_water of any ring, in percent of the ring."""
    if replay.deadlock is not None:
        return None
    return round(max(100 * stats.high_water_bytes / GIB for stats in ring_stats(replay)), 2)


def strategies() -> list[dict[str, Any]]:
    """Every case with the rows of its strategies."""
    found = []
    for case in cases():
        with step(f"{case.name}, routing {RANDOM}"):
            program = case.program(RANDOM)
        head = {"program": case.title, "num_tasks": len(program.tasks), "lower_bound_mib": mib(program_peak_live(program))}
        found.append(head | {"rows": compare(program)})
        del program
        gc.collect()
    return found
