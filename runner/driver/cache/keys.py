"""What a result follows from, as a key: the code, the texts of graphs and configurations, options, and what the environment says.

A key is worked out without expanding anything: files are read and parsed, which takes tenths of a second however large the
program is.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.base.errors import GraphError
from runner.driver.driver import Setup
from runner.language.graph import Graph, Use
from runner.language.library import GraphLibrary, find_graph
from runner.language.walk import all_items
from runner.recorded.opening import is_recorded

_OURS = ("runner", "ops", "schedulers", "graphs")
_GROUPS = ("ringgraph.ops", "ringgraph.models", "ringgraph.schedulers")
_TEXTS = (".py", ".yaml", ".json")
_VARIABLES = ("PTO2_", "RINGGRAPH_")


def result_key(setup: Setup, graphs: Sequence[str | Path], options: Any, files: Iterable[Path] = ()) -> str | None:
    """The key of what a command works out of graphs; None where it cannot be told: ops that no
    package declares.

    `options` print what else the result follows from, `files` are read for it. Raises what reading them raises.
    """
    if setup.ops or setup.op_files:
        return None
    parts: list[Any] = [sys.version_info[:3], code_of_packages(), sorted(_environment()), str(options)]
    parts += [(str(path), _digest(_content(path))) for path in files]
    parts += [(setup.sets, setup.deploy, setup.ep), [_layer(layer) for layer in setup.configs]]
    for graph in graphs:
        parts.append((str(graph), os.getcwd()))
        parts += _recorded(Path(graph)) if is_recorded(graph) else _graph(setup, graph)
    return _digest(repr(parts).encode(errors="surrogatepass"))


def _environment() -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in os.environ.items() if name.startswith(_VARIABLES))


def _layer(layer: str | Path) -> tuple[str, str]:
    """A layer of configuration: a preset is part of our code, a file is its content."""
    path = Path(layer)
    return str(layer), _digest(_content(path / "config.json" if path.is_dir() else path))


def _graph(setup: Setup, graph: str | Path) -> Iterator[Any]:
    """The configuration's values, and the texts of the graph and of all that it may use."""
    library = GraphLibrary()
    config = setup.config(graph, library)
    yield config.name, config.deploy, config.family.name, sorted(config.values.items()), sorted(config.dtypes.items())
    root = library.load(find_graph(graph))
    for used in _with_used(root, library):
        yield (used, ()) if isinstance(used, str) else (used.file, used.lines)


def _with_used(root: Graph, library: GraphLibrary) -> Iterator[Graph | str]:
    """A graph and all that it names, each once; of one that cannot be loaded, the words for that."""
    found, left = {root.file}, [root]
    while left:
        graph = left.pop()
        yield graph
        for item in all_items(graph.body):
            if isinstance(item, Use):
                try:
                    used = library(item.graph, graph.file)
                except GraphError as error:  # perhaps in a branch that is not taken
                    yield str(error)
                    continue
                if used.file not in found:
                    found.add(used.file)
                    left.append(used)


def _recorded(path: Path) -> list[tuple[str, str]]:
    """The files of a recorded program: its own, or those of its folder."""
    files = sorted(child for child in path.iterdir() if child.is_file()) if path.is_dir() else [path]
    return [(str(file), _digest(file.read_bytes())) for file in files]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b"no file"


@cache
def code_of_packages() -> str:
    """A digest of the texts of ours and of every package that declares ops, families of models or strategies, with what these
    import from elsewhere than where packages are installed; and of what each declares."""
    from importlib.metadata import entry_points

    entries = [(group, entry.name, entry.value) for group in _GROUPS for entry in entry_points(group=group)]
    others = {value.partition(":")[0].partition(".")[0].strip() for _, _, value in entries}
    digest = hashlib.sha256(repr(sorted(entries)).encode())
    for package in (*_OURS, *sorted(_with_imported(others))):
        for path in _texts(package):
            digest.update(f"{package} {path.name} ".encode() + path.read_bytes())
    return digest.hexdigest()


def _with_imported(packages: Iterable[str]) -> set[str]:
    """Packages and what they import, directly or not, that may change between two commands without being installed anew."""
    found, left = set(), [*packages]
    while left:
        package = left.pop()
        if package not in found:
            found.add(package)
            left += filter(_is_worked_on, _imported(package))
    return found


def _imported(package: str) -> set[str]:
    """Top-level names of all that the modules of a package import."""
    names: list[str] = []
    for path in _texts(package):
        with suppress(SyntaxError, ValueError):
            for node in ast.walk(ast.parse(path.read_bytes())) if path.suffix == ".py" else ():
                if isinstance(node, ast.Import):
                    names += (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.append(node.module)
    return {name.partition(".")[0] for name in names}


def _is_worked_on(package: str) -> bool:
    """Whether a package is neither Python's nor ours, and lies outside of the folders that packages are installed in."""
    if package in sys.stdlib_module_names or package in _OURS:
        return False
    installed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    with suppress(ImportError, ValueError):
        spec = find_spec(package)
        places = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
        return any(place and not any(Path(place).is_relative_to(folder) for folder in installed) for place in places)
    return False


def _texts(package: str) -> list[Path]:
    found = find_spec(package)
    if found is None:
        return []
    if found.submodule_search_locations is None:
        return [Path(found.origin)] if found.origin is not None and Path(found.origin).is_file() else []
    folders = map(Path, found.submodule_search_locations)
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in _TEXTS and path.is_file())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
