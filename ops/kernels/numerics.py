"""Arithmetic that ops share: per-row INT8 quantisation and matrix products in every precision.

Shape suffixes of names: M rows, K summed, N columns.
"""

from __future__ import annotations

import functools

import torch

INT8_MAX = 127.0
AMAX_FLOOR = 1e-4
"""Rows smaller than this are quantised as if their largest element were this."""

_EXACT_K = 1024
"""int8 products summed over this many elements stay within the 24 bits that f32 holds exactly (128 * 128 * 1024 == 2**24)."""

_PANEL_N = 256
"""Columns whose weights are widened to f32 at a time, few enough to stay in a core's cache."""


def quantise_rows(x: torch.Tensor, out: torch.Tensor, scale_out: torch.Tensor) -> None:
    """Symmetric quantisation of each row (last dimension) of `x`, or a plain copy.

    `x` is any float [..., K]; `out` [..., K] decides: int8 gets `round(x * 127 / amax)` with `amax` floored at 1e-4 and ties to
    even; a float dtype gets `x`. `scale_out` (f32, one element a row, with or without a trailing 1) gets what a row must
    be multiplied by to get `x` back: `amax / 127`, or 1 where nothing was quantised.

    Source: W8A8 rules of the pypto-lib kernels. Their cast through FP16 changes nothing for integers up to 127.
    """
    if out.dtype != torch.int8:
        out.copy_(x)
        scale_out.fill_(1.0)
        return
    rows = x.float()
    scale = INT8_MAX / rows.abs().amax(dim=-1, keepdim=True).clamp_min(AMAX_FLOOR)
    out.copy_((rows * scale).round_())
    scale_out.copy_((1.0 / scale).view(scale_out.shape))


def matmul_nt(x: torch.Tensor, w: torch.Tensor, out: torch.Tensor) -> None:
    """`out = x @ w.T`, summed in int32 for int8 operands and in f32 otherwise.

    `x` [M, K] and `w` [N, K] are both int8 (`out` int32 [M, N], exact) or both floating (`out` any float dtype [M, N],
    rounded once).
    """
    if x.dtype == torch.int8:
        _matmul_int8(x, w, out)
    elif x.dtype == w.dtype == out.dtype == torch.float32:
        torch.mm(x, w.t(), out=out)
    else:
        x_f32 = x.float()
        for n in range(0, w.shape[0], _PANEL_N):
            out[:, n : n + _PANEL_N] = x_f32 @ w[n : n + _PANEL_N].float().t()


def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """`x @ w.T` in the accumulator's dtype: int32 for int8 operands, else f32."""
    dtype = torch.int32 if x.dtype == torch.int8 else torch.float32
    acc = torch.empty(x.shape[0], w.shape[0], dtype=dtype, device=x.device)
    matmul_nt(x, w, acc)
    return acc


def dequantise(acc: torch.Tensor, row_scale: torch.Tensor, column_scale: torch.Tensor) -> torch.Tensor:
    """`acc` [M, N] (int32 or float) as f32, times `row_scale` [M] or [M, 1], times `column_scale` [N]."""
    return acc.float() * row_scale.reshape(-1, 1) * column_scale


def _matmul_int8(x: torch.Tensor, w: torch.Tensor, out: torch.Tensor) -> None:
    if x.device.type == "cpu" and _has_exact_int8():
        torch.ops.aten._int_mm.out(x, w.t(), out=out)
        return
    out.zero_()
    for k in range(0, x.shape[1], _EXACT_K):
        part = slice(k, k + _EXACT_K)
        out += (x[:, part].float() @ w[:, part].float().t()).to(torch.int32)


@functools.cache
def _has_exact_int8() -> bool:
    """Whether this CPU sums int8 products in 32 bits; without VNNI, pairs of products may saturate at 16."""
    return torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()
