"""The lightning indexer of CSA: which compressed rows a token attends to.

Queries of all index heads are scored against the index rows of the request, `sum_h w[t, h] * relu(q[t, h] . k)`, and the best
`index_topk` of the rows whose window has closed are kept.

In W8A8, queries and index rows are rotated by the normalised Hadamard matrix and quantised per row; the graph's input
`hadamard` is the identity in full precision, where the rotation would cancel out. Dot products of INT8 rows are computed
in f32, which is exact up to 1,024 columns.

Symbols: T tokens, B requests, S tokens of a request, D hidden, Q rank of the query projection, H index heads, Z = T * H index
queries, C columns of an index head, R rotated columns, I index rows of a request, K rows kept, M scratch rows, W rows written
in a call, P pages and G rows of a page, N pages of a request.

Source: transformers 5.23.0 `DeepseekV4Indexer` (formulas); pypto-lib indexers (tasks, quantisation).
"""

from __future__ import annotations

from ops.deepseek_v4.attention.qkv import ENOUGH_SCRATCH
from ops.rules import Rule, ceil_div, elementwise, every, fixed, moved, pipe_buffer, products, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.attention.indexer")

_SOURCE = "transformers DeepseekV4Indexer; pypto-lib indexer"

_QUERY = "qr: {qact}[T, Q], wq_b: {wq}[N, Q], wq_b_scale: f32[N], qr_scale: f32[T, 1]"
_CACHES = "&cache: {qact}[P, G, 1, C], &scales: f32[P, G, 1, 1]"
_ROWS = "idx_kv: {qact}[P, G, 1, C], idx_kv_scale: f32[P, G, 1, 1], q: {qact}[Z, C], q_scale: f32[Z, 1], weights: f32[M, H]"

_HEADS: Rule = (
    "{N} columns of {T} tokens are not {Z} queries of one width",
    lambda d: d["Z"] % d["T"] == 0 and d["N"] % (d["Z"] // d["T"]) == 0,
)
_QUERIES: Rule = ("{Z} queries for {T} tokens of {H} heads", lambda d: d["Z"] == d["T"] * d["H"] and d["M"] >= d["T"])


ops.declare(
    "idx_qr_proj",
    f"{_QUERY} -> qr_proj: f32[T, N]",
    core="MIX",
    source=_SOURCE,
    cost=products(("qr", "wq_b")),
    num_blocks=every("N", 256),
    workspace=pipe_buffer(every("N", 256), 32768),
    doc="Index queries of every token, all heads side by side.",
)


ops.declare(
    "idx_qr_proj_step",
    f"{_QUERY} -> acc: {{acc}}[M, N], qr_proj: f32[T, N]",
    core="MIX",
    source=_SOURCE,
    scratch=("acc",),
    cost=products(("qr", "wq_b")),
    num_blocks=every("N", 512),
    workspace=pipe_buffer(every("N", 512), 32768),
    check=requires(ENOUGH_SCRATCH),
    doc="Index queries of every token; `acc` has the accumulators, with rows up to the matmul's tile.",
)


ops.declare(
    "idx_qr_rope",
    "cos: f32[T, R // 2], sin: f32[T, R // 2], qr_proj: f32[T, N] -> rope_out: {act}[Z, R]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(3 * call.operands["rope_out"].num_elements, moved(call, "cos", "sin") + 3 * moved(call, "rope_out")),
    num_blocks=every("T", 1),
    check=requires(_HEADS),
    doc="The rotated trailing columns of every index query.",
)


def _hadamard_blocks(call: Call) -> int:
    return min(32, ceil_div(call.dims["Z"], 64))


def _hadamard_pipe(call: Call) -> int:
    return 16384 if _hadamard_blocks(call) < 32 else 8192


ops.declare(
    "idx_qr_hadamard_quant",
    "qr_proj: f32[T, N], rope_out: {act}[Z, R], hadamard: {act}[C, C] -> q: {qact}[Z, C], q_scale: f32[Z, 1]",
    core="MIX",
    source=_SOURCE,
    cost=lambda call: Cost(2 * call.dims["Z"] * call.dims["C"] ** 2, call.moved_bytes),
    num_blocks=_hadamard_blocks,
    workspace=pipe_buffer(_hadamard_blocks, _hadamard_pipe),
    check=requires(
        _HEADS, ("{T} tokens of {N} columns are not {Z} queries of {C}", lambda d: d["T"] * d["N"] == d["Z"] * d["C"])
    ),
    doc="Index queries as one quantised row per token and head.",
)


ops.declare(
    "idx_weights_proj",
    "x: {act}[T, D], w: {wd}[H, D] -> weights: f32[M, H]",
    core="MIX",
    source=_SOURCE,
    params={"head_dim": "index_head_dim"},
    cost=products(("x", "w")),
    num_blocks=every("M", 32),
    workspace=pipe_buffer(every("M", 32), lambda call: 512 * max(16, min(call.dims["M"], 32))),
    check=requires(ENOUGH_SCRATCH),
    doc="Weight of every head's scores, with `1 / sqrt(heads * head_dim)` in it; rows beyond the tokens are zero.",
)


ops.declare(
    "idx_kv_hadamard",
    "normed: {act}[W, C], hadamard: {act}[C, C] -> rotated: f32[W, C]",
    core="AIC",
    source=_SOURCE,
    cost=lambda call: Cost(2 * call.dims["W"] * call.dims["C"] ** 2, call.moved_bytes),
    num_blocks=every("W", 16),
    doc="Index rows times the Hadamard matrix.",
)


ops.declare(
    "idx_cache_write",
    f"write_dst: i32[1, W], rows: f32[W, C] -> {_CACHES}",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(3 * call.operands["rows"].num_elements, 2 * moved(call, "rows")),
    num_blocks=every("W", 16),
    doc="Index rows of the write map, quantised, into the paged cache.",
)


ops.declare(
    "idx_cache_write_step",
    f"position_ids: i32[T], slot_mapping: i64[T], rows: f32[W, C] -> {_CACHES}, out: f32[B, S, C]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(3 * call.operands["rows"].num_elements, 2 * moved(call, "rows", "out")),
    num_blocks=every("W", 16),
    check=requires(("{W} rows for {T} tokens of {B} requests, {S} each", lambda d: d["W"] >= d["T"] == d["B"] * d["S"])),
    doc="Index rows of the tokens that close a window, quantised, into the paged cache; `out` is each token's row, else zero.",
)


ops.declare(
    "idx_score_init",
    "-> score: f32[..., I]",
    core="AIV",
    source=_SOURCE,
    doc="Every row of the request as invisible as can be.",
)


def _score_cost(call: Call) -> Cost:
    score, q = call.operands["score"], call.operands["q"]
    keys = score.shape[-1] * q.shape[1]
    tokens = score.num_elements // score.shape[-1]
    heads = q.shape[0] // tokens
    return Cost(2 * tokens * heads * keys, moved(call, "q", "q_scale", "weights", "score") + keys)


ops.declare(
    "idx_score",
    f"position_ids: i32[T], block_table: i32[N], {_ROWS} -> &score: f32[T, I]",
    core="MIX",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=_score_cost,
    workspace=pipe_buffer(fixed(1), 8192),
    check=requires(_QUERIES),
    doc="Scores of every token's visible index rows (prefill: one request).",
)


ops.declare(
    "idx_score_step",
    f"position_ids: i32[T], block_table: i32[B, N], {_ROWS} -> &score: f32[B, S, I]",
    core="MIX",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=_score_cost,
    num_blocks=every("B", 1),
    workspace=pipe_buffer(every("B", 1), 8192),
    check=requires(_QUERIES, ("{T} tokens are not {S} of each of {B} requests", lambda d: d["T"] == d["B"] * d["S"])),
    doc="Scores of every token's visible index rows (decode: B requests).",
)


ops.declare(
    "idx_score_out",
    "score: f32[T, I] -> out: f32[T, J]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(0, 2 * moved(call, "out")),
    check=requires(("{J} columns of scores, of which there are {I}", lambda d: d["J"] <= d["I"])),
    doc="The scores of the first rows, for whoever wants to look at them.",
)


ops.declare(
    "idx_topk",
    "position_ids: i32[T], prompt_len: i32[1], score: f32[T, I] -> topk: i32[T, K]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=elementwise(16, "score"),
    num_blocks=fixed(8),
    doc="""Indices of each token's best rows, best first; -1 beyond the visible ones (prefill: one request).

    Among equal scores, which ReLU makes common, the choice is that of a prompt read at once: the rows of all its `prompt_len`
    tokens are ranked, those not visible below all others.
    """,
)


ops.declare(
    "idx_topk_step",
    "position_ids: i32[T], score: f32[B, S, I] -> topk: i32[B, S, K]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=elementwise(16, "score"),
    num_blocks=fixed(8),
    check=requires(("{T} tokens are not {S} of each of {B} requests", lambda d: d["T"] == d["B"] * d["S"])),
    doc="""Indices of each token's best rows, best first; -1 beyond the visible ones (decode: B requests).

    Each token is ranked among exactly the rows that it sees, so that the choice among equal scores depends on nothing else.
    """,
)
