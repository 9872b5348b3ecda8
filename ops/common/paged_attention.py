"""Attention of grouped queries over pages of keys and values.

A request's keys lie in pages that its block table names, position p in row `p % G` of page `p // G`. Queries are padded groups
of rows, as `rope_kv_cache` makes them: row `(t * KV + head) * R + i` is query i of token t for that key-value head. A token sees
its own position and the `window - 1` before it.

Prefill takes a page at a time, and keeps for each query row the largest score (`mi`), the sum of exponentials (`li`) and the
weighted values (`oi`) so far; merging a further page rescales all three (online softmax). Decode takes all pages in one task.

Symbols: T tokens, B requests, Z query rows, C columns of a head, KV key-value heads, P pages of G rows, N pages of a request,
M x X the result: a row of all heads for each token, and rows of padding.

Source: transformers 5.23.0 `eager_attention_forward`; Milakov and Gimelshein 2018 (online softmax); pypto-lib
`qk_pv_online_phase`, `attention_finalize_phase`, `fa_fused`.
"""

from __future__ import annotations

import torch

from ops.numerics import quantise_rows
from ops.rules import Rule, ceil_div, elementwise, every, moved, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry()

_CACHES = "k_cache: {act}[P, G, KV, C], v_cache: {act}[P, G, KV, C]"
_STATS = "{0}mi: f32[Z, 1], {0}li: f32[Z, 1], {0}oi: f32[Z, C]"
_SOURCE = "transformers eager_attention_forward; pypto-lib qk_pv_online_phase, attention_finalize_phase, fa_fused"

_UNLIMITED = 2**30
"""A window that no request fills."""

_WHOLE_GROUPS: Rule = ("{Z} query rows are not groups of {T} tokens x {KV} heads", lambda d: d["Z"] % (d["T"] * d["KV"]) == 0)


def visible(positions: torch.Tensor, first: int, count: int, window: int) -> torch.Tensor:
    """bool[T, count]: which of the positions `first` and following each token sees; an idle one (-1) sees none."""
    keys = torch.arange(first, first + count, device=positions.device)
    return (keys <= positions[:, None]) & (keys > positions[:, None] - window)


def _page_cost(call: Call) -> Cost:
    """Two products of every query row with a page's keys and values, which lie in the page once."""
    rows, page, width = call.dims["Z"], call.dims["G"], call.dims["C"]
    keys = 2 * page * call.dims["KV"] * width * (call.operands["k_cache"].size_bytes // call.operands["k_cache"].num_elements)
    return Cost(4 * rows * page * width, moved(call, "q", "mi", "li", "oi") + keys)


@ops.op("online_softmax_init", f"-> {_STATS.format('')}", core="AIV", source="pypto-lib online_softmax_init")
def online_softmax_init(*, mi, li, oi):
    """What a query row has before its first page: no score, no sum, no values."""
    mi.fill_(float("-inf"))
    li.zero_()
    oi.zero_()


@ops.op(
    "online_attention",
    f"q: {{act}}[Z, C], position_ids: i32[T], block_table: i32[N], {_CACHES} -> {_STATS.format('&')}",
    core="MIX",
    params={"block": 0, "window": None, "scale": None},
    cost=_page_cost,
    num_blocks=lambda call: ceil_div(call.dims["T"], 8) * call.dims["KV"],
    check=requires(_WHOLE_GROUPS),
    source=_SOURCE,
)
def online_attention(q, position_ids, block_table, k_cache, v_cache, *, mi, li, oi, block, window, scale):
    """One page of a request's keys and values, merged into what its tokens' queries have seen (prefill: one request).

    `block` counts pages from the first that a token of this tile sees: page 0 without a `window`. A page beyond the table, or
    none of whose positions is seen, changes nothing. `scale` is 1 / sqrt(C) by default.
    """
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


@ops.op(
    "attention_finalize",
    "li: f32[Z, 1], oi: f32[Z, C] -> attn: {qact}[T, X], attn_scale: f32[T, 1]",
    core="AIV",
    params={"kv_heads": "num_key_value_heads"},
    cost=elementwise(4, "oi"),
    num_blocks=every("T", 2),
    check=requires(
        ("{Z} query rows are not groups of {T} tokens x {kv_heads} heads", lambda d: d["Z"] % (d["T"] * d["kv_heads"]) == 0),
        ("{X} columns are not heads of {C} for each of {kv_heads}", lambda d: d["X"] % (d["kv_heads"] * d["C"]) == 0),
    ),
    source=_SOURCE,
)
def attention_finalize(li, oi, *, attn, attn_scale, kv_heads):
    """Values over the sum of weights, a row of all heads for each token, as a quantised product takes it; idle tokens get zeros."""
    num_tokens, width = attn.shape[0], oi.shape[1]
    mean = (oi / li.masked_fill(li == 0, 1.0)).view(num_tokens, kv_heads, -1, width)
    quantise_rows(mean[:, :, : attn.shape[1] // (kv_heads * width)].flatten(1), attn, attn_scale)


def _decode_cost(call: Call) -> Cost:
    """As if every request had half of the pages that it can have."""
    keys = call.dims["N"] * call.dims["G"] // 2
    cached = 2 * keys * call.dims["B"] * call.dims["KV"] * call.dims["C"]
    per_element = call.operands["k_cache"].size_bytes // call.operands["k_cache"].num_elements
    return Cost(4 * call.dims["Z"] * keys * call.dims["C"], cached * per_element + moved(call, "q", "attn"))


@ops.op(
    "paged_attention",
    f"q: {{act}}[Z, C], position_ids: i32[T], block_table: i32[B, N], {_CACHES} -> attn: {{qact}}[M, X], attn_scale: f32[M, 1]",
    core="MIX",
    params={"window": None, "scale": None},
    cost=_decode_cost,
    num_blocks=lambda call: min(24, call.dims["B"] * call.dims["KV"]),
    check=requires(
        ("{T} tokens are not the same number for each of {B} requests", lambda d: d["T"] % d["B"] == 0),
        ("{Z} query rows are not groups of {M} rows x {KV} heads", lambda d: d["Z"] % (d["M"] * d["KV"]) == 0),
        ("{X} columns are not heads of {C} for each of {KV}", lambda d: d["X"] % (d["KV"] * d["C"]) == 0),
        ("{M} rows for {T} tokens", lambda d: d["M"] >= d["T"]),
    ),
    source=_SOURCE,
)
def paged_attention(q, position_ids, block_table, k_cache, v_cache, *, attn, attn_scale, window, scale):
    """Attention of a few tokens of each of B requests over all pages of each, a row of all heads for each token, as a quantised
    product takes it; idle tokens and rows of padding get zeros. `scale` is 1 / sqrt(C) by default."""
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
