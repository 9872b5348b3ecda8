"""What a DeepSeek-V4 checkpoint holds: the section `checkpoint` of the family's base layer, and what of it is no data.

Source: design page of the model ("Checkpoints as they lie on disk"); transformers 5.23.0 for the second naming.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from runner.base.errors import ConfigError, Diagnostic
from runner.language.given import read_layer
from runner.models.declared.checkpoint_section import CheckpointSection, read_checkpoint
from runner.models.declared.layout import DeclaredLayout

BASE = "deepseek_v4.yaml"
_LAYER = re.compile(r"layers\.([0-9]{1,9})\.(.*)")


class Layout(DeclaredLayout):
    """See `CheckpointLayout`."""

    def of_graph(self, name: str, values: Mapping[str, Any]) -> str:
        """Graphs give the draft layer the number behind all layers, as the model's makers do; on disk it is `mtp.0`."""
        first = values.get("DRAFT_LAYER")
        found = _LAYER.match(name)
        if first is None or found is None or int(found[1]) < first:
            return name
        return f"mtp.{int(found[1]) - first}.{found[2]}"

    def without_unused(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        ratios = values["compress_ratios"][: values["num_hidden_layers"]]
        return {**values, "num_nextn_predict_layers": 0, "compress_ratios": ratios}

    def config_json(self, values: Mapping[str, Any], dtype: str, flavour: str, described: Mapping[str, Any]) -> dict[str, Any]:
        from runner.models.deepseek_v4.hf_config import STALE, config_json, quantisation_config

        kept = {key: value for key, value in described.items() if key not in STALE}
        return kept | config_json(values, dtype, quantisation_config(flavour))


def _section() -> CheckpointSection:
    problems: list[Diagnostic] = []
    text = files("graphs.config").joinpath(BASE).read_text(encoding="utf-8")
    section, found = read_checkpoint(read_layer(text, BASE, problems)["checkpoint"])
    if problems or found:
        raise ConfigError([*problems, *found])
    return section


LAYOUT = Layout(_section)
canonical, encoding, expected_tensors = LAYOUT.canonical, LAYOUT.encoding, LAYOUT.expected
