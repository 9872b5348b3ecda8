"""Kernels of the ops that `ops/deepseek_v4/experts/shared_expert.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import silu

from ops.kernels.numerics import of_each, quantise_rows, scaled_product, scaled_product_into
from ops.kernels.products import reads_laid_out

_silu_ = partial(silu, inplace=True)


def swiglu(gate: torch.Tensor, up: torch.Tensor, limit: float) -> torch.Tensor:
    """silu(gate) * up, with gate at most `limit` and up within +-`limit`; f32, which are written over."""
    return of_each(_silu_, gate.clamp_(max=limit)).mul_(up.clamp_(-limit, limit))


@reads_laid_out(w1=None, w3=None)
def sh_gate_up(x, x_scale, w1, w1_scale, w3, w3_scale, *, h, limit):
    num_tokens = x.shape[0]
    gate = scaled_product(x, w1, x_scale, w1_scale)
    up = scaled_product(x, w3, x_scale, w3_scale)
    h[:num_tokens].copy_(swiglu(gate, up, limit))
    h[num_tokens:].zero_()


def sh_h_q(h, *, h_i8, h_scale):
    quantise_rows(h, h_i8, h_scale)


@reads_laid_out(w2=None)
def sh_w2(h_i8, h_scale, w2, w2_scale, *, y):
    scaled_product_into(h_i8, w2, h_scale, w2_scale, y)


def sh_output(y, *, sh):
    sh.copy_(y[: sh.shape[0]])
