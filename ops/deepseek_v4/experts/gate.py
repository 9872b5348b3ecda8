"""The router: which experts a token goes to, and with what weight.

Scores are f32 in every precision. Leading layers (`num_hash_layers`) take a token's experts from a table by its id,
the others those with the largest biased scores; either way the weights are the unbiased scores, normalised.

Source: transformers 5.23.0 `DeepseekV4TopKRouter` and `DeepseekV4HashRouter`; pypto-lib `gate` for tasks and padding.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from ops.numerics import matmul_nt, quantise_rows
from ops.rules import elementwise, fixed, moved, pipe_buffer, products
from runner.program.ops import Cost, OpRegistry

ops = OpRegistry()

NO_EXPERT = -1
"""Stands in `indices` where a route goes nowhere: an idle token, or an expert that the token already has."""


@ops.op(
    "x_norm_quant",
    "x_norm_gate: f32[N, D] -> x_norm_i8: {qact}[N, D], x_norm_scale: f32[N, 1]",
    core="AIV",
    cost=elementwise(3, "x_norm_gate"),
    source="pypto-lib gate",
)
def x_norm_quant(x_norm_gate, *, x_norm_i8, x_norm_scale):
    """The token as the shared and the routed experts take it: int8 rows and their scales, or activations and scale 1."""
    quantise_rows(x_norm_gate, x_norm_i8, x_norm_scale)


@ops.op(
    "gate",
    "x: f32[N, D], w: f32[E, D], bias?: f32[E] -> scores: f32[N, P], biased: f32[N, P]",
    core="MIX",
    cost=products(("x", "w")),
    workspace=pipe_buffer(fixed(1), 8192),
    check=lambda call: None if call.dims["P"] >= call.dims["E"] else "'scores' has fewer columns than there are experts",
    source="transformers DeepseekV4TopKRouter; pypto-lib gate",
)
def gate(x, w, *, scores, biased, bias=None):
    """`scores` = sqrt(softplus(x @ w.T)), and the same plus `bias` for choosing; P columns, of which those beyond E never win."""
    num_experts = w.shape[0]
    logits = torch.empty_like(scores[:, :num_experts], memory_format=torch.contiguous_format)
    matmul_nt(x, w, logits)
    found = softplus(logits).sqrt()
    scores[:, :num_experts].copy_(found)
    scores[:, num_experts:].zero_()
    biased[:, :num_experts].copy_(found if bias is None else found + bias)
    biased[:, num_experts:].fill_(float("-inf"))


def _weights(scores: torch.Tensor, experts: torch.Tensor, factor: float) -> torch.Tensor:
    """Scores of the chosen experts, normalised to sum to `factor`."""
    chosen = scores.gather(1, experts)
    return chosen / (chosen.sum(dim=-1, keepdim=True) + 1e-20) * factor


@ops.op(
    "route_hash",
    "input_ids: i64[N], tid2eid: i32[V, K], scores: f32[N, P] -> indices: i32[N, K], weights: f32[N, K]",
    core="AIV",
    params={"factor": "routed_scaling_factor"},
    cost=lambda call: Cost(8 * call.operands["weights"].num_elements, moved(call, "scores", "indices", "weights", "indices")),
    source="transformers DeepseekV4HashRouter; pypto-lib gate",
)
def route_hash(input_ids, tid2eid, scores, *, indices, weights, factor):
    """Experts by the token's id. An expert that the table names twice gets the sum of its weights and one route."""
    experts = tid2eid[input_ids].long()
    found = _weights(scores, experts, factor)
    same = experts.unsqueeze(2) == experts.unsqueeze(1)
    repeated = same.tril(-1).any(dim=-1)
    merged = (same * found.unsqueeze(1)).sum(dim=-1)
    indices.copy_(experts.masked_fill(repeated, NO_EXPERT))
    weights.copy_(merged.masked_fill(repeated, 0.0))


@ops.op(
    "route_sort",
    "biased: f32[N, P], scores: f32[N, P] -> indices: i32[N, K], weights: f32[N, K]",
    core="AIV",
    params={"factor": "routed_scaling_factor"},
    cost=elementwise(32, "biased"),
    source="transformers DeepseekV4TopKRouter; pypto-lib gate",
)
def route_sort(biased, scores, *, indices, weights, factor):
    """The K experts with the largest biased scores, largest first; of equal ones, the lower expert first.

    That is the order of the reference's kernels (pypto-lib `gate`: `sort32` and `mrgsort`, checked against a stable sort);
    transformers takes which of them `torch.topk` happens to return.
    """
    experts = biased.sort(dim=-1, descending=True, stable=True).indices[:, : indices.shape[1]]
    indices.copy_(experts)
    weights.copy_(_weights(scores, experts, factor))


@ops.op(
    "gate_inactive_zero",
    "position_ids: i32[T] -> &indices: i32[T, K], &weights: f32[T, K]",
    core="AIV",
    source="pypto-lib gate",
)
def gate_inactive_zero(position_ids, *, indices, weights):
    """Idle tokens, whose position is -1, get no routes."""
    idle = (position_ids < 0).unsqueeze(1)
    indices.masked_fill_(idle, NO_EXPERT)
    weights.masked_fill_(idle, 0.0)
