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

from ops.deepseek_v4.attention.qkv import ENOUGH_SCRATCH
from ops.rules import Rule, ceil_div, elementwise, every, moved, products, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.attention.compressor")

_SOURCE = "transformers DeepseekV4CSACompressor and DeepseekV4HCACompressor; pypto-lib compressor_ratio4 and _ratio128"

_MAPS = "write_dst: i32[1, W], write_pos: i32[1, W]"
_RING = "state: f32[P, G, 2 * O]"
_PROJECTIONS = "ape: f32[K, O], kv: f32[M, O], score: f32[M, O]"


def _proj_blocks(call: Call) -> int:
    columns, is_chunk = call.dims["O"], call.dims["M"] > 16
    return ceil_div(columns, 32 if is_chunk and columns > 256 else 64)


ops.declare(
    "kv_score_proj",
    "x: {act}[T, D], wkv: {wd}[O, D], wgate: {wd}[O, D] -> kv: f32[M, O], score: f32[M, O]",
    core="AIC",
    source=_SOURCE,
    cost=products(("x", "wkv"), ("x", "wgate")),
    num_blocks=_proj_blocks,
    check=requires(ENOUGH_SCRATCH),
    doc="Values and scores of every token; scratch rows beyond the tokens are zero.",
)


ops.declare(
    "write_map",
    f"slot_mapping: i64[T], position_ids: i32[T] -> {_MAPS}",
    core="AIV",
    source=_SOURCE,
    doc="The windows that close in this call: position of the last token and row to write, densely; -1 rows beyond them.",
)


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


ops.declare(
    "softmax_pool",
    f"{_POOL} -> pooled: f32[W, C]",
    core="AIV",
    source=_SOURCE,
    cost=_pool_cost,
    num_blocks=_pool_blocks,
    check=_POOL_RULES,
    doc="One pooled row for every entry of the write map, zero for entries without a row (prefill: one request).",
)


ops.declare(
    "softmax_pool_pad",
    f"{_POOL} -> &pooled: f32[W, C]",
    core="AIV",
    source=_SOURCE,
    cost=_pool_cost,
    num_blocks=every("W", 1),
    check=_POOL_RULES,
    doc="One pooled row for every entry of the write map; entries without a row are untouched (prefill: one request).",
)


ops.declare(
    "softmax_pool_step",
    f"position_ids: i32[T], block_table: i32[B, N], {_RING}, {_PROJECTIONS} -> &pooled: f32[W, C]",
    core="AIV",
    source=_SOURCE,
    cost=_pool_cost,
    num_blocks=_pool_step_blocks,
    check=_STEP_RULES,
    doc="A pooled row for every token that closes a window, at the token's row (decode: B requests); other rows are untouched.",
)


ops.declare(
    "pad_init",
    "-> pooled: f32[W, C]",
    core="AIV",
    source=_SOURCE,
    num_blocks=every("C", 32),
    doc="Zeroes rows that a pool leaves untouched.",
)


ops.declare(
    "norm_pad_init",
    "-> pooled: f32[W, C], normed: f32[W, C]",
    core="AIV",
    source=_SOURCE,
    doc="Zeroes rows that a pool and its norm leave untouched.",
)


def _norm_cost(call: Call) -> Cost:
    return Cost(8 * call.operands["pooled"].num_elements, moved(call, "pooled", "normed", "norm_w"))


_NORM = f"{_MAPS}, freqs_cos: {{act}}[L, R], freqs_sin: {{act}}[L, R], pooled: f32[W, C], norm_w: {{wd}}[C]"


ops.declare(
    "rmsnorm_rope",
    f"{_NORM} -> normed: f32|{{act}}[W, C]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_csa", "eps": "rms_norm_eps"},
    cost=_norm_cost,
    num_blocks=every("W", 16),
    doc="Normalised rows of the write map, rotated to the first position of their window; zero for entries without a row.",
)


ops.declare(
    "rmsnorm_rope_pad",
    f"{_NORM} -> &normed: f32|{{act}}[W, C]",
    core="AIV",
    source=_SOURCE,
    params={"ratio": "compress_rate_hca", "eps": "rms_norm_eps"},
    cost=_norm_cost,
    num_blocks=every("W", 16),
    doc="Normalised rows of the write map, rotated to the first position of their window; entries without a row are untouched.",
)


ops.declare(
    "rmsnorm_rope_step",
    "cos: f32[T, R], sin: f32[T, R], pooled: f32[W, C], norm_w: {wd}[C] -> normed: f32|{act}[W, C]",
    core="AIV",
    source=_SOURCE,
    params={"eps": "rms_norm_eps"},
    cost=elementwise(8, "pooled"),
    num_blocks=every("W", 16),
    check=requires(("scratch has {W} rows, expected at least the {T} of the tokens", lambda d: d["W"] >= d["T"])),
    doc="Normalised rows, rotated to the first position of their token's window; rows beyond the tokens are zero.",
)


ops.declare(
    "cache_write",
    "write_dst: i32[1, W], rows: f32[W, C] -> &cache: {act}[P, G, 1, C]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(0, 2 * moved(call, "rows")),
    num_blocks=every("W", 16),
    doc="Rows of the write map into the paged cache.",
)


ops.declare(
    "cache_write_step",
    "position_ids: i32[T], slot_mapping: i64[T], rows: f32[W, C] -> &cache: {act}[P, G, 1, C], out: f32[B, S, C]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(0, 2 * moved(call, "rows", "out")),
    num_blocks=every("W", 16),
    check=requires(("{W} rows for {T} tokens of {B} requests, {S} each", lambda d: d["W"] >= d["T"] == d["B"] * d["S"])),
    doc="Rows of the tokens that close a window into the paged cache; `out` is each token's row, zero where none closes.",
)


def _update_blocks(call: Call) -> int:
    if call.dims["T"] <= 16:
        return 1
    return call.dims["T"] * (1 if call.dims["O"] > 256 else 4)


ops.declare(
    "state_update",
    f"slot_mapping: i64[T], position_ids: i32[T], {_PROJECTIONS} -> &{_RING}",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(call.operands["score"].num_elements, 2 * moved(call, "kv", "score")),
    num_blocks=_update_blocks,
    check=requires(ENOUGH_SCRATCH),
    doc="Values and biased scores of the call's newest tokens into the ring (tokens with a slot of -1 stay out).",
)
