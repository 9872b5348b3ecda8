"""Scopes of a schedule, written back into the files of its graph.

Nothing is written that was not read again: the new texts must do the same work, take what was planned, and have no finding of
lint that the old ones lack. What fails that is told by the edit that is to blame, at its place in the user's text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import Diagnostic, GraphError, Mark, RinggraphError, ScheduleError
from runner.writeback.annotations import Annotations, Demands, Run

if TYPE_CHECKING:
    from runner.language.library import GraphLibrary
    from runner.program.program import Program
    from runner.rings.schedule import Schedule
    from runner.writeback.rewrite import Edit
    from runner.writeback.splices import Splice

Texts = Mapping[Path, bytes]


@dataclass(frozen=True)
class Written:
    """What becomes of a graph's files.

    texts     the new texts, of the files that change
    rounds    the changes that lead to them, one round after the other
    left_out  what the strategy asks for and the files do not bear, each with its place and reason
    free      bytes and microseconds of the plan under the same objective that places every trip and layer by itself, which no
              file can say; None where none was made
    """

    texts: Texts = field(default_factory=dict)
    rounds: tuple[Mapping[Path, Sequence[Splice]], ...] = ()
    left_out: tuple[str, ...] = ()
    free: tuple[int, float] | None = None


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
        path = Path(file)
        return path == self.path or (path.parent.resolve() == self._folder and path.resolve() not in self._installed)

    @cached_property
    def _folder(self) -> Path:
        return self.path.parent.resolve()

    @cached_property
    def _installed(self) -> frozenset[Path]:
        from runner.language.library import shipped_graphs

        return frozenset(path.resolve() for path in shipped_graphs().values())


def written_scopes(plan: Callable[[GraphLibrary, Demands], Schedule], files: Files) -> Written:
    """The files with the scopes of a plan; raises RinggraphError.

    `plan` plans the graph from the files that a library holds, under what they demand: what they turn out not to bear stays as it
    is written, and the graph is planned again. The new texts are planned in turn, until nothing is left to write: they may bear
    what the old ones did not.
    """
    from runner.writeback.edits import file_splices

    texts: dict[Path, bytes] = {}
    rounds: list[Mapping[Path, Sequence[Splice]]] = []
    seen: list[Texts] = []
    found_before = _findings(files, texts)
    while True:
        edits, left_out = _bearable(plan, files, texts, found_before)
        if not edits:
            return Written(texts, tuple(rounds), left_out)
        if texts in seen:
            raise ScheduleError(f"{edits[0].first}: this strategy would change the scopes of '{files.path}' with every writing")
        seen.append(dict(texts))
        rounds.append(file_splices(edits, texts))
        texts |= _applied(rounds[-1], texts)


def _bearable(
    plan: Callable[[GraphLibrary, Demands], Schedule], files: Files, texts: Texts, found_before: Counter[tuple[str, str]]
) -> tuple[list[Edit], tuple[str, ...]]:
    """The edits of a plan that the texts bear, and what was left out of it."""
    demands, left_out = Demands(may_write=files.may_write), list[str]()
    while True:
        check = _Check(plan(library_of(texts), demands), files, texts, found_before)
        edits, refused = _asked(check)
        if not refused:
            return edits, tuple(dict.fromkeys(left_out))
        new = {run: error for run, error in refused if run is not None and run not in demands.barred}
        if not new:
            raise refused[0][1]
        demands = replace(demands, barred=demands.barred | set(new))
        left_out += [str(error).partition("\n")[0] for error in new.values()]


def _asked(check: _Check) -> tuple[list[Edit], list[tuple[Run | None, ScheduleError]]]:
    """The edits that a plan comes to, and why some of them cannot be made."""
    from runner.writeback.edits import scope_edits
    from runner.writeback.rewrite import RefusedEditError

    edits, unsaid = scope_edits(check.planned)
    denied = next((edit for edit in edits if not check.files.may_write(edit.first.file)), None)
    if denied is not None:
        raise _denied(check.files, denied)
    if unsaid:
        return edits, [(error.run, error) for error in unsaid]
    try:
        edits = check.with_notes(edits)
        problem = check.problem(edits)
        if problem is not None:
            edit, error = check.refusal(edits, problem)
            return edits, [((edit.first, edit.last) if edit is not None else None, error)]
    except RefusedEditError as error:
        return edits, [((error.edit.first, error.edit.last), error)]
    return edits, []


def _applied(changes: Mapping[Path, Sequence[Splice]], texts: Texts) -> Texts:
    from runner.writeback.splices import spliced

    return {path: spliced(texts[path] if path in texts else path.read_bytes(), mine) for path, mine in changes.items()}


def settled_texts(
    plan: Callable[[GraphLibrary, Demands], Schedule],
    annotations: Callable[[], Annotations],
    files: Files,
    start: Written,
) -> Written:
    """The files with the scopes that a strategy asks them for; raises RinggraphError.

    `plan` plans the graph from the files that a library holds, under what they demand, after which `annotations` says what to
    write. A scope that the files turn out not to take is barred, and the graph planned again. The new texts are planned in turn,
    until nothing is left to write, so that the same command finds nothing the next time. `start` is what is written in any case.
    """
    from runner.writeback.edits import annotation_edits, file_splices
    from runner.writeback.rewrite import RefusedEditError

    texts, rounds = dict(start.texts), list(start.rounds)
    found_before = _findings(files, {})
    demands = Demands(may_write=files.may_write)
    planned = plan(library_of(texts), demands)
    while edits := annotation_edits(annotations()):
        check = _Check(planned, files, texts, found_before)
        try:
            problem = check.problem(edits)
            if problem is None:
                rounds.append(file_splices(edits, texts))
                texts |= _applied(rounds[-1], texts)
                demands = Demands(may_write=files.may_write)
            else:
                demands = _barring(demands, check.to_blame(edits), problem)
        except RefusedEditError as error:
            demands = _barring(demands, error.edit, error)
        planned = plan(library_of(texts), demands)
    return Written(texts, tuple(rounds))


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


SCOPES_DECIDE = frozenset({"G315", "G316", "G317", "G318", "G319", "G335", "G341"})
"""Codes of what other scopes may mend."""


def refuse_errors(files: Files, texts: Texts, but: frozenset[str]) -> None:
    """Raises GraphError with the errors that lint finds in the files and would in `texts` as well, but for codes of `but`."""
    left = {_kind_of(finding) for finding in files.findings(library_of(texts))}
    found = [f for f in files.findings(library_of({})) if f.severity == "error" and f.code not in but and _kind_of(f) in left]
    if found:
        raise GraphError(found, hint="mend this first: nothing is written to a graph with errors")


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
    """Whether edits do what they should; `texts` are the files before them, of those that differ from disk.

    `found_before` counts what lint found before all edits, of each kind.
    """

    planned: Schedule
    files: Files
    texts: Texts
    found_before: Counter[tuple[str, str]]

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
            findings = self.files.findings(library_of(texts))
        except RinggraphError:
            return edits
        deep = [self._wrap_at(edits, finding) for finding in findings if finding.code == TOO_DEEP]
        note = f"ringgraph: ignore[{TOO_DEEP}]"
        return [replace(edit, comment=note) if edit in deep else edit for edit in edits]

    def _wrap_at(self, edits: Sequence[Edit], finding: Diagnostic) -> Edit | None:
        """The edit that put the scope there at which a finding in the new texts points: two bodies may have the same name."""
        place = self._old_place(edits, finding.mark) if finding.mark is not None else None
        if place is None:
            return None
        wraps = [
            edit for edit in edits if edit.what == "wrap" and edit.first.file == place.file and edit.first.line >= place.line
        ]
        line = finding.source_line or ""
        return min(wraps, key=lambda edit: (edit.first.line, edit.name not in line), default=None)

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

    def refusal(self, edits: Sequence[Edit], problem: RinggraphError) -> tuple[Edit | None, ScheduleError]:
        """The edit that is to blame, and the problem in terms of the user's text."""
        if not edits or isinstance(problem, OtherPlaceError):
            return None, ScheduleError(str(problem))
        edit = self.to_blame(edits)
        found = self.problem(edits[: edits.index(edit) + 1], whole=False) or problem
        reason, mark = _reason(found)
        place = self._old_place(edits[: edits.index(edit) + 1], mark) if mark is not None else None
        where = f" (of {place})" if place is not None else ""
        what = {"wrap": "no scope can be put around this", "remove": "this scope cannot be taken out"}
        return edit, ScheduleError(
            f"{edit.first}: {what.get(edit.what, 'the mode of this scope cannot be changed')}: {reason}{where}",
            hint="'--scheduler minpeak' leaves such scopes out",
        )

    def _old_place(self, edits: Sequence[Edit], mark: Mark) -> Mark | None:
        """Where in the user's text stands what is at `mark` in the new one; None for a file that does not change."""
        from runner.writeback.edits import old_place

        return old_place([edit for edit in edits if Path(edit.first.file) == Path(mark.file)], mark, self.texts)


def _findings(files: Files, texts: Texts) -> Counter[tuple[str, str]]:
    return Counter(map(_kind_of, files.findings(library_of(texts))))


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
