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

import torch

from ops.deepseek_v4.attention.compressor import paged_rows, write_rows
from ops.deepseek_v4.attention.qkv import ENOUGH_SCRATCH
from ops.deepseek_v4.attention.rope import rotate
from ops.numerics import dequantise, matmul_nt, quantise_rows
from ops.rules import Rule, ceil_div, elementwise, every, fixed, moved, pipe_buffer, products, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry()

_SOURCE = "transformers DeepseekV4Indexer; pypto-lib indexer"

_QUERY = "qr: {qact}[T, Q], wq_b: {wq}[N, Q], wq_b_scale: f32[N], qr_scale: f32[T, 1]"
_CACHES = "&cache: {qact}[P, G, 1, C], &scales: f32[P, G, 1, 1]"
_ROWS = "idx_kv: {qact}[P, G, 1, C], idx_kv_scale: f32[P, G, 1, 1], q: {qact}[Z, C], q_scale: f32[Z, 1], weights: f32[M, H]"

_HEADS: Rule = (
    "{N} columns of {T} tokens are not {Z} queries of one width",
    lambda d: d["Z"] % d["T"] == 0 and d["N"] % (d["Z"] // d["T"]) == 0,
)
_QUERIES: Rule = ("{Z} queries for {T} tokens of {H} heads", lambda d: d["Z"] == d["T"] * d["H"] and d["M"] >= d["T"])

_SCORE_TOKENS = 16
"""Tokens scored at a time: bounds the [tokens, heads, rows] intermediate."""


@ops.op(
    "idx_qr_proj",
    f"{_QUERY} -> qr_proj: f32[T, N]",
    core="MIX",
    source=_SOURCE,
    cost=products(("qr", "wq_b")),
    num_blocks=every("N", 256),
    workspace=pipe_buffer(every("N", 256), 32768),
)
def idx_qr_proj(qr, wq_b, wq_b_scale, qr_scale, *, qr_proj):
    """Index queries of every token, all heads side by side."""
    kind = torch.int32 if qr.dtype == torch.int8 else torch.float32
    acc = torch.empty(qr_proj.shape, dtype=kind, device=qr.device)
    matmul_nt(qr, wq_b, acc)
    qr_proj.copy_(dequantise(acc, qr_scale, wq_b_scale))


@ops.op(
    "idx_qr_proj_step",
    f"{_QUERY} -> acc: {{acc}}[M, N], qr_proj: f32[T, N]",
    core="MIX",
    source=_SOURCE,
    scratch=("acc",),
    cost=products(("qr", "wq_b")),
    num_blocks=every("N", 512),
    workspace=pipe_buffer(every("N", 512), 32768),
    check=requires(ENOUGH_SCRATCH),
)
def idx_qr_proj_step(qr, wq_b, wq_b_scale, qr_scale, *, acc, qr_proj):
    """Index queries of every token; `acc` has the accumulators, with rows up to the matmul's tile."""
    num_tokens = qr.shape[0]
    matmul_nt(qr, wq_b, acc[:num_tokens])
    acc[num_tokens:] = 0
    qr_proj.copy_(dequantise(acc[:num_tokens], qr_scale, wq_b_scale))


@ops.op(
    "idx_qr_rope",
    "cos: f32[T, R // 2], sin: f32[T, R // 2], qr_proj: f32[T, N] -> rope_out: {act}[Z, R]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(3 * call.operands["rope_out"].num_elements, moved(call, "cos", "sin") + 3 * moved(call, "rope_out")),
    num_blocks=every("T", 1),
    check=requires(_HEADS),
)
def idx_qr_rope(cos, sin, qr_proj, *, rope_out):
    """The rotated trailing columns of every index query."""
    num_tokens, half = cos.shape
    heads = qr_proj.view(num_tokens, rope_out.shape[0] // num_tokens, -1)
    rotated = rotate(heads[..., -2 * half :], cos[:, None], sin[:, None])
    rope_out.copy_(rotated.reshape(rope_out.shape))


def _hadamard_blocks(call: Call) -> int:
    return min(32, ceil_div(call.dims["Z"], 64))


def _hadamard_pipe(call: Call) -> int:
    return 16384 if _hadamard_blocks(call) < 32 else 8192


@ops.op(
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
)
def idx_qr_hadamard_quant(qr_proj, rope_out, hadamard, *, q, q_scale):
    """Index queries as one quantised row per token and head."""
    rows = qr_proj.view(q.shape)
    rope = rope_out.shape[1]
    rows = torch.cat((rows[:, :-rope], rope_out.float()), dim=1)
    quantise_rows(rows @ hadamard.float(), q, q_scale)


@ops.op(
    "idx_weights_proj",
    "x: {act}[T, D], w: {wd}[H, D] -> weights: f32[M, H]",
    core="MIX",
    source=_SOURCE,
    params={"head_dim": "index_head_dim"},
    cost=products(("x", "w")),
    num_blocks=every("M", 32),
    workspace=pipe_buffer(every("M", 32), lambda call: 512 * max(16, min(call.dims["M"], 32))),
    check=requires(ENOUGH_SCRATCH),
)
def idx_weights_proj(x, w, *, weights, head_dim):
    """Weight of every head's scores, with `1 / sqrt(heads * head_dim)` in it; rows beyond the tokens are zero."""
    num_tokens = x.shape[0]
    matmul_nt(x, w, weights[:num_tokens])
    weights[:num_tokens] *= (w.shape[0] * head_dim) ** -0.5
    weights[num_tokens:] = 0


@ops.op(
    "idx_kv_hadamard",
    "normed: {act}[W, C], hadamard: {act}[C, C] -> rotated: f32[W, C]",
    core="AIC",
    source=_SOURCE,
    cost=lambda call: Cost(2 * call.dims["W"] * call.dims["C"] ** 2, call.moved_bytes),
    num_blocks=every("W", 16),
)
def idx_kv_hadamard(normed, hadamard, *, rotated):
    """Index rows times the Hadamard matrix."""
    torch.matmul(normed.float(), hadamard.float(), out=rotated)


def _write_quantised(cache: torch.Tensor, scales: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> None:
    quantised = torch.empty(rows.shape, dtype=cache.dtype, device=rows.device)
    scale = torch.empty((rows.shape[0], 1), dtype=torch.float32, device=rows.device)
    quantise_rows(rows, quantised, scale)
    write_rows(cache, quantised, slots)
    write_rows(scales, scale, slots)


@ops.op(
    "idx_cache_write",
    f"write_dst: i32[1, W], rows: f32[W, C] -> {_CACHES}",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(3 * call.operands["rows"].num_elements, 2 * moved(call, "rows")),
    num_blocks=every("W", 16),
)
def idx_cache_write(write_dst, rows, *, cache, scales):
    """Index rows of the write map, quantised, into the paged cache."""
    _write_quantised(cache, scales, rows, write_dst[0])


@ops.op(
    "idx_cache_write_step",
    f"position_ids: i32[T], slot_mapping: i64[T], rows: f32[W, C] -> {_CACHES}, out: f32[B, S, C]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(3 * call.operands["rows"].num_elements, 2 * moved(call, "rows", "out")),
    num_blocks=every("W", 16),
    check=requires(("{W} rows for {T} tokens of {B} requests, {S} each", lambda d: d["W"] >= d["T"] == d["B"] * d["S"])),
)
def idx_cache_write_step(position_ids, slot_mapping, rows, *, cache, scales, out):
    """Index rows of the tokens that close a window, quantised, into the paged cache; `out` is each token's row, else zero."""
    num_tokens = slot_mapping.numel()
    _write_quantised(cache, scales, rows[:num_tokens], slot_mapping)
    closes = (slot_mapping >= 0) & (position_ids >= 0)
    out.copy_((rows[:num_tokens] * closes.unsqueeze(-1)).view(out.shape))


@ops.op("idx_score_init", "-> score: f32[..., I]", core="AIV", source=_SOURCE)
def idx_score_init(*, score):
    """Every row of the request as invisible as can be."""
    score.fill_(float("-inf"))


def visible_rows(position_ids: torch.Tensor, ratio: int) -> torch.Tensor:
    """Compressed rows that a token at each position may attend to: those whose window has closed."""
    return (position_ids + 1) // ratio


def _scores(q, q_scale, weights, keys, key_scales) -> torch.Tensor:
    """`q` [B, S * H, C] against `keys` [B, I, C]: weighted scores [B, S, I]; `weights` [B, S, H]."""
    dots = torch.matmul(q.float(), keys.float().transpose(1, 2)).relu_()
    batch, seq, heads = weights.shape
    weighted = (weights * q_scale.view(batch, seq, heads)).unsqueeze(-2)
    return torch.matmul(weighted, dots.view(batch, seq, heads, -1)).squeeze(-2) * key_scales.view(batch, 1, -1)


def _score_requests(position_ids, block_table, idx_kv, idx_kv_scale, q, q_scale, weights, score, ratio) -> None:
    """Scores of `score.shape[1]` tokens of each request, all with the same pages; only what is visible is written."""
    batch, seq, _ = score.shape
    visible = visible_rows(position_ids.view(batch, seq), ratio)
    most = int(visible.max())
    if most == 0:
        return
    index = torch.arange(most, device=score.device).expand(batch, -1)
    rows = paged_rows(block_table, index, idx_kv.shape[1])
    width = q.shape[1]
    keys, scales = idx_kv.view(-1, width)[rows], idx_kv_scale.view(-1)[rows]
    found = _scores(q.view(batch, -1, width), q_scale, weights.view(batch, seq, -1), keys, scales)
    seen = index[:, None] < visible.unsqueeze(-1)
    score[..., :most] = found.masked_fill(~seen, float("-inf"))


def _score_cost(call: Call) -> Cost:
    score, q = call.operands["score"], call.operands["q"]
    keys = score.shape[-1] * q.shape[1]
    tokens = score.num_elements // score.shape[-1]
    heads = q.shape[0] // tokens
    return Cost(2 * tokens * heads * keys, moved(call, "q", "q_scale", "weights", "score") + keys)


@ops.op(
    "idx_score",
    f"position_ids: i32[T], block_table: i32[N], {_ROWS} -> &score: f32[T, I]",
    core="MIX",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=_score_cost,
    workspace=pipe_buffer(fixed(1), 8192),
    check=requires(_QUERIES),
)
def idx_score(position_ids, block_table, idx_kv, idx_kv_scale, q, q_scale, weights, *, score, ratio):
    """Scores of every token's visible index rows (prefill: one request)."""
    num_tokens = position_ids.shape[0]
    heads = q.shape[0] // num_tokens
    for first in range(0, num_tokens, _SCORE_TOKENS):
        tokens = slice(first, min(first + _SCORE_TOKENS, num_tokens))
        queries = slice(tokens.start * heads, tokens.stop * heads)
        part = (q[queries], q_scale[queries], weights[tokens], score[None, tokens], ratio)
        _score_requests(position_ids[tokens], block_table[None], idx_kv, idx_kv_scale, *part)


@ops.op(
    "idx_score_step",
    f"position_ids: i32[T], block_table: i32[B, N], {_ROWS} -> &score: f32[B, S, I]",
    core="MIX",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=_score_cost,
    num_blocks=every("B", 1),
    workspace=pipe_buffer(every("B", 1), 8192),
    check=requires(_QUERIES, ("{T} tokens are not {S} of each of {B} requests", lambda d: d["T"] == d["B"] * d["S"])),
)
def idx_score_step(position_ids, block_table, idx_kv, idx_kv_scale, q, q_scale, weights, *, score, ratio):
    """Scores of every token's visible index rows (decode: B requests)."""
    used = weights[: position_ids.shape[0]]
    _score_requests(position_ids, block_table, idx_kv, idx_kv_scale, q, q_scale, used, score, ratio)


@ops.op(
    "idx_score_out",
    "score: f32[T, I] -> out: f32[T, J]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(0, 2 * moved(call, "out")),
    check=requires(("{J} columns of scores, of which there are {I}", lambda d: d["J"] <= d["I"])),
)
def idx_score_out(score, *, out):
    """The scores of the first rows, for whoever wants to look at them."""
    out.copy_(score[:, : out.shape[1]])


@ops.op(
    "idx_topk",
    "position_ids: i32[T], prompt_len: i32[1], score: f32[T, I] -> topk: i32[T, K]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=elementwise(16, "score"),
    num_blocks=fixed(8),
)
def idx_topk(position_ids, prompt_len, score, *, topk, ratio):
    """Indices of each token's best rows, best first; -1 beyond the visible ones (prefill: one request).

    Among equal scores, which ReLU makes common, the choice is that of a prompt read at once: the rows of all its `prompt_len`
    tokens are ranked, those not visible below all others.
    """
    visible = visible_rows(position_ids, ratio).unsqueeze(-1)
    ranked = min(max(int(prompt_len) // ratio, int(visible.max())), score.shape[1])
    _put_best(score[:, :ranked], visible, topk)


@ops.op(
    "idx_topk_step",
    "position_ids: i32[T], score: f32[B, S, I] -> topk: i32[B, S, K]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa"},
    cost=elementwise(16, "score"),
    num_blocks=fixed(8),
    check=requires(("{T} tokens are not {S} of each of {B} requests", lambda d: d["T"] == d["B"] * d["S"])),
)
def idx_topk_step(position_ids, score, *, topk, ratio):
    """Indices of each token's best rows, best first; -1 beyond the visible ones (decode: B requests).

    Each token is ranked among exactly the rows that it sees, so that the choice among equal scores depends on nothing else.
    """
    flat_topk, flat_score = topk.view(-1, topk.shape[-1]), score.view(-1, score.shape[-1])
    visible = visible_rows(position_ids, ratio).unsqueeze(-1)
    counts, tokens = visible.flatten().unique_consecutive(return_counts=True)
    first = 0
    for ranked, num_tokens in zip(counts.tolist(), tokens.tolist(), strict=True):
        rows = slice(first, first + num_tokens)
        _put_best(flat_score[rows, :ranked], visible[rows], flat_topk[rows])
        first += num_tokens


def _put_best(score: torch.Tensor, visible: torch.Tensor, topk: torch.Tensor) -> None:
    """Best columns of each row of `score`, as many as there are or as `topk` takes; -1 for those not visible and beyond."""
    count = min(score.shape[1], topk.shape[1])
    topk[:, count:] = -1
    if count:
        best = score.topk(count, dim=-1).indices
        topk[:, :count] = best.masked_fill(best >= visible, -1)
