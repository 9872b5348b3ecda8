"""Kernels of the ops that `ops/deepseek_v4/attention/rope.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
    """`out` [..., R]: `x` [..., R] with its pairs rotated by the angles of `cos` and `sin` [..., R/2] (broadcast), in f32.

    `out` may be `x` itself.
    """
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.float(), sin.float()
    first, second = (even * cos).sub_(odd * sin), (odd * cos).add_(even * sin)
    for part, value in zip(out.unflatten(-1, (-1, 2)).unbind(-1), (first, second), strict=True):
        part.copy_(value)


def table_rows(positions: torch.Tensor, freqs_cos: torch.Tensor, freqs_sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of both tables at `positions`; idle rows (-1) take row 0."""
    rows = positions.clamp(min=0)
    return freqs_cos.index_select(0, rows), freqs_sin.index_select(0, rows)


def window_start(positions: torch.Tensor, ratio: int) -> torch.Tensor:
    """First position of the compression window that each position lies in."""
    rows = positions.clamp(min=0)
    return rows - rows % ratio


def rope_rows(position_ids, freqs_cos, freqs_sin, *, rope_cos, rope_sin):
    cos, sin = table_rows(position_ids, freqs_cos, freqs_sin)
    rope_cos.copy_(cos)
    rope_sin.copy_(sin)


def half_rope(position_ids, freqs_cos, freqs_sin, *, cos, sin):
    cos_rows, sin_rows = table_rows(position_ids, freqs_cos, freqs_sin)
    half = cos.shape[1]
    cos.copy_(cos_rows[:, :half])
    sin.copy_(sin_rows[:, :half])


def window_rope(position_ids, freqs_cos, freqs_sin, *, cos, sin, ratio):
    half_rope(window_start(position_ids, ratio), freqs_cos, freqs_sin, cos=cos, sin=sin)


def rope_step(position_ids, freqs_cos, freqs_sin, *, rope_cos, rope_sin, step_cos, step_sin):
    rope_rows(position_ids, freqs_cos, freqs_sin, rope_cos=rope_cos, rope_sin=rope_sin)
    half = step_cos.shape[1]
    step_cos.copy_(rope_cos[:, :half])
    step_sin.copy_(rope_sin[:, :half])


def rope_and_window(position_ids, freqs_cos, freqs_sin, *, rope_cos, rope_sin, cmp_cos, cmp_sin, ratio):
    rope_rows(position_ids, freqs_cos, freqs_sin, rope_cos=rope_cos, rope_sin=rope_sin)
    window_rope(position_ids, freqs_cos, freqs_sin, cos=cmp_cos, sin=cmp_sin, ratio=ratio)


def rope_cs(rope_cos, rope_sin, *, cos_il, sin_signed):
    half = rope_cos.shape[1] // 2
    cos_il.copy_(rope_cos[:, :half].repeat_interleave(2, dim=1))
    sin_signed[:, 0::2] = rope_sin[:, :half]
    sin_signed[:, 1::2] = -rope_sin[:, :half].float()


def rotate_back(x: torch.Tensor, cos_il: torch.Tensor, sin_signed: torch.Tensor) -> torch.Tensor:
    """`x` [..., R] (f32) rotated by the negative angle, with tables of `rope_cs` (broadcast)."""
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x * cos_il + swapped * sin_signed
