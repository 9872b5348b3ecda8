"""Lint over several graphs, each under the deployment that it says it is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import ConfigError, Diagnostic
from runner.driver.driver import Setup
from runner.language.graph import Graph
from runner.language.library import GraphLibrary
from runner.lint.lint import lint as find
from runner.recorded.captures.folder import is_capture
from runner.recorded.opening import is_recorded

if TYPE_CHECKING:
    from runner.config.config import Config


def lint(setup: Setup, paths: Sequence[str | Path], *, ring_heap: Sequence[int] | None = None) -> list[Diagnostic]:
    """All findings in the graphs at `paths` (files, folders or shipped names) and the graphs that they use, in order of place.

    `ring_heap` gives the bytes of the four rings that scopes have to fit. Raises ConfigError for options that cannot be.
    """
    for path in map(str, paths):
        if is_recorded(path) and (not Path(path).is_dir() or is_capture(Path(path))):
            raise ConfigError(
                f"'{path}' is a recorded program, and lint checks graphs",
                hint="'ringgraph recorded show' checks it, 'ringgraph ring-heap replay' its limits",
            )
    library, known = GraphLibrary(), dict[str | None, "Config"]()

    def config(graph: Graph | None) -> Config:
        said = graph.deploy.value if graph is not None and graph.deploy is not None and setup.deploy is None else None
        if said not in known:
            known[said] = setup.config(graph.file if graph is not None and said is not None else None, library)
        return known[said]

    return find(paths, config, setup.registry, ring_heap=ring_heap, library=library)


def lint_texts(setup: Setup, path: Path, library: GraphLibrary) -> list[Diagnostic]:
    """All findings in one graph, and those it uses, with the texts that a library holds in place of those on disk."""
    return find([path], setup.config(path, library), setup.registry, library=library)
