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

from ops.rules import Rule, ceil_div, elementwise, every, moved, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.common.paged_attention")

_CACHES = "k_cache: {act}[P, G, KV, C], v_cache: {act}[P, G, KV, C]"
_STATS = "{0}mi: f32[Z, 1], {0}li: f32[Z, 1], {0}oi: f32[Z, C]"
_SOURCE = "transformers eager_attention_forward; pypto-lib qk_pv_online_phase, attention_finalize_phase, fa_fused"

_WHOLE_GROUPS: Rule = ("{Z} query rows are not groups of {T} tokens x {KV} heads", lambda d: d["Z"] % (d["T"] * d["KV"]) == 0)


def _page_cost(call: Call) -> Cost:
    """Two products of every query row with a page's keys and values, which lie in the page once."""
    rows, page, width = call.dims["Z"], call.dims["G"], call.dims["C"]
    keys = 2 * page * call.dims["KV"] * width * (call.operands["k_cache"].size_bytes // call.operands["k_cache"].num_elements)
    return Cost(4 * rows * page * width, moved(call, "q", "mi", "li", "oi") + keys)


ops.declare(
    "online_softmax_init",
    f"-> {_STATS.format('')}",
    core="AIV",
    source="pypto-lib online_softmax_init",
    doc="What a query row has before its first page: no score, no sum, no values.",
)


ops.declare(
    "online_attention",
    f"q: {{act}}[Z, C], position_ids: i32[T], block_table: i32[N], {_CACHES} -> {_STATS.format('&')}",
    core="MIX",
    params={"block": 0, "window": None, "scale": None, "heads": "num_attention_heads"},
    cost=_page_cost,
    num_blocks=lambda call: ceil_div(call.dims["T"], 8) * call.dims["KV"],
    check=requires(_WHOLE_GROUPS),
    source=_SOURCE,
    doc="""One page of a request's keys and values, merged into what its tokens' queries have seen (prefill: one request).

    `block` counts pages from the first that a token of this tile sees: page 0 without a `window`. A page beyond the table, or
    none of whose positions is seen, changes nothing, and neither do rows beyond those of `heads`. `scale` is 1 / sqrt(C) by
    default.""",
)


ops.declare(
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
    doc="Values over the sum of weights, a row of all heads for each token, as quantised products take it; zeros where idle.",
)


def _decode_cost(call: Call) -> Cost:
    """As if every request had half of the pages that it can have."""
    keys = call.dims["N"] * call.dims["G"] // 2
    cached = 2 * keys * call.dims["B"] * call.dims["KV"] * call.dims["C"]
    per_element = call.operands["k_cache"].size_bytes // call.operands["k_cache"].num_elements
    return Cost(4 * call.dims["Z"] * keys * call.dims["C"], cached * per_element + moved(call, "q", "attn"))


ops.declare(
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
    doc="""Attention of a few tokens of each of B requests over all pages of each, a row of all heads for each token.

    Rows are as a quantised product takes them; idle tokens and rows of padding get zeros. `scale` is 1 / sqrt(C) by default.""",
)
