"""Sources of a configuration as somebody wrote them: presets, YAML files, Hugging Face `config.json`, options.

They are parsed into `Given` values, each with the place it came from. What the keys mean is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError, Diagnostic, Mark, did_you_mean
from runner.base.reading import NotJsonError, file_bytes, is_file, key_places, parse_json
from runner.language.given import BESIDE, GENERATION, SECTIONS, Given, describe, read_layer, read_value
from runner.language.yaml_source import YAML_ERRORS, yaml_reason
from runner.models import family, family_names

MAX_FILE_BYTES = 1 << 20


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
    given = _parse_json(text, display) if is_json else read_layer(text, display, problems)
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
        value = read_value(value_text)
    except ConfigError as error:
        return Source(label), [Diagnostic("C100", f"{label}: {error.diagnostics[0].message}")]
    except YAML_ERRORS as error:
        return Source(label), [Diagnostic("C100", f"{label}: not a YAML value: {yaml_reason(error)}")]
    return Source(label, {key: Given(value, option=label)}, is_option=True), []


def fields_given(values: Mapping[str, Any]) -> Source:
    """Fields given by a caller in Python."""
    return Source("", {key: Given(value, option=f"{key}={value!r}") for key, value in values.items()})


# Reading files


def _open(source: str | Path) -> tuple[str, str, str, bool]:
    """Name, path as shown, text, and whether it is JSON."""
    if isinstance(source, str) and source in _shipped():
        entry = files("graphs.config").joinpath(f"{source}.yaml")
        return source, _shown(Path(str(entry))), _decoded(file_bytes(Path(str(entry)))), False
    path = Path(source)
    if path.is_dir() and (path / "config.json").is_file():
        path = path / "config.json"
    if not is_file(path):
        if source in family_names() and (base := family(str(source)).base_layer) != source:
            return _open(base)
        hint = did_you_mean(str(source), (*presets(), *family_names())) or f"presets are {', '.join(presets())}"
        raise ConfigError(Diagnostic("C100", f"configuration '{source}': no such preset or file", hint=hint))
    try:
        data = file_bytes(path, MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(Diagnostic("C100", f"configuration '{source}' has more than {MAX_FILE_BYTES:,} bytes"))
        text = _decoded(data)
    except OSError as error:
        raise ConfigError(Diagnostic("C100", f"configuration '{source}' cannot be read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(Diagnostic("C100", f"configuration '{source}' is not UTF-8 text (byte {error.start})")) from error
    folder = Path(os.path.abspath(path)).parent.name  # of `.` too
    name = folder if folder and path.name == "config.json" else path.stem
    return name, _shown(path), text, path.suffix == ".json"


def _decoded(data: bytes) -> str:
    """UTF-8 text with the line breaks of Python's text files."""
    return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def _generation_beside(path: Path) -> dict[str, Given]:
    """What the `generation_config.json` beside a checkpoint's `config.json` holds; empty without one."""
    folder = path if path.is_dir() else path.parent
    beside = folder / GENERATION
    if (not path.is_dir() and path.name != "config.json") or not beside.is_file():
        return {}
    _, display, text, _ = _open(beside)
    there = Given(None, Mark(display, 1, 1), is_default=True)  # under the bare prefix: what the file leaves out is null
    return {BESIDE: there} | {BESIDE + key: item for key, item in _parse_json(text, display).items()}


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
