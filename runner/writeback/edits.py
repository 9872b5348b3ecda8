"""This module puts a placement's scopes back into the graph files they came from, as edits that leave all else as it is.

What a graph file can say is: this item, this branch, or the body of this loop lies in a scope, the same for every trip, layer and
use. A placement that says more, such as an arena of planned offsets, is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from runner.base.errors import Mark, ScheduleError
from runner.base.files import whole_file
from runner.program.program import Program, Span
from runner.program.spans import SpanWalk
from runner.rings.schedule import Schedule
from runner.writeback.annotations import Annotations
from runner.writeback.rewrite import Edit, edited

_SUFFIX = {"use": "use", "iteration": "trip", "if": "branch"}


@dataclass(frozen=True, slots=True)
class Place:
    """One instance of something written that can have a scope: its span, and the marks of the items that the scope would hold."""

    span: Span
    items: tuple[Mark, ...]
    sole_scope: str | None
    """The name of the scope that is all it holds, or (of a use) that holds nothing else."""


def scope_edits(schedule: Schedule) -> list[Edit]:
    """What to change so that the graph's own scopes are those of `schedule`; raises ScheduleError naming what cannot be said."""
    program = schedule.program
    assert program is not None, "a recorded program has no graph"
    _refuse_moved_tensors(schedule, program)
    modes = {(scope.name, scope.mark): scope.mode for scope in schedule.scopes[1:]}
    edits: dict[Edit, tuple[str, str | None]] = {}
    seen: dict[tuple[str, tuple[Mark, ...]], tuple[str, str | None]] = {}
    matched = set()
    for place in _places(program):
        span = place.span
        mode = modes.get((span.path, span.mark))
        matched.add((span.path, span.mark))
        key = (span.kind, place.items or (span.mark or Mark("", 0),))
        path, other = seen.setdefault(key, (span.path, mode))
        if other != mode:
            have, lack = (path, span.path) if other is not None else (span.path, path)
            raise _refusal(f"'{have}' has another scope than '{lack}', but both are written once", span.mark)
        edit = _edit(place, mode)
        if edit is not None:
            edits.setdefault(edit, (span.path, mode))
    for scope in schedule.scopes[1:]:
        if (scope.name, scope.mark) not in matched:
            raise _refusal(f"scope '{scope.name}' stands around no one item, branch or body that is written", scope.mark)
    return list(edits)


def annotation_edits(annotations: Annotations) -> list[Edit]:
    """What to change so that the files say what a strategy asks for."""
    wraps = [
        Edit("wrap", scope.first, scope.last, scope.name, (scope.hoisted,) if scope.hoisted else ())
        for scope in annotations.scopes
    ]
    return wraps + [Edit("remove", mark, mark) for mark in annotations.dropped]


def _edit(place: Place, mode: str | None) -> Edit | None:
    """The change that gives what is written a scope of that mode, None if it has it."""
    span = place.span
    assert span.mark is not None
    if span.kind == "scope":
        if mode is None:
            return Edit("remove", span.mark, span.mark)
        return None if mode == span.mode else Edit(f"mode {mode}", span.mark, span.mark)
    name = f"{_plain(span.path)}_{_SUFFIX[span.kind]}"
    if mode is None or not place.items or place.sole_scope == name:
        return None
    return Edit("wrap", place.items[0], place.items[-1], name)


def _plain(path: str) -> str:
    """The last name of a path without its trip number: `moe.t0_3` as `t0`."""
    last = path.rpartition(".")[2]
    head, _, trip = last.rpartition("_")
    if head and trip.isdecimal():
        return head
    return last.rstrip("0123456789") or last


def _places(program: Program) -> Iterator[Place]:
    def mark_of(item: int | Span) -> Mark | None:
        return program.tasks[item].mark if isinstance(item, int) else item.mark

    walk = SpanWalk(program.body)
    for item in walk:
        if isinstance(item, int):
            continue
        if item.kind == "use":
            assert item.mark is not None
            outer = walk.around[-1]
            around = _name(outer) if outer.kind == "scope" and len(outer.items) == 1 else None
            yield Place(item, (item.mark,), around)
        elif item.kind in ("iteration", "if", "scope"):
            marks = tuple(mark for mark in map(mark_of, item.items) if mark is not None)
            only = item.items[0] if len(item.items) == 1 else None
            sole = _name(only) if isinstance(only, Span) and only.kind == "scope" else None
            yield Place(item, marks if item.kind != "scope" else (), sole)


def _name(span: Span) -> str:
    return span.path.rpartition(".")[2]


def _refuse_moved_tensors(schedule: Schedule, program: Program) -> None:
    """A tensor must lie in the block of the item that creates it: files cannot say anything else."""
    creator = {tensor: task.id for task in program.tasks for tensor in task.creates}
    last = -1
    for submission in schedule.submissions:
        if submission.task is not None:
            if submission.task < last:
                raise _refusal(f"'{submission.name}' is submitted in another order than it is written", submission.mark)
            last = submission.task
        for slot in submission.slots:
            task = program.tasks[creator[slot.tensor]]
            if submission.task != task.id:
                where = f"tensor '{slot.name}' lies in another block than that of '{task.path}', which creates it"
                raise _refusal(where, program.tensors[slot.tensor].mark)


def _refusal(message: str, mark: Mark | None) -> ScheduleError:
    hint = "write back a strategy that only places scopes: unscoped, auto or autoscope"
    where = f"{mark}: " if mark else ""
    return ScheduleError(f"{where}the placement cannot be written as scopes: {message}", hint=hint)


# --- files ------------------------------------------------------------------------------------------------------------


def edited_files(edits: Sequence[Edit], texts: Mapping[Path, bytes] = MappingProxyType({})) -> dict[Path, bytes]:
    """The new contents of every file that the edits change, in `texts` where they hold it; raises ScheduleError."""
    per_file: dict[Path, list[Edit]] = {}
    for edit in edits:
        per_file.setdefault(Path(edit.first.file), []).append(edit)
    return {path: edited(texts[path] if path in texts else path.read_bytes(), mine) for path, mine in per_file.items()}


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Every file is written whole beside its old one first; only when all are there do they take their places."""
    with ExitStack() as files:
        for path, data in contents.items():
            files.enter_context(whole_file(path)).write_bytes(data)
