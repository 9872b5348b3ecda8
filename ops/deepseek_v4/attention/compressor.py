"""Compressors: every `ratio` tokens of a request become one row of compressed keys and values.

A token is projected to values and scores. Where a window of `ratio` tokens closes, scores plus a position bias (`ape`) are
softmaxed over the window, per column, and weigh the values; the sum is normalised and rotated to the window's first position.
With overlap (twice as many columns as a row has) the first half of a token's columns counts for the *next* window, the
second half for its own, so a row sees `2 * ratio` tokens.

Projections of tokens that later windows may need are kept in a paged ring per request: position p lies in row `p % rows` of the
request's pages, values in the first half of the columns, biased scores in the second. A window is pooled from the tokens of this
call and, for older ones, from the ring; the ring is updated afterwards, so that a call may start and end anywhere.

Symbols: T tokens, B requests, S tokens of a request, D hidden, O columns of a projection, C columns of a row, K ratio, W windows
closed in a call (prefill) or scratch rows, M scratch rows, N pages of a request's ring, P pages and G rows of a page, L positions
and R columns of the rotation tables.

Source: transformers 5.23.0 `DeepseekV4CSACompressor` and `DeepseekV4HCACompressor` (formulas); pypto-lib compressors (tasks).
"""

from __future__ import annotations

import torch

from ops.deepseek_v4.attention.qkv import ENOUGH_SCRATCH, rms_scale
from ops.deepseek_v4.attention.rope import rotate
from ops.numerics import matmul_nt
from ops.rules import Rule, ceil_div, elementwise, every, moved, products, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry()

_SOURCE = "transformers DeepseekV4CSACompressor and DeepseekV4HCACompressor; pypto-lib compressor_ratio4 and _ratio128"

_MAPS = "write_dst: i32[1, W], write_pos: i32[1, W]"
_RING = "state: f32[P, G, 2 * O]"
_PROJECTIONS = "ape: f32[K, O], kv: f32[M, O], score: f32[M, O]"


def paged_rows(table: torch.Tensor, index: torch.Tensor, page_rows: int) -> torch.Tensor:
    """Rows in a pool of pages: `table` [..., N] are the pages of a request, `index` [..., I] rows counted within the request."""
    index = index.long()
    pages = table.long().expand(*index.shape[:-1], table.shape[-1]).gather(-1, index // page_rows)
    return pages * page_rows + index % page_rows


def _proj_blocks(call: Call) -> int:
    columns, is_chunk = call.dims["O"], call.dims["M"] > 16
    return ceil_div(columns, 32 if is_chunk and columns > 256 else 64)


@ops.op(
    "kv_score_proj",
    "x: {act}[T, D], wkv: {wd}[O, D], wgate: {wd}[O, D] -> kv: f32[M, O], score: f32[M, O]",
    core="AIC",
    source=_SOURCE,
    cost=products(("x", "wkv"), ("x", "wgate")),
    num_blocks=_proj_blocks,
    check=requires(ENOUGH_SCRATCH),
)
def kv_score_proj(x, wkv, wgate, *, kv, score):
    """Values and scores of every token; scratch rows beyond the tokens are zero."""
    num_tokens = x.shape[0]
    for w, out in ((wkv, kv), (wgate, score)):
        matmul_nt(x, w, out[:num_tokens])
        out[num_tokens:] = 0


@ops.op("write_map", f"slot_mapping: i64[T], position_ids: i32[T] -> {_MAPS}", core="AIV", source=_SOURCE)
def write_map(slot_mapping, position_ids, *, write_pos, write_dst):
    """The windows that close in this call: position of the last token and row to write, densely; -1 rows beyond them."""
    write_pos.zero_()
    write_dst.fill_(-1)
    closing = (slot_mapping >= 0).nonzero().flatten()
    write_pos[0, : closing.numel()] = position_ids[closing]
    write_dst[0, : closing.numel()] = slot_mapping[closing].int()


def pool_windows(end, token, first_token, table, state, ape, kv, score, row_columns: int) -> torch.Tensor:
    """Pooled values [W, C] (f32) of the windows that close at positions `end` [W].

    `token` [W] is this call's token at that position, `first_token` [W] the first one of its request, `table` [W, N] the pages
    of its ring; `state` is [P, G, 2 * O]; `kv` and `score` [>= T, O] are this call's projections, without the bias; C is
    `row_columns`.
    """
    ratio, columns = ape.shape
    overlap = columns == 2 * row_columns
    page_rows = state.shape[1]
    back = torch.arange(2 * ratio - 1 if overlap else ratio - 1, -1, -1, device=end.device)
    position, tokens = end[:, None] - back, token[:, None] - back
    fresh = (tokens >= first_token[:, None]).unsqueeze(-1)
    tokens, known = tokens.clamp(min=0), position.clamp(min=0)
    old = state.flatten(0, 1)[paged_rows(table, known % (table.shape[1] * page_rows), page_rows)]
    values = torch.where(fresh, kv[tokens], old[..., :columns])
    scores = torch.where(fresh, score[tokens] + ape[known % ratio], old[..., columns:])
    if overlap:
        values, scores = (torch.cat((x[:, :ratio, :row_columns], x[:, ratio:, row_columns:]), dim=1) for x in (values, scores))
    missing = (position < 0).unsqueeze(-1)
    weights = scores.masked_fill(missing, float("-inf")).softmax(dim=1)
    return (weights * values.masked_fill(missing, 0.0)).sum(dim=1)


def _pool_cost(call: Call) -> Cost:
    pooled, state, ape = (call.operands[name] for name in ("pooled", "state", "ape"))
    window = ape.num_elements * pooled.shape[0]
    row_bytes = 2 * window * 4
    return Cost(5 * window, row_bytes + pooled.size_bytes + min(row_bytes, state.size_bytes))


def _pool_blocks(call: Call) -> int:
    return call.dims["W"] * (2 if call.dims["C"] > 128 else 4)


def _pool_step_blocks(call: Call) -> int:
    return call.dims["T"] * (4 if call.dims["K"] >= 128 else 1)


_SERIES: Rule = ("projections have {O} columns, expected {C} or twice that", lambda d: d["O"] in (d["C"], 2 * d["C"]))
_RING_ROWS: Rule = (
    "a ring of {N} pages of {G} rows is shorter than the windows it serves",
    lambda d: d["N"] * d["G"] >= d["K"] * d["O"] // d["C"],
)
_POOL_RULES = requires(ENOUGH_SCRATCH, _SERIES, _RING_ROWS)
_STEP_RULES = requires(
    ENOUGH_SCRATCH,
    _SERIES,
    _RING_ROWS,
    ("{T} tokens are not the same number for each of {B} requests", lambda d: d["T"] % d["B"] == 0),
    ("pooled has {W} rows, expected at least the {T} of the tokens", lambda d: d["W"] >= d["T"]),
)
_POOL = f"{_MAPS}, {_RING}, block_table: i32[N], position_ids: i32[T], {_PROJECTIONS}"


@ops.op(
    "softmax_pool",
    f"{_POOL} -> pooled: f32[W, C]",
    core="AIV",
    source=_SOURCE,
    cost=_pool_cost,
    num_blocks=_pool_blocks,
    check=_POOL_RULES,
)
def softmax_pool(write_dst, write_pos, state, block_table, position_ids, ape, kv, score, *, pooled):
    """One pooled row for every entry of the write map, zero for entries without a row (prefill: one request)."""
    pooled.zero_()
    softmax_pool_pad(write_dst, write_pos, state, block_table, position_ids, ape, kv, score, pooled=pooled)


@ops.op(
    "softmax_pool_pad",
    f"{_POOL} -> &pooled: f32[W, C]",
    core="AIV",
    source=_SOURCE,
    cost=_pool_cost,
    num_blocks=every("W", 1),
    check=_POOL_RULES,
)
def softmax_pool_pad(write_dst, write_pos, state, block_table, position_ids, ape, kv, score, *, pooled):
    """One pooled row for every entry of the write map; entries without a row are untouched (prefill: one request)."""
    closing = (write_dst[0] >= 0).nonzero().flatten()
    if closing.numel() == 0:
        return
    end = write_pos[0, closing].long()
    token = end - position_ids[0]
    first, table = torch.zeros_like(token), block_table.expand(token.numel(), -1)
    pooled[closing] = pool_windows(end, token, first, table, state, ape, kv, score, pooled.shape[1])


@ops.op(
    "softmax_pool_step",
    f"position_ids: i32[T], block_table: i32[B, N], {_RING}, {_PROJECTIONS} -> &pooled: f32[W, C]",
    core="AIV",
    source=_SOURCE,
    cost=_pool_cost,
    num_blocks=_pool_step_blocks,
    check=_STEP_RULES,
)
def softmax_pool_step(position_ids, block_table, state, ape, kv, score, *, pooled):
    """A pooled row for every token that closes a window, at the token's row (decode: B requests); other rows are untouched."""
    ratio = ape.shape[0]
    token = ((position_ids >= 0) & ((position_ids + 1) % ratio == 0)).nonzero().flatten()
    if token.numel() == 0:
        return
    num_tokens = position_ids.numel() // block_table.shape[0]
    request = token // num_tokens
    end, first = position_ids[token].long(), request * num_tokens
    pooled[token] = pool_windows(end, token, first, block_table[request], state, ape, kv, score, pooled.shape[1])


@ops.op("pad_init", "-> pooled: f32[W, C]", core="AIV", source=_SOURCE, num_blocks=every("C", 32))
def pad_init(*, pooled):
    """Zeroes rows that a pool leaves untouched."""
    pooled.zero_()


@ops.op("norm_pad_init", "-> pooled: f32[W, C], normed: f32[W, C]", core="AIV", source=_SOURCE)
def norm_pad_init(*, pooled, normed):
    """Zeroes rows that a pool and its norm leave untouched."""
    pooled.zero_()
    normed.zero_()


def norm_rope(rows: torch.Tensor, norm_w: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of `rows` [W, C] and rotation of the trailing columns by the R/2 angles of each row."""
    rows = rows * rms_scale(rows, eps) * norm_w.float()
    rope = 2 * cos.shape[-1]
    return torch.cat((rows[:, :-rope], rotate(rows[:, -rope:], cos, sin)), dim=1)


def _norm_cost(call: Call) -> Cost:
    return Cost(8 * call.operands["pooled"].num_elements, moved(call, "pooled", "normed", "norm_w"))


_NORM = f"{_MAPS}, freqs_cos: {{act}}[L, R], freqs_sin: {{act}}[L, R], pooled: f32[W, C], norm_w: {{wd}}[C]"


@ops.op(
    "rmsnorm_rope",
    f"{_NORM} -> normed: f32|{{act}}[W, C]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa", "eps": "rms_norm_eps"},
    cost=_norm_cost,
    num_blocks=every("W", 16),
)
def rmsnorm_rope(write_dst, write_pos, freqs_cos, freqs_sin, pooled, norm_w, *, normed, ratio, eps):
    """Normalised rows of the write map, rotated to the first position of their window; zero for entries without a row."""
    normed.zero_()
    rmsnorm_rope_pad(write_dst, write_pos, freqs_cos, freqs_sin, pooled, norm_w, normed=normed, ratio=ratio, eps=eps)


@ops.op(
    "rmsnorm_rope_pad",
    f"{_NORM} -> &normed: f32|{{act}}[W, C]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_hca", "eps": "rms_norm_eps"},
    cost=_norm_cost,
    num_blocks=every("W", 16),
)
def rmsnorm_rope_pad(write_dst, write_pos, freqs_cos, freqs_sin, pooled, norm_w, *, normed, ratio, eps):
    """Normalised rows of the write map, rotated to the first position of their window; entries without a row are untouched."""
    closing = (write_dst[0] >= 0).nonzero().flatten()
    start = write_pos[0, closing] + 1 - ratio
    half = freqs_cos.shape[1] // 2
    rows = norm_rope(pooled[closing], norm_w, freqs_cos[start, :half], freqs_sin[start, :half], eps)
    normed[closing] = rows.to(normed.dtype)


@ops.op(
    "rmsnorm_rope_step",
    "cos: f32[T, R], sin: f32[T, R], pooled: f32[W, C], norm_w: {wd}[C] -> normed: f32|{act}[W, C]",
    core="AIV",
    source=_SOURCE,
    params={"eps": "rms_norm_eps"},
    cost=elementwise(8, "pooled"),
    num_blocks=every("W", 16),
    check=requires(("scratch has {W} rows, expected at least the {T} of the tokens", lambda d: d["W"] >= d["T"])),
)
def rmsnorm_rope_step(cos, sin, pooled, norm_w, *, normed, eps):
    """Normalised rows, rotated to the first position of their token's window; rows beyond the tokens are zero."""
    num_tokens = cos.shape[0]
    normed[:num_tokens] = norm_rope(pooled[:num_tokens], norm_w, cos, sin, eps)
    normed[num_tokens:] = 0


def write_rows(cache: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> None:
    """`cache` [P, G, ...] flattened to rows takes `rows[i]` at row `slots[i]`, for slots that are not negative."""
    keep = (slots >= 0).nonzero().flatten()
    if keep.numel():
        flat = cache.flatten(0, 1).view(-1, rows.shape[-1])
        flat[slots[keep].long()] = rows[keep].to(flat.dtype)


@ops.op(
    "cache_write",
    "write_dst: i32[1, W], rows: f32[W, C] -> &cache: {act}[P, G, 1, C]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(0, 2 * moved(call, "rows")),
    num_blocks=every("W", 16),
)
def cache_write(write_dst, rows, *, cache):
    """Rows of the write map into the paged cache."""
    write_rows(cache, rows, write_dst[0])


@ops.op(
    "cache_write_step",
    "position_ids: i32[T], slot_mapping: i64[T], rows: f32[W, C] -> &cache: {act}[P, G, 1, C], out: f32[B, S, C]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(0, 2 * moved(call, "rows", "out")),
    num_blocks=every("W", 16),
    check=requires(("{W} rows for {T} tokens of {B} requests, {S} each", lambda d: d["W"] >= d["T"] == d["B"] * d["S"])),
)
def cache_write_step(position_ids, slot_mapping, rows, *, cache, out):
    """Rows of the tokens that close a window into the paged cache; `out` is each token's row, zero where none closes."""
    write_rows(cache, rows[: slot_mapping.numel()], slot_mapping)
    closes = (slot_mapping >= 0) & (position_ids >= 0)
    out.copy_((rows[: slot_mapping.numel()] * closes.unsqueeze(-1)).view(out.shape))


def _update_blocks(call: Call) -> int:
    if call.dims["T"] <= 16:
        return 1
    return call.dims["T"] * (1 if call.dims["O"] > 256 else 4)


@ops.op(
    "state_update",
    f"slot_mapping: i64[T], position_ids: i32[T], {_PROJECTIONS} -> &{_RING}",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(call.operands["score"].num_elements, 2 * moved(call, "kv", "score")),
    num_blocks=_update_blocks,
    check=requires(ENOUGH_SCRATCH),
)
def state_update(slot_mapping, position_ids, ape, kv, score, *, state):
    """Values and biased scores of the call's newest tokens into the ring (tokens with a slot of -1 stay out)."""
    num_tokens, ratio = position_ids.numel(), ape.shape[0]
    biased = score[:num_tokens] + ape[position_ids.clamp(min=0) % ratio]
    write_rows(state, torch.cat((kv[:num_tokens], biased), dim=1), slot_mapping)
