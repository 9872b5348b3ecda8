"""The rotations of DeepSeek-V4, `main` (window layers) and `compress`, as its base layer declares them among `constants`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from runner.serving.state.constants import frequencies, hadamard, rope

__all__ = ["hadamard", "rope_frequencies", "rope_tables"]


def _arguments(values: Mapping[str, Any], kind: str) -> dict[str, Any]:
    if kind == "main":
        return {"theta": values["rope_theta"]}
    yarn = {key: values[f"rope_{key}"] for key in ("factor", "beta_fast", "beta_slow")}
    original = values["rope_original_max_position_embeddings"]
    scale = values["rope_attention_factor"]
    return {"theta": values["compress_rope_theta"], "scaling": values["rope_type"], "original": original, "scale": scale, **yarn}


def rope_frequencies(values: Mapping[str, Any], kind: str) -> tuple[torch.Tensor, float]:
    """Radians per position of each pair, f32[width / 2], and the factor on cosines and sines."""
    return frequencies(values["qk_rope_head_dim"], **_arguments(values, kind))


def rope_tables(values: Mapping[str, Any], kind: str, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, f32[num_positions, width], angles of the pairs twice side by side."""
    width, arguments = values["qk_rope_head_dim"], _arguments(values, kind)
    return tuple(rope(function, num_positions, width, **arguments) for function in ("rope_cos", "rope_sin"))  # type: ignore
