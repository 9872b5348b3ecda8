"""Constant inputs that a declaration names: angles of rotary embeddings, the Hadamard matrix, the identity.

Source of the angles: transformers 5.23.0, `modeling_rope_utils` (formulas; arXiv 2104.09864 and 2309.00071).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from runner.base.errors import StateError
from runner.models.declared.state import SCALINGS

_F32_POSITIONS = 2**24
"""Positions above are not exact in f32, in which angles are computed."""


def constant(function: str, arguments: Mapping[str, Any], shape: tuple[int, ...]) -> torch.Tensor:
    """A constant of `shape`, f32; raises StateError where the function gives none of that shape."""
    if len(shape) != 2:
        raise StateError(f"'{function}' gives a matrix, not a tensor of shape {list(shape)}")
    if function in ("rope_cos", "rope_sin"):
        return rope(function, *shape, **arguments)
    rows, columns = shape
    if rows != columns or (function == "hadamard" and rows & (rows - 1)):
        needed = "a square" if rows != columns else "a power of two of rows"
        raise StateError(f"'{function}' needs {needed}, got {list(shape)}")
    return hadamard(rows) if function == "hadamard" else torch.eye(rows)


def plain_frequencies(width: int, theta: float) -> torch.Tensor:
    """f32[width / 2]: radians per position of each pair."""
    return 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)


def yarn_frequencies(width: int, theta: float, factor: float, original: int, beta_fast: float, beta_slow: float) -> torch.Tensor:
    """f32[width / 2]: like `plain_frequencies`, slow pairs interpolated by `factor`.

    Pairs that turn more than `beta_fast` times within the `original` context are kept, those that turn less than `beta_slow`
    times are divided by `factor`, and those between are blended linearly.
    """

    def pair(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(pair(beta_fast)), 0), min(math.ceil(pair(beta_slow)), width - 1)
    span = high - low if high != low else 0.001
    blend = ((torch.arange(width // 2, dtype=torch.float32) - low) / span).clamp(0, 1)
    powers = theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    kept = 1 - blend
    return (1.0 / (factor * powers)) * (1 - kept) + (1.0 / powers) * kept


def llama3_frequencies(width: int, theta: float, factor: float, original: float, low: float, high: float) -> torch.Tensor:
    """f32[width / 2]: like `plain_frequencies`, slow pairs divided by `factor`.

    Pairs that turn more than `high` times within the `original` context are kept, those that turn less than `low` times are
    divided, and those between are blended linearly in their turns.
    """
    found = plain_frequencies(width, theta)
    kept = ((original * found / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * found / factor + kept * found


def frequencies(
    width: int, *, theta: float, scaling: str = "default", scale: float = 1.0, **arguments: Any
) -> tuple[torch.Tensor, float]:
    """Radians per position of each pair, f32[width / 2], and the factor on cosines and sines.

    `arguments` hold what the scaling needs (`SCALINGS`). Dynamic scaling is none: it begins behind the longest request.
    """
    needed = {key: arguments[key] for key in SCALINGS[scaling]}
    if scaling == "yarn":
        return yarn_frequencies(width, theta, **needed), scale
    if scaling == "llama3":
        return llama3_frequencies(width, theta, **needed), 1.0
    return plain_frequencies(width, theta) / (needed["factor"] if scaling == "linear" else 1), 1.0


def rope(function: str, num_positions: int, columns_: int, *, columns: str = "twice", **arguments: Any) -> torch.Tensor:
    """Cosines or sines (`rope_cos`, `rope_sin`) f32[num_positions, columns_] of each position's angles.

    The angles of the pairs stand `twice` side by side, `once`, or each in two neighbouring columns (`pairs`).
    """
    width = 2 * columns_ if columns == "once" else columns_
    found, scale = frequencies(width, **arguments)
    if num_positions > _F32_POSITIONS:
        raise StateError(f"angles of {num_positions:,} positions, of which {_F32_POSITIONS:,} are exact in f32")
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * found
    if columns != "once":
        angles = torch.cat((angles, angles), dim=1) if columns == "twice" else angles.repeat_interleave(2, dim=1)
    return (angles.cos() if function == "rope_cos" else angles.sin()) * scale


def hadamard(order: int) -> torch.Tensor:
    """The normalised Hadamard matrix f32[order, order] (Sylvester's), its own inverse; `order` is a power of two."""
    assert order & (order - 1) == 0
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < order:
        matrix = torch.cat((torch.cat((matrix, matrix), dim=1), torch.cat((matrix, -matrix), dim=1)))
    return matrix * order**-0.5
