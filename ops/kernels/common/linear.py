"""Kernels of the ops that `ops/common/linear.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch
from torch.nn.functional import silu

from ops.kernels.numerics import add_product, add_scaled_product, matmul_nt, of_each, scaled_product_into
from ops.kernels.products import reads_laid_out


@reads_laid_out(w=None)
def linear(x, w, *, y):
    matmul_nt(x, w, y)


@reads_laid_out(w=None)
def linear_add(x, w, *, acc):
    add_product(x, w, acc)


@reads_laid_out(w=None)
def quant_linear(x, x_scale, w, w_scale, *, y):
    scaled_product_into(x, w, x_scale, w_scale, y)


@reads_laid_out(w=None)
def quant_linear_add(x, x_scale, w, w_scale, *, acc):
    add_scaled_product(x, w, x_scale, w_scale, acc)


@reads_laid_out(w1=None, w2=None)
def quant_linear_pair(x, x_scale, w1, w1_scale, w2, w2_scale, *, y1, y2):
    scaled_product_into(x, w1, x_scale, w1_scale, y1)
    scaled_product_into(x, w2, x_scale, w2_scale, y2)


def add(a, b, *, y):
    torch.add(a.float(), b.float(), out=y)


def add_bias(bias, *, y):
    y += bias.float()


def cast(x, *, y):
    y.copy_(x)


def swiglu(gate, up, *, h):
    torch.mul(of_each(silu, gate), up, out=h)
