"""Constant tables that attention takes as inputs: angles of the rotary embeddings, and the Hadamard matrix of the indexer.

Source: transformers 5.23.0, `DeepseekV4RotaryEmbedding` and `_compute_yarn_parameters` (formulas; arXiv 2309.00071).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

_F32_POSITIONS = 2**24
"""Positions above are not exact in f32, in which angles are computed."""


def plain_frequencies(width: int, theta: float) -> torch.Tensor:
    """f32[width / 2]: radians per position of each pair."""
    return 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)


def yarn_frequencies(
    width: int, theta: float, factor: float, original_context: int, beta_fast: float, beta_slow: float
) -> torch.Tensor:
    """f32[width / 2]: like `plain_frequencies`, slow pairs interpolated by `factor`.

    Pairs that turn more than `beta_fast` times within the original context are kept, those that turn less than `beta_slow`
    times are divided by `factor`, and those between are blended linearly.
    """

    def pair(turns: float) -> float:
        return width * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(pair(beta_fast)), 0), min(math.ceil(pair(beta_slow)), width - 1)
    span = high - low if high != low else 0.001
    blend = ((torch.arange(width // 2, dtype=torch.float32) - low) / span).clamp(0, 1)
    powers = theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    kept = 1 - blend
    return (1.0 / (factor * powers)) * (1 - kept) + (1.0 / powers) * kept


def rope_frequencies(values: Mapping[str, Any], kind: str) -> tuple[torch.Tensor, float]:
    """Radians per position of each pair, f32[width / 2], of the `main` (window layers) or `compress` rotation, and the factor on
    its cosines and sines."""
    width = values["qk_rope_head_dim"]
    if kind == "main":
        return plain_frequencies(width, values["rope_theta"]), 1.0
    if values["rope_type"] == "default":
        return plain_frequencies(width, values["compress_rope_theta"]), 1.0
    frequencies = yarn_frequencies(
        width,
        values["compress_rope_theta"],
        values["rope_factor"],
        values["rope_original_max_position_embeddings"],
        values["rope_beta_fast"],
        values["rope_beta_slow"],
    )
    return frequencies, values["rope_attention_factor"]


def rope_tables(values: Mapping[str, Any], kind: str, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, f32[num_positions, width], of the `main` (window layers) or `compress` rotation.

    Columns are the angles of the pairs, twice side by side.
    """
    frequencies, scale = rope_frequencies(values, kind)
    assert num_positions <= _F32_POSITIONS
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies
    angles = torch.cat((angles, angles), dim=1)
    return angles.cos() * scale, angles.sin() * scale


def hadamard(order: int) -> torch.Tensor:
    """The normalised Hadamard matrix f32[order, order] (Sylvester's), its own inverse; `order` is a power of two."""
    assert order & (order - 1) == 0
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < order:
        matrix = torch.cat((torch.cat((matrix, matrix), dim=1), torch.cat((matrix, -matrix), dim=1)))
    return matrix * order**-0.5
