"""Matrix products `x @ w.T`, plain and with 8-bit operands, and what is done to their results.

Operands `{qact}` and `{wq}` bring a scale for each row; in full precision they are floats and the scales are 1.
T rows, K summed, N columns.

Source: torch.nn.functional.linear; pypto-lib projections of `prefill_fwd`, `decode_fwd` and their A8W8 variants.
"""

from __future__ import annotations

import torch

from ops.numerics import dequantise, matmul_nt
from ops.rules import ceil_div, elementwise, products
from runner.program.ops import Call, OpRegistry

ops = OpRegistry()

_TILE_ROWS, _TILE_COLUMNS = 128, 256
"""A block's share of a result: what a cube core's accumulator takes of f32."""

_QUANTISED = "x: {qact}[T, K], x_scale: f32[T, 1], w: {wq}[N, K], w_scale: f32[N]"
_SOURCE = "torch.nn.functional.linear; pypto-lib q_proj, out_proj, down_proj and their A8W8 forms"


def _blocks(call: Call) -> int:
    return ceil_div(call.dims["T"], _TILE_ROWS) * ceil_div(call.dims["N"], _TILE_COLUMNS)


def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """`x @ w.T`: int32 of int8 operands, else f32."""
    dtype = torch.int32 if x.dtype == torch.int8 else torch.float32
    acc = torch.empty(x.shape[0], w.shape[0], dtype=dtype, device=x.device)
    matmul_nt(x, w, acc)
    return acc


@ops.op(
    "linear",
    "x: {x}[T, K], w: {wd}[N, K] -> y: f32[T, N]",
    core="AIC",
    cost=products(("x", "w")),
    num_blocks=_blocks,
    source=_SOURCE,
)
def linear(x, w, *, y):
    """`y = x @ w.T`."""
    matmul_nt(x, w, y)


@ops.op(
    "linear_add",
    "x: {x}[T, K], w: {wd}[N, K] -> &acc: f32[T, N]",
    core="AIC",
    cost=products(("x", "w")),
    num_blocks=_blocks,
    source=_SOURCE,
)
def linear_add(x, w, *, acc):
    """`acc += x @ w.T`."""
    acc += product(x, w)


@ops.op(
    "quant_linear",
    f"{_QUANTISED} -> y: f32[T, N]",
    core="MIX",
    cost=products(("x", "w")),
    num_blocks=_blocks,
    source=_SOURCE,
)
def quant_linear(x, x_scale, w, w_scale, *, y):
    """`y = x @ w.T` with both scales."""
    y.copy_(dequantise(product(x, w), x_scale, w_scale))


@ops.op(
    "quant_linear_add",
    f"{_QUANTISED} -> &acc: f32[T, N]",
    core="MIX",
    cost=products(("x", "w")),
    num_blocks=_blocks,
    source=_SOURCE,
)
def quant_linear_add(x, x_scale, w, w_scale, *, acc):
    """`acc += x @ w.T` with both scales."""
    acc += dequantise(product(x, w), x_scale, w_scale)


@ops.op(
    "quant_linear_pair",
    "x: {qact}[T, K], x_scale: f32[T, 1], w1: {wq}[N, K], w1_scale: f32[N], w2: {wq}[N, K], w2_scale: f32[N]"
    " -> y1: f32[T, N], y2: f32[T, N]",
    core="MIX",
    cost=products(("x", "w1"), ("x", "w2")),
    num_blocks=lambda call: 2 * _blocks(call),
    source="pypto-lib kv_proj, gate_up_proj",
)
def quant_linear_pair(x, x_scale, w1, w1_scale, w2, w2_scale, *, y1, y2):
    """Two products of the same rows, with scales."""
    y1.copy_(dequantise(product(x, w1), x_scale, w1_scale))
    y2.copy_(dequantise(product(x, w2), x_scale, w2_scale))


@ops.op("add", "a: {a}[T, N], b: {b}[T, N] -> y: {y}[T, N]", core="AIV", cost=elementwise(1, "y"), num_blocks=_blocks)
def add(a, b, *, y):
    """`a + b`, summed in f32 and rounded once."""
    y.copy_(a.float() + b.float())


@ops.op("add_bias", "bias: {wd}[N] -> &y: f32[T, N]", core="AIV", cost=elementwise(1, "y"), num_blocks=_blocks)
def add_bias(bias, *, y):
    """Adds `bias` to every row."""
    y += bias.float()


@ops.op("cast", "x: {x}[T, N] -> y: {y}[T, N]", core="AIV", cost=elementwise(1, "y"), num_blocks=_blocks)
def cast(x, *, y):
    """A copy in another dtype, or in the same."""
    y.copy_(x)


@ops.op(
    "swiglu",
    "gate: f32[T, N], up: f32[T, N] -> h: {act}[T, N]",
    core="AIV",
    cost=elementwise(5, "h"),
    num_blocks=_blocks,
    source="transformers Qwen3MLP; pypto-lib silu",
)
def swiglu(gate, up, *, h):
    """silu(gate) * up."""
    h.copy_(torch.nn.functional.silu(gate) * up)
