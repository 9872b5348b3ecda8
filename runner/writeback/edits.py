"""This module puts a placement's scopes back into the graph files they came from, as edits that leave all else as it is.

What a graph file can say is: this item, this branch, or the body of this loop lies in a scope, the same for every trip, layer
and use; and that a tensor is allocated before such a scope, which it outlives. A placement that says more, such as an arena of
planned offsets, is refused before anything is written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from runner.base.errors import Mark, ScheduleError
from runner.base.files import whole_file
from runner.program.program import Program, Span, Task
from runner.program.spans import SpanWalk, last_task, spans_of
from runner.rings.schedule import Begin, Schedule, Submission, Submit
from runner.writeback.annotations import Annotations, Run
from runner.writeback.rewrite import Edit, splices_of
from runner.writeback.splices import Splice, old_offset, spliced
from runner.writeback.text import offset_of, place_in

_SUFFIX = {"use": "use", "iteration": "trip", "if": "branch"}

Hoisted = tuple[tuple[Mark, ...], ...]
"""Marks of tensors that are allocated before a scope, a group for each alloc."""


@dataclass(frozen=True, slots=True)
class _Place:
    """One instance of something written that can have a scope: its span, and the marks of the items that the scope holds."""

    span: Span
    items: tuple[Mark, ...]

    @property
    def run(self) -> Run | None:
        """Of a scope that is written its own place, else the items that would get one."""
        if self.span.kind == "scope":
            return None if self.span.mark is None else (self.span.mark, self.span.mark)
        return (self.items[0], self.items[-1]) if self.items else None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a placement makes of a place: the mode of its scope, None for no scope, and what is allocated before it."""

    mode: str | None
    hoisted: Hoisted = ()


class UnwritableError(ScheduleError):
    """What files cannot say of a run of items that would get a scope, or of a scope; without a run, of all."""

    def __init__(self, message: str, mark: Mark | None, hint: str | None = None, run: Run | None = None) -> None:
        where = f"{mark}: " if mark else ""
        hint = hint or "write back a strategy that only places scopes: unscoped, auto, autoscope or minpeak"
        super().__init__(f"{where}the placement cannot be written as scopes: {message}", hint=hint)
        self.run = run


def scope_edits(schedule: Schedule) -> tuple[list[Edit], list[UnwritableError]]:
    """What to change so that the graph's own scopes are those of `schedule`, and what files cannot say of single runs.

    Raises UnwritableError for what they cannot say of the whole.
    """
    program = schedule.program
    assert program is not None, "a recorded program has no graph"
    refused: list[UnwritableError] = []
    hoisted = _hoisted(schedule, program, refused)
    wanted = {(scope.name, scope.mark): _Wanted(scope.mode, hoisted.get(k, ())) for k, scope in enumerate(schedule.scopes) if k}
    allocs = {task.mark: {program.tensors[t].mark for t in task.creates} for task in program.tasks if task.op is None}
    named = _named_uses(program)
    edits: dict[tuple[str, tuple[Mark, ...]], Edit] = {}
    seen: dict[tuple[str, tuple[Mark, ...]], tuple[str, _Wanted]] = {}
    matched = set()
    for place in _places(program):
        span = place.span
        want = wanted.get((span.path, span.mark), _Wanted(None))
        matched.add((span.path, span.mark))
        key = (span.kind, place.items if place.items and span.kind != "scope" else (span.mark or Mark("", 0),))
        path, other = seen.setdefault(key, (span.path, want))
        if other != want:
            have, lack = (path, span.path) if other.mode is not None else (span.path, path)
            what = f"'{have}' has another scope than '{lack}', but both are written once"
            refused.append(UnwritableError(what, span.mark, run=place.run))
            continue
        try:
            edit = _edit(place, want, allocs, named)
        except UnwritableError as error:
            refused.append(error)
            continue
        if edit is not None:
            edits.setdefault(key, edit)
    for scope in schedule.scopes[1:]:
        if (scope.name, scope.mark) not in matched:
            raise UnwritableError(f"scope '{scope.name}' stands around no one item, branch or body that is written", scope.mark)
    return list(edits.values()), refused


def annotation_edits(annotations: Annotations) -> list[Edit]:
    """What to change so that the files say what a strategy asks for."""
    wraps = [Edit("wrap", scope.first, scope.last, scope.name, scope.hoisted) for scope in annotations.scopes]
    return wraps + [Edit("remove", mark, mark) for mark in annotations.dropped]


def _edit(
    place: _Place, wanted: _Wanted, allocs: Mapping[Mark | None, set[Mark | None]], named: Container[Mark | None]
) -> Edit | None:
    """The change that gives what is written the scope that is wanted, None if it has it.

    The scope around a use that `after` names from outside gets the use's id, so that the name goes on to hold the same tasks.
    """
    span, mode = place.span, wanted.mode
    assert span.mark is not None
    if span.kind == "scope" and mode is None:
        return Edit("remove", span.mark, span.mark)
    if mode is None or not place.items:
        return None
    before = {mark for group in wanted.hoisted for mark in group}
    items = list(place.items)
    while (
        span.kind != "scope" and items and allocs.get(items[0], {None}) <= before
    ):  # an alloc that leads a body stays where it is, before the scope
        before -= allocs[items.pop(0)]  # type: ignore[operator]
    late = next((mark for marks in allocs.values() for mark in marks if mark in before), None)
    if late is not None:
        hint = f"move its alloc {'before the scope' if span.kind == 'scope' else 'to the top of the body'}"
        what = "the tensor lies outside of the scope, but its alloc stands inside, behind other items"
        raise UnwritableError(what, late, hint, place.run)
    hoisted = tuple(group for group in wanted.hoisted if before.issuperset(group))
    if span.kind == "scope":
        return Edit(f"mode {mode}", span.mark, span.mark, hoisted=hoisted) if hoisted or mode != span.mode else None
    name = f"{_plain(span.path)}_{_SUFFIX[span.kind]}"
    if span.kind == "use" and span.mark in named:
        name = span.path.rpartition(".")[2]
    return Edit("wrap", items[0], items[-1], name, hoisted) if items else None


def _plain(path: str) -> str:
    """The last name of a path without its trip number: `moe.t0_3` as `t0`."""
    last = path.rpartition(".")[2]
    head, _, trip = last.rpartition("_")
    if head and trip.isdecimal():
        return head
    return last.rstrip("0123456789") or last


def _named_uses(program: Program) -> set[Mark | None]:
    """Marks of uses into which an `after` points from outside."""
    pairs = sorted((other, task.id) for task in program.tasks for other in task.after)
    found: set[Mark | None] = set()
    for use in spans_of(program.body) if pairs else ():
        if use.kind == "use" and use.mark not in found and (first := next(use.tasks(), -1)) >= 0:
            last = last_task(use)
            inside = pairs[bisect_left(pairs, (first, 0)) : bisect_left(pairs, (last + 1, 0))]
            if any(not first <= user <= last for _, user in inside):
                found.add(use.mark)
    return found


def _places(program: Program) -> Iterator[_Place]:
    def mark_of(item: int | Span) -> Mark | None:
        return program.tasks[item].mark if isinstance(item, int) else item.mark

    for item in SpanWalk(program.body):
        if isinstance(item, int):
            continue
        if item.kind == "use":
            assert item.mark is not None
            yield _Place(item, (item.mark,))
        elif item.kind in ("iteration", "if", "scope"):
            marks = tuple(mark for mark in map(mark_of, item.items) if mark is not None)
            yield _Place(item, marks)


def _hoisted(schedule: Schedule, program: Program, refused: list[UnwritableError]) -> dict[int, Hoisted]:
    """Per scope what is allocated just before it; `refused` gets what no file can allocate there.

    A tensor must lie in the block of the item that creates it, or there: files cannot say anything else.
    """
    creator = {tensor: task for task in program.tasks for tensor in task.creates}
    listed = program.in_arenas()  # where these lie stands in `share:`
    found: dict[int, Hoisted] = {}
    pending: list[Submission] = []
    last = -1
    for step in schedule.steps:
        if isinstance(step, Begin):
            try:
                found[step.scope] = tuple(_marks(submission, program, creator) for submission in pending)
            except UnwritableError as error:
                mark = schedule.scopes[step.scope].mark
                error.run = None if mark is None else (mark, mark)
                refused.append(error)
            pending = []
            continue
        submission = schedule.submissions[step.submission] if isinstance(step, Submit) else None
        if pending and (submission is None or submission.task is not None):
            raise _moved(pending[0], program, creator)
        if submission is None:
            continue
        if submission.task is None:
            if submission.slots[0].tensor not in listed:
                pending.append(submission)
        elif submission.task < last:
            raise UnwritableError(f"'{submission.name}' is submitted in another order than it is written", submission.mark)
        else:
            last = submission.task
            if not {slot.tensor for slot in submission.slots} <= set(program.tasks[submission.task].creates):
                raise _moved(submission, program, creator)
    return found


def _marks(submission: Submission, program: Program, creator: Mapping[int, Task]) -> tuple[Mark, ...]:
    """The places where the tensors of an alloc are written."""
    places = [(program.tensors[slot.tensor].mark, creator[slot.tensor].mark) for slot in submission.slots]
    marks = tuple(mark for mark, item in places if mark is not None and mark != item)
    if len(marks) < len(places):  # scratch has no name, and the mark of its task
        raise _moved(submission, program, creator)
    return marks


def _moved(submission: Submission, program: Program, creator: Mapping[int, Task]) -> UnwritableError:
    slot = submission.slots[0]
    where = f"tensor '{slot.name}' lies in another block than that of '{creator[slot.tensor].path}', which creates it"
    return UnwritableError(where, program.tensors[slot.tensor].mark)


# --- files ------------------------------------------------------------------------------------------------------------


def file_splices(edits: Sequence[Edit], texts: Mapping[Path, bytes] = MappingProxyType({})) -> dict[Path, list[Splice]]:
    """The changes to every file that the edits change, in `texts` where they hold it; raises ScheduleError."""
    per_file: dict[Path, list[Edit]] = {}
    for edit in edits:
        per_file.setdefault(Path(edit.first.file), []).append(edit)
    return {path: splices_of(texts[path] if path in texts else path.read_bytes(), mine) for path, mine in per_file.items()}


def edited_files(edits: Sequence[Edit], texts: Mapping[Path, bytes] = MappingProxyType({})) -> dict[Path, bytes]:
    """The new contents of every such file."""
    changes = file_splices(edits, texts)
    return {path: spliced(texts[path] if path in texts else path.read_bytes(), mine) for path, mine in changes.items()}


def old_place(edits: Sequence[Edit], mark: Mark, texts: Mapping[Path, bytes] = MappingProxyType({})) -> Mark | None:
    """Where stands, before edits of one file, what is at `mark` after them; None without edits."""
    if not edits:
        return None
    path = Path(mark.file)
    data = texts[path] if path in texts else path.read_bytes()
    splices = splices_of(data, edits)
    return place_in(data, old_offset(splices, offset_of(spliced(data, splices), mark)), mark.file)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Every file is written whole beside its old one first; only when all are there do they take their places."""
    with ExitStack() as files:
        for path, data in contents.items():
            files.enter_context(whole_file(path)).write_bytes(data)
