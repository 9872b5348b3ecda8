"""This module writes what a plan or a run leaves for tools of the device: scope stats, deps, a swimlane, a Perfetto trace.

All of them come from one `DeviceRun`, whole or not at all. Docs: docs/device-files.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.base.files import write_text
from runner.driver.outputs import SideFiles
from runner.execution.tracing import Trace
from runner.recorded.scope_stats import write_scope_stats
from runner.report.device.deps import deps_json, name_map_json
from runner.report.device.perfetto import perfetto_json
from runner.report.device.swimlane import swimlane_json
from runner.report.device.timeline import Timeline, measured, task_ids, traced
from runner.rings.parts.records import ScopeRecord
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes

if TYPE_CHECKING:
    from runner.driver.planning import PlanResult


@dataclass(frozen=True)
class DeviceRun:
    """A run of a schedule, replayed or measured: where its blocks lie, what was submitted, and its timeline if it is needed."""

    schedule: Schedule
    sizes: RingSizes | None
    records: Sequence[ScopeRecord]
    offsets: Sequence[int]
    was_submitted: Sequence[bool]
    timeline: Timeline | None
    fatal: bool = False


def planned_run(found: PlanResult, need_times: bool) -> DeviceRun:
    """A plan as its replay saw it; the timeline is that of a `timed` replay, whatever model the plan's figures are of."""
    timeline = None
    if need_times:
        assert found.timing is not None
        _, timeline = traced(found.schedule, found.sizes, found.timing())
    offsets = found.replay.offsets
    was_submitted = [offset >= 0 for offset in offsets]
    fatal = found.deadlock is not None
    return DeviceRun(found.schedule, found.sizes, found.replay.records, offsets, was_submitted, timeline, fatal)


def measured_run(schedule: Schedule, sizes: RingSizes | None, records: Sequence[ScopeRecord], trace: Trace) -> DeviceRun:
    """A run as it was measured."""
    timeline = measured(schedule, trace.tasks, trace.submits, trace.scopes, trace.levels)
    offsets = [-1 if place is None else place[1] for place in trace.places]
    return DeviceRun(schedule, sizes, records, offsets, [place is not None for place in trace.places], timeline)


def writers(files: SideFiles, run: DeviceRun) -> Iterator[Callable[[], None]]:
    """What writes each file that is asked for; raises OSError that names it."""
    schedule, sizes = run.schedule, run.sizes
    ids = task_ids(schedule, run.was_submitted)
    if files.scope_stats is not None and sizes is not None:
        yield partial(write_scope_stats, files.scope_stats, schedule, sizes, run.records, run.fatal)
    if files.deps is not None and sizes is not None:
        yield partial(_write_deps, files.deps, run, ids, sizes)
    if run.timeline is not None:
        timeline = run.timeline
        if files.swimlane is not None:
            yield lambda path=files.swimlane: _write(path, swimlane_json(ids, timeline))
        if files.perfetto is not None:
            yield lambda path=files.perfetto: _write(path, perfetto_json(schedule, timeline))


def _write_deps(path: Path, run: DeviceRun, ids: Sequence[int | None], sizes: RingSizes) -> None:
    """Tasks and edges, and then beside them the names of their kernels."""
    _write(path, deps_json(run.schedule, ids, run.offsets, sizes.heap))
    if path.is_file():  # not beside /dev/stdout
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", run.schedule.name)
        _write(path.with_name(f"name_map_{name}.json"), name_map_json(run.schedule))


def _write(path: Path, value: dict[str, Any]) -> None:
    write_text(path, json.dumps(value) + "\n")
