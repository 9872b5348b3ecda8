"""Kernels of the ops that `ops/deepseek_v4/experts/experts.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.deepseek_v4.experts.shared_expert import swiglu
from ops.kernels.numerics import dequantise, matmul_nt, quantise_rows
from ops.kernels.products import reads_laid_out


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


@reads_laid_out(w=None)
def exp_gate_mm(x, count, w, *, acc, expert, tile):
    matmul_nt(_tile(x, count, expert, tile, acc.shape[0]), w, acc)


@reads_laid_out(w=None)
def exp_up_mm(x, count, w, *, acc, expert, tile):
    matmul_nt(_tile(x, count, expert, tile, acc.shape[0]), w, acc)


def exp_gate_up_act(gate, up, x_scale, count, w1_scale, w3_scale, *, h, expert, tile, limit):
    rows = _tile(x_scale, count, expert, tile, h.shape[0])
    h.copy_(swiglu(dequantise(gate, rows, w1_scale), dequantise(up, rows, w3_scale), limit))


def exp_h_q(h, *, h_i8, h_scale):
    quantise_rows(h, h_i8, h_scale)


@reads_laid_out(w=None)
def exp_w2_mm(h_i8, w, *, acc):
    matmul_nt(h_i8, w, acc)


def exp_w2_act(acc, h_scale, recv_w, count, w2_scale, *, recv_y, expert, tile, first):
    place = tile_rows(count, recv_y, expert, tile, acc.shape[0], first)
    num_rows = place.stop - place.start
    y = dequantise(acc[:num_rows], h_scale[:num_rows], w2_scale)
    weights = recv_w.flatten()[tile_rows(count, recv_w, expert, tile, acc.shape[0])]
    recv_y.flatten(0, 1)[place] = (y * weights.unsqueeze(1)).to(recv_y.dtype)
