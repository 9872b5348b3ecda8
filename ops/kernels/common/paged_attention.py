"""Kernels of the ops that `ops/common/paged_attention.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from ops.kernels.numerics import of_each, quantise_rows

_UNLIMITED = 2**30
"""A window that no request fills."""
_LOG2_E = 1.4426950408889634
"""exp of x is 2 to the power of x times this, which takes no longer where it underflows; exp takes ten times as long."""


def visible(positions: torch.Tensor, first: int, count: int, window: int) -> torch.Tensor:
    """bool[T, count]: which of the positions `first` and following each token sees; an idle one (-1) sees none."""
    keys = torch.arange(first, first + count, device=positions.device)
    return (keys <= positions[:, None]) & (keys > positions[:, None] - window)


def online_softmax_init(*, mi, li, oi):
    mi.fill_(float("-inf"))
    li.zero_()
    oi.zero_()


def online_attention(q, position_ids, block_table, k_cache, v_cache, *, mi, li, oi, block, window, scale, heads=None):
    places = [place for place in position_ids.tolist() if place >= 0]
    if not places:
        return
    page_rows, kv_heads, columns = k_cache.shape[1:]
    window = window or _UNLIMITED
    lowest = max(min(places) - window + 1, 0)
    number = lowest // page_rows + block
    first, end = max(lowest, number * page_rows), min(max(places) + 1, (number + 1) * page_rows)
    if number >= block_table.shape[0] or first >= end:
        return
    seen = visible(position_ids, first, end - first, window)
    page, part = int(block_table[number]), slice(first - number * page_rows, end - number * page_rows)
    keys, values = (_cleared(cache[page, part].float(), seen).transpose(0, 1) for cache in (k_cache, v_cache))  # [KV, N, C]
    num_tokens = position_ids.shape[0]

    def rows(x: torch.Tensor) -> torch.Tensor:
        """Rows [T * KV * R, ...] as [KV, T, those of the heads, ...]."""
        grouped = x.view(num_tokens, kv_heads, -1, x.shape[-1])
        return grouped[:, :, : heads // kv_heads if heads else None].transpose(0, 1)

    queries, mi, li, oi = (rows(x) for x in (q, mi, li, oi))
    asked = queries.float().flatten(1, 2) * (scale or columns**-0.5)
    scores = (asked @ keys.transpose(1, 2)).unflatten(1, (num_tokens, -1))  # [KV, T, heads, N]
    if not seen.all():
        scores.masked_fill_(~seen[:, None, :], float("-inf"))
    highest = torch.maximum(mi, scores.amax(-1, keepdim=True))
    base = highest.masked_fill(highest == float("-inf"), 0.0)
    weights = of_each(torch.exp2_, scores.sub_(base).mul_(_LOG2_E))
    total, answers = weights.sum(-1, keepdim=True), (weights.flatten(1, 2) @ values).view(oi.shape)
    if mi.amax() == float("-inf"):  # the first page that anybody sees
        li.copy_(total)
        oi.copy_(answers)
    else:
        old = torch.exp(mi - base)
        li.mul_(old).add_(total)
        oi.mul_(old).add_(answers)
    mi.copy_(highest)


def _cleared(rows: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """`rows` [N, KV, C], zero where no token looks: what nobody has written may be NaN, which times 0 is NaN."""
    looked_at = seen.any(0)
    return rows if looked_at.all() else rows.masked_fill(~looked_at[:, None, None], 0.0)


def attention_finalize(li, oi, *, attn, attn_scale, kv_heads):
    num_tokens, width = attn.shape[0], oi.shape[1]
    heads = attn.shape[1] // (kv_heads * width)
    totals, sums = (x.view(num_tokens, kv_heads, -1, x.shape[1])[:, :, :heads] for x in (li, oi))
    quantise_rows((sums / totals.masked_fill(totals == 0, 1.0)).flatten(1), attn, attn_scale)


def paged_attention(q, position_ids, block_table, k_cache, v_cache, *, attn, attn_scale, window, scale):
    kv_heads, columns = k_cache.shape[2:]
    num_rows, num_tokens = attn.shape[0], position_ids.shape[0]
    window, scale = window or _UNLIMITED, scale or columns**-0.5
    heads = attn.shape[1] // (kv_heads * columns)
    step = num_tokens // block_table.shape[0]
    result = torch.zeros(num_rows, kv_heads, heads, columns, device=q.device)
    asked = _by_request(q.view(num_rows, kv_heads, -1, columns)[:num_tokens, :, :heads].float(), step)
    answers = _by_request(result[:num_tokens], step) if step == 1 else torch.zeros_like(asked)
    positions, tables = position_ids.view(-1, step).tolist(), block_table.tolist()
    for request, (places, table) in enumerate(zip(positions, tables, strict=True)):
        last = max(places)
        if last < 0:
            continue
        first = max(min(place for place in places if place >= 0) - window + 1, 0)
        keys, values = (_seen_rows(cache, table, first, last + 1).float() for cache in (k_cache, v_cache))
        scores = torch.bmm(asked[request], keys.permute(1, 2, 0)).mul_(scale)  # [KV, heads * S, N]
        if step > 1:  # else the one token sees them all
            seen = visible(position_ids[request * step : (request + 1) * step], first, last + 1 - first, window)
            scores = scores.unflatten(1, (heads, step)).masked_fill_(~seen, float("-inf")).flatten(1, 2)
        weights = scores.softmax(-1)
        if step > 1:
            weights = weights.nan_to_num_(0.0)
        torch.bmm(weights, values.transpose(0, 1), out=answers[request])
    if step > 1:
        result[:num_tokens] = answers.unflatten(2, (heads, step)).permute(0, 3, 1, 2, 4).flatten(0, 1)
    quantise_rows(result.flatten(1), attn, attn_scale)


def _by_request(x: torch.Tensor, step: int) -> torch.Tensor:
    """Rows [B * S, KV, heads, C] as [B, KV, heads * S, C]; of one token each the rows themselves."""
    return x if step == 1 else x.unflatten(0, (-1, step)).permute(0, 2, 3, 1, 4).flatten(2, 3)


def _seen_rows(cache: torch.Tensor, table: Sequence[int], first: int, end: int) -> torch.Tensor:
    """Rows `[first, end)` [N, KV, C] of a request whose pages are `table`; a view where these lie one behind the other.

    Its tokens stand one behind the other, so that each of these rows is seen by one of them: none was left unwritten.
    """
    page_rows = cache.shape[1]
    before, pages = first // page_rows, table[first // page_rows : (end - 1) // page_rows + 1]
    skipped = before * page_rows
    if all(b - a == 1 for a, b in pairwise(pages)):
        start = pages[0] * page_rows - skipped
        return cache.flatten(0, 1)[start + first : start + end]
    return cache[torch.tensor(pages, device=cache.device)].flatten(0, 1)[first - skipped : end - skipped]
