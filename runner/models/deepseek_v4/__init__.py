"""DeepSeek-V4: everything that is of this family of models and of no other, behind `FAMILY`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from runner.base.errors import Diagnostic
from runner.models.deepseek_v4.tensors import Layout
from runner.models.protocols import Normalised, Values

if TYPE_CHECKING:
    from runner.config.sources import Given

SCHEMA = "config.schema.json"
"""The one list of fields, which editors read too."""


@cache
def _fields() -> Mapping[str, Mapping[str, Any]]:
    schema = json.loads(files("graphs.schema").joinpath(SCHEMA).read_text(encoding="utf-8"))
    return {name: rule for name, rule in schema["properties"].items() if not rule.get("x-section")}


class DeepseekV4:
    """See `ModelFamily`."""

    name = "deepseek_v4"
    model_types = ("deepseek_v4",)
    base_layer = "deepseek_v4"
    layout = Layout()

    def fields(self) -> Mapping[str, Mapping[str, Any]]:
        return _fields()

    def normalise(self, given: Values, *, whole: bool) -> Normalised:
        from runner.models.deepseek_v4.hf_config import normalise

        return normalise(given, whole=whole)

    def impossible(self, values: Values, given: Mapping[str, Given], deploy: str) -> list[Diagnostic]:
        from runner.models.deepseek_v4.constraints import impossible

        return impossible(values, given, deploy)


FAMILY = DeepseekV4()
