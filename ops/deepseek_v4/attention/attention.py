"""Sparse attention: each token attends to its window, to this call's own rows and to compressed rows, with a sink per head.

What a token attends to is a row of key indices (`ops/key_indices.py`). Keys are values too. Attention runs over tiles of keys;
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

import torch

from ops.deepseek_v4.attention.compressor import paged_rows, write_rows
from ops.deepseek_v4.attention.key_indices import MASKED, valid_keys
from ops.deepseek_v4.attention.qkv import ROPE_COLUMNS
from ops.deepseek_v4.attention.rope import rotate_back
from ops.rules import Rule, ceil_div, every, moved, pipe_buffer, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry()

_SOURCE = "transformers DeepseekV4Attention and eager_attention_forward; pypto-lib sparse_attn"

_TOKENS = 16
"""Tokens attended at a time: bounds the [tokens, heads, keys] intermediate."""

_PARTIAL = "mi: f32[Z, 1], li: f32[Z, 1], oi: f32[Z, C]"
_CACHE = "kv_cache: {act}[P, G, 1, C]"
_COMPRESSED = "cmp_kv: {act}[P2, G2, 1, C]"

_REQUESTS: Rule = ("{T} tokens are not the same number for each of {B} requests", lambda d: d["T"] % d["B"] == 0)


def _whole_tiles(d: Mapping[str, int]) -> bool:
    tiles, rest = divmod(d["Z"], d["T"] * d["H"])
    return not rest and tiles > 0 and d["K"] % tiles == 0


_PARTIAL_ROWS: Rule = ("{Z} partial rows are not {T} tokens x {H} heads x tiles of {K} keys", _whole_tiles)


# --- keys ---


def gather_keys(indices, valid, kv, kv_cache, table, cmp_kv, cmp_table) -> torch.Tensor:
    """Keys [T, K, C] of `indices` [T, K], zero where not `valid` [T, K].

    `table` [T, N] and `cmp_table` [T, M] are the pages of each token's window ring and compressed rows.
    """
    num_tokens, width = kv.shape
    ring = table.shape[1] * kv_cache.shape[1]
    keys = kv.new_zeros((*indices.shape, width))
    in_ring, compressed = valid & (indices >= num_tokens), valid & (indices >= num_tokens + ring)
    fresh, in_ring = valid & ~in_ring, in_ring & ~compressed
    keys[fresh] = kv[indices[fresh]]
    for mask, cache, pages, offset in (
        (in_ring, kv_cache, table, num_tokens),
        (compressed, cmp_kv, cmp_table, num_tokens + ring),
    ):
        token, column = mask.nonzero(as_tuple=True)
        if token.numel():
            row = (indices[token, column] - offset).unsqueeze(-1)
            rows = paged_rows(pages[token], row, cache.shape[1])
            keys[token, column] = cache.view(-1, width)[rows.squeeze(-1)]
    return keys


def _gather_cost(call: Call) -> Cost:
    return Cost(0, 2 * moved(call, "sparse_kv") + moved(call, "indices"))


@ops.op(
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
)
def gather_kv(indices, lens, block_table, kv_cache, kv, cmp_block_table, cmp_kv, *, sparse_kv):
    """The keys of every token one after another, zero where there is none (prefill: U of the T tokens of one request)."""
    columns = sparse_kv.shape[0] // indices.shape[0]
    indices = indices[:, :columns]
    valid = valid_keys(indices, lens)
    width, ring = kv.shape[1], block_table.shape[0] * kv_cache.shape[1]
    num_compressed = max(int(indices.max()) + 1 - kv.shape[0] - ring, 0)
    sources = [kv]  # in the order that key indices count
    for cache, table, num_rows in ((kv_cache, block_table, ring), (cmp_kv, cmp_block_table, num_compressed)):
        rows = torch.arange(num_rows, device=kv.device)
        sources.append(cache.view(-1, width)[paged_rows(table, rows, cache.shape[1])])
    sources.append(kv.new_zeros((1, width)))
    source = torch.cat(sources)
    chosen = torch.where(valid, indices, source.shape[0] - 1)
    torch.index_select(source, 0, chosen.flatten(), out=sparse_kv)


@ops.op("dummy_cmp_table", "-> cmp_block_table: i32[M], cmp_kv: {act}[M, G, 1, C]", core="AIV", source=_SOURCE)
def dummy_cmp_table(*, cmp_block_table, cmp_kv):
    """An empty compressed cache, for layers that have none."""
    cmp_block_table.zero_()
    cmp_kv.zero_()


@ops.op(
    "pad_overlay",
    "kv: {act}[T, C] -> overlay: {act}[V, C]",
    core="AIV",
    source=_SOURCE,
    check=requires(("an overlay of {V} rows for {T} tokens", lambda d: d["V"] >= d["T"])),
)
def pad_overlay(kv, *, overlay):
    """This call's rows, padded with zeros to whole tiles."""
    overlay[: kv.shape[0]] = kv
    overlay[kv.shape[0] :] = 0


@ops.op(
    "cache_writeback",
    f"slot_mapping: i64[T], kv: {{act}}[T, C] -> &{_CACHE}",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(0, 2 * moved(call, "kv")),
)
def cache_writeback(slot_mapping, kv, *, kv_cache):
    """This call's newest rows into the window ring (tokens with a slot of -1 stay out)."""
    write_rows(kv_cache, kv, slot_mapping)


# --- attention over tiles ---


def attend(q: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, mi: torch.Tensor, li: torch.Tensor, oi: torch.Tensor) -> None:
    """`q` [T, H, C] over `keys` [T, N, tile, C] with `bias` [T, N, tile]; results [T, N, H, 1 or C]."""
    keys = keys.float()
    scores = torch.matmul(q.float().unsqueeze(1), keys.transpose(-1, -2)) * q.shape[-1] ** -0.5
    scores += bias.unsqueeze(-2)
    torch.amax(scores, dim=-1, keepdim=True, out=mi)
    weights = scores.sub_(mi).exp_()
    torch.sum(weights, dim=-1, keepdim=True, out=li)
    torch.matmul(weights, keys, out=oi)


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


def _tiles(q: torch.Tensor, *partial: torch.Tensor) -> list[torch.Tensor]:
    """Partial results [Z, ...] as [T, tiles, H, ...]."""
    num_tokens, heads, _ = q.shape
    return [x.view(num_tokens, -1, heads, x.shape[-1]) for x in partial]


@ops.op(
    "qk_pv",
    f"sparse_kv: {{act}}[Q, C], bias: f32[T, K], q: {{act}}[T, H, C] -> {_PARTIAL}",
    **_ATTEND,
    check=requires(_PARTIAL_ROWS, ("{Q} keys for {T} tokens of {K} keys each", lambda d: d["Q"] == d["T"] * d["K"])),
)
def qk_pv(sparse_kv, bias, q, *, mi, li, oi):
    """Attention of every token over its gathered keys, tile by tile."""
    mi, li, oi = _tiles(q, mi, li, oi)
    num_tokens, num_tiles = mi.shape[:2]
    keys, bias = sparse_kv.view(num_tokens, num_tiles, -1, sparse_kv.shape[1]), bias.view(num_tokens, num_tiles, -1)
    for first in range(0, num_tokens, _TOKENS):
        part = slice(first, first + _TOKENS)
        attend(q[part], keys[part], bias[part], mi[part], li[part], oi[part])


@ops.op(
    "qk_pv_window",
    f"indices: i32[T, W], block_table: i32[B, N], {_CACHE}, overlay: {{act}}[V, C], bias: f32[T, K], q: {{act}}[T, H, C]"
    f" -> {_PARTIAL}",
    **_ATTEND,
    check=requires(
        _PARTIAL_ROWS,
        _REQUESTS,
        ("{K} keys do not hold a ring of {W} rows and an overlay of {V}", lambda d: d["K"] >= d["W"] + d["V"]),
    ),
)
def qk_pv_window(indices, block_table, kv_cache, overlay, bias, q, *, mi, li, oi):
    """Attention of every token (decode) over its request's ring and this call's rows."""
    num_tokens, _, width = q.shape
    rows = (indices - num_tokens).clamp(min=0)
    table = block_table.repeat_interleave(num_tokens // block_table.shape[0], dim=0)
    cached = kv_cache.view(-1, width)[paged_rows(table, rows, kv_cache.shape[1])]
    cached.masked_fill_((indices < 0).unsqueeze(-1), 0.0)  # whatever a row nobody wrote holds, NaN included
    keys = torch.cat((cached, overlay.expand(num_tokens, -1, -1)), dim=1)
    keys = torch.nn.functional.pad(keys, (0, 0, 0, bias.shape[1] - keys.shape[1]))
    mi, li, oi = _tiles(q, mi, li, oi)
    attend(q, keys.view(num_tokens, mi.shape[1], -1, width), bias.view(num_tokens, mi.shape[1], -1), mi, li, oi)


@ops.op(
    "qk_pv_paged",
    f"block_table: i32[B, N], bias: f32[T, K], indices: i32[T, K], valid_block_mask?: i32[T, NT], {_CACHE}, kv: {{act}}[T, C],"
    f" cmp_block_table: i32[B, M], {_COMPRESSED}, q: {{act}}[T, H, C] -> {_PARTIAL}",
    **_ATTEND,
    check=requires(_PARTIAL_ROWS, _REQUESTS),
)
def qk_pv_paged(block_table, bias, indices, valid_block_mask, kv_cache, kv, cmp_block_table, cmp_kv, q, *, mi, li, oi):
    """Attention of every token (decode) over the keys of its key indices; tiles without a key for any token are skipped."""
    num_tokens, _, width = q.shape
    mi, li, oi = _tiles(q, mi, li, oi)
    num_tiles = mi.shape[1]
    live = valid_block_mask if valid_block_mask is not None else (indices >= 0).view(num_tokens, num_tiles, -1).any(-1)
    used = int((live.any(dim=0) * torch.arange(1, num_tiles + 1, device=q.device)).max())
    for out, value in ((mi, MASKED), (li, 0.0), (oi, 0.0)):
        out[:, used:] = value
    if used == 0:
        return
    indices, bias = indices.view(num_tokens, num_tiles, -1)[:, :used], bias.view(num_tokens, num_tiles, -1)[:, :used]
    flat, seq = indices.flatten(1), num_tokens // block_table.shape[0]
    table, cmp_table = (x.repeat_interleave(seq, dim=0) for x in (block_table, cmp_block_table))
    keys = gather_keys(flat, flat >= 0, kv, kv_cache, table, cmp_kv, cmp_table)
    attend(q, keys.view(*indices.shape, width), bias, mi[:, :used], li[:, :used], oi[:, :used])


# --- merging ---


def merge(num_tokens: int, mi: torch.Tensor, li: torch.Tensor, oi: torch.Tensor, sink: torch.Tensor) -> torch.Tensor:
    """Output [T, H, C] of all tiles' partial results, with the sink's weight in the denominator only."""
    heads = sink.numel()
    mi, li, oi = (x.view(num_tokens, -1, heads, x.shape[1]) for x in (mi, li, oi))
    top = torch.maximum(mi.amax(dim=1), sink.view(-1, 1))
    weight = (mi - top.unsqueeze(1)).exp_()
    total = (weight * li).sum(dim=1) + (sink.view(-1, 1) - top).exp_()
    return (weight * oi).sum(dim=1) / total


def _merge_cost(call: Call) -> Cost:
    return Cost(2 * call.operands["oi"].num_elements, call.moved_bytes)


@ops.op(
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
)
def merge_norm(mi, li, oi, sink, *, rope_stage, o_packed):
    """Attention's output, packed by group; its rotated columns go to `rope_stage` (a row per token and head) instead."""
    heads, rope = sink.numel(), rope_stage.shape[1]
    num_tokens, width = rope_stage.shape[0] // heads, oi.shape[1]
    merged = merge(num_tokens, mi, li, oi, sink)
    rope_stage.copy_(merged[..., -rope:].reshape(rope_stage.shape))
    o_packed.view(num_tokens, heads, width)[..., :-rope] = merged[..., :-rope]


@ops.op(
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
)
def rope(rope_stage, cos_il, sin_signed, *, o_packed, width):
    """The output's rotated columns, turned back by each token's own angles, into the packed output."""
    num_tokens, columns = cos_il.shape
    stage = rope_stage.view(num_tokens, -1, columns)
    back = rotate_back(stage, cos_il[:, None], sin_signed[:, None])
    o_packed.view(num_tokens, -1, width)[..., -columns:] = back


@ops.op(
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
)
def merge_norm_step(mi, li, oi, sink, cos_il, sin_signed, *, o_packed):
    """Attention's output, packed by group, its rotated columns turned back."""
    num_tokens, columns = cos_il.shape
    merged = merge(num_tokens, mi, li, oi, sink)
    merged[..., -columns:] = rotate_back(merged[..., -columns:], cos_il[:, None], sin_signed[:, None])
    o_packed.copy_(merged.view(o_packed.shape))
