"""Whether data surely fits a JSON Schema (draft-07): the quick half of validation, which needs no package.

Nearly all files are right, and then nothing is to be explained. `surely_fits` says yes only where the schema holds; where it says
no, jsonschema, which takes longer to import than most files to check, has the last word and the explanation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Rule = Mapping[str, Any]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}


def surely_fits(value: Any, rule: Rule, root: Rule) -> bool:
    """Whether `value` fits `rule`, whose references lead into `root`; False where that is not certain."""
    if "$ref" in rule:  # in draft-07 whatever stands beside a reference does not count
        _, _, name = rule["$ref"].partition("#/definitions/")
        return name in root.get("definitions", ()) and surely_fits(value, root["definitions"][name], root)
    for keyword, wanted in rule.items():
        if keyword.startswith("x-"):
            continue
        check = _CHECKS.get(keyword)
        if check is None or not check(value, wanted, rule, root):
            return False
    return True


def _is_of(value: Any, wanted: Any, _rule: Rule, _root: Rule) -> bool:
    return any(_TYPES[kind](value) for kind in ([wanted] if isinstance(wanted, str) else wanted))


def _is_listed(value: Any, wanted: Any, _rule: Rule, _root: Rule) -> bool:
    return any(value == option and type(value) is type(option) for option in wanted)


def _has_names(value: Any, wanted: Any, _rule: Rule, _root: Rule) -> bool:
    return not isinstance(value, dict) or all(name in value for name in wanted)


def _has_fitting_properties(value: Any, wanted: Any, _rule: Rule, root: Rule) -> bool:
    return not isinstance(value, dict) or all(surely_fits(value[name], wanted[name], root) for name in wanted if name in value)


def _has_fitting_others(value: Any, wanted: Any, rule: Rule, root: Rule) -> bool:
    if wanted is True or not isinstance(value, dict):
        return True
    others = [name for name in value if name not in rule.get("properties", ())]
    return not others if wanted is False else all(surely_fits(value[name], wanted, root) for name in others)


def _has_fitting_names(value: Any, wanted: Any, _rule: Rule, root: Rule) -> bool:
    return not isinstance(value, dict) or all(surely_fits(name, wanted, root) for name in value)


def _has_fitting_items(value: Any, wanted: Any, _rule: Rule, root: Rule) -> bool:
    return not isinstance(value, list) or all(surely_fits(item, wanted, root) for item in value)


def _fits_all(value: Any, wanted: Any, _rule: Rule, root: Rule) -> bool:
    return all(surely_fits(value, part, root) for part in wanted)


def _fits_what_follows(value: Any, condition: Any, rule: Rule, root: Rule) -> bool:
    """`if`: the condition surely does not hold, or what follows does."""
    if "else" in rule or "then" not in rule:
        return False
    return _surely_fails(value, condition) or surely_fits(value, rule["then"], root)


def _surely_fails(value: Any, rule: Rule) -> bool:
    """Whether a value surely does not fit a rule that asks for one kind of data, or for names of a mapping."""
    match rule:
        case {"type": "object" | "array" | "string" as kind}:
            return not _TYPES[kind](value)
        case {"required": names}:
            return isinstance(value, dict) and any(name not in value for name in names)
    return False


def _fits_one(value: Any, wanted: Any, _rule: Rule, root: Rule) -> bool:
    """`oneOf`: one part fits, and the others surely do not."""
    left = [part for part in wanted if not _surely_fails(value, part)]
    return len(left) == 1 and surely_fits(value, left[0], root)


def _is_number(value: Any) -> bool:
    return _TYPES["number"](value)


_CHECKS: dict[str, Callable[[Any, Any, Rule, Rule], bool]] = {
    **dict.fromkeys(("$schema", "$id", "title", "description", "definitions", "then"), lambda value, wanted, rule, root: True),
    "type": _is_of,
    "enum": _is_listed,
    "required": _has_names,
    "properties": _has_fitting_properties,
    "additionalProperties": _has_fitting_others,
    "propertyNames": _has_fitting_names,
    "items": _has_fitting_items,
    "allOf": _fits_all,
    "oneOf": _fits_one,
    "if": _fits_what_follows,
    "minProperties": lambda value, wanted, rule, root: not isinstance(value, dict) or len(value) >= wanted,
    "minimum": lambda value, wanted, rule, root: not _is_number(value) or value >= wanted,
    "exclusiveMinimum": lambda value, wanted, rule, root: not _is_number(value) or value > wanted,
    "pattern": lambda value, wanted, rule, root: not isinstance(value, str) or re.search(wanted, value) is not None,
}
