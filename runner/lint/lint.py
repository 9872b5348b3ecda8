"""Lint says everything that can be said about graph files without running them, in three stages (see `docs/lint.md`).

Stages 1 and 2 are the loader's. Stage 3 expands each graph for the given configuration, and the rules of `runner/lint/rules/`
look at the program. Dynamic loops are expanded with their first two trips and their last one only: trips of one loop run the same
items on regions that move by the same step, so that two trips touch each other's data only if neighbours do, and a region that
fits in the last trip fits in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from runner.base.errors import ConfigError, Diagnostic, Mark
from runner.expansion.expander import expand_all
from runner.language.graph import Graph
from runner.language.library import GraphLibrary, with_source_lines
from runner.lint.codes import RULES
from runner.lint.files import graph_files
from runner.lint.ignores import Comments
from runner.lint.look import Look
from runner.lint.rules import all_rules
from runner.lint.walk import findings_of
from runner.models.protocols import Settings
from runner.program.ops import OpRegistry


def lint(
    paths: Sequence[str | Path],
    config: Settings | Callable[[Graph | None], Settings],
    registry: OpRegistry,
    *,
    ring_heap: Sequence[int] | None = None,
    library: GraphLibrary | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Diagnostic]:
    """All findings in the graphs at `paths` (files, folders or shipped names) and the graphs that they use, in order of place.

    Each file is looked at once, whatever paths lead to it, and findings name it as the first of them does. `config` may say what
    each graph is looked at under (None: a graph that names no deployment); a ConfigError that has a place becomes findings.
    `ring_heap` gives the bytes of the four rings that scopes have to fit; without it that is not checked. Graphs that `library`
    holds stand for those on disk. `progress` is told the number of graphs that are done, and of all.
    """
    library = library or GraphLibrary()
    files, found = graph_files(paths)
    checked = {str(file): library.checked(file) for file in map(library.spelled, files)}
    graphs = [entry.graph for entry in checked.values() if entry.graph is not None]
    for graph in graphs:
        library.add(graph)
    if not graphs and callable(config):
        config(None)
    found += [problem for entry in checked.values() for problem in entry.problems]
    judged: dict[str, set[str]] = {}
    for done, graph in enumerate(graphs):
        progress(done, len(graphs))
        settings, problems = _settings(graph, config)
        found += problems
        if settings is not None:
            more, codes = _meaning(graph, settings, registry, library, ring_heap)
            found += more
            judged[graph.file] = set() if problems else codes
    used = {graph.file: graph for graph in library.graphs() if graph.file not in checked}
    lines = {file: entry.lines for file, entry in (checked | used).items()}
    unique = {finding.identity: finding for finding in reversed(with_source_lines(found, lines))}
    comments = Comments([entry.comments for entry in checked.values()], [graph.comments for graph in used.values()], lines)
    kept = comments.judge(list(unique.values()), judged)
    return sorted(kept, key=lambda d: (d.mark or Mark("", 0), d.code, d.message))


def _settings(graph: Graph, config: Settings | Callable[[Graph | None], Settings]) -> tuple[Settings | None, list[Diagnostic]]:
    """What a graph is looked at under, and what is wrong with what it says: then it is that of graphs which say nothing."""
    if not callable(config):
        return config, []
    try:
        return config(graph), []
    except ConfigError as error:
        if all(problem.mark is None for problem in error.diagnostics):
            raise
        problems = list(error.diagnostics)
    try:
        return config(None), problems
    except ConfigError:
        return None, problems


def lint_graph(
    graph: Graph, config: Settings, registry: OpRegistry, library: GraphLibrary, ring_heap: Sequence[int] | None = None
) -> list[Diagnostic]:
    """Stage 3 for one graph and those that it uses: what expansion finds, then what the rules find in the program."""
    return _meaning(graph, config, registry, library, ring_heap)[0]


def _meaning(
    graph: Graph, config: Settings, registry: OpRegistry, library: GraphLibrary, ring_heap: Sequence[int] | None
) -> tuple[list[Diagnostic], set[str]]:
    """Stage 3 for one graph, and the codes that it looked for: none if the graph does not expand."""
    expanded = expand_all(graph, config, registry, library=library, sample=True)
    look = Look(graph, expanded, library, registry, ring_heap)
    left_out = {rule.about.code for rule in all_rules() if not rule.is_wanted(look)}
    judged = RULES.keys() - left_out if look.has_all_operands else set()
    return [*expanded.problems, *findings_of(look, all_rules())], judged
