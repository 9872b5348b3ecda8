"""Lint over several graphs, each under the deployment that it says it is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from runner.base.errors import ConfigError, Diagnostic, GraphError, Mark
from runner.driver.driver import Setup
from runner.language.library import GraphLibrary, check_file, find_graph
from runner.lint.lint import lint as find


def lint(setup: Setup, paths: Sequence[str | Path], *, ring_heap: Sequence[int] | None = None) -> list[Diagnostic]:
    """All findings in the graphs at `paths` (files, folders or shipped names) and the graphs that they use, in order of place.

    `ring_heap` gives the bytes of the four rings that scopes have to fit. Raises ConfigError for options that cannot be.
    """
    if setup.deploy is not None:
        return find(paths, setup.config(), setup.registry, ring_heap=ring_heap)
    groups: dict[str | None, list[str | Path]] = {}
    for path in paths:
        for file in [*sorted(Path(path).glob("*.yaml"))] if Path(path).is_dir() else [path]:
            groups.setdefault(_deployment(file), []).append(file)
    found: list[Diagnostic] = []
    for said, files in groups.items():
        try:
            config = setup.config(files[0] if said else None)
        except ConfigError as error:
            if not said or all(problem.mark is None for problem in error.diagnostics):
                raise
            found += [problem for file in files for problem in _refused(setup, file)]
        else:
            found += find(files, config, setup.registry, ring_heap=ring_heap)
    return found if len(groups) == 1 else list(_merged(found))


def lint_texts(setup: Setup, path: Path, library: GraphLibrary) -> list[Diagnostic]:
    """All findings in one graph, and those it uses, with the texts that a library holds in place of those on disk."""
    return find([path], setup.config(path, library), setup.registry, library=library)


def _deployment(file: str | Path) -> str | None:
    """What the graph says; None where it says nothing or cannot be read, which lint tells."""
    try:
        graph, _ = check_file(find_graph(file))
    except GraphError:
        return None
    return graph.deploy.value if graph is not None and graph.deploy is not None else None


def _refused(setup: Setup, file: str | Path) -> Iterator[Diagnostic]:
    """Why the graph has no configuration."""
    try:
        setup.config(file)
    except ConfigError as error:
        yield from error.diagnostics


def _merged(found: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
    """Findings in order of place; what two groups say of one place is told once, for a graph that both use."""
    unique = {(d.code, d.mark, d.related): d for d in reversed(list(found))}
    yield from sorted(unique.values(), key=lambda d: (d.mark or Mark("", 0), d.code, d.message))
