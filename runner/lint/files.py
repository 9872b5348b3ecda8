"""Which files lint looks at: a file, a shipped name, or a folder with all graph files below it; each file once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from runner.base.errors import Diagnostic, GraphError, Mark
from runner.language.library import find_graph

SUFFIXES = (".yaml", ".yml")
NO_GRAPHS = ("config", "schema", "__pycache__")
"""Folders below a given one that hold other YAML files, as beside the shipped graphs; hidden folders are left out as well."""
LAYER = "family.yaml"
"""The layer of a family, which may lie beside its graphs: no graph, unless it is named itself."""


def graph_files(paths: Sequence[str | Path]) -> tuple[list[Path], list[Diagnostic]]:
    """The files that arguments name, each once, as the first argument that leads to it spells it; and what is no file."""
    found: dict[str, Path] = {}
    problems: list[Diagnostic] = []
    for path in paths:
        for file in _below(Path(path), problems) if Path(path).is_dir() else _named(path, problems):
            found.setdefault(os.path.realpath(file), file)
    return list(found.values()), problems


def _named(path: str | Path, problems: list[Diagnostic]) -> Iterator[Path]:
    try:
        yield find_graph(path)
    except GraphError as error:
        problems += [replace(problem, mark=problem.mark or Mark(str(path), 1)) for problem in error.diagnostics]


def _below(folder: Path, problems: list[Diagnostic]) -> Iterator[Path]:
    """The graph files in a folder and in those below it."""
    number = 0

    def unreadable(error: OSError) -> None:
        reason = (error.strerror or "unknown error").lower()
        problems.append(Diagnostic("G100", f"cannot read the folder: {reason}", Mark(str(error.filename), 1)))

    before = len(problems)
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name not in NO_GRAPHS and not name.startswith("."))
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith(".") and name != LAYER:
                number += 1
                yield Path(parent, name)
    if not number and len(problems) == before:
        message = "the folder holds no graph file, and no folder below it does"
        hint = f"graph files end in {' or '.join(SUFFIXES)}; folders called {', '.join(NO_GRAPHS)} are left out"
        problems.append(Diagnostic("G100", message, Mark(str(folder), 1), hint=hint))
