"""Kernels of the ops that `ops/deepseek_v4/attention/oproj.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ops.deepseek_v4.attention.oproj import PART_COLUMNS
from ops.kernels.numerics import AMAX_FLOOR, INT8_MAX, beside, is_same, matmul_nt, product, quantise_rows, scaled_product_into
from ops.kernels.products import Laid, part_of, reads_laid_out


def _groups(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Sequence[int], Sequence[int]]:
    """Where groups of rows of `wo_a` begin."""
    groups = shapes["o_packed"][0] // shapes["o_r"][0]
    return range(0, shapes["wo_a"][0], shapes["wo_a"][0] // groups), ()


@reads_laid_out(wo_a=_groups)
def proj_a(o_packed, wo_a, *, o_r, amax_parts):
    num_tokens = o_r.shape[0]
    packed = o_packed.view(num_tokens, -1, o_packed.shape[1])
    groups = packed.shape[1]
    rank = wo_a.shape[0] // groups
    parts = amax_parts.view(groups, -1, num_tokens)
    for group in range(groups):
        columns = slice(group * rank, (group + 1) * rank)
        w = part_of(wo_a, (columns.start, columns.stop), (0, wo_a.shape[1]))
        matmul_nt(packed[:, group], w, o_r[:, columns])
        for i, part in enumerate(o_r[:, columns].split(PART_COLUMNS, dim=1)):
            torch.amax(part.abs(), dim=1, out=parts[group, i])


def o_quant(amax_parts, o_r, *, o_r_i8, scale):
    if o_r_i8.dtype != torch.int8:
        o_r_i8.copy_(o_r)
        scale.fill_(1.0)
        return
    factor = INT8_MAX / amax_parts.amax(dim=0).clamp_min(AMAX_FLOOR).unsqueeze(-1)
    o_r_i8.copy_((o_r * factor).round_())
    scale.copy_(1.0 / factor)


@reads_laid_out(wo_b=None)
def proj_b(o_r_i8, wo_b, wo_b_scale, scale, *, attn_out):
    scaled_product_into(o_r_i8, wo_b, scale, wo_b_scale, attn_out)


@reads_laid_out(w=None)
def proj_a_mm(o_packed, w, *, y, group, groups):
    x = o_packed[group::groups]
    matmul_nt(x, w, y[: x.shape[0]])
    y[x.shape[0] :].zero_()


def quant_group(o_r, *, scale, o_r_i8, o_r_i8_pad):
    num_tokens = o_r_i8.shape[0]
    quantise_rows(o_r[:num_tokens], o_r_i8, scale)
    o_r_i8_pad[:num_tokens] = o_r_i8
    o_r_i8_pad[num_tokens:].zero_()


@reads_laid_out(w=None)
def proj_b_mm(x, w, *, partial):
    matmul_nt(x, w, partial)


def proj_b_act(wo_b_scale, partials, act_scale, *, attn_out):
    num_tokens, groups = act_scale.shape
    parts = partials[:num_tokens].view(num_tokens, groups, -1).float()
    attn_out.copy_((parts * act_scale.unsqueeze(-1)).sum(dim=1) * wo_b_scale)


# --- all groups at once ---

_Units = Sequence[Mapping[str, Any]]


def proj_a_tiles(units: _Units) -> None:
    """`proj_a_mm` of many groups and tiles: rows are put in order once, and what lies side by side is written at once."""
    packed, groups = units[0]["o_packed"], units[0]["groups"]
    outs = beside([unit["y"] for unit in units])
    if outs is None or not all(unit["groups"] == groups and is_same(unit["o_packed"], packed) for unit in units):
        for unit in units:
            proj_a_mm(**unit)
        return
    rows = packed.unflatten(0, (-1, groups)).transpose(0, 1).contiguous()
    num_tokens = rows.shape[1]
    outs[:num_tokens] = torch.cat([product(rows[unit["group"]], unit["w"]) for unit in units], 1)
    outs[num_tokens:].zero_()


def quant_groups(units: _Units) -> None:
    """`quant_group` of many groups: what is not quantised is copied at once where it lies side by side."""
    names = ("o_r", "scale", "o_r_i8", "o_r_i8_pad")
    wholes = {} if units[0]["o_r_i8"].dtype == torch.int8 else {name: beside([unit[name] for unit in units]) for name in names}
    if wholes and all(whole is not None for whole in wholes.values()):
        quant_group(**wholes)
        return
    for unit in units:
        quant_group(**unit)


def proj_b_tiles(units: _Units) -> None:
    """`proj_b_mm` of many groups: zero rows at the end are looked for once, and what lies side by side is written at once."""
    rows, outs = (beside([unit[name] for unit in units]) for name in ("x", "partial"))
    weights = [unit["w"] for unit in units]
    if rows is None or outs is None or not all(isinstance(w, Laid) for w in weights):
        for unit in units:
            proj_b_mm(**unit)
        return
    num_live = weights[0].live_rows(rows) if all(w.skips_zeros for w in weights) else rows.shape[0]
    outs[:num_live] = torch.cat([w.sums(unit["x"][:num_live]) for w, unit in zip(weights, units, strict=True)], 1)
    outs[num_live:].zero_()
