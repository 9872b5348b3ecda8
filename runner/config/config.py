"""Configurations: layers, deployments and options resolved to the values that graphs are expanded with.

    config = load_config(["flash", "my.yaml"], sets=["ep=8", "decode.batch=4"], deploy="decode")
    config.values["T"], config.dtypes["act"]

Lowest is the base layer `graphs/config/deepseek_v4.yaml`, then the given layers in order, then the chosen deployment's
fields, then `sets`. Fields and dims may be expressions over each other; they are evaluated when all layers are combined.
Every problem of a configuration is reported at once, each with the place it came from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

from runner.base.errors import ConfigError, Diagnostic, did_you_mean
from runner.base.tensor_spec import DTYPE_BYTES
from runner.config.layers import BASE, Given, Layer, describe, properties, read_fields, read_layer, read_option
from runner.language.expressions import ExprError, parse
from runner.models.deepseek_v4.constraints import impossible


@dataclass(frozen=True)
class Config:
    """A resolved configuration.

    name     the layers' names, joined by `+`
    deploy   the chosen deployment
    fields   every field, evaluated: int, float, bool, str, list or None
    values   fields and dims: what a name in an expression stands for
    dtypes   dtype parameters (`act`, `wq`, ...) to dtype names
    """

    name: str
    deploy: str
    fields: Mapping[str, Any]
    values: Mapping[str, Any]
    dtypes: Mapping[str, str]
    _layers: tuple[Layer, ...] = field(repr=False, compare=False)
    _options: tuple[Layer, ...] = field(repr=False, compare=False)
    _asked: str | None = field(repr=False, compare=False)
    _given: Mapping[str, Given] = field(repr=False, compare=False)

    def __getitem__(self, name: str) -> Any:
        """The value of a field or dim."""
        return self.values[name]

    def with_(self, *, sets: Sequence[str] = (), deploy: str | None = None, ep: int | None = None, **fields: Any) -> Config:
        """This configuration with further options, another deployment, or fields set; raises ConfigError."""
        options, problems = _read_options(self._layers, sets, ep, fields)
        return _resolve(self._layers, (*self._options, *options), deploy or self._asked, problems)

    def __reduce__(self) -> tuple[Any, ...]:
        """For ranks in other processes: what it was resolved from."""
        return _resolve, (self._layers, self._options, self._asked, [])

    def origin(self, name: str) -> str:
        """Where a field or dim was given: `FILE:LINE`, or the option."""
        given = self._given[name]
        return given.option or (f"{given.mark.file}:{given.mark.line}" if given.mark else "")


def load_config(
    layers: Sequence[str | Path] = ("tiny",),
    sets: Sequence[str] = (),
    deploy: str | None = None,
    ep: int | None = None,
) -> Config:
    """Resolve `layers` (presets, YAML files, Hugging Face `config.json`s) and `sets` (`key=value`).

    Raises ConfigError that lists every problem found.
    """
    read: list[Layer] = []
    problems: list[Diagnostic] = []
    unreadable: list[Diagnostic] = []
    for source in (BASE, *layers):
        try:
            layer, found = read_layer(source)
        except ConfigError as error:
            unreadable += error.diagnostics
        else:
            read.append(layer)
            problems += found
    options, found = _read_options(read, sets, ep, {})
    if unreadable:
        raise ConfigError([*unreadable, *problems, *found])
    return _resolve(tuple(read), options, deploy, [*problems, *found])


def _read_options(
    layers: Sequence[Layer], sets: Sequence[str], ep: int | None, fields: Mapping[str, Any]
) -> tuple[tuple[Layer, ...], list[Diagnostic]]:
    deployments = [name for layer in layers for name in layer.deployments]
    dims = [name for layer in layers for name in layer.dims]
    read = [read_option("--set", text, deployments, dims) for text in sets]
    if ep is not None:
        read.append(read_option("--ep", f"ep={ep}", deployments, dims))
    if fields:
        read.append(read_fields(fields))
    return tuple(layer for layer, _ in read), [problem for _, found in read for problem in found]


def _resolve(layers: tuple[Layer, ...], options: tuple[Layer, ...], deploy: str | None, problems: list[Diagnostic]) -> Config:
    """Layers, the chosen deployment's fields, and options, lowest first, combined, evaluated and checked.

    `problems` are those of reading them, told together with those found here.
    """
    every = (*layers, *options)
    deployments = _deployments(every)
    chosen = deploy or _default_deployment(every)
    if chosen not in deployments:
        hint = did_you_mean(chosen, deployments) or f"deployments are {', '.join(deployments)}"
        raise ConfigError([*problems, Diagnostic("C103", f"unknown deployment '{chosen}'", hint=hint)])
    fields: dict[str, Given] = {}
    for layer in (*layers, Layer(chosen, deployments[chosen]), *options):
        fields |= layer.fields
    dims = {name: given for layer in every for name, given in layer.dims.items()}
    dtypes = {name: given for layer in every for name, given in layer.dtypes.items()}
    evaluation = _Evaluation(fields, dims)
    values = evaluation.values()
    dtype_names = evaluation.dtypes(dtypes)
    problems = problems + evaluation.problems + impossible(values, {**fields, **dims}, chosen)
    if problems or evaluation.dim_problems:
        raise ConfigError(problems or evaluation.dim_problems)
    name = "+".join(layer.name for layer in layers if layer.name != BASE) or BASE
    plain = {field: values[field] for field in fields}
    views = (MappingProxyType(mapping) for mapping in (plain, values, dtype_names))
    return Config(name, chosen, *views, _layers=layers, _options=options, _asked=deploy, _given={**dims, **fields})


def _deployments(layers: Sequence[Layer]) -> dict[str, dict[str, Given]]:
    merged: dict[str, dict[str, Given]] = {}
    for layer in layers:
        for name, fields in layer.deployments.items():
            merged.setdefault(name, {}).update(fields)
    return merged


def _default_deployment(layers: Sequence[Layer]) -> str:
    given = [layer.fields["deploy"].value for layer in layers if "deploy" in layer.fields]
    return str(given[-1]) if given else ""


class _ReportedError(Exception):
    """A value that needs another one whose problem is already reported."""


class _Evaluation:
    """Fields and dims evaluated on demand, each once.

    What goes wrong is collected in `problems`, and in `dim_problems` where a dim is not an integer: the fields that it
    follows from are more to the point, if one of them is at fault.
    """

    def __init__(self, fields: Mapping[str, Given], dims: Mapping[str, Given]):
        self.fields, self.dims = fields, dims
        self.problems: list[Diagnostic] = []
        self.dim_problems: list[Diagnostic] = []
        self._known: dict[str, Any] = {}
        self._failed: set[str] = set()
        self._open: list[str] = []

    def values(self) -> dict[str, Any]:
        """Every field and dim that has a value; missing fields are reported."""
        for name, given in self.dims.items():
            if name in properties():
                self.problems.append(given.problem("C101", f"dim '{name}' has the name of a field; set the field instead"))
        missing = [name for name, rule in properties().items() if not rule.get("x-alias") and name not in self.fields]
        if missing:
            names = ", ".join(f"'{name}'" for name in missing)
            self.problems.append(Diagnostic("C105", f"no value for {names}", hint="start from a preset, such as --config flash"))
            return {}
        for name in (*self.fields, *self.dims):
            with suppress(_ReportedError):
                self._value(name)
        return self._known

    def dtypes(self, given: Mapping[str, Given]) -> dict[str, str]:
        """Dtype parameters; each must come out as the name of a dtype."""
        result = {}
        for name, item in given.items():
            with suppress(_ReportedError):
                value = self._evaluate(f"dtype '{name}'", item, constants=DTYPE_BYTES)
                if value not in DTYPE_BYTES:
                    hint = f"dtypes are {', '.join(DTYPE_BYTES)}"
                    self.problems.append(item.problem("C103", f"dtype '{name}' is {describe(value)}, expected a dtype", hint))
                result[name] = value
        return result

    def _value(self, name: str) -> Any:
        if name in self._failed:
            raise _ReportedError
        if name not in self._known:
            try:
                self._known[name] = self._field(name) if name in self.fields else self._dim(name)
            except _ReportedError:
                self._failed.add(name)
                raise
        return self._known[name]

    def _field(self, name: str) -> Any:
        given, rule = self.fields[name], properties()[name]
        types = rule.get("type", "string")
        value = given.value
        if isinstance(value, str) and types in (["integer", "string"], ["number", "string"]):
            value = self._evaluate(f"'{name}'", given, name)
            value = float(value) if isinstance(value, Fraction) else value
        if problem := _broken_rule(name, value, rule):
            self.problems.append(given.problem(*problem))
            raise _ReportedError
        return value

    def _dim(self, name: str) -> Any:
        given = self.dims[name]
        value = self._evaluate(f"dim '{name}'", given, name) if isinstance(given.value, str) else given.value
        if not isinstance(value, int):
            shown = f"{float(value):g}" if isinstance(value, Fraction) else describe(value)
            self.dim_problems.append(given.problem("C104", f"dim '{name}' = {given.value} is {shown}, expected an integer"))
            raise _ReportedError
        return value

    def _evaluate(self, what: str, given: Given, name: str = "", constants: Collection[str] = ()) -> Any:
        """The value of the expression `given`; a name in `constants` stands for itself."""
        if name in self._open:
            circle = self._open[self._open.index(name) :]
            members = [self.fields.get(member) or self.dims[member] for member in circle]
            blamed = next((member for member in members if member.option is not None), given)
            self.problems.append(blamed.problem("C106", f"{what} needs its own value: {' -> '.join((*circle, name))}"))
            raise _ReportedError
        self._open.append(name)
        try:
            return parse(str(given.value)).evaluate(lambda other: other if other in constants else self._lookup(other))
        except ExprError as error:
            known = (*self.fields, *self.dims, *constants)
            hint = did_you_mean(error.unknown, known) if error.unknown else None
            self.problems.append(given.problem("C106", f"{what}: expression '{given.value}': {error.message}", hint))
            raise _ReportedError from None
        finally:
            self._open.pop()

    def _lookup(self, name: str) -> Any:
        if name not in self.fields and name not in self.dims:
            raise KeyError(name)
        return self._value(name)


_KINDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
    "null": "null",
}


def _broken_rule(name: str, value: Any, rule: Mapping[str, Any]) -> tuple[str, str] | None:
    """Code and message where `value` breaks a field's JSON Schema; an expression's string was evaluated before."""
    types = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if len(types) > 1 and types[1] == "string":
        types = types[:1]
    checked = {**rule, "type": types}
    error = best_match(Draft7Validator(checked).iter_errors(value))
    if error is None:
        return None
    at = name + "".join(f"[{index}]" for index in error.path)
    got, limit = describe(error.instance), error.validator_value
    if error.validator == "type":
        expected = " or ".join(_KINDS[kind] for kind in (limit if isinstance(limit, list) else [limit]))
        return "C102", f"'{at}' is {got}, expected {expected}"
    if error.validator == "enum":
        return "C103", f"'{at}' is {got}, expected {' or '.join(map(_plain, limit))}"
    bounds = {"minimum": "at least", "exclusiveMinimum": "more than"}
    return "C103", f"'{at}' is {got}, expected {bounds[str(error.validator)]} {limit}"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
