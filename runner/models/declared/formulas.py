"""Expressions of a family's declarations, each with the place that it came from; and readers of what declarations hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from runner.base.errors import ConfigError, Diagnostic, did_you_mean
from runner.language.expressions import Expr, ExprError, parse
from runner.language.given import Given, describe

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Formula:
    """An expression over fields, dims and loops; `what` names it in messages."""

    expr: Expr
    given: Given
    what: str

    @property
    def names(self) -> frozenset[str]:
        """All names that it needs a value for."""
        return self.expr.names()

    def value(self, values: Values) -> Any:
        """Its value, floats for fractions; raises ConfigError."""
        try:
            found = self.expr.evaluate(values.__getitem__)
        except ExprError as error:
            raise ConfigError(self._problem(error, values)) from None
        return float(found) if isinstance(found, Fraction) else found

    def integer(self, values: Values, least: int = 0) -> int:
        """Its value, which must be a whole number from `least` on; raises ConfigError."""
        found = self.value(values)
        if isinstance(found, bool) or not isinstance(found, int) or found < least:
            message = f"{self.what}: '{self.expr.text}' is {found}, expected an integer of at least {least}"
            raise ConfigError(self.given.problem("C104", message))
        return found

    def _problem(self, error: ExprError, values: Values) -> Diagnostic:
        hint = did_you_mean(error.unknown, values) if error.unknown else None
        return self.given.problem("C106", f"{self.what}: expression '{self.expr.text}': {error.message}", hint)


class Reader:
    """Reads a declaration's values; what is wrong is collected in `problems`, and None or nothing stands for it."""

    def __init__(self, problems: list[Diagnostic]):
        self.problems = problems

    def wrong(self, given: Given, what: str, expected: str) -> None:
        self.problems.append(given.problem("C102", f"{what} is {describe(given.plain)}, expected {expected}"))

    def mapping(self, given: Given | None, what: str, known: Collection[str] | None = None) -> dict[str, Given]:
        """What a mapping holds; `known` are the keys that it can have."""
        if given is None or given.value is None:
            return {}
        if not isinstance(given.value, Mapping):
            self.wrong(given, what, "a mapping")
            return {}
        found = {}
        for key, item in given.value.items():
            item = _at(given, item)
            if known is None or key in known:
                found[key] = item
            else:
                hint = did_you_mean(key, known) or f"keys are {', '.join(known)}"
                self.problems.append(item.problem("C101", f"{what}: unknown key '{key}'", hint))
        return found

    def items(self, given: Given | None, what: str) -> list[Given]:
        """What a list holds; one value stands for a list of it."""
        if given is None or given.value is None:
            return []
        if isinstance(given.value, Mapping):
            self.wrong(given, what, "a list")
            return []
        values = given.value if isinstance(given.value, list | tuple) else [given]
        return [_at(given, item) for item in values]

    def text(self, given: Given, what: str) -> str | None:
        if isinstance(given.value, str) and given.value:
            return given.value
        self.wrong(given, what, "a text")
        return None

    def texts(self, given: Given | None, what: str) -> list[str]:
        return [text for item in self.items(given, what) if (text := self.text(item, what)) is not None]

    def one_of(self, given: Given, what: str, known: Collection[str]) -> str | None:
        """One of the words that are known."""
        if isinstance(given.value, str) and given.value in known:
            return given.value
        hint = did_you_mean(str(given.value), known)
        message = f"{what} is {describe(given.plain)}, expected {' or '.join(known)}"
        self.problems.append(given.problem("C103", message, hint))
        return None

    def formula(self, given: Given, what: str) -> Formula | None:
        """A number, a boolean, or an expression."""
        value = given.value
        if isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(value, str | int | float):
            self.wrong(given, what, "a number or an expression")
            return None
        try:
            return Formula(parse(str(value)), given, what)
        except ExprError as error:
            self.problems.append(given.problem("C106", f"{what}: expression '{value}': {error.message}"))
            return None

    def made(self, given: Given, what: str, make: Callable[[], Any]) -> Any:
        """What `make` gives; None where it raises ValueError."""
        try:
            return make()
        except ValueError as error:
            self.problems.append(given.problem("C103", f"{what} {error}"))
            return None


def _at(parent: Given, item: Any) -> Given:
    """An entry with its place, which is that of the whole where it has none of its own."""
    return item if isinstance(item, Given) else replace(parent, value=item)
