"""Rotary positions of whole heads, and the cache rows of new keys and values.

A head's columns j and j + C / 2 are turned by the same angle (`rotate_half` of transformers). Tables have both halves.

Symbols: T tokens, M rows of the projections (those beyond the tokens are padding), KV key-value heads, C columns of a head,
Q rows of all query heads, P pages of G rows, L positions.

Source: transformers 5.23.0 `Qwen3Attention`, `apply_rotary_pos_emb`; pypto-lib `rope_kv_cache`.
"""

from __future__ import annotations

from ops.rules import every, moved, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.common.rope")


def _cost(call: Call) -> Cost:
    """Eight operations an element for norm and rotation; a token touches its rows of tables and caches only."""
    proj = moved(call, "q_proj", "k_proj", "v_proj", "q")
    rows = call.dims["T"] * call.dims["C"] * 4 * 2
    return Cost(8 * (call.operands["q_proj"].num_elements + call.operands["k_proj"].num_elements), proj + rows)


ops.declare(
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
    doc="""Queries, normalised by head and rotated, in groups of rows a key-value head; keys and values into their slots.

    Rows of a group beyond its heads, and rows of idle tokens (position -1), are zero. A slot counts rows of the pool; of
    slot -1 nothing is written. Without `q_norm` and `k_norm` heads are not normalised.""",
)
