"""Layers of a configuration: sources in the fields of the family of models that they are of.

When all sources are read, `named_family` says which family that is, and `as_layer` puts a source into its fields. Nothing is
evaluated or combined here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runner.base.errors import Diagnostic, Mark, RinggraphError, did_you_mean
from runner.config.sources import SECTIONS, Given, Source, describe
from runner.models import family, family_of_type, model_types
from runner.models.protocols import ModelFamily, Normalised

DEPLOY = {"deploy": {"type": "string", "description": "deployment used where none is asked for"}}
"""The one field that every family has."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Fields, deployments, dims and dtypes of one layer, normalised to our names and not evaluated."""

    name: str
    fields: Mapping[str, Given] = field(default_factory=dict)
    deployments: Mapping[str, Mapping[str, Given]] = field(default_factory=dict)
    dims: Mapping[str, Given] = field(default_factory=dict)
    dtypes: Mapping[str, Given] = field(default_factory=dict)
    state: Given | None = None


def fields_of(model: ModelFamily | None) -> Mapping[str, Mapping[str, Any]]:
    """Every field's JSON Schema, other spellings (`x-alias`) included: those of the family, and `deploy`."""
    return {} if model is None else {**DEPLOY, **model.fields()}


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
    nowhere = Given(None, Mark(source.file or source.name, 1))
    problems += [given.get(key, nowhere).problem("C102", message) for key, message in normalised.problems]
    fields: dict[str, Given] = {}
    for key, (value, origin) in normalised.fields.items():
        item = given.get(origin) or replace(nowhere, is_default=True)
        if key in known:
            fields[key] = replace(item, value=value)
        elif not source.is_whole:
            hint = did_you_mean(key, (*known, *SECTIONS, *deployments, *dims))
            problems.append(item.problem("C101", f"unknown key '{key}'", hint))
    entries = _section(given, "deployments", problems)
    named = {name: _deployment(name, item, known, problems) for name, item in entries.items()}
    dims_given, dtypes = _section(given, "dims", problems), _section(given, "dtypes", problems)
    return Layer(source.name, fields, named, dims_given, dtypes, given.get("state")), problems


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
