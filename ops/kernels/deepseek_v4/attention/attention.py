"""Kernels of the ops that `ops/deepseek_v4/attention/attention.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ops.kernels.deepseek_v4.attention.compressor import paged_rows, write_rows
from ops.kernels.deepseek_v4.attention.key_indices import MASKED, valid_keys
from ops.kernels.deepseek_v4.attention.rope import rotate_back

_TOKENS = 16
"""Tokens attended at a time: bounds the [tokens, heads, keys] intermediate."""
_GATHERED = 2**21
"""Elements of keys that are gathered at a time where four tasks run as one: more of them make no call cheaper."""
_LEAST_EXPONENT = -87.0
"""What has a smaller weight than exp of this changes no sum in f32, but exp takes six times as long where results underflow."""


# --- keys ---


def gather_keys(indices, kv, kv_cache, table, cmp_kv, cmp_table) -> torch.Tensor:
    """Keys [T, K, C] of `indices` [T, K], zero where they are -1.

    `table` [T, N] and `cmp_table` [T, M] are the pages of each token's window ring and compressed rows.
    """
    (num_tokens, width), columns = kv.shape, indices.shape[1]
    ring = table.shape[1] * kv_cache.shape[1]
    rows = paged_rows(table, (indices - num_tokens).clamp_(0, ring - 1), kv_cache.shape[1])  # most keys are in the ring
    keys = kv_cache.view(-1, width).index_select(0, rows.flatten()).to(kv.dtype)
    flat = indices.flatten()
    low = (flat < num_tokens).nonzero().flatten()  # of this call, or none
    source = torch.nn.functional.pad(kv, (0, 0, 1, 0))
    keys.index_copy_(0, low, source.index_select(0, flat.index_select(0, low).add_(1)))
    compressed = (flat >= num_tokens + ring).nonzero().flatten()
    if compressed.numel():
        row = flat.index_select(0, compressed).sub_(num_tokens + ring).unsqueeze(1)
        rows = paged_rows(cmp_table.index_select(0, compressed // columns), row, cmp_kv.shape[1])
        keys.index_copy_(0, compressed, cmp_kv.view(-1, width).index_select(0, rows.flatten()).to(kv.dtype))
    return keys.view(*indices.shape, width)


def gather_kv(indices, lens, block_table, kv_cache, kv, cmp_block_table, cmp_kv, *, sparse_kv):
    columns = sparse_kv.shape[0] // indices.shape[0]
    source, chosen = _sources(columns, indices, lens, block_table, kv_cache, kv, cmp_block_table, cmp_kv)
    torch.index_select(source, 0, chosen.flatten(), out=sparse_kv)


def _sources(
    columns: int, indices, lens, block_table, kv_cache, kv, cmp_block_table, cmp_kv
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, C] that a request's keys are taken from, the last one zero for what is no key, and which each key [T, K] is."""
    indices = indices[:, :columns]
    width, ring = kv.shape[1], block_table.shape[0] * kv_cache.shape[1]
    num_compressed = max(int(indices.max()) + 1 - kv.shape[0] - ring, 0)
    sources = [kv]  # in the order that key indices count
    for cache, table, num_rows in ((kv_cache, block_table, ring), (cmp_kv, cmp_block_table, num_compressed)):
        rows = torch.arange(num_rows, device=kv.device)
        sources.append(cache.view(-1, width)[paged_rows(table, rows, cache.shape[1])])
    sources.append(kv.new_zeros((1, width)))
    source = torch.cat(sources)
    return source, torch.where(valid_keys(indices, lens), indices, source.shape[0] - 1)


def dummy_cmp_table(*, cmp_block_table, cmp_kv):
    cmp_block_table.zero_()
    cmp_kv.zero_()


def pad_overlay(kv, *, overlay):
    overlay[: kv.shape[0]] = kv
    overlay[kv.shape[0] :].zero_()


def cache_writeback(slot_mapping, kv, *, kv_cache):
    write_rows(kv_cache, kv, slot_mapping)


# --- attention over tiles ---


def attend(q: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, mi: torch.Tensor, li: torch.Tensor, oi: torch.Tensor) -> None:
    """`q` [..., H, C] over `keys` [..., tile, C] with `bias` [..., tile]; results [..., H, 1 or C], each matrix by itself."""
    keys = keys.float()
    scores = torch.matmul(q.float(), keys.transpose(-1, -2)).mul_(q.shape[-1] ** -0.5)
    scores += bias.unsqueeze(-2)
    torch.amax(scores, dim=-1, keepdim=True, out=mi)
    weights = scores.sub_(mi).clamp_min_(_LEAST_EXPONENT).exp_()
    torch.sum(weights, dim=-1, keepdim=True, out=li)
    torch.matmul(weights, keys, out=oi)


def _tiles(q: torch.Tensor, *partial: torch.Tensor) -> list[torch.Tensor]:
    """Partial results [Z, ...] as [T, tiles, H, ...]."""
    num_tokens, heads, _ = q.shape
    return [x.view(num_tokens, -1, heads, x.shape[-1]) for x in partial]


def qk_pv(sparse_kv, bias, q, *, mi, li, oi):
    mi, li, oi = _tiles(q, mi, li, oi)
    num_tokens, num_tiles = mi.shape[:2]
    keys, bias = sparse_kv.view(num_tokens, num_tiles, -1, sparse_kv.shape[1]), bias.view(num_tokens, num_tiles, -1)
    for first in range(0, num_tokens, _TOKENS):
        part = slice(first, first + _TOKENS)
        attend(q[part].unsqueeze(1), keys[part], bias[part], mi[part], li[part], oi[part])


def qk_pv_window(indices, block_table, kv_cache, overlay, bias, q, *, mi, li, oi):
    num_tokens, _, width = q.shape
    rows = (indices - num_tokens).clamp_(min=0)
    rows = paged_rows(_of_tokens(block_table, num_tokens), rows, kv_cache.shape[1])
    cached = kv_cache.view(-1, width).index_select(0, rows.flatten()).view(*indices.shape, width)
    if num_tokens > block_table.shape[0]:  # several tokens of a request: those before a token take their places in its ring
        token, column = ((indices >= 0) & (indices < num_tokens)).nonzero(as_tuple=True)
        cached[token, column] = overlay[indices[token, column].long()]
    unseen = (indices.flatten() < 0).nonzero().flatten()
    cached.view(-1, width).index_fill_(0, unseen, 0.0)  # whatever a row nobody wrote holds, NaN included
    keys = torch.cat((cached, overlay.expand(num_tokens, -1, -1)), dim=1)
    keys = torch.nn.functional.pad(keys, (0, 0, 0, bias.shape[1] - keys.shape[1]))
    if not overlay.sum(dtype=torch.float32).isfinite():  # of another token perhaps: NaN times a weight of 0 is NaN
        keys.masked_fill_((bias == MASKED).unsqueeze(-1), 0.0)
    mi, li, oi = _tiles(q, mi, li, oi)
    attend(q.unsqueeze(1), keys.view(num_tokens, mi.shape[1], -1, width), bias.view(num_tokens, mi.shape[1], -1), mi, li, oi)


def qk_pv_paged(block_table, bias, indices, valid_block_mask, kv_cache, kv, cmp_block_table, cmp_kv, q, *, mi, li, oi):
    num_tokens, _, width = q.shape
    mi, li, oi = _tiles(q, mi, li, oi)
    num_tiles = mi.shape[1]
    live = valid_block_mask if valid_block_mask is not None else (indices >= 0).view(num_tokens, num_tiles, -1).any(-1)
    used = max((tile + 1 for tile, is_live in enumerate(live.any(dim=0).tolist()) if is_live), default=0)
    if used < num_tiles:
        _fill_empty(*(x[:, used:] for x in (mi, li, oi)))
        if used == 0:
            return
        mi, li, oi = mi[:, :used], li[:, :used], oi[:, :used]
    indices, bias = (x.view(num_tokens, num_tiles, -1)[:, :used] for x in (indices, bias))
    tables = _of_tokens(block_table, num_tokens), _of_tokens(cmp_block_table, num_tokens)
    keys = gather_keys(indices.flatten(1), kv, kv_cache, tables[0], cmp_kv, tables[1])
    attend(q.unsqueeze(1), keys.view(*indices.shape, width), bias, mi, li, oi)


def _fill_empty(mi: torch.Tensor, li: torch.Tensor, oi: torch.Tensor) -> None:
    """Partial results of tiles without a key."""
    mi.fill_(MASKED)
    li.zero_()
    oi.zero_()


def _of_tokens(table: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Pages of each token's request, of a table of requests that have equally many tokens."""
    return table if table.shape[0] == num_tokens else table.repeat_interleave(num_tokens // table.shape[0], dim=0)


# --- merging ---


def merge(num_tokens: int, mi: torch.Tensor, li: torch.Tensor, oi: torch.Tensor, sink: torch.Tensor) -> torch.Tensor:
    """Output [T, H, C] of all tiles' partial results, with the sink's weight in the denominator only."""
    mi, li, oi = (x.view(num_tokens, -1, sink.numel(), x.shape[1]) for x in (mi, li, oi))
    sink = sink.view(-1, 1)
    top = torch.maximum(mi.amax(dim=1), sink)
    weight = (mi - top.unsqueeze(1)).exp_()
    total = (weight * li).sum(dim=1).add_((sink - top).exp_())
    return (weight * oi).sum(dim=1).div_(total)


def merge_norm(mi, li, oi, sink, *, rope_stage, o_packed):
    heads, rope = sink.numel(), rope_stage.shape[1]
    num_tokens, width = rope_stage.shape[0] // heads, oi.shape[1]
    merged = merge(num_tokens, mi, li, oi, sink)
    rope_stage.copy_(merged[..., -rope:].reshape(rope_stage.shape))
    o_packed.view(num_tokens, heads, width)[..., :-rope] = merged[..., :-rope]


def rope(rope_stage, cos_il, sin_signed, *, o_packed, width):
    num_tokens, columns = cos_il.shape
    stage = rope_stage.view(num_tokens, -1, columns)
    back = rotate_back(stage, cos_il[:, None], sin_signed[:, None])
    o_packed.view(num_tokens, -1, width)[..., -columns:] = back


def merge_norm_step(mi, li, oi, sink, cos_il, sin_signed, *, o_packed):
    num_tokens, columns = cos_il.shape
    merged = merge(num_tokens, mi, li, oi, sink)
    merged[..., -columns:] = rotate_back(merged[..., -columns:], cos_il[:, None], sin_signed[:, None])
    o_packed.copy_(merged.view(o_packed.shape))


# --- from gathering to merging at once ---


def attend_gathered(units: Sequence[Mapping[str, Any]]) -> None:
    """`gather_kv`, `build_bias`, `qk_pv` and `merge_norm`; of what lies between nothing is kept."""
    for unit in units:
        _attend_gathered(**unit)


def _attend_gathered(q, sink, *, bias, mi, rope_stage, o_packed, sparse_kv, li, oi, **sources) -> None:
    """Some tokens at a time, which bounds what lies between; tiles that are empty to all of them would change no bit.

    The first tile of keys mostly slides by a row from token to token: such keys are seen where they lie.
    """
    num_tokens, heads, width = q.shape
    num_tiles, packed = mi.shape[0] // (num_tokens * heads), o_packed.shape[0] // num_tokens
    source, chosen = _sources(bias.shape[1], **sources)
    source, chosen = source.float(), chosen.view(num_tokens, num_tiles, -1)
    is_key = chosen < source.shape[0] - 1
    masks, live = torch.where(is_key, 0.0, MASKED), is_key.any(-1).tolist()
    line = torch.cat((chosen[0, 0], chosen[1:, 0, -1]))
    slides = (chosen[:, 0] == line.unfold(0, chosen.shape[2], 1)).all(-1).tolist()
    sliding = source.index_select(0, line).unfold(0, chosen.shape[2], 1).transpose(1, 2)
    step = max(_GATHERED // (bias.shape[1] * width), 1)
    for first in range(0, num_tokens, step):
        some = slice(first, min(first + step, num_tokens))
        used = max((tile + 1 for tiles in live[some] for tile, is_live in enumerate(tiles) if is_live), default=1)
        places, hidden = (x[some].transpose(0, 1) for x in (chosen, masks))  # tiles before tokens
        partial = [source.new_empty(*places.shape[:2], heads, columns) for columns in (1, 1, width)]
        _fill_empty(*(x[used:] for x in partial))
        gathered = 0
        if all(slides[some]):
            attend(q[some], sliding[some], hidden[0], *(x[0] for x in partial))
            gathered = 1
        if gathered < used:
            rest = slice(gathered, used)
            keys = source.index_select(0, places[rest].flatten()).view(*places[rest].shape, width)
            attend(q[some], keys, hidden[rest], *(x[rest] for x in partial))
        rows, packs = (slice(first * each, some.stop * each) for each in (heads, packed))
        partial = [x.transpose(0, 1).reshape(-1, x.shape[-1]) for x in partial]  # the layout that tasks sum
        merge_norm(partial[0], partial[1], partial[2], sink, rope_stage=rope_stage[rows], o_packed=o_packed[packs])
