"""The shared expert, which every token takes: w2(silu(w1 x) * w3 x) with both factors clamped.

Rows are padded to whole matrix tiles (R >= T); padding is zero throughout.

Source: transformers 5.23.0 `DeepseekV4MLP`; pypto-lib `expert_shared` for tasks, precision and scratch.
"""

from __future__ import annotations

import torch
from torch.nn.functional import silu

from ops.numerics import dequantise, matmul_nt, quantise_rows
from ops.rules import ceil_div, elementwise, pipe_buffer, products
from runner.program.ops import Call, OpRegistry

ops = OpRegistry()


def swiglu(gate: torch.Tensor, up: torch.Tensor, limit: float) -> torch.Tensor:
    """silu(gate) * up, with gate at most `limit` and up within +-`limit`; f32 in, f32 out."""
    return silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)


def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """`x @ w.T` in the accumulator's dtype: int32 for int8 operands, else f32."""
    dtype = torch.int32 if x.dtype == torch.int8 else torch.float32
    acc = torch.empty(x.shape[0], w.shape[0], dtype=dtype, device=x.device)
    matmul_nt(x, w, acc)
    return acc


def _mixed_blocks(call: Call) -> int:
    return ceil_div(call.dims["R"], 16) * 4


def _check_rows(call: Call) -> str | None:
    rows, tokens = call.dims["R"], call.dims["T"]
    return None if rows >= tokens else f"the padded side has {rows} rows, expected at least the {tokens} tokens"


@ops.op(
    "sh_gate_up",
    "x: {qact}[T, D], x_scale: f32[T, 1], w1: {wq}[F, D], w1_scale: f32[F], w3: {wq}[F, D], w3_scale: f32[F] -> h: f32[R, F]",
    core="MIX",
    params={"limit": "swiglu_limit"},
    cost=products(("x", "w1"), ("x", "w3")),
    num_blocks=_mixed_blocks,
    workspace=pipe_buffer(_mixed_blocks, 8192),
    check=_check_rows,
    source="transformers DeepseekV4MLP; pypto-lib expert_shared",
)
def sh_gate_up(x, x_scale, w1, w1_scale, w3, w3_scale, *, h, limit):
    """The hidden row silu(w1 x) * w3 x of each token, in f32."""
    num_tokens = x.shape[0]
    gate = dequantise(product(x, w1), x_scale, w1_scale)
    up = dequantise(product(x, w3), x_scale, w3_scale)
    h[:num_tokens].copy_(swiglu(gate, up, limit))
    h[num_tokens:].zero_()


@ops.op(
    "sh_h_q",
    "h: f32[R, F] -> h_i8: {qact}[R, F], h_scale: f32[R, 1]",
    core="AIV",
    cost=elementwise(3, "h"),
    num_blocks=lambda call: 1 if call.dims["R"] <= 16 else ceil_div(call.dims["R"], 8),
    source="pypto-lib expert_shared",
)
def sh_h_q(h, *, h_i8, h_scale):
    """The hidden rows as w2 takes them."""
    quantise_rows(h, h_i8, h_scale)


@ops.op(
    "sh_w2",
    "h_i8: {qact}[R, F], h_scale: f32[R, 1], w2: {wq}[D, F], w2_scale: f32[D] -> y: {act}[R, D]",
    core="MIX",
    cost=products(("h_i8", "w2")),
    num_blocks=_mixed_blocks,
    workspace=pipe_buffer(_mixed_blocks, 8192),
    source="transformers DeepseekV4MLP; pypto-lib expert_shared",
)
def sh_w2(h_i8, h_scale, w2, w2_scale, *, y):
    """w2 of each hidden row."""
    y.copy_(dequantise(product(h_i8, w2), h_scale, w2_scale))


@ops.op("sh_output", "y: {act}[R, D] -> sh: {act}[T, D]", core="AIV", check=_check_rows, source="pypto-lib expert_shared")
def sh_output(y, *, sh):
    """The rows of tokens, without padding."""
    sh.copy_(y[: sh.shape[0]])
