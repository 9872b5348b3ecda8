"""Rotary position embedding: rows of the tables, and rotations of the trailing columns of a head.

Pairs are interleaved: columns 2i and 2i+1 are rotated together by the angle `position * frequency[i]`. The tables `freqs_cos`
and `freqs_sin` hold the R/2 angles of a position twice, side by side. An idle row has position -1 and takes those of position 0.

Symbols: T tokens, R rotated columns, P positions of the tables.

Source: transformers 5.23.0 `DeepseekV4RotaryEmbedding` and `apply_rotary_pos_emb` (formulas); pypto-lib kernels (tasks).
"""

from __future__ import annotations

from ops.rules import every, fixed, moved
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.attention.rope")

_SOURCE = "transformers DeepseekV4RotaryEmbedding and apply_rotary_pos_emb; pypto-lib rope rows"

_TABLES = "position_ids: i32[T], freqs_cos: {act}[P, R], freqs_sin: {act}[P, R]"
_ROWS = "rope_cos: {act}[T, R], rope_sin: {act}[T, R]"


def _row_cost(call: Call) -> Cost:
    written = moved(call, *(name for name in call.operands if name not in ("position_ids", "freqs_cos", "freqs_sin")))
    return Cost(0, moved(call, "position_ids") + 2 * written)


ops.declare(
    "rope_rows",
    f"{_TABLES} -> {_ROWS}",
    core="AIV",
    source=_SOURCE,
    cost=_row_cost,
    num_blocks=every("T", 8),
    doc="Table rows of each token's position.",
)


ops.declare(
    "half_rope",
    f"{_TABLES} -> cos: f32[T, R // 2], sin: f32[T, R // 2]",
    core="AIV",
    source=_SOURCE,
    cost=_row_cost,
    doc="The R/2 angles of each token's position, in f32: what the indexer rotates its queries by.",
)


ops.declare(
    "window_rope",
    f"{_TABLES} -> cos: f32[T, R // 2], sin: f32[T, R // 2]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=_row_cost,
    doc="The R/2 angles at the first position of the `ratio`-token window of each token: where its compressed row stands.",
)


ops.declare(
    "rope_step",
    f"{_TABLES} -> {_ROWS}, step_cos: f32[T, R // 2], step_sin: f32[T, R // 2]",
    core="AIV",
    source=_SOURCE,
    cost=_row_cost,
    doc="Table rows of each token's position, and their R/2 angles in f32.",
)


ops.declare(
    "rope_and_window",
    f"{_TABLES} -> {_ROWS}, cmp_cos: f32[T, R // 2], cmp_sin: f32[T, R // 2]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_hca"},
    cost=_row_cost,
    doc="Table rows of each token's position, and the R/2 angles of its compression window.",
)


ops.declare(
    "rope_cs",
    f"{_ROWS} -> cos_il: f32[T, R], sin_signed: f32[T, R]",
    core="AIV",
    source=_SOURCE,
    num_blocks=fixed(2),
    doc="Tables for rotating back: `y[j] = x[j] * cos_il[j] + x[j ^ 1] * sin_signed[j]` turns by the negative angle.",
)
