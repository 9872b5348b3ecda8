"""Kernels of the ops that `ops/common/rope.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.common.norm import normalise


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`x` [T, heads, C] turned by angles with these `cos` and `sin` [T, 1, C], the first half of `sin` times -1."""
    return torch.roll(x, x.shape[-1] // 2, -1).mul_(sin).add_(x * cos)


def rope_kv_cache(q_proj, k_proj, v_proj, q_norm, k_norm, cos, sin, position_ids, slots, *, q, k_cache, v_cache, eps):
    num_tokens, (kv_heads, columns) = position_ids.shape[0], k_cache.shape[2:]
    places = position_ids.clamp_min(0)
    cos, sin = (table.index_select(0, places).unsqueeze(1) for table in (cos, sin))
    sin[..., : columns // 2].neg_()

    def heads(x: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        split = x[:num_tokens].view(num_tokens, -1, columns)
        return rotate(split if norm is None else normalise(split, norm, eps), cos, sin)

    groups = q.view(q_proj.shape[0], kv_heads, -1, columns)
    queries = heads(q_proj, q_norm).view(num_tokens, kv_heads, -1, columns)
    queries.index_fill_(0, (position_ids < 0).nonzero().flatten(), 0.0)
    groups.zero_()
    groups[:num_tokens, :, : queries.shape[2]] = queries
    kept = (slots >= 0).nonzero().flatten()
    places = slots.index_select(0, kept)
    for cache, new in ((k_cache, heads(k_proj, k_norm)), (v_cache, v_proj[:num_tokens].view(num_tokens, -1, columns))):
        cache.view(-1, kv_heads, columns).index_copy_(0, places, new.index_select(0, kept).to(cache.dtype))
