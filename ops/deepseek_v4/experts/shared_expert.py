"""The shared expert, which every token takes: w2(silu(w1 x) * w3 x) with both factors clamped.

Rows are padded to whole matrix tiles (R >= T); padding is zero throughout.

Source: transformers 5.23.0 `DeepseekV4MLP`; pypto-lib `expert_shared` for tasks, precision and scratch.
"""

from __future__ import annotations

from ops.rules import ceil_div, elementwise, pipe_buffer, products
from runner.program.ops import Call, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.experts.shared_expert")


def _mixed_blocks(call: Call) -> int:
    return ceil_div(call.dims["R"], 16) * 4


def _check_rows(call: Call) -> str | None:
    rows, tokens = call.dims["R"], call.dims["T"]
    return None if rows >= tokens else f"the padded side has {rows} rows, expected at least the {tokens} tokens"


ops.declare(
    "sh_gate_up",
    "x: {qact}[T, D], x_scale: f32[T, 1], w1: {wq}[F, D], w1_scale: f32[F], w3: {wq}[F, D], w3_scale: f32[F] -> h: f32[R, F]",
    core="MIX",
    params={"limit": "swiglu_limit"},
    cost=products(("x", "w1"), ("x", "w3")),
    num_blocks=_mixed_blocks,
    workspace=pipe_buffer(_mixed_blocks, 8192),
    check=_check_rows,
    source="transformers DeepseekV4MLP; pypto-lib expert_shared",
    doc="The hidden row silu(w1 x) * w3 x of each token, in f32.",
)


ops.declare(
    "sh_h_q",
    "h: f32[R, F] -> h_i8: {qact}[R, F], h_scale: f32[R, 1]",
    core="AIV",
    cost=elementwise(3, "h"),
    num_blocks=lambda call: 1 if call.dims["R"] <= 16 else ceil_div(call.dims["R"], 8),
    source="pypto-lib expert_shared",
    doc="The hidden rows as w2 takes them.",
)


ops.declare(
    "sh_w2",
    "h_i8: {qact}[R, F], h_scale: f32[R, 1], w2: {wq}[D, F], w2_scale: f32[D] -> y: {act}[R, D]",
    core="MIX",
    cost=products(("h_i8", "w2")),
    num_blocks=_mixed_blocks,
    workspace=pipe_buffer(_mixed_blocks, 8192),
    source="transformers DeepseekV4MLP; pypto-lib expert_shared",
    doc="w2 of each hidden row.",
)


ops.declare(
    "sh_output",
    "y: {act}[R, D] -> sh: {act}[T, D]",
    core="AIV",
    check=_check_rows,
    source="pypto-lib expert_shared",
    doc="The rows of tokens, without padding.",
)
