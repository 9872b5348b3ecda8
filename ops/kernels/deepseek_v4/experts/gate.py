"""Kernels of the ops that `ops/deepseek_v4/experts/gate.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from ops.kernels.numerics import of_each, of_tiles, product, quantise_rows
from ops.kernels.products import reads_laid_out

NO_EXPERT = -1
"""Stands in `indices` where a route goes nowhere: an idle token, or an expert that the token already has."""


def x_norm_quant(x_norm_gate, *, x_norm_i8, x_norm_scale):
    quantise_rows(x_norm_gate, x_norm_i8, x_norm_scale)


@reads_laid_out(w=None)
def gate(x, w, *, scores, biased, bias=None):
    num_experts = w.shape[0]
    found = of_each(softplus, product(x, w)).sqrt()
    scores[:, :num_experts].copy_(found)
    scores[:, num_experts:].zero_()
    biased[:, :num_experts].copy_(found if bias is None else found + bias)
    biased[:, num_experts:].fill_(float("-inf"))


def _weights(scores: torch.Tensor, experts: torch.Tensor, factor: float) -> torch.Tensor:
    """Scores of the chosen experts, normalised to sum to `factor`."""
    chosen = scores.gather(1, experts)
    return chosen / (chosen.sum(dim=-1, keepdim=True) + 1e-20) * factor


def route_hash(input_ids, tid2eid, scores, *, indices, weights, factor):
    experts = tid2eid[input_ids].long()
    found = _weights(scores, experts, factor)
    same = experts.unsqueeze(2) == experts.unsqueeze(1)
    repeated = same.tril(-1).any(dim=-1)
    merged = (same * found.unsqueeze(1)).sum(dim=-1)
    indices.copy_(experts.masked_fill(repeated, NO_EXPERT))
    weights.copy_(merged.masked_fill(repeated, 0.0))


def route_sort(biased, scores, *, indices, weights, factor):
    experts = biased.sort(dim=-1, descending=True, stable=True).indices[:, : indices.shape[1]]
    indices.copy_(experts)
    weights.copy_(_weights(scores, experts, factor))


def gate_inactive_zero(position_ids, *, indices, weights):
    idle = (position_ids < 0).unsqueeze(1)
    indices.masked_fill_(idle, NO_EXPERT)
    weights.masked_fill_(idle, 0.0)


# --- all tiles at once ---

x_norm_quant_tiles = of_tiles(x_norm_quant, "x_norm_gate", "x_norm_i8", "x_norm_scale")
gate_tiles = of_tiles(gate, "x", "scores", "biased")
route_hash_tiles = of_tiles(route_hash, "input_ids", "scores", "indices", "weights")
route_sort_tiles = of_tiles(route_sort, "biased", "scores", "indices", "weights")
