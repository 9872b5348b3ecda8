"""Layers of a configuration as YAML has them: every value with its place. What the keys mean is not known here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any

import yaml

from runner.base.errors import ConfigError, Diagnostic, Mark
from runner.base.reading import MAX_DEPTH, MAX_DIGITS, MAX_INTEGER, number_problem, shortened
from runner.language.yaml_source import YAML_ERRORS, compose, yaml_reason

MAX_NODES = 100_000
MAX_KEPT = 1 << 16
"""Characters of a layer that is kept once it is read."""
DEEP = ("fields", "requires", "hugging_face", "checkpoint", "state", "serving")
"""Sections that declare a family. All that they hold is `Given`: the entries of mappings and of lists, however deep."""
SECTIONS = ("doc", "model", "family", "model_types", "preset", "ops", "deployments", "dims", "dtypes", *DEEP)
"""Keys that are no fields; every family has them."""
SECTION_DEPTHS: Mapping[str, float] = {"deployments": 2, "dims": 1, "dtypes": 1, **dict.fromkeys(DEEP, inf)}
"""Levels of mappings whose entries are `Given`."""
GENERATION = "generation_config.json"
"""The file beside a `config.json` that says how to generate."""
BESIDE = GENERATION + ": "
"""What the keys of that file begin with in a source; alone, it says that the file is there."""
FLAVOUR = "safetensors: flavour"
"""The key of what the tensors beside a `config.json` are stored as."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value as given, and where: `mark` for a file, `option` for a command line (`--set ep=3`).

    `is_default`: the file at `mark` leaves it out, so it has the value that other tools take then.
    """

    value: Any
    mark: Mark | None = None
    option: str | None = None
    source_line: str | None = None
    is_default: bool = False

    @property
    def plain(self) -> Any:
        """The value without the places of what it holds."""
        return _plain(self.value)

    def problem(self, code: str, message: str, hint: str | None = None) -> Diagnostic:
        """A diagnostic at this value's place."""
        if self.option is not None:
            message = f"{message} (from {self.option})"
        return Diagnostic(code, message, self.mark, hint=hint, source_line=self.source_line)


def _plain(value: Any) -> Any:
    if isinstance(value, Given):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def describe(value: Any) -> str:
    """A value and its YAML type, for messages."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a mapping"}
    kind = kinds.get(type(value), type(value).__name__)
    if isinstance(value, bool):
        return f"{str(value).lower()} ({kind})"
    return kind if isinstance(value, dict | list) else f"{value!r} ({kind})"


def read_layer(text: str, file: str, problems: list[Diagnostic]) -> dict[str, Given]:
    """The keys of a layer in YAML; raises ConfigError where it cannot be read, and appends other problems.

    What a value holds is shared by all who read the same text, and not to be changed.
    """
    given, found = (_read_again if len(text) <= MAX_KEPT else _read)(text, file)
    problems += found
    return dict(given)


def _read(text: str, file: str) -> tuple[Mapping[str, Given], Sequence[Diagnostic]]:
    try:
        root = compose(text)
    except YAML_ERRORS as error:
        raise ConfigError(_yaml_problem(error, file, text)) from error
    if root is None:
        return {}, ()
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(Diagnostic("C100", "is not a mapping of keys to values", _mark(root, file)))
    constructor = _Constructor(file, text.splitlines(), [])
    return constructor.layer(root), constructor.problems


_read_again = lru_cache(maxsize=32)(_read)
"""The same: presets and layers of families are read again and again, and take longer than all else of a configuration."""


def _yaml_problem(error: Exception, file: str, text: str) -> Diagnostic:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Diagnostic("C100", f"not YAML: {yaml_reason(error)}", Mark(file, 1))
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else None
    return Diagnostic("C100", f"not YAML: {yaml_reason(error)}", Mark(file, mark.line + 1, mark.column + 1), source_line=line)


def _mark(node: yaml.Node, file: str) -> Mark:
    return Mark(file, node.start_mark.line + 1, node.start_mark.column + 1)


_INTEGER = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL = {"": None, "~": None, "null": None, "true": True, "false": False, ".nan": float("nan")}
_SPECIAL |= {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf")}


def _scalar(node: yaml.ScalarNode, file: str) -> Any:
    """By the YAML 1.2 core schema: `1e-6` is a number and `on` a string, unlike in YAML 1.1. Raises ConfigError."""
    text = node.value
    if node.style not in (None, ""):  # libyaml gives a plain scalar the latter
        return text
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    is_integer = _INTEGER.match(text)
    if not is_integer and not _FLOAT.match(text):
        return text
    if not is_integer:
        value = float(text)
    elif len(text) > MAX_DIGITS:
        value = MAX_INTEGER + 1
    else:
        value = int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if problem := number_problem(value):
        raise ConfigError(Diagnostic("C100", f"{shortened(text)} is {problem}", _mark(node, file)))
    return value


class _Constructor:
    """Nodes to values. A layer's fields, and what its sections hold, are `Given` with their places."""

    def __init__(self, file: str, lines: list[str], problems: list[Diagnostic]):
        self.file, self.lines, self.problems, self.count = file, lines, problems, 0
        self.open: list[yaml.Node] = []  # collections that the one being made lies in

    def layer(self, node: yaml.MappingNode) -> dict[str, Given]:
        self.enter(node)
        return self._givens(node, SECTION_DEPTHS)

    def _givens(self, node: yaml.MappingNode, depths: Mapping[str, float], depth: float = 0) -> dict[str, Given]:
        result: dict[str, Given] = {}
        for key_node, value_node in node.value:
            mark = _mark(key_node, self.file)
            line = self.lines[mark.line - 1] if mark.line <= len(self.lines) else None
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key in result:
                what = "a key must be a plain name" if key is None else f"key '{key}' is given twice"
                self.problems.append(Diagnostic("C100", what, mark, source_line=line))
                continue
            result[key] = Given(self.value(value_node, depths.get(key, depth)), mark, source_line=line)
        return result

    def value(self, node: yaml.Node, depth: float = 0) -> Any:
        """Plain values; with `depth`, a mapping of that many levels of `Given` (`inf`: and lists too)."""
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigError(Diagnostic("C100", f"has more than {MAX_NODES:,} values", _mark(node, self.file)))
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, self.file)
        self.enter(node)
        made = self._collection(node, depth)
        self.open.pop()
        return made

    def _item(self, node: yaml.Node) -> Given:
        """An entry of a list in a section that declares."""
        mark = _mark(node, self.file)
        line = self.lines[mark.line - 1] if mark.line <= len(self.lines) else None
        return Given(self.value(node, inf), mark, source_line=line)

    def enter(self, node: yaml.Node) -> None:
        """Raises ConfigError where an alias stands inside of its own anchor, and for deep nesting."""
        if node in self.open:
            raise ConfigError(Diagnostic("C100", "a value holds itself through an alias", _mark(node, self.file)))
        if len(self.open) >= MAX_DEPTH:
            raise ConfigError(Diagnostic("C100", f"nested too deeply (more than {MAX_DEPTH} levels)", _mark(node, self.file)))
        self.open.append(node)

    def _collection(self, node: yaml.Node, depth: float) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item) if depth == inf else self.value(item) for item in node.value]
        assert isinstance(node, yaml.MappingNode)
        if depth:
            return self._givens(node, {}, depth - 1)
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(Diagnostic("C100", "a key must be a plain name", _mark(key, self.file)))
        return {key.value: self.value(item) for key, item in node.value}


def read_value(text: str) -> Any:
    """The value of a YAML text on a command line; raises ConfigError, or one of `YAML_ERRORS`."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return None if node is None else _Constructor("", [], []).value(node)
