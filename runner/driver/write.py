"""Scopes of a schedule, written back into the files of its graph.

Nothing is written that was not read again: the new texts must do the same work, take what was planned, and have no finding of
lint that the old ones lack. What fails that is told by the edit that is to blame, at its place in the user's text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import Diagnostic, GraphError, Mark, RinggraphError, ScheduleError
from runner.writeback.annotations import Annotations, Demands

if TYPE_CHECKING:
    from runner.language.library import GraphLibrary
    from runner.program.program import Program
    from runner.rings.schedule import Schedule
    from runner.writeback.rewrite import Edit

Texts = Mapping[Path, bytes]

TOO_DEEP = "G317"
"""Lint's code for a scope that shares the last ring: a strategy that puts one there says so in the file."""


@dataclass(frozen=True)
class Files:
    """The files of a graph: how they become a program, what lint finds in them, and which of them may change.

    path      the graph's file, as the user named it
    expand    the program, from texts that a library holds in place of those on disk; raises RinggraphError
    findings  what lint finds in the same
    """

    path: Path
    expand: Callable[[GraphLibrary], Program]
    findings: Callable[[GraphLibrary], Sequence[Diagnostic]] = lambda library: ()

    def may_write(self, file: str) -> bool:
        """Whether a file is the one that was named, or lies beside it and is not installed."""
        from runner.language.library import shipped_graphs

        if Path(file) == self.path:
            return True
        beside = Path(file).parent.resolve() == self.path.parent.resolve()
        return beside and Path(file).resolve() not in {path.resolve() for path in shipped_graphs().values()}


def new_texts(planned: Schedule, files: Files) -> Texts:
    """The files' texts with the scopes of `planned`, only those that change; raises RinggraphError."""
    from runner.writeback.edits import edited_files, scope_edits

    edits = scope_edits(planned)
    denied = next((edit for edit in edits if not files.may_write(edit.first.file)), None)
    if denied is not None:
        raise _denied(files, denied)
    check = _Check(planned, files, {})
    edits = check.with_notes(edits)
    problem = check.problem(edits)
    if problem is not None:
        raise check.refusal(edits, problem)
    return edited_files(edits)


def settled_texts(
    plan: Callable[[GraphLibrary, Demands], Schedule], annotations: Callable[[], Annotations], files: Files
) -> tuple[Schedule, Texts]:
    """The plan that the files can say, and their texts with its scopes, only those that change; raises RinggraphError.

    `plan` plans the graph from the files that a library holds, under what they demand, after which `annotations` says what to
    write. A scope that the files turn out not to take is barred, and the graph planned again. The new texts are planned in turn,
    until nothing is left to write, so that the same command finds nothing the next time.
    """
    from runner.writeback.edits import annotation_edits, edited_files
    from runner.writeback.rewrite import RefusedEditError

    texts: dict[Path, bytes] = {}
    demands = Demands(may_write=files.may_write)
    planned = plan(library_of(texts), demands)
    while edits := annotation_edits(annotations()):
        check = _Check(planned, files, texts)
        try:
            problem = check.problem(edits)
            if problem is None:
                texts |= edited_files(edits, texts)
                demands = Demands(may_write=files.may_write)
            else:
                demands = _barring(demands, check.to_blame(edits), problem)
        except RefusedEditError as error:
            demands = _barring(demands, error.edit, error)
        planned = plan(library_of(texts), demands)
    return planned, texts


def _barring(demands: Demands, edit: Edit, problem: Exception) -> Demands:
    run = (edit.first, edit.last)
    if run in demands.barred:
        raise ScheduleError(f"{edit.first}: the scopes of this body cannot be written: {_reason(problem)[0]}") from problem
    return replace(demands, barred=demands.barred | {run})


def _denied(files: Files, edit: Edit) -> ScheduleError:
    name = Path(edit.first.file).name
    return ScheduleError(
        f"{edit.first}: the scopes of '{files.path}' go into this file too, which you did not name",
        hint=f"copy '{name}' beside '{files.path}', which then uses the copy, or plan with minpeak, which leaves it alone",
    )


def refuse_unnamed(graph: str | Path) -> Path:
    """The file of a graph that is named by its path; raises ScheduleError for a shipped graph's name."""
    from runner.language.library import find_graph

    path = find_graph(graph)
    if Path(graph).is_file():
        return Path(graph)
    raise ScheduleError(
        f"'{graph}' is an installed graph ('{path}'), which --write does not change",
        hint=f"copy '{path.name}', and what it uses, to a folder of yours, and give the path of the copy",
    )


def library_of(texts: Texts) -> GraphLibrary:
    """A library that knows these texts, as the files of their paths; raises GraphError."""
    from runner.language.library import GraphLibrary, check_source

    library = GraphLibrary()
    for path, data in texts.items():
        graph, problems = check_source(data, str(path))
        if graph is None:
            raise GraphError(problems)
        library.add(graph)
    return library


# --- reading again ----------------------------------------------------------------------------------------------------


class NewFindingError(ScheduleError):
    """Lint would find something that it does not find now."""

    def __init__(self, finding: Diagnostic) -> None:
        super().__init__(finding.message)
        self.finding = finding


@dataclass
class _Check:
    """Whether edits do what they should; `texts` are the files before them, of those that differ from disk."""

    planned: Schedule
    files: Files
    texts: Texts
    found_before: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.found_before = Counter(map(_kind_of, self.files.findings(library_of(self.texts))))

    def problem(self, edits: Sequence[Edit], *, whole: bool = True) -> RinggraphError | None:
        """What is wrong with the files when they have the edits, which are all that the plan asks for if `whole`.

        Raises RefusedEditError.
        """
        from runner.program.equivalence import refuse_other_work
        from runner.writeback.edits import edited_files
        from schedulers import get_scheduler

        assert self.planned.program is not None
        texts = {**self.texts, **edited_files(edits, self.texts)}
        try:
            after = self.files.expand(library_of(texts))
            refuse_other_work(self.planned.program, after)
            new = self._new_finding(texts) if edits else None
            if new is not None:
                return NewFindingError(new)
            if whole:
                _refuse_other(self.planned, get_scheduler("annotated")(after, {}))
        except RinggraphError as error:
            return error
        return None

    def _new_finding(self, texts: Texts) -> Diagnostic | None:
        left = self.found_before.copy()
        for finding in self.files.findings(library_of(texts)):
            left[_kind_of(finding)] -= 1
            if left[_kind_of(finding)] < 0:
                return finding
        return None

    def with_notes(self, edits: list[Edit]) -> list[Edit]:
        """The edits, of which those say so whose scopes lie deeper than there are rings."""
        from runner.writeback.edits import edited_files

        if not edits:
            return edits
        texts = {**self.texts, **edited_files(edits, self.texts)}
        try:
            found = self.files.findings(library_of(texts))
        except RinggraphError:
            return edits
        lines = [finding.source_line or "" for finding in found if finding.code == TOO_DEEP]
        deep = {line.strip().removeprefix("- scope: ").strip() for line in lines}
        note = f"ringgraph: ignore[{TOO_DEEP}]"
        return [replace(edit, comment=note) if edit.what == "wrap" and edit.name in deep else edit for edit in edits]

    def to_blame(self, edits: Sequence[Edit]) -> Edit:
        """An edit without which those before it are right, and with which they are not; the last if all are right so far."""
        right, wrong = 0, len(edits)
        while wrong - right > 1:
            middle = (right + wrong) // 2
            if self.problem(edits[:middle], whole=False) is None:
                right = middle
            else:
                wrong = middle
        return edits[wrong - 1]

    def refusal(self, edits: Sequence[Edit], problem: RinggraphError) -> ScheduleError:
        """The problem in terms of the user's text."""
        if not edits or isinstance(problem, OtherPlaceError):
            return ScheduleError(str(problem))
        edit = self.to_blame(edits)
        found = self.problem(edits[: edits.index(edit) + 1], whole=False) or problem
        reason, mark = _reason(found)
        place = self._old_place(edits[: edits.index(edit) + 1], mark) if mark is not None else None
        where = f" (of {place})" if place is not None else ""
        what = {"wrap": "no scope can be put around this", "remove": "this scope cannot be taken out"}
        return ScheduleError(
            f"{edit.first}: {what.get(edit.what, 'the mode of this scope cannot be changed')}: {reason}{where}",
            hint="'--scheduler minpeak' leaves such scopes out",
        )

    def _old_place(self, edits: Sequence[Edit], mark: Mark) -> Mark | None:
        """Where in the user's text stands what is at `mark` in the new one; None for a file that does not change."""
        from runner.writeback.edits import old_place

        return old_place([edit for edit in edits if Path(edit.first.file) == Path(mark.file)], mark, self.texts)


def _kind_of(finding: Diagnostic) -> tuple[str, str]:
    """What tells findings apart whatever line they are in: a message may name a path, which scopes change."""
    return finding.code, finding.severity


def _reason(problem: Exception) -> tuple[str, Mark | None]:
    """A problem of texts that we made, without codes and places in them; and its place there."""
    from runner.program.equivalence import OtherWorkError

    if isinstance(problem, OtherWorkError):
        return problem.reason, problem.mark
    if isinstance(problem, NewFindingError):
        return f"lint would find that {problem.finding.message}", problem.finding.mark
    if isinstance(problem, RinggraphError) and problem.diagnostics:
        return f"{problem.diagnostics[0].message}, with it", problem.diagnostics[0].mark
    return problem.message if isinstance(problem, RinggraphError) else str(problem), None


class OtherPlaceError(ScheduleError):
    """The files would use the rings in another way than the plan."""


def _refuse_other(planned: Schedule, written: Schedule) -> None:
    from runner.rings.capacity import ring_loads

    loads = zip(ring_loads(planned), ring_loads(written), strict=True)
    ring = next((k for k, (a, b) in enumerate(loads) if (a.epochs, a.num_slots) != (b.epochs, b.num_slots)), None)
    if ring is None:
        return
    for one, other in zip(_rings(planned), _rings(written), strict=False):
        if one[1:] != other[1:]:
            raise OtherPlaceError(
                f"{one[0]} '{one[1]}' would use ring {other[2]} with {other[3]:,} bytes, not {one[2]} with {one[3]:,}"
            )
    raise OtherPlaceError(f"ring {ring} would not be used as '{planned.strategy}' uses it")


def _rings(schedule: Schedule) -> list[tuple[str, str, int, int]]:
    """Of each submission of an op: its place and name, its ring, and the bytes of its block."""
    from runner.rings.schedule import Begin, End, Submit

    found, scopes = [], [0]
    for step in schedule.steps:
        if isinstance(step, Begin):
            scopes.append(step.scope)
        elif isinstance(step, End):
            scopes.pop()
        elif isinstance(step, Submit) and (made := schedule.submissions[step.submission]).op is not None:
            name = made.name.rpartition(".")[2]
            found.append((f"{made.mark}:", name, schedule.scopes[scopes[-1]].ring, made.size_bytes))
    return found
