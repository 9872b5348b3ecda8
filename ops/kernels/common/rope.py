"""Kernels of the ops that `ops/common/rope.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.common.norm import normalise


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`x` [T, heads, C] turned by the angles of `cos` and `sin` [T, C]."""
    low, high = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-high, low), -1) * sin[:, None]


def rope_kv_cache(q_proj, k_proj, v_proj, q_norm, k_norm, cos, sin, position_ids, slots, *, q, k_cache, v_cache, eps):
    num_tokens, (kv_heads, columns) = position_ids.shape[0], k_cache.shape[2:]
    rows = position_ids.clamp_min(0)
    cos, sin = cos.index_select(0, rows), sin.index_select(0, rows)

    def heads(x: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        split = x[:num_tokens].unflatten(1, (-1, columns))
        return rotate(split if norm is None else normalise(split, norm, eps), cos, sin)

    groups = q.view(q_proj.shape[0], kv_heads, -1, columns)
    groups.zero_()
    queries = heads(q_proj, q_norm).unflatten(1, (kv_heads, -1))
    queries.masked_fill_((position_ids < 0).view(-1, 1, 1, 1), 0)
    groups[:num_tokens, :, : queries.shape[2]] = queries.to(q.dtype)
    kept = (slots >= 0).nonzero().flatten()
    places = slots.index_select(0, kept)
    for cache, new in ((k_cache, heads(k_proj, k_norm)), (v_cache, v_proj[:num_tokens].unflatten(1, (-1, columns)))):
        cache.view(-1, kv_heads, columns).index_copy_(0, places, new.index_select(0, kept).to(cache.dtype))
