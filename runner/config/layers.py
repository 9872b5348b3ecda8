"""Layers of a configuration: sources in the fields of the family of models that they are of.

When all sources are read, `named_family` says which family that is, and `as_layer` puts a source into its fields. Nothing is
evaluated or combined here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.base.errors import Diagnostic, Mark, RinggraphError, did_you_mean
from runner.config.sources import Source
from runner.language.given import DEEP, SECTIONS, Given, describe
from runner.models import family, family_names, family_of_type, model_types
from runner.models.declared.family import ANONYMOUS, DeclaredFamily
from runner.models.declared.reading.fields import Declared
from runner.models.protocols import ModelFamily, Normalised

Rules = Mapping[str, Mapping[str, Any]]
"""Fields, each with its JSON Schema."""

DEPLOY = {"deploy": {"type": "string", "description": "deployment used where none is asked for"}}
"""The one field that every family has."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Fields, deployments, dims and dtypes of one layer, normalised to our names and not evaluated.

    `rules` are the JSON Schemas of fields that the layer declares itself, `defaults` values of those that have one.
    """

    name: str
    fields: Mapping[str, Given] = field(default_factory=dict)
    deployments: Mapping[str, Mapping[str, Given]] = field(default_factory=dict)
    dims: Mapping[str, Given] = field(default_factory=dict)
    dtypes: Mapping[str, Given] = field(default_factory=dict)
    state: Given | None = None
    rules: Rules = field(default_factory=dict)
    defaults: Mapping[str, Given] = field(default_factory=dict)


def fields_of(model: ModelFamily | None, layers: Iterable[Layer] = ()) -> Rules:
    """Every field's JSON Schema, other spellings (`x-alias`) included: those of the family, of layers, and `deploy`."""
    declared = {name: rule for layer in layers for name, rule in layer.rules.items()}
    return {**declared, **DEPLOY, **(model.fields() if model is not None else {})}


# --- which family it is ---


def declared_here(sources: Sequence[Source]) -> tuple[ModelFamily | None, Source | None, list[Diagnostic]]:
    """The family that one of the sources declares (`family: NAME`), that source, and what is wrong with that.

    None where no source declares one. A family that is found by its name too is that one.
    """
    found: dict[str, Source] = {}
    problems: list[Diagnostic] = []
    for source in sources:
        item = source.given.get("family")
        if item is None:
            continue
        if not isinstance(item.value, str) or not item.value.isidentifier() or source.is_option:
            got = "set by an option" if source.is_option else f"{describe(item.value)}, expected a name"
            problems.append(item.problem("C102", f"'family' is {got}"))
        elif found and item.value not in found:
            problems.append(item.problem("C104", f"'family' is '{item.value}', but '{next(iter(found))}' is declared already"))
        else:
            found[item.value] = source
    if not found:
        return None, None, problems
    name, source = next(iter(found.items()))
    if name in family_names():
        known = family(name)
        if Path(source.file).resolve() == Path(known.base_layer).resolve():
            return known, source, problems
    return DeclaredFamily(name, source.given, source.file), source, problems


def of_no_model(sources: Iterable[Source], options: Iterable[Source] = ()) -> ModelFamily | None:
    """What the sections of sources declare that name no family; None where they give fields that none of them declares."""
    every = [*sources]
    sections: dict[str, Given] = {}
    for source in every:
        for key, item in source.given.items():
            if key not in (*DEEP, "model_types") or source.is_whole:
                continue
            before = sections.get(key)
            both = before is not None and isinstance(before.value, dict) and isinstance(item.value, dict)
            sections[key] = replace(item, value={**before.value, **item.value}) if both else item  # type: ignore[union-attr]
    dims = {name for source in every for name in _names_in(source.given.get("dims"))}
    deployments = {name for source in every for name in _names_in(source.given.get("deployments"))}
    fields = {key for source in every for key in source.given if key not in SECTIONS}
    fields |= {key for source in options for key in source.given if key.partition(".")[0] not in (*dims, *deployments, *SECTIONS)}
    is_nothing = not fields - {"deploy"} and not any(source.is_whole for source in every)
    return DeclaredFamily(ANONYMOUS, sections) if sections or is_nothing else None


def _names_in(given: Given | None) -> Iterable[str]:
    return given.value if given is not None and isinstance(given.value, dict) else ()


def named_family(
    sources: Iterable[Source], first: ModelFamily | None = None, here: ModelFamily | None = None
) -> tuple[ModelFamily | None, list[Diagnostic]]:
    """The family that `sources` name, by `model` or a `config.json`'s `model_type`, and what is wrong with that.

    `first` is the family that lower layers name, `here` one that only these layers declare. None where nobody names one.
    """
    problems: list[Diagnostic] = []
    for source in sources:
        key = "model_type" if source.is_whole else "model"
        for name, item in source.given.items():
            if name.partition(".")[0] != key:
                continue
            try:
                found = _family_of(source, item.value if name == key else {name: item.value}, here)
            except RinggraphError as error:
                problems.append(item.problem("C102" if source.is_whole else "C103", error.message, error.hint))
                continue
            first = first or found
            if found.name != first.name:
                message = f"'{key}' is '{item.value}', but the layers below are of the family '{first.name}'"
                problems.append(item.problem("C104", message))
    return first, problems


def _family_of(source: Source, value: Any, here: ModelFamily | None) -> ModelFamily:
    """The family that a source names by `value`; raises RinggraphError."""
    if not source.is_whole:
        if not isinstance(value, str):
            raise RinggraphError(f"'model' is {describe(value)}, expected the name of a model family")
        return here if here is not None and here.name == value else family(value)
    if here is not None and value in here.model_types:
        return here
    found = family_of_type(value)
    if found is None:
        known = sorted({*model_types(), *(here.model_types if here is not None else ())})
        raise RinggraphError(f"'model_type' is '{value}', expected {' or '.join(map(repr, known))}")
    return found


# --- sources in the fields of their family ---


def declared_fields(sources: Iterable[Source], model: ModelFamily | None) -> tuple[Layer, list[Diagnostic]]:
    """The fields that layers declare beside those of their family, as one layer under them all, and what is wrong with them."""
    rules: dict[str, Mapping[str, Any]] = {}
    defaults: dict[str, Given] = {}
    problems: list[Diagnostic] = []
    own = model.fields() if model is not None else {}
    for source in sources:
        section = source.given.get("fields")
        if source.is_option or section is None:
            continue
        read = Declared(section)
        problems += read.problems
        for name, rule in read.rules.items():
            if rules.get(name, rule) != rule or own.get(name, rule) != rule:
                whose = "by a lower layer" if name in rules else f"by the family '{model.name}'" if model is not None else ""
                problems.append(section.value[name].problem("C104", f"field '{name}' is declared otherwise {whose}"))
                continue
            rules[name] = rule
            defaults |= {name: read.defaults[name]} if name in read.defaults else {}
    return Layer("", rules=rules, defaults=defaults), problems


def as_layer(
    source: Source,
    model: ModelFamily | None,
    known: Rules,
    deployments: Collection[str] = (),
    dims: Collection[str] = (),
    is_base: bool = False,
) -> tuple[Layer, list[Diagnostic]]:
    """A source in the fields of its family, `known` among them those that layers declare.

    `deployments` and `dims` are the names that an option can mean: `decode.batch=4` sets a field of a deployment, and a dim is
    set by its name. `is_base`: this is the family's own layer, or one of those that together are of no model.
    """
    problems: list[Diagnostic] = []
    given = source.given
    if source.is_option:
        given = {key: item for name, item in given.items() for key, item in _nested(name, item, deployments, dims, known).items()}
    problems += [*_misplaced(source, given, model, is_base), *op_files(source)[1]]
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


def op_files(source: Source) -> tuple[list[Path], list[Diagnostic]]:
    """The Python files of ops that a layer names (`ops:`), from its own folder, and what is wrong with that."""
    given = source.given.get("ops")
    if given is None or source.is_whole or source.is_option:
        return [], []
    names = [given.value] if isinstance(given.value, str) else given.value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return [], [given.problem("C102", f"'ops' is {describe(given.value)}, expected a Python file or a list of them")]
    return [Path(source.file).parent / name for name in names], []


def _misplaced(source: Source, given: Mapping[str, Given], model: ModelFamily | None, is_base: bool) -> list[Diagnostic]:
    """Sections that declare a family, in a source that is not its base layer."""
    found = []
    for key in (*DEEP, "family", "model_types", "preset", "ops"):
        if key not in given or source.is_whole or (key in ("fields", "state", "ops") and not source.is_option):
            continue
        if source.is_option:
            found.append(given[key].problem("C101", f"'{key}' cannot be set by an option, but by a layer"))
        elif not is_base:
            message = f"'{key}' stands in the layer that declares a family, and this one is of the family"
            hint = "--prefill-graph, --decode-graph, fields and deployments change what is served" if key == "serving" else None
            found.append(given[key].problem("C101", f"{message} '{model.name if model is not None else ''}'", hint))
    return found


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
