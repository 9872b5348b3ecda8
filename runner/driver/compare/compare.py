"""What `ringgraph schedule-diff` works out: two plans side by side, each of a graph, or of a file of `schedule --json`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.base.reading import parse_json
from runner.driver.driver import Setup
from runner.driver.planning import PlanRequest, PlanResult, Say, place
from runner.report.diff import ScopeDifference, Side, diff_json, read_side, scope_differences, side_of
from runner.verify.verify import why_unfit


def is_plan_file(given: str) -> bool:
    """Whether a side of a comparison is a file of `schedule --json`."""
    return given.endswith(".json") and not _is_program(Path(given))


def _is_program(path: Path) -> bool:
    """Whether a JSON file is a recorded program, and no plan of `schedule --json`; what cannot be read is told later."""
    try:
        data = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and "program" in data


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """Two schedules side by side, per ring and per scope; `request` says how those were planned that are in no file."""

    left: Side
    right: Side
    scopes: tuple[ScopeDifference, ...]
    request: PlanRequest
    routing_notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """Of which planned side no run is right, and why."""
    recorded: tuple[bool, ...] = ()
    """Of each planned side whether it is a recorded program."""

    @property
    def timed(self) -> str:
        """What the timed model assumes, in words."""
        return "; ".join(dict.fromkeys(self.request.timed.told(is_recorded) for is_recorded in self.recorded or (False,)))

    def as_json(self) -> dict[str, Any]:
        """The object of `ringgraph schedule-diff --json`."""
        is_recorded = bool(self.recorded) and all(self.recorded)
        assumed = {"routing": self.request.routing, "timing": self.request.timed.as_json(is_recorded)}
        notes = {"routing_notes": list(self.routing_notes), "warnings": list(self.warnings)}
        return diff_json(self.left, self.right, self.scopes) | assumed | notes


def compare(
    setup: Setup, left: str | PlanResult, right: str | PlanResult, request: PlanRequest, say: Say | None = None
) -> PlanDifference:
    """Each side is a plan, a file that `schedule --json` wrote (`*.json`), or GRAPH[:STRATEGY], planned as `request` says."""
    notes: dict[str, None] = {}
    warnings: list[str] = []
    recorded: list[bool] = []

    def side(given: str | PlanResult) -> Side:
        if isinstance(given, PlanResult):
            return side_of(given.schedule, f"{given.schedule.name}:{given.schedule.strategy}")
        if is_plan_file(given):
            return read_side(Path(given))
        graph, _, strategy = given.partition(":")
        placed = place(setup, replace(request, graph=graph), scheduler=strategy or None, say=say)
        recorded.append(placed.recorded is not None)
        notes.update(dict.fromkeys(placed.routing_notes))
        if why := why_unfit(placed.schedule):
            warnings.append(f"'{given}': no such run is right: {why}")
        return side_of(placed.schedule, given)

    sides = side(left), side(right)
    scopes = tuple(scope_differences(*sides))
    return PlanDifference(*sides, scopes, request, tuple(notes), tuple(warnings), tuple(recorded))
