"""Kernels of the ops that `ops/deepseek_v4/attention/indexer.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.deepseek_v4.attention.compressor import paged_rows, write_rows
from ops.kernels.deepseek_v4.attention.rope import rotate
from ops.kernels.numerics import dequantise, matmul_nt, quantise_rows, scaled_product_into
from ops.kernels.products import reads_laid_out

_SCORE_TOKENS = 16
"""Tokens scored at a time: bounds the [tokens, heads, rows] intermediate."""


@reads_laid_out(wq_b=None)
def idx_qr_proj(qr, wq_b, wq_b_scale, qr_scale, *, qr_proj):
    scaled_product_into(qr, wq_b, qr_scale, wq_b_scale, qr_proj)


@reads_laid_out(wq_b=None)
def idx_qr_proj_step(qr, wq_b, wq_b_scale, qr_scale, *, acc, qr_proj):
    num_tokens = qr.shape[0]
    matmul_nt(qr, wq_b, acc[:num_tokens])
    acc[num_tokens:].zero_()
    qr_proj.copy_(dequantise(acc[:num_tokens], qr_scale, wq_b_scale))


def idx_qr_rope(cos, sin, qr_proj, *, rope_out):
    num_tokens, half = cos.shape
    heads = qr_proj.view(num_tokens, rope_out.shape[0] // num_tokens, -1)
    rotate(heads[..., -2 * half :], cos.unsqueeze(1), sin.unsqueeze(1), rope_out.view(num_tokens, -1, 2 * half))


def idx_qr_hadamard_quant(qr_proj, rope_out, hadamard, *, q, q_scale):
    rows = qr_proj.view(q.shape)
    rope = rope_out.shape[1]
    rows = torch.cat((rows[:, :-rope], rope_out.float()), dim=1)
    quantise_rows(rows @ hadamard.float(), q, q_scale)


@reads_laid_out(w=None)
def idx_weights_proj(x, w, *, weights, head_dim):
    num_tokens = x.shape[0]
    matmul_nt(x, w, weights[:num_tokens])
    weights[:num_tokens] *= (w.shape[0] * head_dim) ** -0.5
    weights[num_tokens:].zero_()


def idx_kv_hadamard(normed, hadamard, *, rotated):
    torch.matmul(normed.float(), hadamard.float(), out=rotated)


def _write_quantised(cache: torch.Tensor, scales: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> None:
    quantised = torch.empty(rows.shape, dtype=cache.dtype, device=rows.device)
    scale = torch.empty((rows.shape[0], 1), dtype=torch.float32, device=rows.device)
    quantise_rows(rows, quantised, scale)
    write_rows(cache, quantised, slots)
    write_rows(scales, scale, slots)


def idx_cache_write(write_dst, rows, *, cache, scales):
    _write_quantised(cache, scales, rows, write_dst[0])


def idx_cache_write_step(position_ids, slot_mapping, rows, *, cache, scales, out):
    num_tokens = slot_mapping.numel()
    _write_quantised(cache, scales, rows[:num_tokens], slot_mapping)
    closes = (slot_mapping >= 0) & (position_ids >= 0)
    out.copy_((rows[:num_tokens] * closes.unsqueeze(-1)).view(out.shape))


def idx_score_init(*, score):
    score.fill_(float("-inf"))


def visible_rows(position_ids: torch.Tensor, ratio: int) -> torch.Tensor:
    """Compressed rows that a token at each position may attend to: those whose window has closed."""
    return (position_ids + 1) // ratio


def _scores(q, q_scale, weights, keys, key_scales) -> torch.Tensor:
    """`q` [B, S * H, C] against `keys` [B, I, C]: weighted scores [B, S, I]; `weights` [B, S, H]."""
    dots = torch.matmul(q.float(), keys.float().transpose(1, 2)).relu_()
    batch, seq, heads = weights.shape
    weighted = (weights * q_scale.view(batch, seq, heads)).unsqueeze(-2)
    return torch.matmul(weighted, dots.view(batch, seq, heads, -1)).squeeze(-2) * key_scales.view(batch, 1, -1)


def _score_requests(position_ids, block_table, idx_kv, idx_kv_scale, q, q_scale, weights, score, ratio) -> None:
    """Scores of `score.shape[1]` tokens of each request, all with the same pages; only what is visible is written."""
    batch, seq, _ = score.shape
    visible = visible_rows(position_ids.view(batch, seq), ratio)
    most = int(visible.max())
    if most == 0:
        return
    index = torch.arange(most, device=score.device).expand(batch, -1)
    rows = paged_rows(block_table, index, idx_kv.shape[1])
    width = q.shape[1]
    keys, scales = idx_kv.view(-1, width)[rows], idx_kv_scale.view(-1)[rows]
    found = _scores(q.view(batch, -1, width), q_scale, weights.view(batch, seq, -1), keys, scales)
    seen = index[:, None] < visible.unsqueeze(-1)
    score[..., :most] = found.masked_fill(~seen, float("-inf"))


def idx_score(position_ids, block_table, idx_kv, idx_kv_scale, q, q_scale, weights, *, score, ratio):
    num_tokens = position_ids.shape[0]
    heads = q.shape[0] // num_tokens
    for first in range(0, num_tokens, _SCORE_TOKENS):
        tokens = slice(first, min(first + _SCORE_TOKENS, num_tokens))
        queries = slice(tokens.start * heads, tokens.stop * heads)
        part = (q[queries], q_scale[queries], weights[tokens], score[None, tokens], ratio)
        _score_requests(position_ids[tokens], block_table[None], idx_kv, idx_kv_scale, *part)


def idx_score_step(position_ids, block_table, idx_kv, idx_kv_scale, q, q_scale, weights, *, score, ratio):
    used = weights[: position_ids.shape[0]]
    _score_requests(position_ids, block_table, idx_kv, idx_kv_scale, q, q_scale, used, score, ratio)


def idx_score_out(score, *, out):
    out.copy_(score[:, : out.shape[1]])


def idx_topk(position_ids, prompt_len, score, *, topk, ratio):
    visible = visible_rows(position_ids, ratio).unsqueeze(-1)
    ranked = min(max(int(prompt_len) // ratio, int(visible.max())), score.shape[1])
    _put_best(score[:, :ranked], visible, topk)


def idx_topk_step(position_ids, score, *, topk, ratio):
    flat_topk, flat_score = topk.view(-1, topk.shape[-1]), score.view(-1, score.shape[-1])
    visible = visible_rows(position_ids, ratio).unsqueeze(-1)
    counts, tokens = visible.flatten().unique_consecutive(return_counts=True)
    first = 0
    for ranked, num_tokens in zip(counts.tolist(), tokens.tolist(), strict=True):
        rows = slice(first, first + num_tokens)
        _put_best(flat_score[rows, :ranked], visible[rows], flat_topk[rows])
        first += num_tokens


def _put_best(score: torch.Tensor, visible: torch.Tensor, topk: torch.Tensor) -> None:
    """Best columns of each row of `score`, as many as there are or as `topk` takes; -1 for those not visible and beyond."""
    count = min(score.shape[1], topk.shape[1])
    topk[:, count:] = -1
    if count:
        best = score.topk(count, dim=-1).indices
        topk[:, :count] = best.masked_fill(best >= visible, -1)
