"""Kernels of the ops that `ops/deepseek_v4/experts/shared_expert.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch
from torch.nn.functional import silu

from ops.kernels.numerics import dequantise, matmul_nt, quantise_rows


def swiglu(gate: torch.Tensor, up: torch.Tensor, limit: float) -> torch.Tensor:
    """silu(gate) * up, with gate at most `limit` and up within +-`limit`; f32 in, f32 out."""
    return silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)


def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """`x @ w.T` in the accumulator's dtype: int32 for int8 operands, else f32."""
    dtype = torch.int32 if x.dtype == torch.int8 else torch.float32
    acc = torch.empty(x.shape[0], w.shape[0], dtype=dtype, device=x.device)
    matmul_nt(x, w, acc)
    return acc


def sh_gate_up(x, x_scale, w1, w1_scale, w3, w3_scale, *, h, limit):
    num_tokens = x.shape[0]
    gate = dequantise(product(x, w1), x_scale, w1_scale)
    up = dequantise(product(x, w3), x_scale, w3_scale)
    h[:num_tokens].copy_(swiglu(gate, up, limit))
    h[num_tokens:].zero_()


def sh_h_q(h, *, h_i8, h_scale):
    quantise_rows(h, h_i8, h_scale)


def sh_w2(h_i8, h_scale, w2, w2_scale, *, y):
    y.copy_(dequantise(product(h_i8, w2), h_scale, w2_scale))


def sh_output(y, *, sh):
    sh.copy_(y[: sh.shape[0]])
