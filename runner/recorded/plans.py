"""This module says a plan in the words of the recording that it was made of: scopes by submissions and sites, what moves, edges.

Submissions are meant by their number in the recording. What an automatic scope infers by itself is not said; edges are those that
tensors need which take turns in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from runner.program.program import Program
from runner.recorded.recording import Recording
from runner.rings.schedule import Schedule, Submit
from runner.rings.steps import StepWalk

MAX_LISTED = 12
"""Lines of one kind in a text; --json has all."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A scope by the tasks in it: the first and the last, as numbers of the recording."""

    depth: int
    mode: str
    first: int
    last: int
    scope: int


def extents(schedule: Schedule) -> list[Extent]:
    """The scopes of a schedule below the root that have tasks with a kernel, in the order in which they open."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    walk = StepWalk(schedule)
    for step in walk:
        if isinstance(step, Submit):
            item = schedule.submissions[step.submission]
            if item.task is not None and item.core is not None:
                for scope in walk.scopes[1:]:
                    first.setdefault(scope, item.task)
                    last[scope] = item.task
    infos = schedule.scopes
    return [Extent(infos[k].depth, infos[k].mode, first[k], last[k], k) for k in sorted(first)]


def plan_json(recording: Recording, before: Schedule, after: Schedule) -> dict[str, Any]:
    """What changes from the schedule as recorded (`before`, by strategy `annotated`) to a plan."""
    program = after.program
    assert program is not None
    old, new = extents(before), extents(after)
    kept = {_key(extent) for extent in old} & {_key(extent) for extent in new}
    walk = StepWalk(before)
    sites = [recording.scopes[walk.scopes[-1]].site for step in walk if isinstance(step, Submit)]
    return {
        "open": [_opened(recording, sites, extent) for extent in new if _key(extent) not in kept],
        "drop": [
            {"site": before.scopes[extent.scope].name, "mode": extent.mode, "first": extent.first, "last": extent.last}
            for extent in old
            if _key(extent) not in kept
        ],
        "kept_scopes": sum(_key(extent) in kept for extent in new),
        "allocs": list(_moved(recording, after, _depths(before))),
        "edges": list(_edges(program, after)),
    }


def _key(extent: Extent) -> tuple[int, str, int, int]:
    return extent.depth, extent.mode, extent.first, extent.last


def _opened(recording: Recording, sites: list[str], extent: Extent) -> dict[str, Any]:
    names = [submission.name for submission in recording.submissions]
    return {
        "before": extent.first,
        "name": names[extent.first],
        "site": sites[extent.first],
        "close_after": extent.last,
        "close_name": names[extent.last],
        "depth": extent.depth,
        "mode": extent.mode,
    }


def _depths(schedule: Schedule) -> list[int]:
    """Per submission the depth of the scope that it lies in."""
    walk = StepWalk(schedule)
    return [len(walk.scopes) - 1 for step in walk if isinstance(step, Submit)]


def _moved(recording: Recording, after: Schedule, recorded: list[int]) -> Iterator[dict[str, Any]]:
    """Tensors that lie in a block which another submission makes: where it is made, and their place in it.

    A block made before a submission lies in the scope of its `depth` around that submission. `recorded` are depths as recorded.
    """
    made_by = {tensor: k for k, submission in enumerate(recording.submissions) for tensor in submission.creates}
    following: list[int | None] = []  # per submission the next one of the recording
    upcoming: int | None = None
    for item in reversed(after.submissions):
        upcoming = item.task if item.task is not None else upcoming
        following.append(upcoming)
    following.reverse()
    for item, then, depth in zip(after.submissions, following, _depths(after), strict=True):
        tensors = [slot.tensor for slot in item.slots]
        is_alloc = item.task is None or recording.submissions[item.task].is_alloc
        is_old = item.task is not None and list(recording.submissions[item.task].creates) == tensors
        if tensors and (is_old or _stays(recording, tensors, then)) and depth == recorded[made_by[tensors[0]]]:
            continue
        for slot in item.slots:
            if is_alloc or item.task != made_by[slot.tensor]:
                yield {
                    "tensor": slot.name,
                    "made_by": made_by[slot.tensor],
                    "block": item.name,
                    "before": then,
                    "depth": depth,
                    "offset": slot.offset,
                    "bytes": slot.size_bytes,
                    "block_bytes": item.size_bytes,
                }


def _stays(recording: Recording, tensors: list[int], then: int | None) -> bool:
    """Whether a block before submission `then` is an alloc of the recording, where that stands: only allocs lie between."""
    submissions = recording.submissions
    made_by = next((k for k in range((then or len(submissions)) - 1, -1, -1) if not submissions[k].is_alloc), -1) + 1
    return any(list(submissions[k].creates) == tensors for k in range(made_by, then or len(submissions)) if tensors)


def _edges(program: Program, after: Schedule) -> Iterator[dict[str, Any]]:
    """Waits that neither the runtime infers nor the recording has as `after`."""
    maker = {tensor: task.id for task in program.tasks for tensor in task.creates}
    for item in after.submissions:
        if item.task is not None:
            task = program.tasks[item.task]
            inferred = {*task.waits, *task.after, *(maker[tensor] for tensor in task.uses)}
            waits = (after.submissions[wait].task for wait in item.waits)
            for first in sorted({wait for wait in waits if wait is not None} - inferred):
                yield {"from": first, "to": item.task}


def plan_lines(recording: Recording, found: dict[str, Any]) -> Iterator[str]:
    """The same as text, a line a change."""
    names = [submission.name for submission in recording.submissions]
    if not any(found[part] for part in ("open", "drop", "allocs", "edges")):
        yield "as recorded: nothing moves"
        return
    yield from _listed(
        [
            f"open a scope before submission {scope['before']} (`{scope['name']}`, site {scope['site']}), close it after"
            f" {scope['close_after']} (depth {scope['depth']})"
            for scope in found["open"]
        ],
        "scopes to open",
    )
    yield from _listed(
        [f"drop the scope {scope['site']} (submissions {scope['first']} to {scope['last']})" for scope in found["drop"]],
        "scopes to drop",
    )
    blocks: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for row in found["allocs"]:
        blocks.setdefault((row["block"], row["before"]), []).append(row)
    lines = []
    for (_, before), rows in blocks.items():
        tensors = ", ".join(f"'{row['tensor']}' at {row['offset']:,}" for row in rows[:4])
        more = f" and {len(rows) - 4:,} more" if len(rows) > 4 else ""
        place = "at the end" if before is None else f"before submission {before} (`{names[before]}`, depth {rows[0]['depth']})"
        lines.append(f"allocate {rows[0]['block_bytes']:,} bytes {place}: {tensors}{more}")
    yield from _listed(lines, "allocs that move")
    yield from _listed(
        [
            f"add an edge from submission {edge['from']} (`{names[edge['from']]}`) to {edge['to']} (`{names[edge['to']]}`)"
            for edge in found["edges"]
        ],
        "edges to add",
    )


def _listed(lines: list[str], what: str) -> Iterator[str]:
    yield from lines[:MAX_LISTED]
    if len(lines) > MAX_LISTED:
        yield f"... and {len(lines) - MAX_LISTED:,} more {what} (--json has all)"


# --- the recorded run -------------------------------------------------------------------------------------------------


def recorded_run(recording: Recording) -> dict[str, Any] | None:
    """How long the recorded run took, and what it waited for on the chain of tasks that ended last; None without times.

    A task of the chain begins after the last of what it waits for (`data`), or of what ran before it on its core, if that ended
    later (`core`): the recording gave it that core, while the timed model takes any that is free.
    """
    starts, ends = recording.facts.get("start_us"), recording.facts.get("end_us")
    if not starts or not ends:
        return None
    cores = recording.facts["core_of"]
    on_core: dict[int, list[int]] = {}
    for ran in sorted(starts, key=lambda ran: starts[ran]):
        on_core.setdefault(cores[ran], []).append(ran)
    before = {task: earlier for tasks in on_core.values() for earlier, task in pairwise(tasks)}
    found = {"kernels_us": 0.0, "data_gaps_us": 0.0, "core_gaps_us": 0.0, "tasks": 0, "after_core": 0}
    task: int | None = max(ends, key=lambda task: ends[task])
    while task is not None:
        found["kernels_us"] += ends[task] - starts[task]
        found["tasks"] += 1
        data = max((w for w in _kernels(recording, task) if w in ends), key=lambda w: ends[w], default=None)
        core = before.get(task)
        by_core = core is not None and (data is None or ends[core] > ends[data])
        blocker = core if by_core else data
        gap = starts[task] - (ends[blocker] if blocker is not None else 0.0)
        found["core_gaps_us" if by_core else "data_gaps_us"] += gap
        found["after_core"] += by_core
        task = blocker
    return {"makespan_us": max(ends.values())} | found


def _kernels(recording: Recording, task: int) -> Iterator[int]:
    """The tasks with a kernel that a submission waits for, through dummies."""
    stack, seen = list(recording.submissions[task].waits or ()), set()
    while stack:
        wait = stack.pop()
        if wait not in seen:
            seen.add(wait)
            if recording.submissions[wait].kind == "dummy":
                stack += recording.submissions[wait].waits or ()
            elif not recording.submissions[wait].is_alloc:
                yield wait
