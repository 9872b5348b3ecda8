"""Layers of a configuration as somebody wrote them: presets, YAML files, Hugging Face `config.json`, `--set`.

A layer is read in two steps. `read_source` and `read_option` parse it into a `Source` of `Given` values, each with the place it
came from. When all sources are there, `named_family` says which family of models they are of, and `as_layer` puts a source into
the fields of that family. Nothing is evaluated or combined here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from runner.base.errors import ConfigError, Diagnostic, Mark, RinggraphError, did_you_mean
from runner.models import family, family_names, family_of_type, model_types
from runner.models.protocols import ModelFamily, Normalised

MAX_FILE_BYTES = 1 << 20
MAX_NODES = 100_000
SECTIONS = ("doc", "model", "deployments", "dims", "dtypes")
"""Keys that are no fields; every family has them."""
SECTION_DEPTHS = {"deployments": 2, "dims": 1, "dtypes": 1}


@dataclass(frozen=True, slots=True)
class Given:
    """A value as given, and where: `mark` for a file, `option` for a command line (`--set ep=3`)."""

    value: Any
    mark: Mark | None = None
    option: str | None = None
    source_line: str | None = None

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
    """

    name: str
    given: Mapping[str, Given] = field(default_factory=dict)
    is_whole: bool = False
    is_option: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """Fields, deployments, dims and dtypes of one layer, normalised to our names and not evaluated."""

    name: str
    fields: Mapping[str, Given] = field(default_factory=dict)
    deployments: Mapping[str, Mapping[str, Given]] = field(default_factory=dict)
    dims: Mapping[str, Given] = field(default_factory=dict)
    dtypes: Mapping[str, Given] = field(default_factory=dict)


def fields_of(model: ModelFamily | None) -> Mapping[str, Mapping[str, Any]]:
    """Every field's JSON Schema, other spellings (`x-alias`) included: those of the family."""
    return {} if model is None else model.fields()


def presets() -> tuple[str, ...]:
    """Names of the shipped presets; a file with the name of a family is the family's base layer, and no preset."""
    bases = family_names()
    return tuple(name for name in _shipped() if name not in bases)


def _shipped() -> list[str]:
    """Names of all shipped layers."""
    names = (Path(entry.name) for entry in files("graphs.config").iterdir() if entry.name.endswith(".yaml"))
    return sorted(path.stem for path in names)


def read_source(source: str | Path) -> tuple[Source, list[Diagnostic]]:
    """A preset by name, a YAML layer, a Hugging Face `config.json`, or a folder that holds one.

    Raises ConfigError where there is no such thing or it cannot be parsed; other problems are returned.
    """
    name, display, text, is_json = _open(source)
    problems: list[Diagnostic] = []
    given = _parse_json(text, display) if is_json else _parse_yaml(text, display, problems)
    if is_json:
        given = {key: item for key, item in given.items() if key not in SECTIONS}
    return Source(name, given, is_json), problems


def read_option(option: str, text: str) -> tuple[Source, list[Diagnostic]]:
    """`key=value` as a source of one key."""
    key, equals, value_text = text.partition("=")
    key, label = key.strip(), f"{option} {text}"
    if not equals or not key:
        return Source(label), [Diagnostic("C100", f"{label}: expected key=value")]
    try:
        value = _construct_text(value_text)
    except (yaml.YAMLError, RecursionError) as error:
        return Source(label), [Diagnostic("C100", f"{label}: not a YAML value: {_reason(error)}")]
    return Source(label, {key: Given(value, option=label)}, is_option=True), []


def fields_given(values: Mapping[str, Any]) -> Source:
    """Fields given by a caller in Python."""
    return Source("", {key: Given(value, option=f"{key}={value!r}") for key, value in values.items()})


def named_family(sources: Iterable[Source], first: ModelFamily | None = None) -> tuple[ModelFamily | None, list[Diagnostic]]:
    """The family that `sources` name, by `model` or a `config.json`'s `model_type`, and what is wrong with that.

    `first` is the family that lower layers name. None where nobody names one.
    """
    problems: list[Diagnostic] = []
    for source in sources:
        key = "model_type" if source.is_whole else "model"
        for name, item in source.given.items():
            if name.partition(".")[0] != key:
                continue
            try:
                found = _family_of(source, item.value if name == key else {name: item.value})
            except RinggraphError as error:
                problems.append(item.problem("C102" if source.is_whole else "C103", error.message, error.hint))
                continue
            first = first or found
            if found.name != first.name:
                message = f"'{key}' is '{item.value}', but the layers below are of the family '{first.name}'"
                problems.append(item.problem("C104", message))
    return first, problems


def _family_of(source: Source, value: Any) -> ModelFamily:
    """The family that a source names by `value`; raises RinggraphError."""
    if not source.is_whole:
        if not isinstance(value, str):
            raise RinggraphError(f"'model' is {describe(value)}, expected the name of a model family")
        return family(value)
    found = family_of_type(value)
    if found is None:
        raise RinggraphError(f"'model_type' is '{value}', expected {' or '.join(repr(name) for name in model_types())}")
    return found


def as_layer(
    source: Source, model: ModelFamily | None, deployments: Collection[str] = (), dims: Collection[str] = ()
) -> tuple[Layer, list[Diagnostic]]:
    """A source in the fields of its family.

    `deployments` and `dims` are the names that an option can mean: `decode.batch=4` sets a field of a deployment, and a dim is
    set by its name.
    """
    problems: list[Diagnostic] = []
    known, given = fields_of(model), source.given
    if source.is_option:
        given = {key: item for name, item in given.items() for key, item in _nested(name, item, deployments, dims, known).items()}
    plain = {key: item.value for key, item in given.items() if key not in SECTIONS}
    if model is None:
        normalised = Normalised({key: (value, key) for key, value in plain.items()})
    else:
        normalised = model.normalise(plain, whole=source.is_whole)
    nowhere = Given(None, Mark(source.name, 1))
    problems += [given.get(key, nowhere).problem("C102", message) for key, message in normalised.problems]
    fields: dict[str, Given] = {}
    for key, (value, origin) in normalised.fields.items():
        item = given.get(origin, nowhere)
        if key in known:
            fields[key] = replace(item, value=value)
        elif not source.is_whole:
            hint = did_you_mean(key, (*known, *SECTIONS, *deployments, *dims))
            problems.append(item.problem("C101", f"unknown key '{key}'", hint))
    entries = _section(given, "deployments", problems)
    named = {name: _deployment(name, item, known, problems) for name, item in entries.items()}
    return Layer(source.name, fields, named, _section(given, "dims", problems), _section(given, "dtypes", problems)), problems


def _nested(
    key: str, given: Given, deployments: Collection[str], dims: Collection[str], known: Collection[str]
) -> dict[str, Given]:
    """`key` spelled out: `decode.batch` as deployments, decode, batch; `field.key` as a mapping in a field."""
    parts = key.split(".")
    if key in dims and key not in known:
        parts = ["dims", key]
    elif len(parts) > 1 and parts[0] in deployments:
        parts = ["deployments", *parts]
    in_section = parts[0] in SECTIONS
    value: Any = given.value
    for part in reversed(parts[1:]):
        value = {part: replace(given, value=value) if in_section else value}
    return {parts[0]: replace(given, value=value)}


def _section(given: Mapping[str, Given], key: str, problems: list[Diagnostic]) -> dict[str, Given]:
    item = given.get(key)
    if item is None or item.value is None:
        return {}
    if not isinstance(item.value, dict):
        problems.append(item.problem("C102", f"'{key}' is {describe(item.value)}, expected a mapping"))
        return {}
    entries = _entries(item)
    bad = [entry for entry in entries if not entry.isidentifier() and key == "dims"]
    problems += [entries[entry].problem("C101", f"'{entry}' is not a name that expressions can use") for entry in bad]
    return {entry: value for entry, value in entries.items() if entry not in bad}


def _entries(item: Given) -> dict[str, Given]:
    """What a mapping holds; a whole mapping given as an option has one place."""
    return {key: value if isinstance(value, Given) else replace(item, value=value) for key, value in item.value.items()}


def _deployment(name: str, item: Given, known: Collection[str], problems: list[Diagnostic]) -> dict[str, Given]:
    if not isinstance(item.value, dict):
        problems.append(item.problem("C102", f"deployment '{name}' is {describe(item.value)}, expected a mapping"))
        return {}
    fields = {}
    for key, value in _entries(item).items():
        if key in known:
            fields[key] = value
        else:
            problems.append(value.problem("C101", f"deployment '{name}': unknown key '{key}'", did_you_mean(key, known)))
    return fields


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
        hint = did_you_mean(str(source), presets()) or f"presets are {', '.join(presets())}"
        raise ConfigError(Diagnostic("C100", f"configuration '{source}': no such preset or file", hint=hint))
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(Diagnostic("C100", f"configuration '{source}' has more than {MAX_FILE_BYTES:,} bytes"))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(Diagnostic("C100", f"configuration '{source}' cannot be read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(Diagnostic("C100", f"configuration '{source}' is not UTF-8 text (byte {error.start})")) from error
    name = path.parent.name if path.name == "config.json" else path.stem
    return name, _shown(path), text, path.suffix == ".json"


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _parse_json(text: str, file: str) -> dict[str, Given]:
    try:
        value = json.loads(text)
    except RecursionError:
        raise ConfigError(Diagnostic("C100", "is nested too deeply", Mark(file, 1))) from None
    except json.JSONDecodeError as error:
        raise ConfigError(Diagnostic("C100", f"not JSON: {error.msg}", Mark(file, error.lineno, error.colno))) from error
    if not isinstance(value, dict):
        raise ConfigError(Diagnostic("C100", f"is {describe(value)}, expected an object", Mark(file, 1)))
    lines = text.splitlines()
    return {key: _json_given(key, item, lines, file) for key, item in value.items()}


def _json_given(key: str, value: Any, lines: list[str], file: str) -> Given:
    pattern = re.compile(re.escape(json.dumps(key)) + r"\s*:")
    for number, line in enumerate(lines, 1):
        if found := pattern.search(line):
            return Given(value, Mark(file, number, found.start() + 1), source_line=line)
    return Given(value, Mark(file, 1))


def _parse_yaml(text: str, file: str, problems: list[Diagnostic]) -> dict[str, Given]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(_yaml_problem(error, file, text)) from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(Diagnostic("C100", "is not a mapping of keys to values", _mark(root, file)))
    return _Constructor(file, text.splitlines(), problems).layer(root)


def _yaml_problem(error: Exception, file: str, text: str) -> Diagnostic:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Diagnostic("C100", f"not YAML: {_reason(error)}", Mark(file, 1))
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else None
    return Diagnostic("C100", f"not YAML: {_reason(error)}", Mark(file, mark.line + 1, mark.column + 1), source_line=line)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n")[0]


def _mark(node: yaml.Node, file: str) -> Mark:
    return Mark(file, node.start_mark.line + 1, node.start_mark.column + 1)


_INTEGER = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL = {"": None, "~": None, "null": None, "true": True, "false": False, ".inf": float("inf"), ".nan": float("nan")}


def _scalar(node: yaml.ScalarNode) -> Any:
    """By the YAML 1.2 core schema: `1e-6` is a number and `on` a string, unlike in YAML 1.1."""
    text = node.value
    if node.style is not None:
        return text
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    if _INTEGER.match(text):
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    return float(text) if _FLOAT.match(text) else text


class _Constructor:
    """Nodes to values. A layer's fields, and what its sections hold, are `Given` with their places."""

    def __init__(self, file: str, lines: list[str], problems: list[Diagnostic]):
        self.file, self.lines, self.problems, self.count = file, lines, problems, 0

    def layer(self, node: yaml.MappingNode) -> dict[str, Given]:
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
        if isinstance(node, yaml.MappingNode):
            if depth:
                return self._givens(node, {}, depth - 1)
            return {str(key.value): self.value(item) for key, item in node.value}
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item) for item in node.value]
        assert isinstance(node, yaml.ScalarNode)
        return _scalar(node)


def _construct_text(text: str) -> Any:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return None if node is None else _Constructor("", [], []).value(node)
