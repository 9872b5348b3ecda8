"""What `ringgraph view` shows: one or two plans as data for a page, each of a graph, a recorded program or a file of a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.base.errors import RinggraphError
from runner.base.reading import parse_json
from runner.base.records import collector_off
from runner.driver.compare.compare import is_plan_file
from runner.driver.planning import PlanRequest, PlanResult, Say, plan
from runner.report.device.timeline import traced
from runner.report.diff import diff_json, read_side, scope_differences, side_of
from runner.report.page.html import write_page
from runner.report.page.side import Timed, read_texts, side_json
from runner.report.schedule import report_json, slow_wait_text
from runner.report.verdict import verdict
from runner.rings.replay import eager

if TYPE_CHECKING:
    from runner.driver.driver import Setup
    from runner.report.diff import Side

MAX_BYTES = 5 * 2**20
"""What a page may weigh; a larger one is written, and that is told."""


_FIGURES = ("rings", "num_tasks", "safe_total_bytes", "makespan_us", "stall_us", "peak_live_bytes")
"""What a page tells of a file of a plan."""


def view(setup: Setup, given: list[str], request: PlanRequest, out: Path, say: Say | None = None) -> tuple[int, list[str]]:
    """Write the page of one or two plans; returns its size in bytes, and what is to be said of it.

    Each is a graph, a recorded program, or a file of `schedule --json`; `GRAPH:STRATEGY` names a strategy. Raises RinggraphError,
    OSError.
    """
    with collector_off():
        made = [_side(setup, one, request, say) for one in given]
    (_, first), *others = made
    differences = None
    if others:
        other = others[0][1]
        differences = diff_json(first, other, scope_differences(first, other))
    size = write_page(out, [side for side, _ in made], differences)
    notes = [note for side, _ in made for note in side["notes"]]
    if size > MAX_BYTES:
        notes.append(f"the page has {size:,} bytes; browsers may take long to open it")
    return size, notes


def _side(setup: Setup, given: str, request: PlanRequest, say: Say | None) -> tuple[dict[str, Any], Side]:
    if is_plan_file(given):
        return _of_file(Path(given))
    graph, strategy = given, None
    if not Path(given).exists():
        graph, _, strategy = given.partition(":")
    wanted = replace(request, graph=graph, scheduler=strategy or request.scheduler, progress="eager")
    found = plan(setup, wanted.in_safe_rings(), say)
    return _of_plan(found), side_of(found.schedule, given)


def _of_plan(found: PlanResult) -> dict[str, Any]:
    schedule = found.schedule
    replay = found.replay if found.replay.model == "eager" else eager(schedule, found.sizes)
    timed = None
    if found.report.makespan_us is not None and found.timing is not None:
        timing = found.timing()
        timed = Timed(*traced(schedule, found.sizes, timing), timing)
    return side_json(replay, timed, read_texts, _told(found))


def _told(found: PlanResult) -> dict[str, Any]:
    """Of a plan what is said in words and tables."""
    report, refusal = found.report, found.refusal
    notes = [str(warning.message) for warning in found.warnings] + list(found.routing_notes) + list(report.sizes.warnings())
    notes += [slow_wait_text(wait, found.schedule) for wait in report.slow_waits[:10]]
    return {
        "verdict": verdict(found.schedule.name, report, is_refused=refusal is not None),
        "refused": None if refusal is None else str(refusal),
        "report": report_json(report),
        "routing": found.request.routing,
        "assumed": found.request.timed.told(found.recorded is not None),
        "certificate": found.certificate,
        "run": found.run,
        "changes": found.changes,
        "notes": notes,
    }


def _of_file(path: Path) -> tuple[dict[str, Any], Side]:
    """What a file of `schedule --json` tells: no blocks and no tasks, but rings, scopes, times and the certificate."""
    side = read_side(path)
    found: Mapping[str, Any] = parse_json(path.read_text("utf-8"))
    try:
        name, strategy = str(found["graph"]), str(found["scheduler"])
        report = {
            key: found[key] for key in ("rings", "num_tasks", "safe_total_bytes", "makespan_us", "stall_us", "peak_live_bytes")
        }
    except KeyError as error:
        raise RinggraphError(
            f"'{path}' is not a schedule: no {error}", hint="write it with 'ringgraph schedule GRAPH --json > FILE'"
        ) from None
    told = {"refused": found.get("refused"), "certificate": found.get("certificate"), "routing": found.get("routing", "")}
    words = f"'{name}' as {path.name} tells it: no blocks and no tasks, as the file has none."
    head = {"name": name, "strategy": strategy, "num": 0, "verdict": words, "report": report | {"memory": found.get("memory")}}
    rows = json.loads(json.dumps(found["scopes"]))
    return head | told | {"rows": rows, "notes": [], "assumed": "", "columns": {}, "graph": None}, side
