"""Rotary position embedding: rows of the tables, and rotations of the trailing columns of a head.

Pairs are interleaved: columns 2i and 2i+1 are rotated together by the angle `position * frequency[i]`. The tables `freqs_cos`
and `freqs_sin` hold the R/2 angles of a position twice, side by side. An idle row has position -1 and takes those of position 0.

Symbols: T tokens, R rotated columns, P positions of the tables.

Source: transformers 5.23.0 `DeepseekV4RotaryEmbedding` and `apply_rotary_pos_emb` (formulas); pypto-lib kernels (tasks).
"""

from __future__ import annotations

import torch

from ops.rules import every, fixed, moved
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry()

_SOURCE = "transformers DeepseekV4RotaryEmbedding and apply_rotary_pos_emb; pypto-lib rope rows"

_TABLES = "position_ids: i32[T], freqs_cos: {act}[P, R], freqs_sin: {act}[P, R]"
_ROWS = "rope_cos: {act}[T, R], rope_sin: {act}[T, R]"


def _row_cost(call: Call) -> Cost:
    written = moved(call, *(name for name in call.operands if name not in ("position_ids", "freqs_cos", "freqs_sin")))
    return Cost(0, moved(call, "position_ids") + 2 * written)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`x` [..., R] with its pairs rotated by the angles of `cos` and `sin` [..., R/2] (broadcast), in f32."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    cos, sin = cos.float(), sin.float()
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def table_rows(positions: torch.Tensor, freqs_cos: torch.Tensor, freqs_sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of both tables at `positions`; idle rows (-1) take row 0."""
    rows = positions.clamp(min=0)
    return freqs_cos.index_select(0, rows), freqs_sin.index_select(0, rows)


def window_start(positions: torch.Tensor, ratio: int) -> torch.Tensor:
    """First position of the compression window that each position lies in."""
    rows = positions.clamp(min=0)
    return rows - rows % ratio


@ops.op("rope_rows", f"{_TABLES} -> {_ROWS}", core="AIV", source=_SOURCE, cost=_row_cost, num_blocks=every("T", 8))
def rope_rows(position_ids, freqs_cos, freqs_sin, *, rope_cos, rope_sin):
    """Table rows of each token's position."""
    cos, sin = table_rows(position_ids, freqs_cos, freqs_sin)
    rope_cos.copy_(cos)
    rope_sin.copy_(sin)


@ops.op("half_rope", f"{_TABLES} -> cos: f32[T, R // 2], sin: f32[T, R // 2]", core="AIV", source=_SOURCE, cost=_row_cost)
def half_rope(position_ids, freqs_cos, freqs_sin, *, cos, sin):
    """The R/2 angles of each token's position, in f32: what the indexer rotates its queries by."""
    cos_rows, sin_rows = table_rows(position_ids, freqs_cos, freqs_sin)
    half = cos.shape[1]
    cos.copy_(cos_rows[:, :half])
    sin.copy_(sin_rows[:, :half])


@ops.op(
    "window_rope",
    f"{_TABLES} -> cos: f32[T, R // 2], sin: f32[T, R // 2]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=_row_cost,
)
def window_rope(position_ids, freqs_cos, freqs_sin, *, cos, sin, ratio):
    """The R/2 angles at the first position of the `ratio`-token window of each token: where its compressed row stands."""
    half_rope(window_start(position_ids, ratio), freqs_cos, freqs_sin, cos=cos, sin=sin)


@ops.op(
    "rope_step",
    f"{_TABLES} -> {_ROWS}, step_cos: f32[T, R // 2], step_sin: f32[T, R // 2]",
    core="AIV",
    source=_SOURCE,
    cost=_row_cost,
)
def rope_step(position_ids, freqs_cos, freqs_sin, *, rope_cos, rope_sin, step_cos, step_sin):
    """Table rows of each token's position, and their R/2 angles in f32."""
    rope_rows(position_ids, freqs_cos, freqs_sin, rope_cos=rope_cos, rope_sin=rope_sin)
    half = step_cos.shape[1]
    step_cos.copy_(rope_cos[:, :half])
    step_sin.copy_(rope_sin[:, :half])


@ops.op(
    "rope_and_window",
    f"{_TABLES} -> {_ROWS}, cmp_cos: f32[T, R // 2], cmp_sin: f32[T, R // 2]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_hca"},
    cost=_row_cost,
)
def rope_and_window(position_ids, freqs_cos, freqs_sin, *, rope_cos, rope_sin, cmp_cos, cmp_sin, ratio):
    """Table rows of each token's position, and the R/2 angles of its compression window."""
    rope_rows(position_ids, freqs_cos, freqs_sin, rope_cos=rope_cos, rope_sin=rope_sin)
    window_rope(position_ids, freqs_cos, freqs_sin, cos=cmp_cos, sin=cmp_sin, ratio=ratio)


@ops.op("rope_cs", f"{_ROWS} -> cos_il: f32[T, R], sin_signed: f32[T, R]", core="AIV", source=_SOURCE, num_blocks=fixed(2))
def rope_cs(rope_cos, rope_sin, *, cos_il, sin_signed):
    """Tables for rotating back: `y[j] = x[j] * cos_il[j] + x[j ^ 1] * sin_signed[j]` turns by the negative angle."""
    half = rope_cos.shape[1] // 2
    cos_il.copy_(rope_cos[:, :half].repeat_interleave(2, dim=1))
    sin_signed[:, 0::2] = rope_sin[:, :half]
    sin_signed[:, 1::2] = -rope_sin[:, :half].float()


def rotate_back(x: torch.Tensor, cos_il: torch.Tensor, sin_signed: torch.Tensor) -> torch.Tensor:
    """`x` [..., R] (f32) rotated by the negative angle, with tables of `rope_cs` (broadcast)."""
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x * cos_il + swapped * sin_signed
