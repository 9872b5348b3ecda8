"""Sources of a configuration as somebody wrote them: presets, YAML files, Hugging Face `config.json`, options.

They are parsed into `Given` values, each with the place it came from. What the keys mean is not known here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from runner.base.errors import ConfigError, Diagnostic, Mark, did_you_mean
from runner.base.reading import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_INTEGER,
    NotJsonError,
    key_places,
    number_problem,
    parse_json,
    shortened,
)
from runner.language.yaml_source import YAML_ERRORS, compose, yaml_reason
from runner.models import family, family_names

MAX_FILE_BYTES = 1 << 20
MAX_NODES = 100_000
SECTIONS = ("doc", "model", "deployments", "dims", "dtypes", "state")
"""Keys that are no fields; every family has them."""
GENERATION = "generation_config.json"
"""The file beside a `config.json` that says how to generate."""
BESIDE = GENERATION + ": "
"""What the keys of that file begin with in a source."""
FLAVOUR = "safetensors: flavour"
"""The key of what the tensors beside a `config.json` are stored as."""
SECTION_DEPTHS = {"deployments": 2, "dims": 1, "dtypes": 1, "state": 3}


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

    def problem(self, code: str, message: str, hint: str | None = None) -> Diagnostic:
        """A diagnostic at this value's place."""
        if self.option is not None:
            message = f"{message} (from {self.option})"
        return Diagnostic(code, message, self.mark, hint=hint, source_line=self.source_line)


@dataclass(frozen=True, slots=True)
class Source:
    """A layer as it is written: keys to values.

    is_whole   a complete `config.json`, which has other tools' fields and defaults
    is_option  one `key=value`, whose key may have dots
    file       what is told as the place of what the file leaves out
    """

    name: str
    given: Mapping[str, Given] = field(default_factory=dict)
    is_whole: bool = False
    is_option: bool = False
    file: str = ""


def presets() -> tuple[str, ...]:
    """Names of the shipped presets; a file with the name of a family is the family's base layer, and no preset."""
    bases = family_names()
    return tuple(name for name in _shipped() if name not in bases)


def _shipped() -> list[str]:
    """Names of all shipped layers."""
    names = (Path(entry.name) for entry in files("graphs.config").iterdir() if entry.name.endswith(".yaml"))
    return sorted(path.stem for path in names)


def read_source(source: str | Path) -> tuple[Source, list[Diagnostic]]:
    """A preset by name, a family by name (its base layer), a YAML file, a Hugging Face `config.json`, or a folder that holds one.

    Raises ConfigError where there is no such thing or it cannot be parsed; other problems are returned.
    """
    name, display, text, is_json = _open(source)
    problems: list[Diagnostic] = []
    given = _parse_json(text, display) if is_json else _parse_yaml(text, display, problems)
    if is_json:
        given = {key: item for key, item in given.items() if key not in SECTIONS} | _generation_beside(Path(source))
    return Source(name, given, is_json, file=display), problems


def read_option(option: str, text: str) -> tuple[Source, list[Diagnostic]]:
    """`key=value` as a source of one key."""
    key, equals, value_text = text.partition("=")
    key, label = key.strip(), f"{option} {text}"
    if not equals or not key:
        return Source(label), [Diagnostic("C100", f"{label}: expected key=value")]
    try:
        value = _construct_text(value_text)
    except ConfigError as error:
        return Source(label), [Diagnostic("C100", f"{label}: {error.diagnostics[0].message}")]
    except YAML_ERRORS as error:
        return Source(label), [Diagnostic("C100", f"{label}: not a YAML value: {yaml_reason(error)}")]
    return Source(label, {key: Given(value, option=label)}, is_option=True), []


def fields_given(values: Mapping[str, Any]) -> Source:
    """Fields given by a caller in Python."""
    return Source("", {key: Given(value, option=f"{key}={value!r}") for key, value in values.items()})


def describe(value: Any) -> str:
    """A value and its YAML type, for messages."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a mapping"}
    kind = kinds.get(type(value), type(value).__name__)
    if isinstance(value, bool):
        return f"{str(value).lower()} ({kind})"
    return kind if isinstance(value, dict | list) else f"{value!r} ({kind})"


# Reading files


def _open(source: str | Path) -> tuple[str, str, str, bool]:
    """Name, path as shown, text, and whether it is JSON."""
    if isinstance(source, str) and source in _shipped():
        entry = files("graphs.config").joinpath(f"{source}.yaml")
        return source, _shown(Path(str(entry))), entry.read_text(encoding="utf-8"), False
    path = Path(source)
    if path.is_dir() and (path / "config.json").is_file():
        path = path / "config.json"
    if not path.is_file():
        if source in family_names() and (base := family(str(source)).base_layer) != source:
            return _open(base)
        hint = did_you_mean(str(source), (*presets(), *family_names())) or f"presets are {', '.join(presets())}"
        raise ConfigError(Diagnostic("C100", f"configuration '{source}': no such preset or file", hint=hint))
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(Diagnostic("C100", f"configuration '{source}' has more than {MAX_FILE_BYTES:,} bytes"))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(Diagnostic("C100", f"configuration '{source}' cannot be read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(Diagnostic("C100", f"configuration '{source}' is not UTF-8 text (byte {error.start})")) from error
    folder = Path(os.path.abspath(path)).parent.name  # of `.` too
    name = folder if folder and path.name == "config.json" else path.stem
    return name, _shown(path), text, path.suffix == ".json"


def _generation_beside(path: Path) -> dict[str, Given]:
    """What the `generation_config.json` beside a checkpoint's `config.json` holds; empty without one."""
    folder = path if path.is_dir() else path.parent
    beside = folder / GENERATION
    if (not path.is_dir() and path.name != "config.json") or not beside.is_file():
        return {}
    _, display, text, _ = _open(beside)
    return {BESIDE + key: item for key, item in _parse_json(text, display).items()}


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _parse_json(text: str, file: str) -> dict[str, Given]:
    try:
        value = parse_json(text, any_number=True)
    except NotJsonError as error:
        raise ConfigError(Diagnostic("C100", error.reason, Mark(file, error.line, error.column))) from error
    if not isinstance(value, dict):
        raise ConfigError(Diagnostic("C100", f"is {describe(value)}, expected an object", Mark(file, 1)))
    lines, places = text.split("\n"), key_places(text)
    marks = {key: Mark(file, *places[key]) for key in value}
    return {key: Given(item, marks[key], source_line=lines[marks[key].line - 1]) for key, item in value.items()}


def _parse_yaml(text: str, file: str, problems: list[Diagnostic]) -> dict[str, Given]:
    try:
        root = compose(text)
    except YAML_ERRORS as error:
        raise ConfigError(_yaml_problem(error, file, text)) from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(Diagnostic("C100", "is not a mapping of keys to values", _mark(root, file)))
    return _Constructor(file, text.splitlines(), problems).layer(root)


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

    def _givens(self, node: yaml.MappingNode, depths: Mapping[str, int], depth: int = 0) -> dict[str, Given]:
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

    def value(self, node: yaml.Node, depth: int = 0) -> Any:
        """Plain values; with `depth`, a mapping of that many levels of `Given`."""
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigError(Diagnostic("C100", f"has more than {MAX_NODES:,} values", _mark(node, self.file)))
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, self.file)
        self.enter(node)
        made = self._collection(node, depth)
        self.open.pop()
        return made

    def enter(self, node: yaml.Node) -> None:
        """Raises ConfigError where an alias stands inside of its own anchor, and for deep nesting."""
        if node in self.open:
            raise ConfigError(Diagnostic("C100", "a value holds itself through an alias", _mark(node, self.file)))
        if len(self.open) >= MAX_DEPTH:
            raise ConfigError(Diagnostic("C100", f"nested too deeply (more than {MAX_DEPTH} levels)", _mark(node, self.file)))
        self.open.append(node)

    def _collection(self, node: yaml.Node, depth: int) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item) for item in node.value]
        assert isinstance(node, yaml.MappingNode)
        if depth:
            return self._givens(node, {}, depth - 1)
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(Diagnostic("C100", "a key must be a plain name", _mark(key, self.file)))
        return {key.value: self.value(item) for key, item in node.value}


def _construct_text(text: str) -> Any:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return None if node is None else _Constructor("", [], []).value(node)
