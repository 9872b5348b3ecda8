"""Configurations: layers, deployments and options resolved to the values that graphs are expanded with.

    config = load_config(["flash", "my.yaml"], sets=["ep=8", "decode.batch=4"], deploy="decode")
    config.values["T"], config.dtypes["act"]

Layers name the family of models that they are of (`model: NAME`, or a `config.json`'s `model_type`), and the family says which
fields there are. Lowest is the family's base layer, then the given layers in order, then the chosen deployment's fields, then
`sets`. Fields and dims may be expressions over each other; they are evaluated when all layers are combined.
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

from runner.base.errors import ConfigError, Diagnostic, Mark, did_you_mean
from runner.base.tensor_spec import DTYPE_BYTES
from runner.config.layers import (
    Given,
    Layer,
    Source,
    as_layer,
    describe,
    fields_given,
    fields_of,
    named_family,
    read_option,
    read_source,
)
from runner.language.expressions import ExprError, parse
from runner.models import family
from runner.models.protocols import ModelFamily

NO_MODEL = Diagnostic(
    "C105",
    "no layer says which model this is",
    hint="start from a preset, such as --config flash, or give a layer 'model: FAMILY'",
)


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
    _model: str = field(repr=False)
    _layers: tuple[Layer, ...] = field(repr=False, compare=False)
    _options: tuple[Layer, ...] = field(repr=False, compare=False)
    _asked: str | None = field(repr=False, compare=False)
    _given: Mapping[str, Given] = field(repr=False, compare=False)

    def __getitem__(self, name: str) -> Any:
        """The value of a field or dim."""
        return self.values[name]

    @property
    def family(self) -> ModelFamily:
        """The family of models that it configures."""
        return family(self._model)

    def with_(self, *, sets: Sequence[str] = (), deploy: str | None = None, ep: int | None = None, **fields: Any) -> Config:
        """This configuration with further options, another deployment, or fields set; raises ConfigError."""
        sources, problems = _read_options(sets, ep, fields)
        model, found = named_family(sources, self.family)
        if found:
            raise ConfigError([*problems, *found])
        options, found = _option_layers(sources, model, self._layers)
        return _resolve(self._model, self._layers, (*self._options, *options), deploy or self._asked, [*problems, *found])

    def __reduce__(self) -> tuple[Any, ...]:
        """For ranks in other processes: what it was resolved from."""
        return _resolve, (self._model, self._layers, self._options, self._asked, [])

    def origin(self, name: str) -> str:
        """Where a field or dim was given: `FILE:LINE`, or the option."""
        given = self._given[name]
        return given.option or (f"{given.mark.file}:{given.mark.line}" if given.mark else "")


def load_config(
    layers: Sequence[str | Path] = ("tiny",),
    sets: Sequence[str] = (),
    deploy: str | None = None,
    ep: int | None = None,
    *,
    deploy_mark: Mark | None = None,
) -> Config:
    """Resolve `layers` (presets, YAML files, Hugging Face `config.json`s) and `sets` (`key=value`).

    `deploy_mark` is where `deploy` is written, for the message about one that does not exist.

    Raises ConfigError that lists every problem found.
    """
    sources: list[Source] = []
    problems: list[Diagnostic] = []
    unreadable: list[Diagnostic] = []
    for name in layers:
        _read_into(name, sources, problems, unreadable)
    given, found = _read_options(sets, ep, {})
    model, not_one = named_family([*sources, *given])
    if model is None and not (unreadable or not_one):
        not_one = [NO_MODEL]
    if model is None or not_one:
        raise ConfigError([*unreadable, *problems, *found, *not_one])
    _read_into(model.base_layer, base := [], problems, unreadable)
    problems += named_family(base, model)[1]
    read = [as_layer(source, model) for source in (*base, *sources)]
    options, wrong = _option_layers(given, model, [layer for layer, _ in read])
    problems += [*(problem for _, found in read for problem in found), *found, *wrong]
    if unreadable:
        raise ConfigError([*unreadable, *problems])
    return _resolve(model.name, tuple(layer for layer, _ in read), options, deploy, problems, deploy_mark)


def _read_into(name: str | Path, sources: list[Source], problems: list[Diagnostic], unreadable: list[Diagnostic]) -> None:
    """Appends a layer's source, or why there is none."""
    try:
        source, found = read_source(name)
    except ConfigError as error:
        unreadable += error.diagnostics
    else:
        sources.append(source)
        problems += found


def _read_options(sets: Sequence[str], ep: int | None, fields: Mapping[str, Any]) -> tuple[list[Source], list[Diagnostic]]:
    """Options as sources."""
    read = [read_option("--set", text) for text in sets]
    if ep is not None:
        read.append(read_option("--ep", f"ep={ep}"))
    sources = [source for source, _ in read]
    if fields:
        sources.append(fields_given(fields))
    return sources, [problem for _, found in read for problem in found]


def _option_layers(
    sources: Sequence[Source], model: ModelFamily | None, layers: Sequence[Layer]
) -> tuple[tuple[Layer, ...], list[Diagnostic]]:
    """Options in the fields of the family, with the deployments and dims of `layers` to choose from."""
    deployments = [name for layer in layers for name in layer.deployments]
    dims = [name for layer in layers for name in layer.dims]
    read = [as_layer(source, model, deployments, dims) for source in sources]
    return tuple(layer for layer, _ in read), [problem for _, found in read for problem in found]


def _resolve(
    model: str,
    layers: tuple[Layer, ...],
    options: tuple[Layer, ...],
    deploy: str | None,
    problems: list[Diagnostic],
    deploy_mark: Mark | None = None,
) -> Config:
    """Layers, the family's base first, the chosen deployment's fields, and options, combined, evaluated and checked.

    `problems` are those of reading them, told together with those found here.
    """
    every = (*layers, *options)
    deployments = _deployments(every)
    chosen = deploy or _default_deployment(every)
    if chosen not in deployments:
        hint = did_you_mean(chosen, deployments) or f"deployments are {', '.join(deployments)}"
        raise ConfigError([*problems, Diagnostic("C103", f"unknown deployment '{chosen}'", deploy_mark, hint=hint)])
    fields: dict[str, Given] = {}
    for layer in (*layers, Layer(chosen, deployments[chosen]), *options):
        fields |= layer.fields
    dims = {name: given for layer in every for name, given in layer.dims.items()}
    dtypes = {name: given for layer in every for name, given in layer.dtypes.items()}
    of = family(model)
    evaluation = _Evaluation(fields, dims, fields_of(of))
    values = evaluation.values()
    dtype_names = evaluation.dtypes(dtypes)
    problems = problems + evaluation.problems + of.impossible(values, {**fields, **dims}, chosen)
    if problems or evaluation.dim_problems:
        raise ConfigError(problems or evaluation.dim_problems)
    base, *above = (layer.name for layer in layers)
    name = "+".join(name for name in above if name != base) or base
    plain = {field: values[field] for field in fields}
    views = (MappingProxyType(mapping) for mapping in (plain, values, dtype_names))
    return Config(name, chosen, *views, _model=model, _layers=layers, _options=options, _asked=deploy, _given={**dims, **fields})


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

    def __init__(self, fields: Mapping[str, Given], dims: Mapping[str, Given], rules: Mapping[str, Mapping[str, Any]]):
        self.fields, self.dims, self.rules = fields, dims, rules
        self.problems: list[Diagnostic] = []
        self.dim_problems: list[Diagnostic] = []
        self._known: dict[str, Any] = {}
        self._failed: set[str] = set()
        self._open: list[str] = []

    def values(self) -> dict[str, Any]:
        """Every field and dim that has a value; missing fields are reported."""
        for name, given in self.dims.items():
            if name in self.rules:
                self.problems.append(given.problem("C101", f"dim '{name}' has the name of a field; set the field instead"))
        missing = [name for name, rule in self.rules.items() if not rule.get("x-alias") and name not in self.fields]
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
        given, rule = self.fields[name], self.rules[name]
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
