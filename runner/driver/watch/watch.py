"""Graphs are linted and planned again whenever a file changes that their plan was made from.

Files are looked at again and again: that needs no library, and works on every file system and for editors that replace a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.base.errors import Diagnostic, GraphError, RinggraphError
from runner.config.config import layers_beside
from runner.driver.driver import Setup
from runner.driver.linting import lint
from runner.driver.planning import PlanRequest, place
from runner.language.graph import Use
from runner.language.library import GraphLibrary, find_graph
from runner.language.walk import all_items, used_graphs
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

    `round` is to be called again and again. Raises GraphError at once for a path that is nothing.
    """

    setup: Setup
    paths: Sequence[str]
    request: PlanRequest
    sides: dict[str, Side] = field(default_factory=dict)
    read: dict[str, Stamp] = field(default_factory=dict)
    """The files of each graph as they were before it was looked at."""
    _before: Stamp = field(default_factory=dict)

    def __post_init__(self) -> None:
        _, problems = graph_files(self.paths)
        if problems:
            raise GraphError(problems)

    def round(self) -> Iterator[Look]:
        """Looks at the graphs of which a file changed, at first at all, once files are as they were at the round before."""
        paths = [str(file) for file in graph_files(self.paths)[0]]
        files = {os.path.realpath(path) for path in paths}.union(*self.read.values())
        now = {file: _state(file) for file in files}
        is_settled, self._before = now == self._before, now
        for path in paths if is_settled else ():
            if path not in self.read or any(now[file] != state for file, state in self.read[path].items()):
                yield self.look(path)

    def look(self, path: str) -> Look:
        """Lints a graph and, if it has no errors, plans it."""
        setup, before = replace(self.setup), self.sides.get(path)
        self.read[path] = {file: _state(file) for file in (os.path.realpath(path), *self._others(path))}
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

    def _others(self, path: str) -> Iterator[str]:
        """Files besides the graph's own: graphs that it uses, or would if they were there, layers, ops."""
        library = GraphLibrary()
        try:
            root = library.load(find_graph(path))
        except GraphError:
            yield from self.read.get(path, ())
        else:
            for graph in (root, *used_graphs(root, library)):
                yield os.path.realpath(graph.file)
                beside = Path(graph.file).parent
                yield from (
                    os.path.realpath(beside / f"{item.graph}.yaml") for item in all_items(graph.body) if isinstance(item, Use)
                )
        given = tuple(self.setup.configs) or layers_beside(Path(path))
        for file in (*given, *replace(self.setup).op_files):
            if Path(file).is_file():
                yield os.path.realpath(file)


def _state(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
