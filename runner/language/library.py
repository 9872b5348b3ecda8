"""Graph files are found, read, checked (lint stages 1 and 2) and made into `Graph`s."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import islice
from pathlib import Path

from runner.base.errors import Diagnostic, GraphError, Mark, RinggraphError, did_you_mean
from runner.base.limits import Limits, how_to_raise
from runner.base.reading import file_bytes, is_file
from runner.language.builder import GraphBuilder
from runner.language.graph import Graph, Text
from runner.language.structure import schema, schema_problems, unknown_keys
from runner.language.yaml_source import read_source

# --- finding ---


GROUP = "ringgraph.graphs"
"""Entry points that name a package in whose folder graph files lie."""


@cache
def _installed(path: tuple[str, ...]) -> list[EntryPoint]:
    """What packages in these folders bring, looked for once: that reads of every package there is."""
    return sorted(entry_points(group=GROUP), key=lambda entry: entry.name)


def _folders() -> Iterator[Traversable]:
    """Where graphs lie that have names: ours, then those of installed packages; raises RinggraphError."""
    yield files("graphs")
    for entry in _installed(tuple(sys.path)):
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
            elif entry.name.endswith(".yaml") and entry.name != "family.yaml":  # that is a layer of configuration
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
    if is_file(path):
        return path
    shipped = shipped_graphs()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    if path.is_dir():
        hint = "a capture's folder is planned by 'ringgraph schedule', not run"
        raise GraphError(Diagnostic("G100", f"'{name_or_path}' is a folder, and no graph", hint=hint))
    hint = _meant(str(name_or_path), shipped)
    raise GraphError(Diagnostic("G100", f"no file and no shipped graph is called '{name_or_path}'", hint=hint))


_MOST_BESIDE = 1_000
"""Files of a folder among which a name is looked for."""


def _meant(given: str, shipped: Iterable[str]) -> str:
    """For a name that no graph has: the name that is near, else where it was looked for."""
    path, folder = Path(given), Path(given).parent
    try:
        beside = [entry.name for entry in islice(folder.iterdir(), _MOST_BESIDE) if entry.suffix == ".yaml"]
    except (OSError, ValueError):
        beside = []
    if f"{path.name}.yaml" in beside:
        return f"did you mean '{given}.yaml'?"
    if path.name == given and (near := did_you_mean(given, shipped)):
        return near
    if near := did_you_mean(path.name, beside):
        [rewrite] = near.remedies
        return near if path.name == given else f"did you mean '{folder / str(getattr(rewrite, 'new', ''))}'?"
    if path.suffix == ".yaml" or path.name != given:
        ours = f"; the shipped graph is called '{path.stem}'" if path.suffix == ".yaml" and path.stem in shipped else ""
        missing = next((str(one) for one in reversed((*path.parents,)) if not one.exists()), None)
        return (f"there is no folder '{missing}'" if missing else f"'{folder}' has no such file") + f" (in '{Path.cwd()}'){ours}"
    return "'ringgraph graph list' lists the shipped graphs; a file is given with its '.yaml'"


class GraphLibrary:
    """Loads graphs for `use:`, each file once; a name is looked for beside the user's file, then among the shipped graphs."""

    def __init__(self) -> None:
        self._loaded: dict[Path, Graph] = {}
        self._spelled: dict[Path, Path] = {}
        self._refused: dict[Path, GraphError] = {}
        self._names: dict[Path, list[str]] = {}
        self._used: dict[tuple[str, str], Graph] = {}

    def spelled(self, path: Path) -> Path:
        """The file as the first path that led to it spelled it, so that its places have one name."""
        return self._spelled.setdefault(path.resolve(), path)

    def load(self, path: Path) -> Graph:
        """The graph of a file; raises GraphError."""
        key = path.resolve()
        if key in self._refused:
            raise self._refused[key]
        if key not in self._loaded:
            try:
                self._loaded[key] = load_graph(self.spelled(path))
            except GraphError as error:
                self._refused[key] = error
                raise
        return self._loaded[key]

    def checked(self, path: Path) -> Checked:
        """A file as it was checked: a graph that was loaded or added stands for what is on disk."""
        graph = self._loaded.get(path.resolve())
        return check_path(path) if graph is None else Checked(graph, [], graph.comments, graph.lines)

    def __contains__(self, path: Path) -> bool:
        return path.resolve() in self._loaded

    def add(self, graph: Graph) -> None:
        """Takes a graph that was loaded elsewhere, under its file."""
        self._loaded[Path(graph.file).resolve()] = graph
        self._used.clear()

    def graphs(self) -> Iterator[Graph]:
        """All graphs loaded so far."""
        yield from self._loaded.values()

    @cached_property
    def _shipped(self) -> dict[str, Path]:
        return shipped_graphs()

    def __call__(self, name: Text, user: str) -> Graph:
        """The graph that the file `user` calls `name`; raises GraphError."""
        known = self._used.get((user, name.value))
        if known is None:
            known = self._used[user, name.value] = self._find(name, user)
        return known

    def _find(self, name: Text, user: str) -> Graph:
        path = Path(user).parent / f"{name.value}.yaml"
        if path.resolve() in self._loaded or is_file(path):
            return self.load(path)
        if name.value in self._shipped:
            return self.load(self._shipped[name.value])
        if path.parent not in self._names:
            self._names[path.parent] = sorted(p.stem for p in path.parent.glob("*.yaml"))
        other = path.with_suffix(".yml")
        known = [*self._shipped, *self._names[path.parent]]
        hint = f"rename '{other}' to '{path.name}'" if other.is_file() else did_you_mean(name.value, known)
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
    checked = check_path(path)
    return checked.graph, checked.problems


def check_source(data: bytes, file: str) -> tuple[Graph | None, list[Diagnostic]]:
    """The graph in `data`, or None and all findings of the first stage that has any: the YAML itself, then the schema."""
    checked = check_data(data, file)
    return checked.graph, checked.problems


@dataclass(frozen=True, slots=True)
class Checked:
    """A file's graph, or None and what is wrong with it; and its comments and lines, whatever is wrong."""

    graph: Graph | None
    problems: list[Diagnostic]
    comments: tuple[Text, ...] = ()
    lines: tuple[str, ...] = ()


def check_path(path: Path) -> Checked:
    """`check_file` with the file's comments."""
    try:
        data = file_bytes(path)
    except OSError as error:
        message = f"cannot read the file: {(error.strerror or 'unknown error').lower()}"
        return Checked(None, [Diagnostic("G100", message, Mark(str(path), 1, 1))])
    return check_data(data, str(path))


def check_data(data: bytes, file: str) -> Checked:
    """`check_source` with the file's comments. A text is checked once: the key of a kept result and the plan read the same."""
    check = _checked if len(data) <= _SHORT else _checked_long
    found = check(data, file, Limits.current().findings)
    return replace(found, problems=found.problems[:])


_SHORT = 1 << 16
"""Bytes of a text of which many are kept."""


@lru_cache(64)
def _checked(data: bytes, file: str, most: int) -> Checked:
    return _check(data, file, most)


@lru_cache(8)
def _checked_long(data: bytes, file: str, most: int) -> Checked:
    return _check(data, file, most)


def _check(data: bytes, file: str, most: int) -> Checked:
    source = read_source(data, file, most)
    problems, root = source.problems, source.root
    if root is not None:
        problems += islice(unknown_keys(root, schema()), most + 1)
    graph = None
    if root is not None and not problems:
        problems = schema_problems(root, most)
    if root is not None and not problems:
        builder = GraphBuilder(most)
        graph = builder.build(source, file)
        problems = builder.problems
    if problems or graph is None:
        told = first_findings(sorted(problems, key=lambda d: (d.mark or Mark("", 0), d.code)), most)
        found = with_source_lines(told, {file: source.lines})
        return Checked(None, found, tuple([Text(text, mark) for mark, text in source.comments]), source.lines)
    return Checked(graph, [], graph.comments, graph.lines)


def first_findings(problems: list[Diagnostic], most: int) -> list[Diagnostic]:
    """The findings, or of more than `most` the first, and one that says so."""
    if len(problems) <= most:
        return problems
    message = f"more than {most:,} findings: those from here on are not told"
    return [*problems[:most], Diagnostic("G105", message, problems[most].mark, hint=how_to_raise("findings"))]


def with_source_lines(problems: Iterable[Diagnostic], lines: Mapping[str, tuple[str, ...]]) -> list[Diagnostic]:
    """The diagnostics with the line of their file that they point at, each in its own place.

    What stands behind a YAML alias is told where the alias stands, with the anchor's text as related; but once, in the anchor's
    own place, where that is just as wrong.
    """
    own = {(problem.code, problem.mark, problem.message) for problem in problems if problem.mark and not problem.mark.via}
    done = []
    for problem in problems:
        mark = problem.mark
        if mark is not None and mark.via is not None:
            if (problem.code, mark, problem.message) in own:
                continue
            message = f"{problem.message} (in what the alias stands for, line {mark.line})"
            related = (replace(mark, via=None), *problem.related)
            problem = replace(problem, message=message, mark=mark.via, related=related)
        source = lines.get(problem.mark.file, ()) if problem.mark else ()
        if problem.mark and problem.source_line is None and problem.mark.line <= len(source):
            line = source[problem.mark.line - 1]
            column = min(problem.mark.column, len(line) + 1)  # a text may go on in further lines
            problem = replace(problem, source_line=line, mark=replace(problem.mark, column=column))
        done.append(problem)
    return done
