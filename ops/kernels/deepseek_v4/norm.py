"""Kernels of the ops that `ops/deepseek_v4/norm.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

from ops.kernels.common.norm import normalise
from ops.kernels.numerics import of_tiles


def ffn_norm(x_mixed, w, *, x_norm, x_norm_gate, eps):
    rows = normalise(x_mixed, w, eps)
    x_norm.copy_(rows)
    x_norm_gate.copy_(rows)


ffn_norm_tiles = of_tiles(ffn_norm, "x_mixed", "x_norm", "x_norm_gate")
