"""Part `balanced`: bytes against time for four programs, one of them twice, with budgets and the balanced point, beside the aims.

Routing `random:0`. A run takes what the entry of `cases.json` says: the defaults of commands, or 20 us a task on workers without
limit, as in the part `strategies`. Each placement runs in its own safe capacities.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from docs.figures.cases import CASES, RANDOM, Case, mib, safe_bytes, step
from runner import Driver, TimedOptions
from runner.base.units import human_bytes
from runner.program.program import Program
from runner.report.frontier import Frontier, Point, budgets, draw_frontier, merged, undominated
from runner.rings.capacity import program_peak_live
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.rings.timed import Timing, timed
from schedulers import get_scheduler
from schedulers.minpeak.plan import Options
from schedulers.minpeak.planner import Planner, plan

IMAGES = Path(__file__).parents[1] / "images"
STRATEGIES = ("annotated", "unscoped", "auto", "autoscope")
AMPLE = 2**24
"""Slots and pool entries: more than any of these programs has."""


def balanced() -> list[dict[str, Any]]:
    """A row a program, and its picture."""
    return [row_of(entry, IMAGES) for entry in CASES["balanced"]]


def row_of(entry: dict[str, Any], images: Path) -> dict[str, Any]:
    """The row of an entry of `CASES`, whose picture goes to `images`."""
    case, options = Case.of(entry), TimedOptions(**entry["timing"])
    setup = Driver(case.configs, case.sets, ep=case.ep).setup
    dtypes = setup.config(case.graph).dtypes
    timing = partial(options.timing, ops=setup.registry, dtypes=dtypes)
    with step(f"{case.title}, routing {RANDOM}"):
        program = case.program(RANDOM)
    found = trace(program, timing, f"{case.title}, routing {RANDOM}")
    draw_frontier(within_budgets(program, timing, found), images / f"frontier-{entry['picture']}.svg")
    gc.collect()
    return {"program": case.title, "timing": str(options), "most_mib": entry["most_mib"]} | figures_of(found)


def trace(program: Program, timing: Callable[[Schedule], Timing], title: str) -> Frontier:
    """The fewest bytes, the balanced point, and the other strategies."""

    def point(label: str, schedule: Schedule) -> Point:
        heap = safe_bytes(schedule)
        run = timed(schedule, RingSizes.from_lists(heap, [AMPLE] * len(heap), [AMPLE] * len(heap)), timing(schedule))
        assert run.makespan_us is not None, "a schedule runs in its safe capacities"
        return Point(label, sum(heap), run.makespan_us)

    with step("strategies"):
        others = [point(name, get_scheduler(name)(program, {})) for name in STRATEGIES]
        least = point("minpeak, fewest bytes", plan(program, {"objective": "total"}).schedule)
    with step("balanced"):
        found = plan(program, {"timing": timing, "time_limit_s": float("inf")})
        middle = point("minpeak, balanced", found.schedule)
    facts = found.certificate.time
    path_us = facts and max(facts.critical_path_us, facts.work_us)
    return Frontier(title, undominated([least, middle]), merged([middle, *others]), program_peak_live(program), path_us)


def within_budgets(program: Program, timing: Callable[[Schedule], Timing], found: Frontier) -> Frontier:
    """The same with the shortest runs within budgets between the fewest bytes, the balanced point and the fastest placement."""
    least, middle = found.points[0].total_bytes, found.points[-1].total_bytes
    fastest = min((*found.points, *found.others), key=lambda point: (point.makespan_us, point.total_bytes)).total_bytes
    between = [size for low, high in ((least, middle), (middle, fastest)) if low < high for size in budgets(low, high, 2)]
    planner = Planner(program, Options.of({"timing": timing, "time_limit_s": float("inf"), "objective": "makespan"}))
    points = list(found.points)
    for budget in between:
        with step(f"budget of {human_bytes(budget)}"):
            plan = planner.shortest(budget)
        points.append(Point(f"minpeak, {human_bytes(budget)}", sum(plan.heap_bytes), plan.certificate.value))
    return replace(found, points=undominated(points))


def figures_of(found: Frontier) -> dict[str, float | None]:
    """MiB and milliseconds of the balanced point, of the fewest bytes, and of the fastest of all placements."""
    placed = {point.label: point for point in (*found.points, *found.others)}
    balanced = next(point for label, point in placed.items() if "balanced" in label)
    least = min(placed.values(), key=lambda point: point.total_bytes)
    fastest = min(placed.values(), key=lambda point: (point.makespan_us, point.total_bytes))
    strategy = min((p for label, p in placed.items() if "minpeak" not in label), key=lambda point: point.makespan_us)
    named = {"balanced": balanced, "least": least, "fastest": fastest, "strategy": strategy}
    sizes: dict[str, float | None] = {f"{name}_mib": mib(point.total_bytes) for name, point in named.items()}
    return sizes | {f"{name}_ms": round(point.makespan_us / 1000, 3) for name, point in named.items()}
