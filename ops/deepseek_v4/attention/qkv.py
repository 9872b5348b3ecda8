"""Query and key-value projections of attention, with their norms and rotations.

Symbols: T tokens, M scratch rows (T rounded up to whole matrix tiles), D hidden, Q rank of the query projection, N columns of a
projection, H heads, C columns of a head, R its rotated columns.

Source: pypto-lib `qkv_proj_rope` (tasks); transformers 5.23.0 `DeepseekV4Attention` (formulas).
"""

from __future__ import annotations

import torch

from ops.deepseek_v4.attention.rope import rotate
from ops.numerics import matmul_nt, quantise_rows
from ops.rules import Rule, elementwise, every, fixed, products, requires
from runner.program.ops import OpRegistry

ops = OpRegistry()

_SOURCE = "transformers DeepseekV4Attention; pypto-lib qkv_proj_rope"


ENOUGH_SCRATCH: Rule = ("scratch has {M} rows, expected at least the {T} of the tokens", lambda d: d["M"] >= d["T"])
ROPE_COLUMNS: Rule = (
    "{R} columns are rotated of a row of {C}, expected an even number up to that",
    lambda d: d["R"] <= d["C"] and d["R"] % 2 == 0,
)


def rms_scale(x: torch.Tensor, eps: float) -> torch.Tensor:
    """`1 / sqrt(mean(x^2) + eps)` over the last dimension of an f32 tensor, which is kept with size 1."""
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


@ops.op("proj_seed", "-> acc: f32[M, N]", core="AIV", source=_SOURCE)
def proj_seed(*, acc):
    """Zeroes an accumulator that a projection adds to."""
    acc.zero_()


@ops.op(
    "proj_matmul",
    "x: {act}[T, D], w: {wd}[N, D] -> &acc: f32[M, N]",
    core="AIC",
    source=_SOURCE,
    cost=products(("x", "w")),
    num_blocks=fixed(16),
    check=requires(ENOUGH_SCRATCH),
)
def proj_matmul(x, w, *, acc):
    """`acc[:T] += x @ w.T`."""
    num_rows = x.shape[0]
    product = torch.empty_like(acc[:num_rows])
    matmul_nt(x, w, product)
    acc[:num_rows] += product


@ops.op(
    "qr_rms_norm_quant",
    "qr_fp32: f32[M, Q], gamma: {wd}[Q] -> qr: {qact}[T, Q], qr_scale: f32[T, 1], qr_matmul: {qact}[M, Q]",
    core="AIV",
    source=_SOURCE,
    params={"eps": "rms_norm_eps"},
    cost=elementwise(6, "qr"),
    num_blocks=every("T", 8),
    check=requires(ENOUGH_SCRATCH),
)
def qr_rms_norm_quant(qr_fp32, gamma, *, qr, qr_scale, qr_matmul, eps):
    """The low-rank query: RMS norm, then one quantised row per token with its scale.

    `qr_matmul` is `qr` with rows up to the matmul's row tile, zero beyond the tokens.
    """
    num_tokens = qr.shape[0]
    x = qr_fp32[:num_tokens]
    quantise_rows(x * rms_scale(x, eps) * gamma.float(), qr, qr_scale)
    qr_matmul[:num_tokens] = qr
    qr_matmul[num_tokens:] = 0


@ops.op(
    "qproj_matmul",
    "qr_matmul: {qact}[M, Q], wq_b: {wq}[N, Q] -> acc: {acc}[M, N]",
    core="AIC",
    source=_SOURCE,
    cost=products(("qr_matmul", "wq_b")),
    num_blocks=fixed(16),
)
def qproj_matmul(qr_matmul, wq_b, *, acc):
    """`acc = qr_matmul @ wq_b.T`."""
    matmul_nt(qr_matmul, wq_b, acc)


@ops.op(
    "qproj_dequant",
    "acc: {acc}[M, N], wq_b_scale: f32[N], qr_scale: f32[T, 1] -> q_proj: f32[M, N]",
    core="AIV",
    source=_SOURCE,
    cost=elementwise(2, "q_proj"),
    num_blocks=fixed(16),
    check=requires(ENOUGH_SCRATCH),
)
def qproj_dequant(acc, wq_b_scale, qr_scale, *, q_proj):
    """Rows of the accumulator times token and channel scales; rows beyond the tokens are zero."""
    num_tokens = qr_scale.shape[0]
    torch.mul(acc[:num_tokens], wq_b_scale, out=q_proj[:num_tokens])
    q_proj[:num_tokens] *= qr_scale
    q_proj[num_tokens:] = 0


@ops.op(
    "q_head_rms_nope_rope",
    "q_proj: f32[M, H * C], rope_cos: {act}[T, R], rope_sin: {act}[T, R] -> q: {act}[T, H, C]",
    core="AIV",
    source=_SOURCE,
    params={"eps": "rms_norm_eps"},
    cost=elementwise(4, "q"),
    num_blocks=every("H", 2),
    check=requires(ENOUGH_SCRATCH, ROPE_COLUMNS),
)
def q_head_rms_nope_rope(q_proj, rope_cos, rope_sin, *, q, eps):
    """Every query head: RMS norm without a weight, then rotation of the trailing columns."""
    num_tokens, rope = rope_cos.shape
    heads = q_proj[:num_tokens].view(q.shape)
    heads = heads * rms_scale(heads, eps)
    q[..., :-rope] = heads[..., :-rope]
    half = rope // 2
    q[..., -rope:] = rotate(heads[..., -rope:], rope_cos[:, None, :half], rope_sin[:, None, :half])


@ops.op(
    "kv_rms_norm_rope",
    "kv_fp32: f32[M, C], gamma: {wd}[C], rope_cos: {act}[T, R], rope_sin: {act}[T, R] -> kv: {act}[T, C]",
    core="AIV",
    source=_SOURCE,
    params={"eps": "rms_norm_eps"},
    cost=elementwise(6, "kv"),
    num_blocks=every("T", 8),
    check=requires(ENOUGH_SCRATCH, ROPE_COLUMNS),
)
def kv_rms_norm_rope(kv_fp32, gamma, rope_cos, rope_sin, *, kv, eps):
    """The shared key-value head: RMS norm, then rotation of the trailing columns."""
    num_tokens, rope = rope_cos.shape
    x = kv_fp32[:num_tokens]
    x = x * rms_scale(x, eps) * gamma.float()
    kv[:, :-rope] = x[:, :-rope]
    half = rope // 2
    kv[:, -rope:] = rotate(x[:, -rope:], rope_cos[:, :half], rope_sin[:, :half])
