"""Values of a configuration's fields and dims: expressions over each other, each evaluated once and held against its rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from math import isfinite
from typing import Any

from runner.base.errors import Diagnostic, did_you_mean
from runner.base.json_schema import surely_fits
from runner.base.tensor_spec import DTYPE_BYTES
from runner.language.expressions import ExprError, parse
from runner.language.given import Given, describe


class _ReportedError(Exception):
    """A value that needs another one whose problem is already reported."""


class Evaluation:
    """Fields and dims evaluated on demand, each once.

    What goes wrong is collected in `problems`, and in `dim_problems` where a dim is not an integer: the fields that it
    follows from are more to the point, if one of them is at fault.
    """

    def __init__(
        self,
        fields: Mapping[str, Given],
        dims: Mapping[str, Given],
        rules: Mapping[str, Mapping[str, Any]],
        is_declared: bool = False,
    ):
        self.fields, self.dims, self.rules, self.is_declared = fields, dims, rules, is_declared
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
        needed = [name for name, rule in self.rules.items() if not rule.get("x-alias") and name != "deploy"]
        missing = [name for name in needed if name not in self.fields]
        if missing:
            names = ", ".join(f"'{name}'" for name in missing)
            hint = (
                "give it in a layer, or with --set NAME=VALUE"
                if self.is_declared
                else "start from a preset, such as --config flash"
            )
            self.problems.append(Diagnostic("C105", f"no value for {names}", hint=hint))
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
        value = given.value
        if isinstance(value, str) and takes_expression(rule):
            value = _as_kind(self._evaluate(f"'{name}'", given, name), rule)
        elif rule.get("x-declared") and isinstance(value, list | dict):
            value = self._list(name, given, rule)
        if problem := _broken_rule(name, value, rule):
            self.problems.append(given.problem(*problem))
            raise _ReportedError
        return value

    def _list(self, name: str, given: Given, rule: Mapping[str, Any]) -> Any:
        """A list whose entries may be expressions, or `{each: EXPRESSION, count: EXPRESSION}`, whose index is called `i`."""
        value, items = given.value, rule.get("items", {})
        if isinstance(value, dict):
            if value.keys() != {"each", "count"}:
                return value
            count = self._entry(f"'{name}': 'count'", name, replace(given, value=value["count"]), {"type": ["integer", "string"]})
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_ENTRIES:
                message = f"'{name}': 'count' is {describe(count)}, expected an integer up to {MAX_ENTRIES:,}"
                self.problems.append(given.problem("C103", message))
                raise _ReportedError
            each = replace(given, value=value["each"])
            return [self._entry(f"'{name}[{i}]'", name, each, items, i) for i in range(count)]
        numeric = takes_expression({"type": items.get("type"), "x-expression": items.get("x-expression")})
        return [
            self._entry(f"'{name}[{i}]'", name, replace(given, value=entry), items) if numeric else entry
            for i, entry in enumerate(value)
        ]

    def _entry(self, what: str, name: str, given: Given, rule: Mapping[str, Any], index: int | None = None) -> Any:
        """An entry of a list: as it is given, or what its expression comes to."""
        if not isinstance(given.value, str):
            return given.value
        return _as_kind(self._evaluate(what, given, name, index=index), rule)

    def _dim(self, name: str) -> Any:
        given = self.dims[name]
        value = self._evaluate(f"dim '{name}'", given, name) if isinstance(given.value, str) else given.value
        if not isinstance(value, int):
            shown = f"{float(value):g}" if isinstance(value, Fraction) else describe(value)
            self.dim_problems.append(given.problem("C104", f"dim '{name}' = {given.value} is {shown}, expected an integer"))
            raise _ReportedError
        return value

    def _evaluate(
        self, what: str, given: Given, name: str = "", constants: Collection[str] = (), index: int | None = None
    ) -> Any:
        """The value of the expression `given`; a name in `constants` stands for itself, `i` for the `index` if there is one."""
        if name in self._open:
            circle = self._open[self._open.index(name) :]
            members = [self.fields.get(member) or self.dims[member] for member in circle]
            blamed = next((member for member in members if member.option is not None), given)
            self.problems.append(blamed.problem("C106", f"{what} needs its own value: {' -> '.join((*circle, name))}"))
            raise _ReportedError
        self._open.append(name)
        try:
            own = {**dict.fromkeys(constants), **({"i": index} if index is not None else {})}
            return parse(str(given.value)).evaluate(lambda other: _own(own, other) if other in own else self._lookup(other))
        except ExprError as error:
            known = (*self.fields, *self.dims, *constants)
            hint = did_you_mean(error.unknown, known) if error.unknown else None
            self.problems.append(given.problem("C106", f"{what}: expression '{given.value}': {error.message}", hint))
            raise _ReportedError from None
        finally:
            self._open.pop()

    def _lookup(self, name: str) -> Any:
        if name not in self.fields and name not in self.dims:
            if name in self.rules:
                raise _ReportedError  # among those without a value
            raise KeyError(name)
        return self._value(name)


MAX_ENTRIES = 4096
"""Of a list that an expression makes: more layers than any model has."""


def _own(own: Mapping[str, Any], name: str) -> Any:
    return name if own[name] is None else own[name]


def _as_kind(value: Any, rule: Mapping[str, Any]) -> Any:
    """The value of an expression as its field has it: no fraction, and a truth value where only that will do."""
    kinds = rule.get("type")
    if value in (0, 1) and isinstance(kinds, list) and "boolean" in kinds and not {"integer", "number"} & {*kinds}:
        return bool(value)
    return float(value) if isinstance(value, Fraction) else value


_KINDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
    "null": "null",
}


_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}
_LENGTHS = {"minItems": "at least", "maxItems": "at most"}


def takes_expression(rule: Mapping[str, Any]) -> bool:
    """Whether a text in a field of this rule is an expression."""
    return bool(rule.get("x-expression")) or rule.get("type") in (["integer", "string"], ["number", "string"])


def _broken_rule(name: str, value: Any, rule: Mapping[str, Any]) -> tuple[str, str] | None:
    """Code and message where `value` breaks a field's JSON Schema; an expression's string was evaluated before."""
    if isinstance(value, float) and not isfinite(value) and not (rule.get("x-infinite") and value > 0):
        return "C103", f"'{name}' is {describe(value)}, expected a finite number"
    types = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if takes_expression(rule):
        types = [kind for kind in types if kind != "string"]
    checked = {**rule, "type": types}
    if surely_fits(value, checked, checked):
        return None
    from jsonschema import Draft7Validator
    from jsonschema.exceptions import best_match

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
    if error.validator in _LENGTHS:
        return "C103", f"'{at}' has {len(error.instance)} entries, expected {_LENGTHS[error.validator]} {limit}"
    return "C103", f"'{at}' is {got}, expected {_BOUNDS[str(error.validator)]} {limit}"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
