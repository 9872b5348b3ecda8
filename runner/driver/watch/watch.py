"""Graphs are linted and planned again whenever a file changes that their plan was made from.

Files are looked at again and again: that needs no library, and works on every file system and for editors that replace a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.base.errors import Diagnostic, GraphError, RinggraphError
from runner.driver.driver import Setup
from runner.driver.linting import lint
from runner.driver.planning import PlanRequest, place
from runner.language.library import GraphLibrary, find_graph
from runner.language.walk import used_graphs
from runner.lint.files import graph_files
from runner.report.diff import ScopeDifference, Side, scope_differences, side_of

Stamp = dict[str, tuple[int, int, int] | None]
"""When each file was written, its size and its inode; None where there is none."""


@dataclass(frozen=True)
class Look:
    """What became of one graph. `side` is its last good plan, `before` the one before this look, None at the first.

    findings   of lint; with errors among them the plan is the one of before
    problem    why there is no plan, where lint found no error; "" for none
    """

    graph: str
    findings: tuple[Diagnostic, ...] = ()
    problem: str = ""
    side: Side | None = None
    before: Side | None = None

    @property
    def is_planned(self) -> bool:
        """Whether this look made a plan."""
        return not self.problem and all(finding.severity != "error" for finding in self.findings)

    @property
    def scopes(self) -> list[ScopeDifference]:
        """The scopes that changed."""
        if self.side is None or self.before is None:
            return []
        return [found for found in scope_differences(self.before, self.side) if not found.is_same]


@dataclass
class Watch:
    """Graphs (files, folders or shipped names) under `setup`, planned as `request` says.

    `settled` yields the looks of each round. Raises GraphError at once for a path that is nothing.
    """

    setup: Setup
    paths: Sequence[str]
    request: PlanRequest
    sides: dict[str, Side] = field(default_factory=dict)
    files: dict[str, set[str]] = field(default_factory=dict)
    _seen: Stamp = field(default_factory=dict)
    _pending: Stamp | None = None

    def __post_init__(self) -> None:
        _, problems = graph_files(self.paths)
        if problems:
            raise GraphError(problems)

    def round(self) -> Iterator[Look]:
        """Looks at the graphs of which a file changed, once the files are as they were a moment ago; at first at all."""
        now = self._stamp()
        if now == self._seen or now != self._pending:
            self._pending = now
            return
        changed = {file for file in self._seen.keys() | now.keys() if self._seen.get(file) != now.get(file)}
        for path in map(str, graph_files(self.paths)[0]):
            if path not in self.files or changed & self.files[path]:
                yield self.look(path)
        self._seen = self._stamp()
        self._seen |= {file: now[file] for file in self._seen.keys() & now.keys()}  # what was saved meanwhile is news

    def look(self, path: str) -> Look:
        """Lints a graph and, if it has no errors, plans it."""
        setup, before = replace(self.setup), self.sides.get(path)
        self.files[path] = {os.path.realpath(path), *self._others(path)}
        try:
            findings = tuple(lint(setup, [path]).findings)
        except RinggraphError as error:
            return Look(path, problem=str(error), side=before, before=before)
        if any(finding.severity == "error" for finding in findings):
            return Look(path, findings, side=before, before=before)
        try:
            side = side_of(place(setup, replace(self.request, graph=path)).schedule, path)
        except RinggraphError as error:
            return Look(path, findings, str(error), before, before)
        self.sides[path] = side
        return Look(path, findings, side=side, before=before)

    def _others(self, path: str) -> Iterable[str]:
        """Files besides the graph's own: graphs that it uses, layers, ops."""
        library = GraphLibrary()
        try:
            found = [graph.file for graph in used_graphs(library.load(find_graph(path)), library)]
        except GraphError:
            found = [*self.files.get(path, ())]
        return [os.path.realpath(file) for file in (*found, *self._given())]

    def _given(self) -> list[str]:
        given = (*self.setup.configs, *replace(self.setup).op_files)
        return [str(file) for file in given if Path(file).is_file()]

    def _stamp(self) -> Stamp:
        """The state of everything that any plan was made from, and of what the paths stand for now."""
        files = {os.path.realpath(file) for file in graph_files(self.paths)[0]}.union(*self.files.values(), self._given())
        return {file: _state(file) for file in files}


def _state(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
