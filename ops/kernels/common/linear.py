"""Kernels of the ops that `ops/common/linear.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import silu

from ops.kernels.numerics import add_product, add_scaled_product, is_same, matmul_nt, of_each, scaled_product_into, widened
from ops.kernels.products import Laid, reads_laid_out


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


# --- all tiles at once ---

_Unit = Mapping[str, Any]


def quant_linear_tiles(units: Sequence[_Unit]) -> None:
    """`quant_linear` of many weights: of those that the same rows are multiplied by, zero rows at the end are looked for once."""
    rows: list[_Unit] = []
    for unit in units:
        if rows and not all(is_same(unit[name], rows[0][name]) for name in ("x", "x_scale")):
            _of_rows(rows)
            rows = []
        rows.append(unit)
    _of_rows(rows)


def _of_rows(units: Sequence[_Unit]) -> None:
    x, x_scale, weights = units[0]["x"], units[0]["x_scale"], [unit["w"] for unit in units]
    num_live = x.shape[0]
    if all(isinstance(w, Laid) and w.is_finite for w in weights):
        num_live = next((w.live_rows(x) for w in weights if w.skips_zeros), num_live)
    x, x_scale = widened(x[:num_live]), x_scale[:num_live]
    for unit, w in zip(units, weights, strict=True):
        y = unit["y"]
        scaled_product_into(x, w, x_scale, unit["w_scale"], y[:num_live], is_padded=False)
        y[num_live:].zero_()
