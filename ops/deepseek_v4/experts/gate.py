"""The router: which experts a token goes to, and with what weight.

Scores are f32 in every precision. Leading layers (`num_hash_layers`) take a token's experts from a table by its id,
the others those with the largest biased scores; either way the weights are the unbiased scores, normalised.

Source: transformers 5.23.0 `DeepseekV4TopKRouter` and `DeepseekV4HashRouter`; pypto-lib `gate` for tasks and padding.
"""

from __future__ import annotations

from ops.rules import elementwise, fixed, moved, pipe_buffer, products
from runner.program.ops import Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.experts.gate")


ops.declare(
    "x_norm_quant",
    "x_norm_gate: f32[N, D] -> x_norm_i8: {qact}[N, D], x_norm_scale: f32[N, 1]",
    core="AIV",
    cost=elementwise(3, "x_norm_gate"),
    source="pypto-lib gate",
    doc="The token as the shared and the routed experts take it: int8 rows and their scales, or activations and scale 1.",
)


ops.declare(
    "gate",
    "x: f32[N, D], w: f32[E, D], bias?: f32[E] -> scores: f32[N, P], biased: f32[N, P]",
    core="MIX",
    cost=products(("x", "w")),
    workspace=pipe_buffer(fixed(1), 8192),
    check=lambda call: None if call.dims["P"] >= call.dims["E"] else "'scores' has fewer columns than there are experts",
    source="transformers DeepseekV4TopKRouter; pypto-lib gate",
    doc="`scores` = sqrt(softplus(x @ w.T)), and that plus `bias` for choosing; P columns, of which those beyond E never win.",
)


ops.declare(
    "route_hash",
    "input_ids: i64[N], tid2eid: i32[V, K], scores: f32[N, P] -> indices: i32[N, K], weights: f32[N, K]",
    core="AIV",
    params={"factor": "routed_scaling_factor"},
    cost=lambda call: Cost(8 * call.operands["weights"].num_elements, moved(call, "scores", "indices", "weights", "indices")),
    source="transformers DeepseekV4HashRouter; pypto-lib gate",
    doc="Experts by the token's id. An expert that the table names twice gets the sum of its weights and one route.",
)


ops.declare(
    "route_sort",
    "biased: f32[N, P], scores: f32[N, P] -> indices: i32[N, K], weights: f32[N, K]",
    core="AIV",
    params={"factor": "routed_scaling_factor"},
    cost=elementwise(32, "biased"),
    source="transformers DeepseekV4TopKRouter; pypto-lib gate",
    doc="""The K experts with the largest biased scores, largest first; of equal ones, the lower expert first.

    That is the order of the reference's kernels (pypto-lib `gate`: `sort32` and `mrgsort`, checked against a stable sort);
    transformers takes which of them `torch.topk` happens to return.
    """,
)


ops.declare(
    "gate_inactive_zero",
    "position_ids: i32[T] -> &indices: i32[T, K], &weights: f32[T, K]",
    core="AIV",
    source="pypto-lib gate",
    doc="Idle tokens, whose position is -1, get no routes.",
)


for tiled in ("x_norm_quant", "gate", "route_hash", "route_sort"):
    ops.fuse(f"{tiled}_tiles", (tiled, {}), inner=())
