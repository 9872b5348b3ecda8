"""Routed experts on one rank: six tasks for each tile of up to 16 received rows of one expert.

The receive buffers are [L, M, ...]. Padded, there is one lane for each of the E experts of this rank and expert e's rows
begin lane e; ragged, there is one lane and expert e's rows follow those of the experts before it. `count` [E, 1] says how many
rows each has.
Tile t of expert e is its rows 16t and up; tiles are matrices of 16 rows, zero beyond the last row.

Source: transformers 5.23.0 `DeepseekV4Experts`; pypto-lib `expert_routed` for tasks and precision.
"""

from __future__ import annotations

from ops.rules import elementwise, fixed, moved, products
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.experts.experts")

TILE = {"expert": 0, "tile": 0}
"""Attributes of a tile's tasks: the expert's number on this rank, and the tile's in the expert."""


def lanes_problem(what: str, lanes: int, experts: int) -> str | None:
    """What is wrong with the number of lanes of a buffer for the rows of so many experts."""
    return None if lanes in (1, experts) else f"{what} has {lanes} lanes, expected 1 or {experts}"


def _check_lanes(call: Call) -> str | None:
    problem = lanes_problem("the receive buffer", call.dims["L"], call.dims["E"])
    return problem or lanes_problem("'recv_y'", call.dims.get("G", 1), call.dims["E"])


def _tile_bytes(call: Call, name: str) -> int:
    """What a tile of R rows moves of a buffer [lanes, depth, ...]."""
    spec = call.operands[name]
    return spec.size_bytes // (spec.shape[0] * spec.shape[1]) * call.dims["R"]


def _matmul_cost(call: Call) -> Cost:
    rows, columns, summed = call.dims["R"], call.dims["F"], call.dims["D"]
    return Cost(2 * rows * columns * summed, moved(call, "w", "acc") + _tile_bytes(call, "x"))


_PRODUCT = "x: {qact}[L, M, D], count: i32[E, 1], w: {wq}[F, D] -> acc: {acc}[R, F]"


ops.declare(
    "exp_gate_mm",
    _PRODUCT,
    core="AIC",
    params=TILE,
    cost=_matmul_cost,
    num_blocks=fixed(2),
    check=_check_lanes,
    source="pypto-lib expert_routed",
    doc="w1 of the tile's rows, not yet scaled.",
)


ops.declare(
    "exp_up_mm",
    _PRODUCT,
    core="AIC",
    params=TILE,
    cost=_matmul_cost,
    num_blocks=fixed(2),
    check=_check_lanes,
    source="pypto-lib expert_routed",
    doc="w3 of the tile's rows, not yet scaled.",
)


ops.declare(
    "exp_gate_up_act",
    "gate: {acc}[R, F], up: {acc}[R, F], x_scale: f32[L, M], count: i32[E, 1], w1_scale: f32[F], w3_scale: f32[F]"
    " -> h: f32[R, F]",
    core="AIV",
    params={**TILE, "limit": "swiglu_limit"},
    cost=elementwise(10, "h", "gate", "up", "w1_scale", "w3_scale", "h"),
    num_blocks=fixed(4),
    check=_check_lanes,
    source="transformers DeepseekV4Experts; pypto-lib expert_routed",
    doc="The hidden rows silu(w1 x) * w3 x of a tile, in f32.",
)


ops.declare(
    "exp_h_q",
    "h: f32[R, F] -> h_i8: {qact}[R, F], h_scale: f32[R, 1]",
    core="AIV",
    cost=elementwise(3, "h"),
    source="pypto-lib expert_routed",
    doc="The hidden rows as w2 takes them: quantised anew.",
)


ops.declare(
    "exp_w2_mm",
    "h_i8: {qact}[R, F], w: {wq}[D, F] -> acc: {acc}[R, D]",
    core="AIC",
    cost=products(("h_i8", "w")),
    num_blocks=fixed(4),
    source="pypto-lib expert_routed",
    doc="w2 of the hidden rows, not yet scaled.",
)


ops.declare(
    "exp_w2_act",
    "acc: {acc}[R, D], h_scale: f32[R, 1], recv_w: f32[L, M], count: i32[E, 1], w2_scale: f32[D] -> recv_y: {act}[G, N, D]",
    core="AIV",
    params={**TILE, "first": 0},
    cost=lambda call: Cost(3 * call.operands["acc"].num_elements, moved(call, "acc", "w2_scale") + _tile_bytes(call, "recv_y")),
    check=_check_lanes,
    source="transformers DeepseekV4Experts; pypto-lib expert_routed",
    doc="""The tile's output rows, times their routing weights, into its rows of `recv_y`; no other row is touched.

    `recv_y` [G, N, D] is like the receive buffers, or one lane with the rows of the experts from `first` on, packed.
    """,
)


ops.fuse(
    "expert_tiles",
    ("exp_gate_mm", {"w": "w1", "acc": "gate"}),
    ("exp_up_mm", {"w": "w3", "acc": "up"}),
    ("exp_gate_up_act", {}),
    ("exp_h_q", {}),
    ("exp_w2_mm", {"w": "w2", "acc": "y"}),
    ("exp_w2_act", {"acc": "y"}),
    inner=("gate", "up", "h", "h_i8", "h_scale", "y"),
)
