"""What a token attends to, as a row of *key indices*:

    v < 0                  nothing
    0 <= v < T             row v of this call's keys (`kv`)
    T <= v < T + ring      row v - T of the request's window ring: position p is kept in row `p % ring`
    T + ring <= v          compressed row v - T - ring of the request

Symbols: T tokens, B requests, S tokens of a request, K columns of key indices or of a bias, J columns of another table, NT tiles,
W rows of a ring, L positions.

Source: pypto-lib sparse index tasks; transformers 5.23.0 `create_sliding_window_causal_mask` (which positions a window holds).
"""

from __future__ import annotations

from ops.rules import Rule, every, requires
from runner.program.ops import OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.attention.key_indices")

_SOURCE = "pypto-lib sparse attention index tasks"

_RING_COLUMNS: Rule = ("{K} columns of key indices do not hold a ring of {ring} rows", lambda d: d["K"] >= d["ring"])
_EVEN: Rule = ("{T} tokens are not {seq} for each of some requests", lambda d: d["T"] % d["seq"] == 0)


ops.declare(
    "sparse_lens",
    "position_ids: i32[T] -> lens: i32[1, T]",
    core="AIV",
    source=_SOURCE,
    params={"ring": "RING", "topk": "TOPK_CMP", "ratio": "compress_rate_csa"},
    doc="Columns of each token's key indices that may hold a key, the window's and the compressed rows'; 0 for an idle token.",
)


ops.declare(
    "pos_map",
    "position_ids: i32[T] -> pos_to_token: i32[1, L]",
    core="AIV",
    source=_SOURCE,
    doc="The token of this call at each position of the context, -1 for none (prefill: one request).",
)


ops.declare(
    "sparse_idx_tile",
    "position_ids: i32[T], pos_to_token: i32[1, L], topk: i32[T, J] -> indices: i32[T, K]",
    core="AIV",
    source=_SOURCE,
    params={"window": "sliding_window", "ring": "RING"},
    num_blocks=every("T", 2),
    check=requires(_RING_COLUMNS),
    doc="Key indices of every token: its window, then the compressed rows that the indexer chose.",
)


ops.declare(
    "sparse_idx_step",
    "position_ids: i32[T], topk: i32[B, S, J] -> indices: i32[T, K], valid_block_mask: i32[T, NT]",
    core="AIV",
    source=_SOURCE,
    params={"window": "sliding_window", "ring": "RING", "seq": "S"},
    check=requires(
        _RING_COLUMNS,
        _EVEN,
        ("{K} columns are not {NT} tiles", lambda d: d["K"] % d["NT"] == 0),
        ("{T} tokens are not {S} of each of {B} requests", lambda d: d["T"] == d["B"] * d["S"]),
    ),
    doc="Key indices of every token (decode), and which of their tiles hold any key.",
)


ops.declare(
    "overlay_topk",
    "position_ids: i32[T] -> indices: i32[T, K]",
    core="AIV",
    source=_SOURCE,
    params={"window": "sliding_window", "ring": "RING", "seq": "S", "ratio": "compress_rate_hca"},
    check=requires(_RING_COLUMNS, _EVEN),
    doc="Key indices of every token (decode): its window, then every visible compressed row.",
)


ops.declare(
    "win_bias",
    "position_ids: i32[T] -> indices: i32[T, W], bias: f32[T, K]",
    core="AIV",
    source=_SOURCE,
    params={"window": "sliding_window", "seq": "S"},
    check=requires(_EVEN, ("{K} columns do not hold a ring of {W} rows and {T} tokens", lambda d: d["K"] >= d["W"] + d["T"])),
    doc="""What a token sees of its request's ring and of this call's rows (decode, window only).

    `indices` [T, W] are the key indices of the W positions before the token in ring order, be they in the ring or in this call:
    where a key comes from changes no sum's order. `bias` [T, K] is 0 where a key is attended to, for these and then this call's
    rows, which may be padded, of which a token sees its own.
    """,
)


ops.declare(
    "build_bias",
    "indices: i32[T, J], lens?: i32[..., T] -> bias: f32[T, K]",
    core="AIV",
    source=_SOURCE,
    num_blocks=every("T", 16),
    check=requires(("{K} columns of {J}", lambda d: d["K"] <= d["J"])),
    doc="0 where a key index is a key, MASKED elsewhere and beyond `lens` columns.",
)
