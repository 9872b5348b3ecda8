"""The section `fields` of a layer: which fields there are, with types, bounds, choices, docs and defaults.

    fields:
      width: {type: integer, minimum: 1, default: 64, doc: "columns of a row"}
      gain: {type: number, default: 1.0 / width}            # an expression over other fields
      window: {choices: [hann, none], default: hann}
      taps: {type: list, items: number, default: [0.5, 0.5]}
      limit: [integer, "null"]                              # a type alone
      widths: {type: list, items: integer, default: {each: 8 * (i + 1), count: depth}}

Each becomes a JSON Schema, as `ModelFamily.fields` has them; a number or truth value also takes a text, which is an expression.
"""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from runner.base.errors import Diagnostic, did_you_mean
from runner.language.given import SECTIONS, Given, describe

TYPES = {"integer": "integer", "number": "number", "string": "string", "boolean": "boolean", "null": "null", "list": "array"}
"""Types of fields as JSON Schema calls them."""
LIMITS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "above": "exclusiveMinimum",
    "below": "exclusiveMaximum",
    "shortest": "minItems",
    "longest": "maxItems",
}
"""Bounds of values, and of the lengths of lists."""
_OF_LISTS = ("shortest", "longest")
KEYS = ("type", "items", "choices", *LIMITS, "default", "doc")


class Declared:
    """The fields that a section declares: `rules` by name, `defaults` of those that have one; `problems` is everything wrong."""

    def __init__(self, section: Given | None):
        self.rules: dict[str, Mapping[str, Any]] = {}
        self.defaults: dict[str, Given] = {}
        self.problems: list[Diagnostic] = []
        if section is None or section.value is None:
            return
        if not isinstance(section.value, dict):
            self._wrong(section, f"'fields' is {describe(section.value)}, expected a mapping of names to what they are")
            return
        for name, given in section.value.items():
            if self._is_name(name, given) and (rule := self._rule(name, given)) is not None:
                self.rules[name] = rule

    def _wrong(self, given: Given, message: str, hint: str | None = None, code: str = "C102") -> None:
        self.problems.append(given.problem(code, message, hint))

    def _is_name(self, name: str, given: Given) -> bool:
        if name in SECTIONS or name == "deploy":
            self._wrong(given, f"field '{name}' has the name of a key that every layer has", code="C101")
        elif not name.isidentifier() or iskeyword(name):
            self._wrong(given, f"'{name}' is not a name that expressions can use", code="C101")
        else:
            return True
        return False

    def _rule(self, name: str, given: Given) -> Mapping[str, Any] | None:
        """The JSON Schema of a field; None where it cannot be told."""
        if not isinstance(given.value, dict):
            types = self._types(f"field '{name}'", given)
            return None if types is None else _rule(types, {})
        count, entries = len(self.problems), given.value
        for key, item in entries.items():
            if key not in KEYS:
                hint = did_you_mean(key, KEYS) or f"a field has {', '.join(KEYS)}"
                self._wrong(item, f"field '{name}': unknown key '{key}'", hint, "C101")
        rule: dict[str, Any] = {}
        types = self._types(f"field '{name}'", entries["type"]) if "type" in entries else None
        if "doc" in entries:
            rule["description"] = str(entries["doc"].value)
        if "choices" in entries:
            rule["enum"] = self._choices(name, entries["choices"])
            types = types or _kinds_of(rule["enum"])
        if "items" in entries:
            types = types or ["array"]
            rule["items"] = self._items(name, entries["items"])
        if types is None and "default" in entries and "type" not in entries:
            types = _kinds_of([entries["default"].plain])
        if types is None:
            if "type" not in entries:
                self._wrong(given, f"field '{name}' has no type", f"types are {', '.join(TYPES)}")
            return None
        self._limits(name, entries, types, rule)
        if len(self.problems) > count:
            return None
        if "default" in entries:
            item = entries["default"]
            self.defaults[name] = Given(item.plain, item.mark, item.option, item.source_line)
        return _rule(types, rule)

    def _types(self, what: str, given: Given) -> list[str] | None:
        names = given.plain if isinstance(given.value, list) else [given.plain]
        unknown = [name for name in names if not isinstance(name, str | None) or ("null" if name is None else name) not in TYPES]
        if unknown or not names:
            shown = describe(unknown[0] if unknown else names)
            hint = did_you_mean(str(unknown[0]), TYPES) if unknown else None
            self._wrong(given, f"{what}: type {shown}, expected {', '.join(TYPES)}", hint)
            return None
        return [TYPES["null" if name is None else name] for name in names]

    def _choices(self, name: str, given: Given) -> list[Any]:
        choices = given.plain
        if not isinstance(choices, list) or not choices or any(isinstance(choice, list | dict) for choice in choices):
            self._wrong(given, f"field '{name}': 'choices' is {describe(choices)}, expected a list of values")
            return [None]
        return choices

    def _items(self, name: str, given: Given) -> Mapping[str, Any]:
        """What each element of a list is: a type, or a mapping as of a field."""
        if not isinstance(given.value, dict):
            types = self._types(f"field '{name}': 'items'", given)
            return _rule(types or ["null"], {})
        for key, item in given.value.items():
            if key not in ("type", "choices", *LIMITS):
                self._wrong(item, f"field '{name}': unknown key '{key}' of 'items'", code="C101")
        types = self._types(f"field '{name}': 'items'", given.value["type"]) if "type" in given.value else None
        rule: dict[str, Any] = {}
        if "choices" in given.value:
            rule["enum"] = self._choices(name, given.value["choices"])
            types = types or _kinds_of(rule["enum"])
        if types is None:
            self._wrong(given, f"field '{name}': 'items' has no type")
            return {}
        self._limits(name, given.value, types, rule)
        return _rule(types, rule)

    def _limits(self, name: str, entries: Mapping[str, Given], types: list[str], rule: dict[str, Any]) -> None:
        for key, theirs in LIMITS.items():
            if key not in entries:
                continue
            value, is_length = entries[key].plain, key in _OF_LISTS
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or (is_length and (not isinstance(value, int) or value < 0)):
                self._wrong(entries[key], f"field '{name}': '{key}' is {describe(value)}, expected a number")
            elif not {"array"} & {*types} if is_length else not {"integer", "number"} & {*types}:
                self._wrong(entries[key], f"field '{name}': '{key}' is of {'lists' if is_length else 'numbers'}, which it is not")
            else:
                rule[theirs] = value


def _kinds_of(values: list[Any]) -> list[str] | None:
    """The types of values as they are written; a number written without a point is an integer."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array"}
    found = dict.fromkeys(kinds.get(type(value), "") for value in values)
    if "" in found or [*found] == ["null"]:
        return None
    return [*found]


def _rule(types: list[str], rule: Mapping[str, Any]) -> Mapping[str, Any]:
    """A JSON Schema of these types; numbers and truth values are also given by texts, which are expressions."""
    takes_text = {"integer", "number", "boolean"} & {*types} and "string" not in types
    every = [*types, "string"] if takes_text else types
    shown = every[0] if len(every) == 1 else every
    marks = {"x-declared": True} | ({"x-expression": True} if takes_text else {})
    return {"type": shown, **rule, **marks}
