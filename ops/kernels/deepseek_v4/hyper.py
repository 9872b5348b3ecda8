"""Kernels of the ops that `ops/deepseek_v4/hyper.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch

from ops.kernels.numerics import add_product, of_each, product, rms_scale
from ops.kernels.products import part_of, reads_laid_out

_COLUMNS = 64
"""Tokens side by side whose sums torch takes in one order on any CPU, four vectors of 16; of those left over in another."""


def _halves(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Sequence[int], Sequence[int]]:
    """`fn` is summed in two halves."""
    return (), (shapes["fn"][1] // 2,)


@reads_laid_out(fn=_halves)
def hc_pre(x, fn, scale, base, *, x_mixed, post, comb, mixes, mixes_raw, norm_eps, hc_eps, iterations):
    num_tokens, hc, _ = x.shape
    rows = x.float()
    flat = rows.view(num_tokens, -1)
    num_rows, mix = mixes.shape[0], fn.shape[0]
    half = flat.shape[1] // 2
    sums = [product(flat[:, lo:hi], part_of(fn, (0, mix), (lo, hi))) for lo, hi in ((0, half), (half, flat.shape[1]))]
    mixes_raw.view(2, num_rows, -1)[:, :num_tokens, :mix] = torch.stack(sums)
    coefficients = torch.mul(sums[0].add_(sums[1]), rms_scale(flat, norm_eps), out=mixes[:num_tokens, :mix])

    logits = (coefficients * scale.index_select(0, _kinds(hc, scale.device))).add_(base)
    pre, double = logits[:, : 2 * hc].sigmoid().chunk(2, 1)
    torch.mul(double, 2, out=post)
    comb.view(num_tokens, hc, hc).copy_(_sinkhorn(logits[:, 2 * hc :].view(num_tokens, hc, hc), hc_eps, iterations))
    x_mixed.copy_(torch.bmm(pre.add(hc_eps).unsqueeze(1), rows).squeeze(1))


@functools.cache
def _kinds(hc: int, device: torch.device) -> torch.Tensor:
    """Of each coefficient [MIX] whether it is of pre (0), post (1) or comb (2)."""
    return torch.tensor([0] * hc + [1] * hc + [2] * (hc * hc), device=device)


def _sinkhorn(logits: torch.Tensor, eps: float, iterations: int) -> torch.Tensor:
    """Row softmax of `logits` [T, HC, HC], then columns and rows normalised in turn, ending with columns.

    A row and a column of `eps` beside the matrix are in its sums, so that none has to be added to them.
    """
    num_tokens, hc, _ = logits.shape
    width = num_tokens + -num_tokens % _COLUMNS
    held = logits.new_full((hc + 1, hc + 1, width), eps)  # tokens side by side
    comb, rows, columns = held[:hc, :hc], held[:hc], held[:, :hc]
    comb[..., :num_tokens].copy_(torch.softmax(logits, dim=-1).permute(1, 2, 0)).add_(eps)
    of_rows, of_columns = logits.new_empty(hc, 1, width), logits.new_empty(hc, width)
    comb.div_(torch.sum(columns, 0, out=of_columns))
    for _ in range(iterations - 1):
        comb.div_(torch.sum(rows, 1, True, out=of_rows))
        comb.div_(torch.sum(columns, 0, out=of_columns))
    return comb[..., :num_tokens].permute(2, 0, 1)


def hc_post(y, x, post, comb, *, x_next):
    num_tokens, hc, _ = x.shape
    mixed = x_next if x_next.dtype == torch.float32 else torch.empty_like(x_next, dtype=torch.float32)
    torch.bmm(comb.view(num_tokens, hc, hc).transpose(1, 2), x.float(), out=mixed)
    mixed.addcmul_(post.unsqueeze(-1), y.float().unsqueeze(1))
    if mixed is not x_next:
        x_next.copy_(mixed)


def hc_head_cast(x, *, x_fp32):
    num_tokens = x.shape[0]
    x_fp32[:num_tokens].copy_(x.reshape(num_tokens, -1))
    x_fp32[num_tokens:].zero_()


def hc_head_rms(x_fp32, *, inv_rms, norm_eps):
    inv_rms.copy_(rms_scale(x_fp32, norm_eps))


def hc_head_seed(*, mixes_raw):
    mixes_raw.zero_()


@reads_laid_out(fn=None)
def hc_head_linear(x_fp32, fn, *, mixes_raw):
    add_product(x_fp32, fn, mixes_raw[:, : fn.shape[0]])


def hc_head_pre_fused(scale, base, mixes_raw, inv_rms, *, pre_t, hc_eps):
    hc = base.shape[0]
    pre_t[:hc].copy_((of_each(torch.sigmoid, mixes_raw[:, :hc] * inv_rms * scale + base) + hc_eps).t())
    pre_t[hc:].zero_()


def hc_head_reduce(pre_t, x, *, x_head):
    pre = pre_t[: x.shape[1]].t().contiguous().unsqueeze(-1)  # what is laid out as `x` is summed in its order
    x_head.copy_((pre * x).sum(dim=1))
