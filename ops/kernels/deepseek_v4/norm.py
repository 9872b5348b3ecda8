"""Kernels of the ops that `ops/deepseek_v4/norm.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch


def normalise(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    """`x` [..., D] over its root mean square, times `w` [D]; f32."""
    rows = x.float()
    return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps) * w.float()


def rms_norm(x, w, *, y, eps):
    y.copy_(normalise(x, w, eps))


def ffn_norm(x_mixed, w, *, x_norm, x_norm_gate, eps):
    rows = normalise(x_mixed, w, eps)
    x_norm.copy_(rows)
    x_norm_gate.copy_(rows)
