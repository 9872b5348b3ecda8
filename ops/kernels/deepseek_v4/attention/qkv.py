"""Kernels of the ops that `ops/deepseek_v4/attention/qkv.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.deepseek_v4.attention.rope import rotate
from ops.kernels.numerics import add_product, matmul_nt, quantise_rows, rms_scale
from ops.kernels.products import reads_laid_out


def proj_seed(*, acc):
    acc.zero_()


@reads_laid_out(w=None)
def proj_matmul(x, w, *, acc):
    add_product(x, w, acc)


def qr_rms_norm_quant(qr_fp32, gamma, *, qr, qr_scale, qr_matmul, eps):
    num_tokens = qr.shape[0]
    x = qr_fp32[:num_tokens]
    quantise_rows((x * rms_scale(x, eps)).mul_(gamma.float()), qr, qr_scale)
    qr_matmul[:num_tokens] = qr
    qr_matmul[num_tokens:].zero_()


@reads_laid_out(wq_b=None)
def qproj_matmul(qr_matmul, wq_b, *, acc):
    matmul_nt(qr_matmul, wq_b, acc)


def qproj_dequant(acc, wq_b_scale, qr_scale, *, q_proj):
    num_tokens = qr_scale.shape[0]
    torch.mul(acc[:num_tokens], wq_b_scale, out=q_proj[:num_tokens]).mul_(qr_scale)
    q_proj[num_tokens:].zero_()


def q_head_rms_nope_rope(q_proj, rope_cos, rope_sin, *, q, eps):
    num_tokens, rope = rope_cos.shape
    heads = q_proj[:num_tokens].view(q.shape)
    heads = heads * rms_scale(heads, eps)
    q.copy_(heads)
    cos, sin = (table[:, : rope // 2].unsqueeze(1) for table in (rope_cos, rope_sin))
    rotate(heads[..., -rope:], cos, sin, q[..., -rope:])


def kv_rms_norm_rope(kv_fp32, gamma, rope_cos, rope_sin, *, kv, eps):
    num_tokens, rope = rope_cos.shape
    x = kv_fp32[:num_tokens]
    x = (x * rms_scale(x, eps)).mul_(gamma.float())
    kv.copy_(x)
    half = rope // 2
    rotate(x[:, -rope:], rope_cos[:, :half], rope_sin[:, :half], kv[:, -rope:])
