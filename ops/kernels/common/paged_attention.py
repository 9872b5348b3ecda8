"""Kernels of the ops that `ops/common/paged_attention.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.numerics import quantise_rows

_UNLIMITED = 2**30
"""A window that no request fills."""


def visible(positions: torch.Tensor, first: int, count: int, window: int) -> torch.Tensor:
    """bool[T, count]: which of the positions `first` and following each token sees; an idle one (-1) sees none."""
    keys = torch.arange(first, first + count, device=positions.device)
    return (keys <= positions[:, None]) & (keys > positions[:, None] - window)


def online_softmax_init(*, mi, li, oi):
    mi.fill_(float("-inf"))
    li.zero_()
    oi.zero_()


def online_attention(q, position_ids, block_table, k_cache, v_cache, *, mi, li, oi, block, window, scale):
    busy = position_ids >= 0
    if not busy.any():
        return
    page_rows, kv_heads, columns = k_cache.shape[1:]
    window = window or _UNLIMITED
    first = max(int(position_ids[busy].min()) - window + 1, 0) // page_rows + block
    if first >= block_table.shape[0]:
        return
    page = int(block_table[first])
    seen = visible(position_ids, first * page_rows, page_rows, window)
    keys, values = k_cache[page].float().transpose(0, 1), v_cache[page].float().transpose(0, 1)  # [KV, G, C]
    keys, values = _cleared(keys, seen), _cleared(values, seen)
    num_tokens = position_ids.shape[0]
    queries = q.float().view(num_tokens, kv_heads, -1, columns).transpose(0, 1).flatten(1, 2)  # [KV, T * R, C]
    scores = (queries @ keys.transpose(1, 2) * (scale or columns**-0.5)).unflatten(1, (num_tokens, -1))
    scores = scores.masked_fill(~seen[:, None, :], float("-inf")).transpose(0, 1).flatten(0, 2)  # [Z, G]
    highest = torch.maximum(mi, scores.amax(-1, keepdim=True))
    base = highest.masked_fill(highest == float("-inf"), 0.0)
    weights, old = torch.exp(scores - base), torch.exp(mi - base)
    grouped = weights.view(num_tokens, kv_heads, -1, page_rows).transpose(0, 1).flatten(1, 2)
    added = (grouped @ values).unflatten(1, (num_tokens, -1)).transpose(0, 1).flatten(0, 2)
    mi.copy_(highest)
    li.copy_(li * old + weights.sum(-1, keepdim=True))
    oi.copy_(oi * old + added)


def _cleared(rows: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """`rows` [KV, G, C], zero where no token looks: what nobody has written may be NaN, which times 0 is NaN."""
    return rows.masked_fill(~seen.any(0)[None, :, None], 0.0)


def attention_finalize(li, oi, *, attn, attn_scale, kv_heads):
    num_tokens, width = attn.shape[0], oi.shape[1]
    mean = (oi / li.masked_fill(li == 0, 1.0)).view(num_tokens, kv_heads, -1, width)
    quantise_rows(mean[:, :, : attn.shape[1] // (kv_heads * width)].flatten(1), attn, attn_scale)


def paged_attention(q, position_ids, block_table, k_cache, v_cache, *, attn, attn_scale, window, scale):
    page_rows, kv_heads, columns = k_cache.shape[1:]
    num_rows, num_tokens = attn.shape[0], position_ids.shape[0]
    window, scale = window or _UNLIMITED, scale or columns**-0.5
    heads = attn.shape[1] // (kv_heads * columns)
    queries = q.view(num_rows, kv_heads, -1, columns)[:num_tokens, :, :heads].float()
    result = torch.zeros(num_rows, kv_heads, heads, columns, device=q.device)
    step = num_tokens // block_table.shape[0]
    for request, table in enumerate(block_table):
        tokens = slice(request * step, (request + 1) * step)
        positions = position_ids[tokens]
        if (last := int(positions.max())) < 0:
            continue
        first = max(int(positions[positions >= 0].min()) - window + 1, 0) // page_rows
        pages = table[first : last // page_rows + 1].long()
        count = last + 1 - first * page_rows
        keys, values = (cache[pages].flatten(0, 1)[:count].float().transpose(0, 1) for cache in (k_cache, v_cache))
        seen = visible(positions, first * page_rows, count, window)
        values = _cleared(values, seen)
        scores = torch.einsum("skhc,knc->skhn", queries[tokens], _cleared(keys, seen)) * scale
        weights = scores.masked_fill(~seen[:, None, None], float("-inf")).softmax(-1).nan_to_num(0.0)
        result[tokens] = torch.einsum("skhn,knc->skhc", weights, values)
    quantise_rows(result.flatten(1), attn, attn_scale)
