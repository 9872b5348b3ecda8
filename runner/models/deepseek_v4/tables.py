"""The rotations of DeepSeek-V4, `main` (window layers) and `compress`, as its base layer declares them among `constants`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from runner.config.sources import read_source
from runner.models.declared.state import Evaluator, StateDeclaration
from runner.models.declared.state_section import read_state
from runner.serving.state.constants import frequencies, hadamard, rope

__all__ = ["hadamard", "rope_frequencies", "rope_tables"]


@cache
def _declared() -> StateDeclaration:
    return read_state(read_source("deepseek_v4")[0].given["state"])[0]


def _arguments(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The arguments of a constant input under a configuration."""
    declared = _declared()
    found = declared.constant(name, declared.constants[name], Evaluator(values, {}))
    assert found is not None
    return found[1]


def rope_frequencies(values: Mapping[str, Any], kind: str) -> tuple[torch.Tensor, float]:
    """Radians per position of each pair, f32[width / 2], and the factor on cosines and sines."""
    return frequencies(values["qk_rope_head_dim"], **_arguments(values, f"{kind}_cos"))


def rope_tables(values: Mapping[str, Any], kind: str, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, f32[num_positions, width], angles of the pairs twice side by side."""

    def table(function: str) -> torch.Tensor:
        arguments = _arguments(values, f"{kind}_{function.removeprefix('rope_')}")
        return rope(function, num_positions, values["qk_rope_head_dim"], **arguments)

    return table("rope_cos"), table("rope_sin")
