"""What `ringgraph frontier` works out: what more bytes buy in time, from the fewest to where nothing waits for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runner.base.errors import Diagnostic, GraphError, ScheduleError
from runner.base.limits import Limits, how_to_raise
from runner.base.units import human_bytes
from runner.language.library import shipped_graphs
from runner.program.program import Program
from runner.report.frontier import Frontier, Point, StoppedFrontier, budgets, merged, undominated
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.rings.timed import Timing, timed
from runner.rings.unlimited import run_times
from runner.verify.verify import why_unfit
from schedulers import get_scheduler
from schedulers.minpeak.plan import Options, Plan
from schedulers.minpeak.planner import Planner

MIB = 2**20
OTHERS = ("unscoped", "auto", "annotated", "autoscope")
"""Strategies shown beside minpeak; `manual` is not, as it lacks the edges that make a run right."""


def refuse_large(program: Program, graph: str | Path) -> None:
    """Raises GraphError for more tasks than are planned some thirty times in five seconds, but not of installed graphs.

    Files of more than a MiB, as captures of devices are, may ask for more.
    """
    limits = Limits.current()
    path = Path(graph)
    num_bytes = sum(file.stat().st_size for file in ([path] if path.is_file() else path.glob("*")) if file.is_file())
    most = limits.frontier + limits.density * max(0, num_bytes - MIB)
    if len(program.tasks) > most and (Path(graph).exists() or str(graph) not in shipped_graphs()):
        message = f"the frontier of {len(program.tasks):,} tasks takes too long: more than {most:,}"
        raise GraphError(Diagnostic("G329", message, program.body.mark, hint=how_to_raise("frontier")))


def trace_frontier(
    program: Program,
    timing: Callable[[Schedule], Timing],
    name: str,
    num_points: int,
    say: Callable[[str], None] = lambda text: None,
    shown: Callable[[Point], None] = lambda point: None,
) -> Frontier:
    """The frontier of a program; `say` is told what is being planned, `shown` each placement when it is found.

    Deterministic, as nothing stops at a time. Raises StoppedFrontier on Ctrl-C after the first placement, with those found.
    """
    trace = _Trace(program, timing, say, shown)
    try:
        trace.run(num_points)
    except KeyboardInterrupt:
        if not trace.points:
            raise
        raise StoppedFrontier(replace(trace.frontier(name), is_whole=False)) from None
    return trace.frontier(name)


class _Trace:
    """The placements found so far."""

    def __init__(
        self,
        program: Program,
        timing: Callable[[Schedule], Timing],
        say: Callable[[str], None],
        shown: Callable[[Point], None],
    ):
        self._program, self._timing, self._say, self._shown = program, timing, say, shown
        self._planner = Planner(program, Options.of({"time_limit_s": float("inf"), "timing": timing, "objective": "makespan"}))
        self.points: list[Point] = []
        self._others: list[Point] = []
        self._left_out: dict[str, list[str]] = {}
        self._bounds: list[float] = []
        self._peak_live_bytes = 0

    def frontier(self, name: str) -> Frontier:
        path = min(self._bounds, default=None)
        told = tuple(f"{', '.join(names)}: left out, as no such run is right: {why}" for why, names in self._left_out.items())
        return Frontier(name, undominated(self.points), merged(self._others), self._peak_live_bytes, path, warnings=told)

    def run(self, num_points: int) -> None:
        """Finds all placements: the ends first, then those between, then other strategies."""
        least = self._planned("minpeak, fewest bytes", objective="total")
        self._peak_live_bytes = least.certificate.peak_live_bytes
        first = self._add(self.points, _placed("minpeak, fewest bytes", least.schedule, self._timing))
        most = self._within(None, "minpeak, any bytes")
        for budget in budgets(first.total_bytes, most.total_bytes, num_points):
            if not any(p.total_bytes <= budget and p.makespan_us <= most.makespan_us for p in self.points):
                self._within(budget, f"minpeak, {human_bytes(budget)}")
        middle = self._planned("minpeak, balanced", objective="balanced")
        self._others.append(self._add(self.points, _placed("minpeak, balanced", middle.schedule, self._timing)))
        for strategy in OTHERS:
            self._say(strategy)
            schedule = get_scheduler(strategy)(self._program, {})
            if why := why_unfit(schedule):
                self._left_out.setdefault(why, []).append(strategy)
            else:
                self._add(self._others, _placed(strategy, schedule, self._timing))
        alone = self._planned("minpeak, no sharing", share=False, objective="total")
        self._add(self._others, _placed("minpeak, no sharing", alone.schedule, self._timing))

    def _within(self, budget: int | None, label: str) -> Point:
        found = self._planned(label, budget_bytes=budget)
        self._bounds.append(found.certificate.lower_bound)
        return self._add(self.points, Point(label, sum(found.heap_bytes), found.certificate.value))

    def _planned(self, label: str, **options: object) -> Plan:
        self._say(label)
        return self._planner.asked(**options).plan()

    def _add(self, to: list[Point], point: Point) -> Point:
        to.append(point)
        self._shown(point)
        return point


def _placed(label: str, schedule: Schedule, timing: Callable[[Schedule], Timing]) -> Point:
    """A schedule in rings of its safe capacities; raises ScheduleError where it does not run in any."""
    heap = [safe_heap(load) for load in ring_loads(schedule)]
    most = 2**24  # slots and pool entries abound: bytes are what is compared
    sizes = RingSizes.from_lists(heap, [most] * len(heap), [most] * len(heap))
    makespan = run_times(schedule, sizes, timing(schedule)).makespan_us
    if makespan is None:  # of what the runtime refuses whatever the rings hold
        raise ScheduleError(f"{label}: no run ends: {timed(schedule, sizes, timing(schedule)).deadlock}")
    return Point(label, sum(heap), makespan)
