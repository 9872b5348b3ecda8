"""Graph files are found, read, checked (lint stages 1 and 2) and made into `Graph`s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from runner.base.errors import Diagnostic, GraphError, Mark, RinggraphError, did_you_mean
from runner.language.builder import GraphBuilder
from runner.language.graph import Graph, Text
from runner.language.structure import schema, schema_problems, unknown_keys
from runner.language.yaml_source import read_source

# --- finding ---


GROUP = "ringgraph.graphs"
"""Entry points that name a package in whose folder graph files lie."""


def _folders() -> Iterator[Traversable]:
    """Where graphs lie that have names: ours, then those of installed packages; raises RinggraphError."""
    yield files("graphs")
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            yield files(entry.value)
        except Exception as error:  # whatever somebody else's package does when it is imported
            package = entry.dist.name if entry.dist else entry.module
            raise RinggraphError(
                f"graphs '{entry.name}' of package '{package}' ({entry.value}) cannot be found: {error}",
                hint=f"mend or uninstall '{package}'",
            ) from error


def _files(folder: Traversable) -> Iterator[Traversable]:
    pending = [folder]
    while pending:
        for entry in sorted(pending.pop().iterdir(), key=lambda e: e.name):
            if entry.is_dir() and entry.name not in ("config", "schema", "__pycache__"):
                pending.append(entry)
            elif entry.name.endswith(".yaml"):
                yield entry


def shipped_graphs() -> dict[str, Path]:
    """The graphs that come with ringgraph or with an installed package: name -> file; a name of ours is taken."""
    found: dict[str, Path] = {}
    for folder in _folders():
        found = {entry.name.removesuffix(".yaml"): Path(str(entry)) for entry in _files(folder)} | found
    return found


def find_graph(name_or_path: str | Path) -> Path:
    """The file of a graph given as a path or as the name of a shipped graph; raises GraphError."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_graphs()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    hint = did_you_mean(str(name_or_path), shipped) or (f"shipped graphs: {', '.join(shipped)}" if shipped else None)
    raise GraphError(Diagnostic("G100", f"no file and no shipped graph is called '{name_or_path}'", hint=hint))


class GraphLibrary:
    """Loads graphs for `use:`, each file once; a name is looked for beside the user's file, then among the shipped graphs."""

    def __init__(self) -> None:
        self._loaded: dict[Path, Graph] = {}

    def load(self, path: Path) -> Graph:
        """The graph of a file; raises GraphError."""
        key = path.resolve()
        if key not in self._loaded:
            self._loaded[key] = load_graph(path)
        return self._loaded[key]

    def __contains__(self, path: Path) -> bool:
        return path.resolve() in self._loaded

    def add(self, graph: Graph) -> None:
        """Takes a graph that was loaded elsewhere, under its file."""
        self._loaded[Path(graph.file).resolve()] = graph

    def graphs(self) -> Iterator[Graph]:
        """All graphs loaded so far."""
        yield from self._loaded.values()

    def __call__(self, name: Text, user: str) -> Graph:
        """The graph that the file `user` calls `name`; raises GraphError."""
        path = Path(user).parent / f"{name.value}.yaml"
        if path.resolve() in self._loaded or path.is_file():
            return self.load(path)
        shipped = shipped_graphs()
        if name.value in shipped:
            return self.load(shipped[name.value])
        known = {*shipped, *(p.stem for p in path.parent.glob("*.yaml"))}
        hint = did_you_mean(name.value, known)
        raise GraphError(Diagnostic("G311", f"no graph is called '{name}' (looked for '{path}')", name.mark, hint=hint))


# --- loading ---


def load_graph(path: str | Path) -> Graph:
    """The graph of a file (or of a shipped name); raises GraphError with all findings of the first stage that has any."""
    found = find_graph(path)
    graph, problems = check_file(found)
    if graph is None:
        raise GraphError(problems)
    return graph


def check_file(path: Path) -> tuple[Graph | None, list[Diagnostic]]:
    """A file's graph, or None and what is wrong with it; see `check_source`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, [
            Diagnostic("G100", f"cannot read the file: {(error.strerror or 'unknown error').lower()}", Mark(str(path), 1, 1))
        ]
    return check_source(data, str(path))


def check_source(data: bytes, file: str) -> tuple[Graph | None, list[Diagnostic]]:
    """The graph in `data`, or None and all findings of the first stage that has any: the YAML itself, then the schema."""
    root, lines, problems = read_source(data, file)
    if root is not None:
        problems += unknown_keys(root, schema())
    graph = None
    if root is not None and not problems:
        problems = schema_problems(root)
    if root is not None and not problems:
        builder = GraphBuilder()
        graph = builder.build(root, file, lines)
        problems = builder.problems
    if problems:
        return None, with_source_lines(sorted(problems, key=lambda d: (d.mark or Mark("", 0), d.code)), {file: lines})
    return graph, []


def with_source_lines(problems: list[Diagnostic], lines: Mapping[str, tuple[str, ...]]) -> list[Diagnostic]:
    """The diagnostics with the line of their file that they point at."""

    done = []
    for problem in problems:
        source = lines.get(problem.mark.file, ()) if problem.mark else ()
        if problem.mark and problem.source_line is None and problem.mark.line <= len(source):
            problem = replace(problem, source_line=source[problem.mark.line - 1])
        done.append(problem)
    return done
