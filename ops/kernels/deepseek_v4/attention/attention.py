"""Kernels of the ops that `ops/deepseek_v4/attention/attention.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.deepseek_v4.attention.compressor import paged_rows, write_rows
from ops.kernels.deepseek_v4.attention.key_indices import MASKED, valid_keys
from ops.kernels.deepseek_v4.attention.rope import rotate_back

_TOKENS = 16
"""Tokens attended at a time: bounds the [tokens, heads, keys] intermediate."""
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
    """`q` [T, H, C] over `keys` [T, N, tile, C] with `bias` [T, N, tile]; results [T, N, H, 1 or C]."""
    keys = keys.float()
    scores = torch.matmul(q.float().unsqueeze(1), keys.transpose(-1, -2)).mul_(q.shape[-1] ** -0.5)
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
        attend(q[part], keys[part], bias[part], mi[part], li[part], oi[part])


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
    attend(q, keys.view(num_tokens, mi.shape[1], -1, width), bias.view(num_tokens, mi.shape[1], -1), mi, li, oi)


def qk_pv_paged(block_table, bias, indices, valid_block_mask, kv_cache, kv, cmp_block_table, cmp_kv, q, *, mi, li, oi):
    num_tokens, _, width = q.shape
    mi, li, oi = _tiles(q, mi, li, oi)
    num_tiles = mi.shape[1]
    live = valid_block_mask if valid_block_mask is not None else (indices >= 0).view(num_tokens, num_tiles, -1).any(-1)
    used = max((tile + 1 for tile, is_live in enumerate(live.any(dim=0).tolist()) if is_live), default=0)
    if used < num_tiles:
        for out, value in ((mi, MASKED), (li, 0.0), (oi, 0.0)):
            out[:, used:].fill_(value)
        if used == 0:
            return
        mi, li, oi = mi[:, :used], li[:, :used], oi[:, :used]
    indices, bias = (x.view(num_tokens, num_tiles, -1)[:, :used] for x in (indices, bias))
    tables = _of_tokens(block_table, num_tokens), _of_tokens(cmp_block_table, num_tokens)
    keys = gather_keys(indices.flatten(1), kv, kv_cache, tables[0], cmp_kv, tables[1])
    attend(q, keys.view(*indices.shape, width), bias, mi, li, oi)


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
