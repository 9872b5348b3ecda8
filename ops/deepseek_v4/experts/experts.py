"""Routed experts on one rank: six tasks for each tile of up to 16 received rows of one expert.

The receive buffers are [L, M, ...]. Padded, there is one lane for each of the E experts of this rank and expert e's rows
begin lane e; ragged, there is one lane and expert e's rows follow those of the experts before it. `count` [E, 1] says how many
rows each has.
Tile t of expert e is its rows 16t and up; tiles are matrices of 16 rows, zero beyond the last row.

Source: transformers 5.23.0 `DeepseekV4Experts`; pypto-lib `expert_routed` for tasks and precision.
"""

from __future__ import annotations

import torch

from ops.deepseek_v4.experts.shared_expert import swiglu
from ops.numerics import dequantise, matmul_nt, quantise_rows
from ops.rules import elementwise, fixed, moved, products
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry()

TILE = {"expert": 0, "tile": 0}
"""Attributes of a tile's tasks: the expert's number on this rank, and the tile's in the expert."""


def first_rows(count: torch.Tensor, num_lanes: int, depth: int) -> torch.Tensor:
    """Where each expert's rows begin in the receive buffers, seen as [L * M, ...]; `count` is [E, 1], the result i64 [E]."""
    num_experts = count.shape[0]
    if num_lanes == num_experts:
        return torch.arange(num_experts, device=count.device) * depth
    counts = count.view(-1).long()
    return counts.cumsum(0) - counts


def tile_rows(count: torch.Tensor, buffer: torch.Tensor, expert: int, tile: int, size: int, first: int = 0) -> slice:
    """The tile's rows of `buffer` [L, M, ...], which begins with expert `first`, seen as [L * M, ...]: up to `size`, or none."""
    begins = first_rows(count, buffer.shape[0], buffer.shape[1])
    begin = int(begins[expert] - begins[first])
    end = begin + int(count[expert, 0])
    return slice(min(begin + tile * size, end), min(begin + (tile + 1) * size, end))


def _tile(buffer: torch.Tensor, count: torch.Tensor, expert: int, tile: int, size: int) -> torch.Tensor:
    """The tile's rows, with zero rows up to `size`: a product then has one shape however many rows came."""
    rows = buffer.flatten(0, 1)[tile_rows(count, buffer, expert, tile, size)]
    if rows.shape[0] == size:
        return rows
    padded = rows.new_zeros(size, *rows.shape[1:])
    padded[: rows.shape[0]] = rows
    return padded


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


@ops.op(
    "exp_gate_mm", _PRODUCT, core="AIC", params=TILE, cost=_matmul_cost, num_blocks=fixed(2), check=_check_lanes,
    source="pypto-lib expert_routed",
)  # fmt: skip
def exp_gate_mm(x, count, w, *, acc, expert, tile):
    """w1 of the tile's rows, not yet scaled."""
    matmul_nt(_tile(x, count, expert, tile, acc.shape[0]), w, acc)


@ops.op(
    "exp_up_mm", _PRODUCT, core="AIC", params=TILE, cost=_matmul_cost, num_blocks=fixed(2), check=_check_lanes,
    source="pypto-lib expert_routed",
)  # fmt: skip
def exp_up_mm(x, count, w, *, acc, expert, tile):
    """w3 of the tile's rows, not yet scaled."""
    matmul_nt(_tile(x, count, expert, tile, acc.shape[0]), w, acc)


@ops.op(
    "exp_gate_up_act",
    "gate: {acc}[R, F], up: {acc}[R, F], x_scale: f32[L, M], count: i32[E, 1], w1_scale: f32[F], w3_scale: f32[F]"
    " -> h: f32[R, F]",
    core="AIV",
    params={**TILE, "limit": "swiglu_limit"},
    cost=elementwise(10, "h", "gate", "up", "w1_scale", "w3_scale", "h"),
    num_blocks=fixed(4),
    check=_check_lanes,
    source="transformers DeepseekV4Experts; pypto-lib expert_routed",
)
def exp_gate_up_act(gate, up, x_scale, count, w1_scale, w3_scale, *, h, expert, tile, limit):
    """The hidden rows silu(w1 x) * w3 x of a tile, in f32."""
    rows = _tile(x_scale, count, expert, tile, h.shape[0])
    h.copy_(swiglu(dequantise(gate, rows, w1_scale), dequantise(up, rows, w3_scale), limit))


@ops.op(
    "exp_h_q",
    "h: f32[R, F] -> h_i8: {qact}[R, F], h_scale: f32[R, 1]",
    core="AIV",
    cost=elementwise(3, "h"),
    source="pypto-lib expert_routed",
)
def exp_h_q(h, *, h_i8, h_scale):
    """The hidden rows as w2 takes them: quantised anew."""
    quantise_rows(h, h_i8, h_scale)


@ops.op(
    "exp_w2_mm",
    "h_i8: {qact}[R, F], w: {wq}[D, F] -> acc: {acc}[R, D]",
    core="AIC",
    cost=products(("h_i8", "w")),
    num_blocks=fixed(4),
    source="pypto-lib expert_routed",
)
def exp_w2_mm(h_i8, w, *, acc):
    """w2 of the hidden rows, not yet scaled."""
    matmul_nt(h_i8, w, acc)


@ops.op(
    "exp_w2_act",
    "acc: {acc}[R, D], h_scale: f32[R, 1], recv_w: f32[L, M], count: i32[E, 1], w2_scale: f32[D] -> recv_y: {act}[G, N, D]",
    core="AIV",
    params={**TILE, "first": 0},
    cost=lambda call: Cost(3 * call.operands["acc"].num_elements, moved(call, "acc", "w2_scale") + _tile_bytes(call, "recv_y")),
    check=_check_lanes,
    source="transformers DeepseekV4Experts; pypto-lib expert_routed",
)
def exp_w2_act(acc, h_scale, recv_w, count, w2_scale, *, recv_y, expert, tile, first):
    """The tile's output rows, times their routing weights, into its rows of `recv_y`; no other row is touched.

    `recv_y` [G, N, D] is like the receive buffers, or one lane with the rows of the experts from `first` on, packed.
    """
    place = tile_rows(count, recv_y, expert, tile, acc.shape[0], first)
    num_rows = place.stop - place.start
    y = dequantise(acc[:num_rows], h_scale[:num_rows], w2_scale)
    weights = recv_w.flatten()[tile_rows(count, recv_w, expert, tile, acc.shape[0])]
    recv_y.flatten(0, 1)[place] = (y * weights.unsqueeze(1)).to(recv_y.dtype)
