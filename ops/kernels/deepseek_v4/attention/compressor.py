"""Kernels of the ops that `ops/deepseek_v4/attention/compressor.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.deepseek_v4.attention.rope import rotate
from ops.kernels.numerics import matmul_nt, rms_scale
from ops.kernels.products import reads_laid_out


def paged_rows(table: torch.Tensor, index: torch.Tensor, page_rows: int) -> torch.Tensor:
    """Rows in a pool of pages: `table` [..., N] are the pages of a request, `index` [..., I] rows counted within the request."""
    index = index.long()
    if table.shape[-1] == 1:
        return table * page_rows + index
    pages = table.long().expand(*index.shape[:-1], table.shape[-1]).gather(-1, index // page_rows)
    return pages * page_rows + index % page_rows


@reads_laid_out(wkv=None, wgate=None)
def kv_score_proj(x, wkv, wgate, *, kv, score):
    num_tokens = x.shape[0]
    for w, out in ((wkv, kv), (wgate, score)):
        matmul_nt(x, w, out[:num_tokens])
        out[num_tokens:].zero_()


def write_map(slot_mapping, position_ids, *, write_pos, write_dst):
    write_pos.zero_()
    write_dst.fill_(-1)
    closing = (slot_mapping >= 0).nonzero().flatten()
    write_pos[0, : closing.numel()] = position_ids[closing]
    write_dst[0, : closing.numel()] = slot_mapping[closing].int()


def pool_windows(end, token, first_token, table, state, ape, kv, score, row_columns: int) -> torch.Tensor:
    """Pooled values [W, C] (f32) of the windows that close at positions `end` [W].

    `token` [W] is this call's token at that position, `first_token` [W] the first one of its request, `table` [W, N] the pages
    of its ring; `state` is [P, G, 2 * O]; `kv` and `score` [>= T, O] are this call's projections, without the bias; C is
    `row_columns`.
    """
    ratio, columns = ape.shape
    overlap = columns == 2 * row_columns
    page_rows = state.shape[1]
    back = torch.arange(2 * ratio - 1 if overlap else ratio - 1, -1, -1, device=end.device)
    position, tokens = end[:, None] - back, token[:, None] - back
    fresh = (tokens >= first_token[:, None]).unsqueeze(-1)
    tokens, known = tokens.clamp(min=0), position.clamp(min=0)
    old = state.flatten(0, 1)[paged_rows(table, known % (table.shape[1] * page_rows), page_rows)]
    values = torch.where(fresh, kv[tokens], old[..., :columns])
    scores = torch.where(fresh, score[tokens] + ape[known % ratio], old[..., columns:])
    if overlap:
        values, scores = (torch.cat((x[:, :ratio, :row_columns], x[:, ratio:, row_columns:]), dim=1) for x in (values, scores))
    missing = (position < 0).unsqueeze(-1)
    weights = scores.masked_fill(missing, float("-inf")).softmax(dim=1)
    return (weights * values.masked_fill(missing, 0.0)).sum(dim=1)


def softmax_pool(write_dst, write_pos, state, block_table, position_ids, ape, kv, score, *, pooled):
    pooled.zero_()
    softmax_pool_pad(write_dst, write_pos, state, block_table, position_ids, ape, kv, score, pooled=pooled)


def softmax_pool_pad(write_dst, write_pos, state, block_table, position_ids, ape, kv, score, *, pooled):
    closing = (write_dst[0] >= 0).nonzero().flatten()
    if closing.numel() == 0:
        return
    end = write_pos[0, closing].long()
    token = end - position_ids[0]
    first, table = torch.zeros_like(token), block_table.expand(token.numel(), -1)
    pooled[closing] = pool_windows(end, token, first, table, state, ape, kv, score, pooled.shape[1])


def softmax_pool_step(position_ids, block_table, state, ape, kv, score, *, pooled):
    ratio = ape.shape[0]
    token = ((position_ids >= 0) & ((position_ids + 1) % ratio == 0)).nonzero().flatten()
    if token.numel() == 0:
        return
    num_tokens = position_ids.numel() // block_table.shape[0]
    request = token // num_tokens
    end, first = position_ids[token].long(), request * num_tokens
    pooled[token] = pool_windows(end, token, first, block_table[request], state, ape, kv, score, pooled.shape[1])


def pad_init(*, pooled):
    pooled.zero_()


def norm_pad_init(*, pooled, normed):
    pooled.zero_()
    normed.zero_()


def norm_rope(rows: torch.Tensor, norm_w: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of `rows` [W, C] and rotation of the trailing columns by the R/2 angles of each row."""
    rows = (rows * rms_scale(rows, eps)).mul_(norm_w.float())
    rope = 2 * cos.shape[-1]
    tail = rows[:, -rope:]
    rotate(tail, cos, sin, tail)
    return rows


def rmsnorm_rope(write_dst, write_pos, freqs_cos, freqs_sin, pooled, norm_w, *, normed, ratio, eps):
    normed.zero_()
    rmsnorm_rope_pad(write_dst, write_pos, freqs_cos, freqs_sin, pooled, norm_w, normed=normed, ratio=ratio, eps=eps)


def rmsnorm_rope_pad(write_dst, write_pos, freqs_cos, freqs_sin, pooled, norm_w, *, normed, ratio, eps):
    closing = (write_dst[0] >= 0).nonzero().flatten()
    start = write_pos[0, closing] + 1 - ratio
    half = freqs_cos.shape[1] // 2
    rows = norm_rope(pooled[closing], norm_w, freqs_cos[start, :half], freqs_sin[start, :half], eps)
    normed[closing] = rows.to(normed.dtype)


def rmsnorm_rope_step(cos, sin, pooled, norm_w, *, normed, eps):
    num_tokens = cos.shape[0]
    normed[:num_tokens] = norm_rope(pooled[:num_tokens], norm_w, cos, sin, eps)
    normed[num_tokens:].zero_()


def write_rows(cache: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> None:
    """`cache` [P, G, ...] flattened to rows takes `rows[i]` at row `slots[i]`, for slots that are not negative."""
    keep = (slots >= 0).nonzero().flatten()
    if keep.numel():
        flat = cache.flatten(0, 1).view(-1, rows.shape[-1])
        flat.index_copy_(0, slots.index_select(0, keep).long(), rows.index_select(0, keep).to(flat.dtype))


def cache_write(write_dst, rows, *, cache):
    write_rows(cache, rows, write_dst[0])


def cache_write_step(position_ids, slot_mapping, rows, *, cache, out):
    write_rows(cache, rows[: slot_mapping.numel()], slot_mapping)
    closes = (slot_mapping >= 0) & (position_ids >= 0)
    out.copy_((rows[: slot_mapping.numel()] * closes.unsqueeze(-1)).view(out.shape))


def state_update(slot_mapping, position_ids, ape, kv, score, *, state):
    num_tokens, ratio = position_ids.numel(), ape.shape[0]
    biased = score[:num_tokens] + ape[position_ids.clamp(min=0) % ratio]
    write_rows(state, torch.cat((kv[:num_tokens], biased), dim=1), slot_mapping)
