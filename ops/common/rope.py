"""Rotary positions of whole heads, and the cache rows of new keys and values.

A head's columns j and j + C / 2 are turned by the same angle (`rotate_half` of transformers). Tables have both halves.

Symbols: T tokens, M rows of the projections (those beyond the tokens are padding), KV key-value heads, C columns of a head,
Q rows of all query heads, P pages of G rows, L positions.

Source: transformers 5.23.0 `Qwen3Attention`, `apply_rotary_pos_emb`; pypto-lib `rope_kv_cache`.
"""

from __future__ import annotations

import torch

from ops.common.norm import normalise
from ops.rules import every, moved, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`x` [T, heads, C] turned by the angles of `cos` and `sin` [T, C]."""
    low, high = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-high, low), -1) * sin[:, None]


def _cost(call: Call) -> Cost:
    """Eight operations an element for norm and rotation; a token touches its rows of tables and caches only."""
    proj = moved(call, "q_proj", "k_proj", "v_proj", "q")
    rows = call.dims["T"] * call.dims["C"] * 4 * 2
    return Cost(8 * (call.operands["q_proj"].num_elements + call.operands["k_proj"].num_elements), proj + rows)


@ops.op(
    "rope_kv_cache",
    "q_proj: f32[M, N], k_proj: f32[M, KV * C], v_proj: f32[M, KV * C], q_norm?: {wd}[C], k_norm?: {wd}[C],"
    " cos: f32[L, C], sin: f32[L, C], position_ids: i32[T], slots: i64[T]"
    " -> q: {act}[Z, C], &k_cache: {act}[P, G, KV, C], &v_cache: {act}[P, G, KV, C]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=_cost,
    num_blocks=every("T", 2),
    check=requires(
        ("{M} rows for {T} tokens", lambda d: d["M"] >= d["T"]),
        ("a head has {C} columns, expected an even number", lambda d: d["C"] % 2 == 0),
        ("{N} columns are not heads of {C} for each of {KV} key-value heads", lambda d: d["N"] % (d["KV"] * d["C"]) == 0),
        (
            "{Z} query rows are not {M} times {KV} groups of at least N / (KV * C) heads",
            lambda d: d["Z"] % (d["M"] * d["KV"]) == 0 and d["Z"] * d["C"] >= d["M"] * d["N"],
        ),
    ),
    source="transformers Qwen3Attention; pypto-lib rope_kv_cache",
)
def rope_kv_cache(q_proj, k_proj, v_proj, q_norm, k_norm, cos, sin, position_ids, slots, *, q, k_cache, v_cache, eps):
    """Queries, normalised by head and rotated, in groups of rows a key-value head; keys and values into their slots.

    Rows of a group beyond its heads, and rows of idle tokens (position -1), are zero. A slot counts rows of the pool; of
    slot -1 nothing is written. Without `q_norm` and `k_norm` heads are not normalised.
    """
    num_tokens, (kv_heads, columns) = position_ids.shape[0], k_cache.shape[2:]
    rows = position_ids.clamp_min(0).long()
    cos, sin = cos[rows], sin[rows]

    def heads(x: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        split = x[:num_tokens].unflatten(1, (-1, columns))
        return rotate(split if norm is None else normalise(split, norm, eps), cos, sin)

    groups = q.view(q_proj.shape[0], kv_heads, -1, columns)
    groups.zero_()
    queries = heads(q_proj, q_norm).unflatten(1, (kv_heads, -1))
    queries[position_ids < 0] = 0
    groups[:num_tokens, :, : queries.shape[2]] = queries.to(q.dtype)
    kept = slots >= 0
    k_cache.view(-1, kv_heads, columns)[slots[kept]] = heads(k_proj, k_norm)[kept].to(k_cache.dtype)
    v_cache.view(-1, kv_heads, columns)[slots[kept]] = v_proj[:num_tokens][kept].unflatten(1, (-1, columns)).to(v_cache.dtype)
