"""Matrix products `x @ w.T`, plain and with 8-bit operands, and what is done to their results.

Operands `{qact}` and `{wq}` bring a scale for each row; in full precision they are floats and the scales are 1.
T rows, K summed, N columns.

Source: torch.nn.functional.linear; pypto-lib projections of `prefill`, `decode` and their A8W8 variants.
"""

from __future__ import annotations

from ops.rules import ceil_div, elementwise, products
from runner.program.ops import Call, OpRegistry

ops = OpRegistry(kernels="ops.kernels.common.linear")

_TILE_ROWS, _TILE_COLUMNS = 128, 256
"""A block's share of a result: what a cube core's accumulator takes of f32."""

_QUANTISED = "x: {qact}[T, K], x_scale: f32[T, 1], w: {wq}[N, K], w_scale: f32[N]"
_SOURCE = "torch.nn.functional.linear; pypto-lib q_proj, out_proj, down_proj and their A8W8 forms"


def _blocks(call: Call) -> int:
    return ceil_div(call.dims["T"], _TILE_ROWS) * ceil_div(call.dims["N"], _TILE_COLUMNS)


ops.declare(
    "linear",
    "x: {x}[T, K], w: {wd}[N, K] -> y: f32[T, N]",
    core="AIC",
    cost=products(("x", "w")),
    num_blocks=_blocks,
    source=_SOURCE,
    doc="`y = x @ w.T`.",
)


ops.declare(
    "linear_add",
    "x: {x}[T, K], w: {wd}[N, K] -> &acc: f32[T, N]",
    core="AIC",
    cost=products(("x", "w")),
    num_blocks=_blocks,
    source=_SOURCE,
    doc="`acc += x @ w.T`.",
)


ops.declare(
    "quant_linear",
    f"{_QUANTISED} -> y: f32[T, N]",
    core="MIX",
    cost=products(("x", "w")),
    num_blocks=_blocks,
    source=_SOURCE,
    doc="`y = x @ w.T` with both scales.",
)

ops.fuse("quant_linear_tiles", ("quant_linear", {}), inner=())


ops.declare(
    "quant_linear_add",
    f"{_QUANTISED} -> &acc: f32[T, N]",
    core="MIX",
    cost=products(("x", "w")),
    num_blocks=_blocks,
    source=_SOURCE,
    doc="`acc += x @ w.T` with both scales.",
)


ops.declare(
    "quant_linear_pair",
    "x: {qact}[T, K], x_scale: f32[T, 1], w1: {wq}[N, K], w1_scale: f32[N], w2: {wq}[N, K], w2_scale: f32[N]"
    " -> y1: f32[T, N], y2: f32[T, N]",
    core="MIX",
    cost=products(("x", "w1"), ("x", "w2")),
    num_blocks=lambda call: 2 * _blocks(call),
    source="pypto-lib kv_proj, gate_up_proj",
    doc="Two products of the same rows, with scales.",
)


ops.declare(
    "add",
    "a: {a}[T, N], b: {b}[T, N] -> y: {y}[T, N]",
    core="AIV",
    cost=elementwise(1, "y"),
    num_blocks=_blocks,
    doc="`a + b`, summed in f32 and rounded once.",
)


ops.declare(
    "add_bias",
    "bias: {wd}[N] -> &y: f32[T, N]",
    core="AIV",
    cost=elementwise(1, "y"),
    num_blocks=_blocks,
    doc="Adds `bias` to every row.",
)


ops.declare(
    "cast",
    "x: {x}[T, N] -> y: {y}[T, N]",
    core="AIV",
    cost=elementwise(1, "y"),
    num_blocks=_blocks,
    doc="A copy in another dtype, or in the same.",
)


ops.declare(
    "swiglu",
    "gate: f32[T, N], up: f32[T, N] -> h: {act}[T, N]",
    core="AIV",
    cost=elementwise(5, "h"),
    num_blocks=_blocks,
    source="transformers Qwen3MLP; pypto-lib silu",
    doc="silu(gate) * up.",
)
