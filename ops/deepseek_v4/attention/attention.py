"""Sparse attention: each token attends to its window, to this call's own rows and to compressed rows, with a sink per head.

What a token attends to is a row of key indices (`key_indices.py`). Keys are values too. Attention runs over tiles of keys;
every tile leaves its maximum (`mi`), its sum of exponentials (`li`) and its weighted values (`oi`), one row per token, tile and
head in that order, and `merge_norm` combines them with the sink. The output is packed for the output projection: row
`t * groups + g` holds the heads of group g of token t, side by side.

Symbols: T tokens (U of them in a tile), B requests, H heads, C columns of a head, R its rotated columns, K keys of a token,
J columns of a table of key indices, Q gathered keys, Z rows of partial results, V rows of the overlay, Y x X the packed output,
P pages and G rows of a page, N and M pages of a request.

Source: transformers 5.23.0 `DeepseekV4Attention` and `eager_attention_forward` (formulas); pypto-lib sparse attention (tasks).
"""

from __future__ import annotations

from collections.abc import Mapping

from ops.deepseek_v4.attention.qkv import ROPE_COLUMNS
from ops.rules import Rule, ceil_div, every, moved, pipe_buffer, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.attention.attention")

_SOURCE = "transformers DeepseekV4Attention and eager_attention_forward; pypto-lib sparse_attn"

_PARTIAL = "mi: f32[Z, 1], li: f32[Z, 1], oi: f32[Z, C]"
_CACHE = "kv_cache: {act}[P, G, 1, C]"
_COMPRESSED = "cmp_kv: {act}[P2, G2, 1, C]"

_REQUESTS: Rule = ("{T} tokens are not the same number for each of {B} requests", lambda d: d["T"] % d["B"] == 0)


def _whole_tiles(d: Mapping[str, int]) -> bool:
    tiles, rest = divmod(d["Z"], d["T"] * d["H"])
    return not rest and tiles > 0 and d["K"] % tiles == 0


_PARTIAL_ROWS: Rule = ("{Z} partial rows are not {T} tokens x {H} heads x tiles of {K} keys", _whole_tiles)


def _gather_cost(call: Call) -> Cost:
    return Cost(0, 2 * moved(call, "sparse_kv") + moved(call, "indices"))


ops.declare(
    "gather_kv",
    f"indices: i32[U, J], lens: i32[..., U], block_table: i32[N], {_CACHE}, kv: {{act}}[T, C],"
    f" cmp_block_table: i32[M], {_COMPRESSED} -> sparse_kv: {{act}}[Q, C]",
    core="AIV",
    source=_SOURCE,
    cost=_gather_cost,
    num_blocks=every("Q", 512),
    check=requires(
        ("{Q} keys for {U} tokens, each with {J} key indices", lambda d: d["Q"] % d["U"] == 0 and d["Q"] // d["U"] <= d["J"])
    ),
    doc="The keys of every token one after another, zero where there is none (prefill: U of the T tokens of one request).",
)


ops.declare(
    "dummy_cmp_table",
    "-> cmp_block_table: i32[M], cmp_kv: {act}[M, G, 1, C]",
    core="AIV",
    source=_SOURCE,
    doc="An empty compressed cache, for layers that have none.",
)


ops.declare(
    "pad_overlay",
    "kv: {act}[T, C] -> overlay: {act}[V, C]",
    core="AIV",
    source=_SOURCE,
    check=requires(("an overlay of {V} rows for {T} tokens", lambda d: d["V"] >= d["T"])),
    doc="This call's rows, padded with zeros to whole tiles.",
)


ops.declare(
    "cache_writeback",
    f"slot_mapping: i64[T], kv: {{act}}[T, C] -> &{_CACHE}",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(0, 2 * moved(call, "kv")),
    doc="This call's newest rows into the window ring (tokens with a slot of -1 stay out).",
)


def _attend_blocks(call: Call) -> int:
    return call.dims["T"]


def _attend_cost(call: Call) -> Cost:
    q, bias = call.operands["q"], call.operands["bias"]
    products = 4 * q.num_elements * bias.shape[1]
    key_bytes = bias.num_elements * q.shape[2] * q.size_bytes // q.num_elements
    return Cost(products, key_bytes + moved(call, "q", "bias", "mi", "li", "oi"))


_ATTEND = {
    "core": "MIX",
    "source": _SOURCE,
    "cost": _attend_cost,
    "num_blocks": _attend_blocks,
    "workspace": pipe_buffer(_attend_blocks, lambda call: 256 * call.dims["H"]),
}


ops.declare(
    "qk_pv",
    f"sparse_kv: {{act}}[Q, C], bias: f32[T, K], q: {{act}}[T, H, C] -> {_PARTIAL}",
    **_ATTEND,
    check=requires(_PARTIAL_ROWS, ("{Q} keys for {T} tokens of {K} keys each", lambda d: d["Q"] == d["T"] * d["K"])),
    doc="Attention of every token over its gathered keys, tile by tile.",
)


ops.declare(
    "qk_pv_window",
    f"indices: i32[T, W], block_table: i32[B, N], {_CACHE}, overlay: {{act}}[V, C], bias: f32[T, K], q: {{act}}[T, H, C]"
    f" -> {_PARTIAL}",
    **_ATTEND,
    check=requires(
        _PARTIAL_ROWS,
        _REQUESTS,
        ("{K} keys do not hold a ring of {W} rows and an overlay of {V}", lambda d: d["K"] >= d["W"] + d["V"]),
    ),
    doc="Attention of every token (decode) over its request's ring and this call's rows.",
)


ops.declare(
    "qk_pv_paged",
    f"block_table: i32[B, N], bias: f32[T, K], indices: i32[T, K], valid_block_mask?: i32[T, NT], {_CACHE}, kv: {{act}}[T, C],"
    f" cmp_block_table: i32[B, M], {_COMPRESSED}, q: {{act}}[T, H, C] -> {_PARTIAL}",
    **_ATTEND,
    check=requires(_PARTIAL_ROWS, _REQUESTS),
    doc="Attention of every token (decode) over the keys of its key indices; tiles without a key for any token are skipped.",
)


def _merge_cost(call: Call) -> Cost:
    return Cost(2 * call.operands["oi"].num_elements, call.moved_bytes)


ops.declare(
    "merge_norm",
    f"{_PARTIAL}, sink: f32[H] -> rope_stage: f32[E, R], o_packed: {{act}}[Y, X]",
    core="AIV",
    source=_SOURCE,
    cost=_merge_cost,
    num_blocks=lambda call: ceil_div(call.dims["E"], call.dims["H"]),
    check=requires(
        ("{Z} partial rows for {E} rows of tokens and {H} heads", lambda d: d["Z"] % d["E"] == 0 and d["E"] % d["H"] == 0),
        ("{Y} x {X} packed, expected {E} rows of {C}", lambda d: d["Y"] * d["X"] == d["E"] * d["C"]),
        ROPE_COLUMNS,
    ),
    doc="Attention's output, packed by group; its rotated columns go to `rope_stage` (a row per token and head) instead.",
)


ops.declare(
    "rope",
    "rope_stage: f32[E, R], cos_il: f32[T, R], sin_signed: f32[T, R] -> &o_packed: {act}[Y, X]",
    core="AIV",
    source=_SOURCE,
    params={"width": "head_dim"},
    cost=lambda call: Cost(3 * call.operands["rope_stage"].num_elements, 2 * moved(call, "rope_stage")),
    num_blocks=every("T", 4),
    check=requires(
        ("{E} rows for {T} tokens", lambda d: d["E"] % d["T"] == 0),
        ("{Y} x {X} packed, expected {E} rows of {width}", lambda d: d["Y"] * d["X"] == d["E"] * d["width"]),
    ),
    doc="The output's rotated columns, turned back by each token's own angles, into the packed output.",
)


ops.declare(
    "merge_norm_step",
    f"{_PARTIAL}, sink: f32[H], cos_il: f32[T, R], sin_signed: f32[T, R] -> o_packed: {{act}}[Y, X]",
    core="AIV",
    source=_SOURCE,
    cost=_merge_cost,
    num_blocks=every("H", 2),
    check=requires(
        ("{Z} partial rows for {T} tokens and {H} heads", lambda d: d["Z"] % (d["T"] * d["H"]) == 0),
        ("{Y} x {X} packed, expected {T} x {H} heads of {C}", lambda d: d["Y"] * d["X"] == d["T"] * d["H"] * d["C"]),
        ROPE_COLUMNS,
    ),
    doc="Attention's output, packed by group, its rotated columns turned back.",
)


ops.fuse(
    "attend_gathered",
    ("gather_kv", {}),
    ("build_bias", {}),
    ("qk_pv", {}),
    ("merge_norm", {}),
    inner=("sparse_kv", "bias", "mi", "li", "oi"),
)
