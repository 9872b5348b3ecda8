"""Kernels of the ops that `ops/deepseek_v4/experts/experts.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ops.kernels.deepseek_v4.experts.shared_expert import swiglu
from ops.kernels.numerics import dequantise, is_ones, matmul_nt, quantise_rows, wide_product, widened
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


# --- all tiles at once ---

_MOST_ROWS = 512
"""Rows of tiles that are computed at a time: bounds what lies between their products."""

_Unit = Mapping[str, Any]


def expert_tiles(units: Sequence[_Unit]) -> None:
    """The six tasks of many tiles: one product for tiles of one expert that follow each other, of the rows that there are."""
    counts = units[0]["count"].view(-1).tolist()
    begins, outs = (_first_rows(counts, units[0][name]) for name in ("x", "recv_y"))
    spans: list[_Span] = []
    held = 0
    for unit in units:
        expert, size = unit["expert"], unit["gate"].shape[0]
        start = unit["tile"] * size
        num_rows = max(min(size, counts[expert] - start), 0)
        begin, out = begins[expert] + start, outs[expert] - outs[unit["first"]] + start
        if spans and unit["w1"] is spans[-1].unit["w1"] and begin == spans[-1].end:
            spans[-1] = _Span(unit, spans[-1].begin, begin + num_rows, spans[-1].out)
        else:
            if held + num_rows > _MOST_ROWS and spans:
                _run_spans(spans)
                spans, held = [], 0
            spans.append(_Span(unit, begin, begin + num_rows, out))
        held += num_rows
    _run_spans(spans)


def _first_rows(counts: Sequence[int], buffer: torch.Tensor) -> Sequence[int]:
    """Where each expert's rows begin in `buffer` [L, M, ...], all lanes seen as one."""
    if buffer.shape[0] == len(counts):
        return [number * buffer.shape[1] for number in range(len(counts))]
    return list(itertools.accumulate(counts[:-1], initial=0))


class _Span(NamedTuple):
    """Rows of one expert: `[begin, end)` of the receive buffers, from `out` on in `recv_y`, all lanes seen as one."""

    unit: _Unit
    begin: int
    end: int
    out: int


def _run_spans(spans: Sequence[_Span]) -> None:
    unit = spans[0].unit
    lengths = [span.end - span.begin for span in spans]
    rows, out_rows = (_rows([getattr(span, name) for span in spans], lengths) for name in ("begin", "out"))

    def of_all(name: str) -> torch.Tensor:
        return unit[name].flatten(0, 1)[rows]

    def scaled(x: torch.Tensor, row_scale: torch.Tensor | None, weight: str) -> torch.Tensor:
        """`dequantise` of each span's rows times its own weight; column scales of 1, which change nothing, are left out."""
        given = zip(widened(x).split(lengths), spans, strict=True)
        parts = [wide_product(part, span.unit[weight], is_padded=False) for part, span in given]
        acc = parts[0] if len(parts) == 1 else torch.cat(parts)
        if row_scale is not None:
            acc.mul_(row_scale.view(-1, 1))
        scales = [span.unit[f"{weight}_scale"] for span in spans]
        if not all(is_ones(scale) for scale in scales):
            for part, scale in zip(acc.split(lengths), scales, strict=True):
                part.mul_(scale)
        return acc

    x, x_scale = of_all("x"), of_all("x_scale")
    hidden = swiglu(scaled(x, x_scale, "w1"), scaled(x, x_scale, "w3"), unit["limit"])
    if x.dtype == torch.int8:
        codes, scale = torch.empty_like(hidden, dtype=torch.int8), hidden.new_empty(hidden.shape[0], 1)
        quantise_rows(hidden, codes, scale)
    else:
        codes, scale = hidden.to(x.dtype), None
    y = scaled(codes, scale, "w2").mul_(of_all("recv_w").unsqueeze(1))
    unit["recv_y"].flatten(0, 1)[out_rows] = y.to(unit["recv_y"].dtype)


def _rows(begins: Sequence[int], lengths: Sequence[int]) -> slice | torch.Tensor:
    """Rows `begins[i]` and following, `lengths[i]` of them, one after the other."""
    places = list(itertools.accumulate(lengths, initial=begins[0]))
    if places[:-1] == list(begins):
        return slice(places[0], places[-1])
    return torch.cat([torch.arange(begin, begin + length) for begin, length in zip(begins, lengths, strict=True)])
