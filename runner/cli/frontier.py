"""`ringgraph frontier`: what more bytes buy in time, from the fewest that minpeak needs to where nothing waits for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import options
from runner.cli.shared import console, print_json, table
from runner.driver.driver import program_of, resolve

if TYPE_CHECKING:
    from runner.program.program import Program
    from runner.report.frontier import Frontier, Point
    from runner.rings.schedule import Schedule
    from runner.rings.timed import Timing

MIB = 2**20
OTHERS = ("unscoped", "auto", "annotated", "autoscope")
"""Strategies shown beside minpeak; `manual` is not, as it lacks the edges that make a run right."""


def register(app: typer.Typer) -> None:
    app.command()(frontier)


def frontier(
    graph: Annotated[str, typer.Argument(metavar="GRAPH", help="A graph file, or the name of a shipped graph (prefill_fwd).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Draw to a .svg, .png or .pdf file.")] = None,
    num_points: Annotated[int, typer.Option("--points", min=1, metavar="N", help="Budgets between the ends.")] = 6,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    ep: options.Ep = None,
    routing: Annotated[str, typer.Option("--routing", metavar="SOURCE", help="Trip counts, as for 'schedule'.")] = "random:0",
    submit_us: Annotated[float, typer.Option("--submit-us", min=0, metavar="US", help="Cost of one submission.")] = 0.5,
    task_us: Annotated[float, typer.Option("--task-us", min=0, metavar="US", help="Duration of every task.")] = 20.0,
    cores: Annotated[str, typer.Option("--cores", metavar="COUNTS", help="Workers: aic=24,aiv=48 or unlimited.")] = "unlimited",
    as_json: options.Json = False,
) -> None:
    """What more bytes buy in time: minpeak within budgets, beside the other strategies and two lower bounds."""
    from runner.report.frontier import check_format, draw_frontier
    from runner.rings.timed import parse_cores, uniform_timing

    if out is not None:
        check_format(out)
    timing = uniform_timing(submit_us, task_us, parse_cores(cores))
    program = program_of(graph, resolve(config, sets, deploy, ep, graph), routing=routing)
    found = trace_frontier(program, lambda schedule: timing, f"{program.name}, routing {routing}", num_points, say)
    if out is not None:
        draw_frontier(found, out)
    if as_json:
        print_json(found.as_json())
        return
    print_frontier(found)
    if out is not None:
        print(f"\ndrawn to {out}")


def print_frontier(found: Frontier) -> None:
    """The points as a table."""
    out = table("placement", "safe MiB>", "makespan ms>")
    for point in (*found.points, *found.others):
        out.add_row(point.label, f"{point.total_bytes / MIB:,.1f}", f"{point.makespan_us / 1000:,.2f}")
    out.add_row(
        "lower bounds: peak live, critical path", f"{found.peak_live_bytes / MIB:,.1f}", f"{found.critical_path_us / 1000:,.2f}"
    )
    console().print(out)


def trace_frontier(
    program: Program, timing: Callable[[Schedule], Timing], name: str, num_points: int, say: Callable[[str], None]
) -> Frontier:
    """The frontier of a program; `say` is told what is being planned. Deterministic, as nothing stops at a time."""
    from runner.report.frontier import Frontier, Point, budgets, merged, undominated
    from schedulers import get_scheduler
    from schedulers.minpeak.planner import plan

    given: dict[str, object] = {"time_limit_s": float("inf"), "timing": timing}

    def within(budget: int | None, label: str) -> Point:
        say(label)
        found = plan(program, given | {"objective": "makespan", "budget_bytes": budget})
        bounds.append(found.certificate.lower_bound)
        return Point(label, sum(found.heap_bytes), found.certificate.value)

    bounds: list[float] = []
    say("minpeak, fewest bytes")
    least = plan(program, given)
    first = _placed("minpeak, fewest bytes", least.schedule, timing)
    most = within(None, "minpeak, any bytes")
    between = [
        within(budget, f"minpeak, {budget / MIB:,.0f} MiB") for budget in budgets(first.total_bytes, most.total_bytes, num_points)
    ]
    others = []
    for strategy in OTHERS:
        say(strategy)
        others.append(_placed(strategy, get_scheduler(strategy)(program, {}), timing))
    say("minpeak, no sharing")
    others.append(_placed("minpeak, no sharing", plan(program, given | {"share": False}).schedule, timing))
    return Frontier(name, undominated([first, *between, most]), merged(others), least.certificate.peak_live_bytes, min(bounds))


def _placed(label: str, schedule: Schedule, timing: Callable[[Schedule], Timing]) -> Point:
    """A schedule in rings of its safe capacities."""
    from runner.report.frontier import Point
    from runner.rings.capacity import ring_loads, safe_heap
    from runner.rings.sizes import RingSizes
    from runner.rings.timed import timed

    heap = [safe_heap(load) for load in ring_loads(schedule)]
    most = 2**24  # slots and pool entries abound: bytes are what is compared
    sizes = RingSizes.from_lists(heap, [most] * len(heap), [most] * len(heap))
    makespan = timed(schedule, sizes, timing(schedule)).makespan_us
    assert makespan is not None, "a schedule runs in its safe capacities"
    return Point(label, sum(heap), makespan)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"planning: {text}", file=sys.stderr, flush=True)
