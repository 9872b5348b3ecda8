"""Values of tensors of random checkpoints, as a declaration says."""

from __future__ import annotations

from collections.abc import Mapping

import torch

PIECE_ROWS = 4096


def random_values(shape: tuple[int, ...], rules: Mapping[str, float], generator: torch.Generator) -> torch.Tensor:
    """f32 normal values, or i64 with `distinct`: rows of different integers below it, each a random choice without order.

    `mean` is 0 by default, `deviation` is `gain` (1) over the root of the last dimension.
    """
    if "distinct" in rules:
        return _distinct(shape, int(rules["distinct"]), generator)
    deviation = rules["deviation"] if "deviation" in rules else rules.get("gain", 1.0) * max(1, shape[-1] if shape else 1) ** -0.5
    return torch.empty(shape).normal_(float(rules.get("mean", 0.0)), float(deviation), generator=generator)


def _distinct(shape: tuple[int, ...], count: int, generator: torch.Generator) -> torch.Tensor:
    rows, columns = shape
    begins = range(0, rows, PIECE_ROWS)
    parts = [torch.rand(min(PIECE_ROWS, rows - at), count, generator=generator).topk(columns).indices for at in begins]
    return torch.cat(parts)


def random_integers(shape: tuple[int, ...], below: int, generator: torch.Generator) -> torch.Tensor:
    """i64 from 0, all below `below` alike."""
    return torch.randint(below, shape, generator=generator)
