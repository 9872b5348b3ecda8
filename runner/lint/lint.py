"""Lint says everything that can be said about graph files without running them, in three stages (see `docs/lint.md`).

Stages 1 and 2 are the loader's. Stage 3 expands each graph for the given configuration, and the rules of `runner/lint/rules/`
look at the program. Dynamic loops are expanded with their first two trips and their last one only: trips of one loop run the same
items on regions that move by the same step, so that two trips touch each other's data only if neighbours do, and a region that
fits in the last trip fits in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.base.errors import Diagnostic, GraphError, Mark
from runner.expansion.expander import expand_all
from runner.language.graph import Graph
from runner.language.library import GraphLibrary, check_file, find_graph, with_source_lines
from runner.lint.codes import RULES
from runner.lint.ignores import is_ignored, without_effect
from runner.lint.look import Look
from runner.lint.rules import all_rules
from runner.lint.walk import findings_of
from runner.models.protocols import Settings
from runner.program.ops import OpRegistry

MAX_WORK = 1_000_000
"""Items and trips that lint expands at most."""


def lint(
    paths: Sequence[str | Path],
    config: Settings,
    registry: OpRegistry,
    *,
    ring_heap: Sequence[int] | None = None,
    library: GraphLibrary | None = None,
) -> list[Diagnostic]:
    """All findings in the graphs at `paths` (files, folders or shipped names) and the graphs that they use, in order of place.

    `ring_heap` gives the bytes of the four rings that scopes have to fit; without it that is not checked. Graphs that `library`
    holds stand for those on disk.
    """
    library = library or GraphLibrary()
    found: list[Diagnostic] = []
    checked: list[tuple[Graph, set[str]]] = []
    for path in paths:
        for file in _files(path, found):
            graph, problems = (library.load(file), []) if file in library else check_file(file)
            found += problems
            if graph is not None:
                library.add(graph)
                problems, judged = _meaning(graph, config, registry, library, ring_heap)
                found += problems
                checked.append((graph, judged))
    found += [finding for graph, judged in checked for finding in without_effect(graph, judged, found)]
    lines = {graph.file: graph.lines for graph in library.graphs()}
    unique = {(d.code, d.mark, d.related): d for d in reversed(with_source_lines(found, lines))}
    return sorted((d for d in unique.values() if not is_ignored(d)), key=lambda d: (d.mark or Mark("", 0), d.code, d.message))


def _files(path: str | Path, found: list[Diagnostic]) -> list[Path]:
    """The graph files that an argument names; a folder stands for its YAML files."""
    if Path(path).is_dir():
        return sorted(Path(path).glob("*.yaml"))
    try:
        return [find_graph(path)]
    except GraphError as error:
        found += error.diagnostics
        return []


def lint_graph(
    graph: Graph, config: Settings, registry: OpRegistry, library: GraphLibrary, ring_heap: Sequence[int] | None = None
) -> list[Diagnostic]:
    """Stage 3 for one graph and those that it uses: what expansion finds, then what the rules find in the program."""
    return _meaning(graph, config, registry, library, ring_heap)[0]


def _meaning(
    graph: Graph, config: Settings, registry: OpRegistry, library: GraphLibrary, ring_heap: Sequence[int] | None
) -> tuple[list[Diagnostic], set[str]]:
    """Stage 3 for one graph, and the codes that it looked for: none if the graph does not expand."""
    expanded = expand_all(graph, config, registry, library=library, max_work=MAX_WORK, sample=True)
    look = Look(graph, expanded, library, registry, ring_heap)
    left_out = {rule.about.code for rule in all_rules() if not rule.is_wanted(look)}
    judged = RULES.keys() - left_out if look.has_all_operands else set()
    return [*expanded.problems, *findings_of(look, all_rules())], judged
