"""Lint over several graphs, each under the deployment that it says it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.base.errors import ConfigError, Diagnostic
from runner.config.config import layers_beside
from runner.driver.driver import Setup
from runner.language.graph import Graph, Op
from runner.language.library import GraphLibrary
from runner.language.walk import all_items
from runner.lint.files import graph_files
from runner.lint.lint import lint as find
from runner.recorded.captures.folder import is_capture
from runner.recorded.opening import is_recorded

if TYPE_CHECKING:
    from runner.config.config import Config


@dataclass(frozen=True, slots=True)
class Linted:
    """Findings, and what was looked at: graphs that were named, those that they use, ops in all of them, and under what."""

    findings: list[Diagnostic]
    num_graphs: int
    num_used: int
    num_ops: int
    under: tuple[str, ...]

    def __str__(self) -> str:
        """What was checked: `1 graph and 3 that it uses, 24 ops, under tiny, deployment decode`."""
        used = f" and {self.num_used} that {'it uses' if self.num_graphs == 1 else 'they use'}" if self.num_used else ""
        under = f", under {' and '.join(self.under)}" if self.under else ""
        return f"{_counted(self.num_graphs, 'graph')}{used}, {_counted(self.num_ops, 'op')}{under}"


def _counted(num: int, what: str) -> str:
    return f"{num:,} {what}{'s' * (num != 1)}"


def lint(
    setup: Setup,
    paths: Sequence[str | Path],
    *,
    ring_heap: Sequence[int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Linted:
    """All findings in the graphs at `paths` (files, folders or shipped names) and the graphs that they use, in order of place.

    `ring_heap` gives the bytes of the four rings that scopes have to fit; `progress` is told the number of graphs that are
    done, and of all. Raises ConfigError for options that cannot be.
    """
    for path in map(str, paths):
        if is_recorded(path) and (not Path(path).is_dir() or is_capture(Path(path))):
            raise ConfigError(
                f"'{path}' is a recorded program, and lint checks graphs",
                hint="'ringgraph recorded show' checks it, 'ringgraph ring-heap replay' its limits",
            )
    library, known = GraphLibrary(), dict[tuple[Any, str | None], "Config"]()

    def config(graph: Graph | None) -> Config:
        said = graph.deploy.value if graph is not None and graph.deploy is not None and setup.deploy is None else None
        beside = layers_beside(Path(graph.file)) if graph is not None and not setup.configs else ()
        if (beside, said) not in known:
            known[beside, said] = setup.config(graph.file if graph is not None and (beside or said) else None, library)
        return known[beside, said]

    findings = find(paths, config, setup.registry, ring_heap=ring_heap, library=library, progress=progress)
    graphs = list(library.graphs())
    named = len(graph_files(paths)[0])
    ops = sum(isinstance(item, Op) for graph in graphs for item in all_items(graph.body))
    under = sorted({f"{one.name}, deployment {one.deploy}" if one.deploy else one.name for one in known.values()} - {""})
    return Linted(findings, named, max(0, len(graphs) - named), ops, tuple(under))


def lint_texts(setup: Setup, path: Path, library: GraphLibrary) -> list[Diagnostic]:
    """All findings in one graph, and those it uses, with the texts that a library holds in place of those on disk."""
    return find([path], setup.config(path, library), setup.registry, library=library)
