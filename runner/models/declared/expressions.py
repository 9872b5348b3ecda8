"""Expressions that a declaration holds, evaluated under a configuration; what is wrong is told at their place."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from runner.base.errors import ConfigError, Diagnostic, did_you_mean
from runner.language.expressions import ExprError, parse
from runner.language.given import Given, describe


def value_of(given: Given, values: Mapping[str, Any], what: str) -> Any:
    """The value of an expression over `values`, or a value that is no text as it is; raises ConfigError. `what` names it."""
    if not isinstance(given.value, str):
        return given.plain
    try:
        value = parse(given.value).evaluate(values.__getitem__)
    except ExprError as error:
        hint = did_you_mean(error.unknown, values) if error.unknown else None
        raise ConfigError(given.problem("C106", f"{what}: expression '{given.value}': {error.message}", hint)) from None
    return float(value) if isinstance(value, Fraction) else value


def integer_of(given: Given, values: Mapping[str, Any], what: str, least: int = 0) -> int:
    """The same where only an integer of at least `least` will do."""
    value = value_of(given, values, what)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        message = f"{what} = {given.plain} is {describe(value)}, expected an integer of at least {least}"
        raise ConfigError(given.problem("C104", message))
    return value


def syntax_problem(given: Given, what: str) -> Diagnostic | None:
    """What is wrong with an expression whatever its names stand for; None for one that can be parsed, or for no text."""
    if isinstance(given.value, str):
        try:
            parse(given.value)
        except ExprError as error:
            return given.problem("C106", f"{what}: expression '{given.value}': {error.message}")
    return None
