"""What `ringgraph frontier` works out: what more bytes buy in time, from the fewest to where nothing waits for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.base.errors import Diagnostic, GraphError
from runner.base.limits import Limits, how_to_raise
from runner.language.library import shipped_graphs
from runner.program.program import Program
from runner.report.frontier import Frontier, Point, budgets, merged, undominated
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.rings.timed import Timing, timed
from schedulers import get_scheduler
from schedulers.minpeak.plan import Options
from schedulers.minpeak.planner import Planner, plan

MIB = 2**20
OTHERS = ("unscoped", "auto", "annotated", "autoscope")
"""Strategies shown beside minpeak; `manual` is not, as it lacks the edges that make a run right."""


def refuse_large(program: Program, graph: str | Path) -> None:
    """Raises GraphError for more tasks than are planned some seventy times in a bearable time, but not of installed graphs."""
    most = Limits.current().frontier
    if len(program.tasks) > most and (Path(graph).exists() or str(graph) not in shipped_graphs()):
        message = f"the frontier of {len(program.tasks):,} tasks takes too long: more than {most:,}"
        raise GraphError(Diagnostic("G329", message, program.body.mark, hint=how_to_raise("frontier")))


def trace_frontier(
    program: Program,
    timing: Callable[[Schedule], Timing],
    name: str,
    num_points: int,
    say: Callable[[str], None] = lambda text: None,
) -> Frontier:
    """The frontier of a program; `say` is told what is being planned. Deterministic, as nothing stops at a time."""
    given: dict[str, object] = {"time_limit_s": float("inf"), "timing": timing}

    def within(budget: int | None, label: str) -> Point:
        say(label)
        found = planner.shortest(budget)
        bounds.append(found.certificate.lower_bound)
        return Point(label, sum(found.heap_bytes), found.certificate.value)

    bounds: list[float] = []
    planner = Planner(program, Options.of(given | {"objective": "makespan"}))
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
    heap = [safe_heap(load) for load in ring_loads(schedule)]
    most = 2**24  # slots and pool entries abound: bytes are what is compared
    sizes = RingSizes.from_lists(heap, [most] * len(heap), [most] * len(heap))
    makespan = timed(schedule, sizes, timing(schedule)).makespan_us
    assert makespan is not None, "a schedule runs in its safe capacities"
    return Point(label, sum(heap), makespan)
