"""What an editor has open, and what was worked out of it: trees, names, configurations, findings, programs.

Everything is kept by the contents that it was made from, so that an edit costs what depends on it. What takes long raises
StoppedError where it is given up (`runner.base.stopping`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import Diagnostic, Mark, RinggraphError
from runner.base.reading import file_bytes, overlaid
from runner.driver.driver import DEFAULT_CONFIG, Setup, registry
from runner.driver.linting import lint
from runner.editor.reading import names, tolerant
from runner.editor.reading.text import Text
from runner.editor.settings import Settings
from runner.expansion.sharing.texts import Texts, texts_of
from runner.language.library import GraphLibrary, shipped_graphs
from runner.language.yaml_source import MAX_BYTES, Node, read_source

if TYPE_CHECKING:
    from runner.config.config import Config
    from runner.program.ops import OpRegistry
    from runner.program.program import Program

_GRAPH = re.compile(r"^(graph|body)\s*:|graph\.schema\.json", re.MULTILINE)
_LAYER = re.compile(r"^(model|family|dims|dtypes|deployments|fields|model_types)\s*:|(config|\w+)\.schema\.json", re.MULTILINE)
_MOST_FILES = 2_000
_MOST_KEPT = 64
State = tuple[object, ...]
"""The contents that a result was made from."""


@dataclass
class Workspace:
    """`folder` is where settings look for files; `open` are texts by real path. Nothing here knows the protocol."""

    folder: Path = field(default_factory=Path.cwd)
    settings: Settings = field(default_factory=Settings)
    encoding: str = "utf-16"
    open: dict[str, Text] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    _trees: dict[str, tuple[str, Node, bool]] = field(default_factory=dict)
    _findings: dict[str, tuple[State, list[Diagnostic]]] = field(default_factory=dict)
    _programs: dict[str, tuple[State, Program | RinggraphError]] = field(default_factory=dict)
    _configs: dict[str, tuple[State, Config | None]] = field(default_factory=dict)
    _indices: dict[str, tuple[State, names.Index]] = field(default_factory=dict)
    _setups: dict[Settings, Setup] = field(default_factory=dict)
    _beside: dict[str, tuple[State, tuple[str | Path, ...]]] = field(default_factory=dict)

    # --- texts ---

    def put(self, path: str, value: str) -> str:
        """Takes a text that stands for what lies at `path`; returns the real path."""
        real = os.path.realpath(path)
        self.open = {**self.open, real: Text(path, value, self.encoding)}  # other threads may go through the old ones
        if kind := "graph" if _GRAPH.search(value) else "layer" if self.is_layer(real, value) else "":
            self.kinds[real] = kind  # one that is being rewritten stays what it was
        if self.kinds.get(real) == "layer":
            self.settled()
        return real

    def close(self, path: str) -> None:
        real = os.path.realpath(path)
        self.open = {other: text for other, text in self.open.items() if other != real}

    def is_layer(self, real: str, value: str) -> bool:
        given = {os.path.realpath(name) for name in self.layers(real) if Path(name).is_file()}
        return real in given or _LAYER.search(value) is not None

    def is_graph(self, real: str) -> bool:
        return self.kinds.get(real) == "graph"

    def overlay(self) -> dict[str, bytes]:
        return {real: text.value.encode(errors="surrogatepass") for real, text in self.open.items()}

    def text(self, path: str) -> Text | None:
        """The text of a file, open or not; None for one that cannot be read."""
        real = os.path.realpath(path)
        if real in self.open:
            return self.open[real]
        with suppress(OSError):
            data = file_bytes(Path(path), MAX_BYTES)
            return Text(path, data.decode("utf-8-sig", errors="replace"), self.encoding)
        return None

    def tree(self, path: str) -> tuple[Node, bool] | None:
        """The nodes of a file, and whether its YAML is sound."""
        text = self.text(path)
        if text is None:
            return None
        real = os.path.realpath(path)
        kept = self._trees.get(real)
        if kept is None or kept[0] != text.value:
            kept = self._trees[real] = text.value, *read_tree(text)
        return kept[1], kept[2]

    # --- settings and configurations ---

    def setup(self, path: str) -> Setup:
        settings = self._settings(path)
        if settings not in self._setups:
            self._setups[settings] = settings.setup(self.folder)
        return self._setups[settings]

    def registry(self, path: str) -> OpRegistry:
        """The ops that a graph may use; ours alone where a file of others cannot be used, which its findings tell."""
        try:
            return self.setup(path).registry
        except RinggraphError:
            return registry()

    def _settings(self, path: str) -> Settings:
        return self.settings.for_file(Path(os.path.realpath(path)), self.folder)

    def settled(self) -> None:
        """Settings changed, or files on the disk that nobody watches: what was read for them is forgotten."""
        self._setups.clear()
        self._configs.clear()

    def config(self, path: str) -> Config | None:
        """The configuration of a graph's file; None where there is none to be had."""
        real, state = os.path.realpath(path), self.state(path)
        if real not in self._configs or self._configs[real][0] != state:
            found = None
            with overlaid(self.overlay()), suppress(RinggraphError):
                try:
                    found = self.setup(path).config(path)
                except RinggraphError:
                    found = self.setup(path).config()
            self._configs[real] = state, found
        return self._configs[real][1]

    def layers(self, path: str) -> tuple[str | Path, ...]:
        """The layers that a graph's file is taken under: those of the settings, else those beside it, else the default ones."""
        if given := tuple(self.setup(path).configs):
            return given
        from runner.config.config import BASE_LAYER, layers_beside

        base = os.path.join(os.path.dirname(path), BASE_LAYER)
        state = _stats([base]), self.open.get(os.path.realpath(base))
        if base not in self._beside or self._beside[base][0] != state:
            with overlaid(self.overlay()):
                self._beside[base] = state, layers_beside(Path(path)) or DEFAULT_CONFIG
        return self._beside[base][1]

    def value_names(self, path: str) -> Collection[str]:
        """What names the configuration has, under whatever deployment."""
        layers, state = self.layers(path), self._layers(path)
        key = f"values of {layers}"
        if key not in self._configs or self._configs[key][0] != state:
            found = None
            with overlaid(self.overlay()), suppress(RinggraphError):
                found = replace(self.setup(path), configs=layers).config()
            self._configs[key] = state, found
        config = self._configs[key][1]
        return () if config is None else config.values

    def _layers(self, path: str) -> State:
        """The contents of layers and files of ops, and the settings."""
        open_layers = tuple((real, text.value) for real, text in self.open.items() if self.kinds.get(real) == "layer")
        return open_layers, _stats((*self.layers(path), *self.setup(path).op_files)), self._settings(path)

    # --- names ---

    def interface(self, name: str, user: str) -> names.Interface | None:
        """What the graph that `user` calls `name` takes."""
        for path in (os.path.join(os.path.dirname(user), f"{name}.yaml"), str(_shipped().get(name, ""))):
            real = os.path.realpath(path)
            if path and (real in self.open or os.path.isfile(path)):
                found = self.tree(path)
                return names.interface(found[0], real) if found is not None else None
        return None

    def index(self, path: str) -> names.Index | None:
        """The names of a file."""
        text, found, real = self.text(path), self.tree(path), os.path.realpath(path)
        if text is None or found is None:
            return None
        state = self.state(path)
        kept = self._indices.get(real)
        if kept is None or kept[0] != state:
            values = self.value_names(path)
            made = names.index(found[0], text, real, values, self.interface)
            kept = self._indices[real] = state, made
        return kept[1]

    def used(self, path: str) -> dict[str, None]:
        """A graph's file and those of all graphs that it uses, by real path."""
        found, pending = {os.path.realpath(path): None}, [path]
        while pending:
            user = pending.pop()
            tree = self.tree(user)
            for name in uses(tree[0]) if tree is not None else ():
                face = self.interface(name, user)
                if face is not None and face.file not in found:
                    found[face.file] = None
                    pending.append(face.file)
        return found

    def graph_files(self) -> Iterator[str]:
        """Files of graphs that are open, lie in the workspace's folders, or beside open ones; by real path, each once."""
        seen: set[str] = set()
        beside = [Path(real).parent for real in self.open if self.is_graph(real)]
        for file in (*(Path(real) for real in self.open if self.is_graph(real)), *_below(self.folders, beside)):
            real = os.path.realpath(file)
            if real in seen:
                continue
            seen.add(real)
            text = self.text(real)
            if text is not None and _GRAPH.search(text.value):
                yield real

    # --- results ---

    def state(self, path: str) -> State:
        """What a graph's findings and program depend on."""
        files = tuple((real, text.value if (text := self.text(real)) else None) for real in self.used(path))
        return files, self._layers(path)

    def findings(self, path: str) -> list[Diagnostic]:
        """What `ringgraph lint PATH` says, with the texts that are open."""
        real, state = os.path.realpath(path), self.state(path)
        if real in self._findings and self._findings[real][0] == state:
            return self._findings[real][1]
        setup = self.setup(path)
        with overlaid(self.overlay()):
            found = self._linted(setup, path)
        _trim(self._findings)
        self._findings[real] = state, found
        return found

    def _linted(self, setup: Setup, path: str) -> list[Diagnostic]:
        from runner.rings.sizes import RingSizes

        size = self._settings(path).ring_heap
        try:
            heap = RingSizes.resolve(size, environ={}).heap if size is not None else None
            return lint(setup, [path], ring_heap=heap).findings
        except RinggraphError as error:
            found = list(error.diagnostics) or [Diagnostic("C100", error.message, hint=error.hint)]
            return [each if each.mark else replace(each, mark=Mark(path, 1)) for each in found]

    def layer_findings(self, path: str) -> list[Diagnostic]:
        """What is wrong with a layer of a configuration, alone or over the configured ones."""
        from runner.config.config import load_config

        setup = self.setup(path)
        text = self.text(path)
        given = [os.path.realpath(name) if Path(name).is_file() else name for name in setup.configs]
        real = os.path.realpath(path)
        stands_alone = text is not None and re.search(r"^(model|family|fields)\s*:", text.value, re.MULTILINE)
        layers = setup.configs if real in given else (path,) if stands_alone else (*setup.configs, path)
        with overlaid(self.overlay()):
            try:
                load_config(layers, setup.sets, setup.deploy, setup.ep)
            except RinggraphError as error:
                return [each for each in error.diagnostics if each.mark and os.path.realpath(each.mark.file) == real]
        return []

    def texts(self, path: str) -> Texts:
        """What a graph and those that it uses say, as they are open."""
        with overlaid(self.overlay()):
            return texts_of(path)

    def program(self, path: str) -> Program | RinggraphError:
        """The program of a graph as `ringgraph explain` has it, or why there is none."""
        real, state = os.path.realpath(path), self.state(path)
        if real not in self._programs or self._programs[real][0] != state:
            found: Program | RinggraphError
            with overlaid(self.overlay()):
                try:
                    found = self.setup(path).program(path, library=GraphLibrary())
                except RinggraphError as error:
                    found = error
            _trim(self._programs)
            self._programs[real] = state, found
        return self._programs[real][1]


def read_tree(text: Text) -> tuple[Node, bool]:
    """The nodes of a text by the reader of graphs, else by the tolerant one; and whether it was the first."""
    found = read_source(text.value.encode(errors="surrogatepass"), text.file, 100)
    if found.root is not None and found.root.kind == "map":
        return found.root, not found.problems
    return tolerant.read(text.lines, text.file), False


def uses(node: Node) -> Iterator[str]:
    """The names of graphs that items below a node use."""
    if node.kind == "list":
        for item in node.value:
            yield from uses(item)
    elif node.kind == "map":
        for key, value in node.value:
            if key.kind != "text":
                continue
            if key.value == "use" and value.kind == "text":
                yield value.value
            elif key.value in ("body", "then", "else", "cases", "default") or key.value.lstrip("-").isdigit():
                yield from uses(value)


@cache
def _shipped() -> Mapping[str, Path]:
    try:
        return shipped_graphs()
    except RinggraphError:
        return {}


def _below(folders: Collection[Path], beside: Collection[Path]) -> Iterator[Path]:
    """YAML files in folders and below them, and directly in those `beside`."""
    number = 0
    for folder in folders:
        for parent, inner, files in os.walk(folder):
            inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in ("node_modules", "__pycache__"))
            for name in sorted(files):
                if name.endswith((".yaml", ".yml")):
                    number += 1
                    if number > _MOST_FILES:
                        return
                    yield Path(parent, name)
    for folder in beside:
        yield from sorted(folder.glob("*.yaml"))


def _stats(files: Collection[str | Path]) -> tuple[object, ...]:
    found = []
    for file in files:
        with suppress(OSError):
            stat = os.stat(file)
            found.append((str(file), stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _trim(kept: dict) -> None:
    """Leaves room for one more; what was put in first goes first."""
    for first in list(kept)[: max(0, len(kept) - _MOST_KEPT + 1)]:
        kept.pop(first, None)
