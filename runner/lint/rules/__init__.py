"""Each module below holds one lint rule; a module that is put into one of these folders is found by itself."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import walk_packages

from runner.lint.rule import Rule


@cache
def all_rules() -> tuple[type[Rule], ...]:
    """The rule of every module below this folder, in the order of their codes."""
    modules = [found.name for found in walk_packages(__path__, f"{__name__}.") if not found.ispkg]
    return tuple(sorted(map(_rule_of, modules), key=lambda rule: rule.about.code))


def _rule_of(name: str) -> type[Rule]:
    """The one rule that a module defines."""
    values = vars(import_module(name)).values()
    rules = [value for value in values if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == name]
    assert len(rules) == 1, f"'{name}' defines {len(rules)} rules, expected one"
    return rules[0]
