"""Logits from a head whose vocabulary is split over ranks.

Every rank computes its part of the vocabulary (W columns) for the tokens of all ranks, then each gets its own tokens' logits.

Source: pypto-lib `lm_head` (gather hidden rows, project on a shard, exchange logits).
"""

from __future__ import annotations

from ops.rules import fixed
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.lm_head")


ops.declare(
    "lm_head_gather",
    "x: {act}[N, D] -> hidden_window: {act}[P, N, D], &comm_window: i32[1]",
    core="AIV",
    needs=("comm",),
    source="pypto-lib lm_head",
    doc="The hidden rows of all P ranks, by rank; `comm_window` counts exchanges.",
)


ops.declare(
    "lm_head_mm",
    "hidden_window: {act}[P, N, D], w: {wd}[W, D] -> logits_shard: f32[P, N, W]",
    core="AIC",
    cost=lambda call: Cost(2 * call.operands["hidden_window"].num_elements * call.dims["W"], call.moved_bytes),
    num_blocks=fixed(24),
    source="pypto-lib lm_head",
    doc="This rank's columns of the logits of every rank's tokens.",
)


def _check_columns(call: Call) -> str | None:
    held, wanted = call.dims["P"] * call.dims["W"], call.dims["V"]
    return None if held >= wanted else f"{call.dims['P']} shards hold {held} columns, expected at least {wanted}"


ops.declare(
    "lm_head_combine",
    "logits_shard: f32[P, N, W] -> logits: f32[N, V], &comm_window: i32[1]",
    core="AIV",
    needs=("comm",),
    check=_check_columns,
    source="pypto-lib lm_head",
    doc="This rank's tokens' logits over the whole vocabulary, from every rank's columns; `comm_window` counts exchanges.",
)


ops.fuse(
    "lm_head_tiles",
    ("lm_head_gather", {}),
    ("lm_head_mm", {}),
    ("lm_head_combine", {}),
    inner=("hidden_window", "logits_shard"),
    in_turn=("comm_window", "comm"),
)
