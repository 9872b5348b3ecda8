"""The keys that a layer of a configuration may have, with what they are for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.base.errors import RinggraphError
from runner.base.reading import overlaid
from runner.editor.workspace import Workspace


def field_rules(workspace: Workspace, path: str) -> Mapping[str, Mapping[str, Any]]:
    """The JSON Schema of each key: by the layer itself where it says its model, else by the configured layers."""
    from runner.config.schema import layer_schema

    text = workspace.text(path)
    said = re.search(r"^model\s*:\s*(\w+)", text.value, re.MULTILINE) if text is not None else None
    tried: list[tuple[str | Path, ...]] = [(path,), workspace.layers(path)]
    if said is not None:
        tried.insert(1, (said[1],))
    with overlaid(workspace.overlay()):
        for layers in tried:
            try:
                return layer_schema(layers)["properties"]
            except RinggraphError:
                continue
    return {}
