"""This module writes a timeline as Chrome trace events, which Perfetto opens: three processes and what links them.

process        what
device         a thread a core, a slice a block
orchestrator   a thread with the submissions, one with the scopes, nested
rings          counters: bytes and slots that each ring holds, and how many scopes are open

Flows go from a task that another waits for to that other. Times are microseconds with three decimals, so nanoseconds are whole.
Source: the Trace Event Format, as Perfetto's importer reads it: slices of a thread nest, and a flow binds to the slice around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runner.report.device.timeline import BlockRun, Timeline, kernel_of
from runner.rings.schedule import Schedule

DEVICE, ORCHESTRATOR, RINGS = 1, 2, 3
SUBMISSIONS, SCOPES = 1, 2


def perfetto_json(schedule: Schedule, timeline: Timeline) -> dict[str, Any]:
    """The object of a trace file."""
    events = [*_names(timeline), *_blocks(schedule, timeline), *_orchestrator(schedule, timeline), *_counters(timeline)]
    return {"displayTimeUnit": "ns", "traceEvents": [*events, *_flows(schedule, timeline)]}


def _names(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for pid, name in ((DEVICE, "device"), (ORCHESTRATOR, "orchestrator"), (RINGS, "rings")):
        yield _meta(pid, 0, "process_name", {"name": name})
        yield _meta(pid, 0, "process_sort_index", {"sort_index": pid})
    used = sorted({core for run in timeline.runs for core in run.cores})
    for core in used:
        kind = timeline.cores[core]
        yield _meta(DEVICE, core + 1, "thread_name", {"name": f"{kind.upper()} {core - timeline.cores.index(kind)}"})
        yield _meta(DEVICE, core + 1, "thread_sort_index", {"sort_index": core})
    for tid, name in ((SUBMISSIONS, "submissions"), (SCOPES, "scopes")):
        yield _meta(ORCHESTRATOR, tid, "thread_name", {"name": name})


def _meta(pid: int, tid: int, name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": name, "args": args}


def _blocks(schedule: Schedule, timeline: Timeline) -> Iterator[dict[str, Any]]:
    for run in timeline.runs:
        item = schedule.submissions[run.submission]
        args = {"submission": run.submission, "task": item.name, "core": item.core}
        for core in run.cores:
            yield _slice(DEVICE, core + 1, kernel_of(schedule, run.submission), run.start_us, run.end_us, args)


def _orchestrator(schedule: Schedule, timeline: Timeline) -> Iterator[dict[str, Any]]:
    for submit in timeline.submits:
        item = schedule.submissions[submit.submission]
        args = {"submission": submit.submission, "block_bytes": item.size_bytes}
        yield _slice(ORCHESTRATOR, SUBMISSIONS, item.name, submit.start_us, submit.end_us, args)
    for scope in timeline.scopes:
        info = schedule.scopes[scope.scope]
        args = {"depth": info.depth, "ring": info.ring, "mode": info.mode}
        yield _slice(ORCHESTRATOR, SCOPES, info.name or "scope", scope.start_us, scope.end_us, args)


def _slice(pid: int, tid: int, name: str, start_us: float, end_us: float, args: dict[str, Any]) -> dict[str, Any]:
    start, end = nanoseconds(start_us), nanoseconds(end_us)
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start / 1000, "dur": (end - start) / 1000, "args": args}


def _counters(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for level in timeline.levels:
        yield _counter(f"ring {level.ring} bytes", level.time_us, {"held": level.held_bytes})
        yield _counter(f"ring {level.ring} slots", level.time_us, {"live": level.slots})
    changes = sorted(
        [(nanoseconds(scope.start_us), 1) for scope in timeline.scopes]
        + [(nanoseconds(scope.end_us), -1) for scope in timeline.scopes]
    )
    count = 0
    at: dict[int, int] = {}
    for time_ns, change in changes:
        count += change
        at[time_ns] = count
    for time_ns, depth in at.items():
        yield _counter("open scopes", time_ns / 1000, {"open": depth})


def _counter(name: str, time_us: float, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "C", "pid": RINGS, "name": name, "ts": nanoseconds(time_us) / 1000, "args": args}


def _flows(schedule: Schedule, timeline: Timeline) -> Iterator[dict[str, Any]]:
    """An arrow an edge between tasks that ran; a slice of no length cannot have one."""
    last: dict[int, BlockRun] = {}
    first: dict[int, BlockRun] = {}
    for run in timeline.runs:
        if nanoseconds(run.end_us) > nanoseconds(run.start_us):
            first.setdefault(run.submission, run)
            if run.submission not in last or run.end_us > last[run.submission].end_us:
                last[run.submission] = run
    number = 0
    for second, begun in first.items():
        for wait in schedule.submissions[second].waits:
            if wait in last:
                number += 1
                head = {"cat": "edge", "name": "waits for", "id": number, "pid": DEVICE}
                leaves = nanoseconds(last[wait].end_us) - 1  # a slice ends before its end
                yield head | {"ph": "s", "tid": last[wait].cores[0] + 1, "ts": leaves / 1000}
                yield head | {"ph": "f", "bp": "e", "tid": begun.cores[0] + 1, "ts": nanoseconds(begun.start_us) / 1000}


def nanoseconds(time_us: float) -> int:
    """A time in whole nanoseconds, so that slices which touch do not overlap by rounding."""
    return round(time_us * 1000)
