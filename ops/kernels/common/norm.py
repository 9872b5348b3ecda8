"""Kernels of the ops that `ops/common/norm.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.numerics import quantise_rows, rms_scale


def normalise(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    """`x` [..., D] over its root mean square, times `w` [D]; f32."""
    rows = x.float()
    return (rows * rms_scale(rows, eps)).mul_(w.float())


def rms_norm(x, w, *, y, eps):
    y.copy_(normalise(x, w, eps))


def rms_norm_quant(x, w, *, y, y_scale, eps):
    quantise_rows(normalise(x, w, eps), y, y_scale)
