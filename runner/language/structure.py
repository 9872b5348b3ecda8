"""The schema says of a graph file which keys nothing reads (lint stage 1), and where its structure does not fit (stage 2)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from runner.base.errors import Diagnostic, did_you_mean
from runner.base.json_schema import surely_fits
from runner.base.reading import MAX_DIGITS
from runner.language.builder import KEYWORDS
from runner.language.yaml_source import Node

if TYPE_CHECKING:
    from jsonschema import Draft7Validator
    from jsonschema.exceptions import ValidationError

_KINDS = {"map": "a mapping", "list": "a list", "null": "nothing", "bool": "a boolean", "int": "an integer", "float": "a number"}
_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
}


@cache
def schema() -> Mapping[str, Any]:
    """The JSON Schema (draft-07) of graph files."""
    return json.loads((files("graphs") / "schema" / "graph.schema.json").read_text("utf-8"))


@cache
def _validator() -> Draft7Validator:
    from jsonschema import Draft7Validator

    return Draft7Validator(schema())


# --- stage 1: keys that nothing reads ---


def _resolved(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in rule:
        return schema()["definitions"][rule["$ref"].rpartition("/")[2]]
    return rule


def _item_rule(node: Node) -> Mapping[str, Any]:
    given = [name for name in KEYWORDS if node.get(name)]
    return schema()["definitions"][given[0]] if len(given) == 1 else {}


def unknown_keys(node: Node, rule: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Keys that the schema does not know, in `node` and below."""
    rule = _resolved(rule)
    if node.kind == "list":
        for item in node.value:
            yield from unknown_keys(item, rule.get("items", {}))
    if node.kind != "map":
        return
    if "oneOf" in rule or "then" in rule:
        rule = _item_rule(node)
    known, others = rule.get("properties", {}), rule.get("additionalProperties", {})
    for key, value in node.value:
        if key.kind == "text" and key.value in known:
            yield from unknown_keys(value, known[key.value])
        elif key.kind != "text" or key.type == "merge":
            continue  # told already
        elif others is False:
            hint = did_you_mean(key.value, known) or f"known keys: {', '.join(known)}"
            yield Diagnostic("G103", f"unknown key '{key.value}'", key.mark, hint=hint)
        else:
            yield from unknown_keys(value, others)


# --- stage 2: the schema ---


def to_data(node: Node) -> Any:
    """The plain data that YAML editors validate: mappings with text keys, lists, texts, numbers, booleans and None."""
    if node.kind == "map":
        return {key.value: to_data(value) for key, value in node.value}
    if node.kind == "list":
        return [to_data(item) for item in node.value]
    match node.type:
        case "int":
            return int(node.value) if len(node.value) <= MAX_DIGITS else node.value  # the reader has told of it
        case "float":
            return _as_float(node.value)
        case "bool":
            return node.value.lower() == "true"
        case "null":
            return None
    return node.value


def _as_float(text: str) -> float | str:
    """A number of YAML, in any of its spellings (`.Inf`, `.NAN`, `1_0.5`); in base 60, of which the reader has told, the text."""
    try:
        return float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return text


def schema_problems(root: Node, most: int) -> list[Diagnostic]:
    """What the schema finds wrong in a file whose YAML is sound, each problem once; of more than `most`, so many and one."""
    problems: dict[Diagnostic, None] = {}
    values: dict[int, dict[Any, Node]] = {}
    data = to_data(root)
    if surely_fits(data, schema(), schema()):
        return []
    for error in _validator().iter_errors(data):
        if error.validator == "additionalProperties":  # stage 1 told unknown keys; an item of two kinds is told as such
            continue
        problems.setdefault(_explained(error, root, values))
        if len(problems) > most:
            break
    return list(problems)


def _explained(error: ValidationError, root: Node, values: dict[int, dict[Any, Node]]) -> Diagnostic:
    """What an error means. `values` keeps those of maps by key, since a map may have very many of them that are wrong."""
    node, name = root, "the file"
    for step in error.absolute_path:
        if node.kind == "map":
            if id(node) not in values:
                values[id(node)] = {key.value: value for key, value in node.value}
            node = values[id(node)][step]
            name = f"'{step}'"
        else:
            node = node.value[step]
            name = "an item" if name in ("'body'", "'then'", "'else'", "an item") else f"an entry of {name}"
    if "propertyNames" in error.absolute_schema_path:
        bad = next(k for k, _ in node.value if k.value == error.instance)
        return _bad_value(error, f"key '{error.instance}'", bad)
    match error.validator:
        case "type":
            given = cast(Any, error.validator_value)
            wanted = given if isinstance(given, list) else [given]
            got = _KINDS.get(node.type, "text")
            return Diagnostic("G201", f"{name} is {got}, expected {' or '.join(_TYPES[kind] for kind in wanted)}", node.mark)
        case "required":
            match = re.match(r"'(\w+)'", error.message)
            missing = match[1] if match else "?"
            return Diagnostic("G202", f"{name} has no '{missing}'", node.mark)
        case "oneOf":
            return _bad_item(node)
    return _bad_value(error, f"{name}", node)


def _bad_item(node: Node) -> Diagnostic:
    if node.kind != "map":
        return Diagnostic("G201", f"an item is {_KINDS.get(node.type, 'text')}, expected a mapping", node.mark)
    given = [name for name in KEYWORDS if node.get(name)]
    if given:
        return Diagnostic("G204", f"an item has both {' and '.join(map(repr, given))}", node.mark, hint="write two items")
    keys = [key.value for key, _ in node.value]
    hints = [hint for key in keys if (hint := did_you_mean(key, KEYWORDS))]
    wanted = ", ".join(f"'{name}'" for name in KEYWORDS)
    return Diagnostic("G204", f"an item has none of {wanted}", node.mark, hint=hints[0] if hints else None)


def _bad_value(error: ValidationError, name: str, node: Node) -> Diagnostic:
    value, wanted = error.instance, cast(Any, error.validator_value)
    match error.validator:
        case "enum":
            options = ", ".join(f"'{option}'" for option in wanted)
            return Diagnostic(
                "G203",
                f"{name} is '{value}', expected one of {options}",
                node.mark,
                hint=did_you_mean(str(value), wanted),
            )
        case "minProperties":
            return Diagnostic("G203", f"{name} is empty", node.mark)
        case "minimum":
            return Diagnostic("G203", f"{name} is {value}, expected at least {wanted}", node.mark)
        case "pattern" if wanted == schema()["definitions"]["tensor_type"]["pattern"]:
            hint = "write it as dtype[dims], as in 'f32[T, D]' or '{act}[T, D]'"
            return Diagnostic("G211", f"{name} is '{value}', which is not a tensor type", node.mark, hint=hint)
        case "pattern" if "default" in wanted:
            return Diagnostic("G203", f"{name} is not a case", node.mark, hint="cases are integers or 'default'")
        case "pattern" if not str(value).strip():
            return Diagnostic("G203", f"{name} is empty", node.mark)
        case "pattern":
            hint = "a name has letters, digits and '_' and does not begin with a digit"
            return Diagnostic(
                "G203",
                f"{name} is not a name" if name.startswith("key") else f"{name} is '{value}', which is not a name",
                node.mark,
                hint=hint,
            )
    return Diagnostic("G203", f"{name}: {error.message}", node.mark)
