"""Part `balanced`: bytes against time for four programs, drawn with the balanced point marked, beside what it was to reach.

Routing `random:0`. A run takes what the entry of `cases.json` says: the defaults of commands, or 20 us a task on workers without
limit, as in the part `strategies`. Each placement runs in its own safe capacities.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

from docs.figures.cases import CASES, RANDOM, Case, mib, step
from runner import Driver, TimedOptions
from runner.report.frontier import Frontier, draw_frontier

IMAGES = Path(__file__).parents[1] / "images"
NUM_POINTS = 1
"""Budgets between the fewest bytes and the shortest run: each is a plan of its own."""


def balanced() -> list[dict[str, Any]]:
    """A row a program, and its picture."""
    return [row_of(entry, IMAGES) for entry in CASES["balanced"]]


def row_of(entry: dict[str, Any], images: Path) -> dict[str, Any]:
    """The row of an entry of `CASES`, whose picture goes to `images`."""
    case, timing = Case.of(entry), TimedOptions(**entry["timing"])
    driver = Driver(case.configs, case.sets, ep=case.ep)
    with step(f"{case.title}, routing {RANDOM}"):
        found = driver.frontier(case.graph, NUM_POINTS, routing=RANDOM, timed=timing, say=_say)
    draw_frontier(found, images / f"frontier-{entry['picture']}.svg")
    gc.collect()
    return {"program": case.title, "timing": str(timing), "most_mib": entry["most_mib"]} | figures_of(found)


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


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
