"""The JSON Schema of a layer, for editors: its sections, and the fields that layers below it declare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from runner.config.config import fields_known

_SHIPPED = "config.schema.json"
"""What the sections of every layer look like."""
_MADE = {
    "type": "object",
    "required": ["each", "count"],
    "properties": {"each": {"type": ["integer", "number", "string", "boolean"]}, "count": {"type": ["integer", "string"]}},
    "additionalProperties": False,
}
"""A list that expressions make."""


def layer_schema(layers: Sequence[str | Path]) -> dict[str, Any]:
    """The schema of a layer over `layers`, which need not give every field a value; raises ConfigError."""
    shipped = json.loads(files("graphs.schema").joinpath(_SHIPPED).read_text(encoding="utf-8"))
    sections = {name: rule for name, rule in shipped["properties"].items() if rule.get("x-section")}
    name, rules = fields_known(layers)
    properties = sections | {field: _rule(rule) for field, rule in rules.items()}
    about = {"$schema": shipped["$schema"], "title": f"ringgraph configuration layer ({name})", "type": "object"}
    return {**about, "description": shipped["description"], "properties": properties, "additionalProperties": False}


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A field's rule without marks of our own; a declared list may also be one that expressions make."""
    plain = {key: _rule(value) if key == "items" else value for key, value in rule.items() if not key.startswith("x-")}
    kinds = rule.get("type")
    if not rule.get("x-declared") or "array" not in (kinds if isinstance(kinds, list) else [kinds]):
        return plain
    described = {key: plain.pop(key) for key in ("description",) if key in plain}
    return {**described, "anyOf": [plain, _MADE]}
