"""Grouped low-rank output projection: heads of each group to a low rank (`wo_a`), then all groups to the hidden width (`wo_b`).

Prefill quantises a token's row over all groups at once, from maxima that the first product leaves behind; decode quantises each
group of a token by itself and keeps one partial product per group.

Symbols: T tokens, M scratch rows, D hidden, Y x X the packed attention output (row `t * groups + g`), N = groups * rank columns,
O columns of a tile, U parts of the maxima.

Source: pypto-lib sparse attention (tasks, quantisation); transformers 5.23.0 `DeepseekV4GroupedLinear` (formulas).
"""

from __future__ import annotations

from ops.deepseek_v4.attention.qkv import ENOUGH_SCRATCH
from ops.rules import ceil_div, elementwise, every, moved, pipe_buffer, products, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.attention.oproj")

_SOURCE = "transformers DeepseekV4GroupedLinear; pypto-lib sparse_attn"

PART_COLUMNS = 128
"""Columns whose maximum is one part."""


def _proj_a_blocks(call: Call) -> int:
    return ceil_div(call.dims["N"], PART_COLUMNS)


ops.declare(
    "proj_a",
    "o_packed: {act}[Y, X], wo_a: {wd}[N, X] -> o_r: f32[T, N], amax_parts: f32[U, T]",
    core="MIX",
    source=_SOURCE,
    cost=lambda call: Cost(2 * call.dims["T"] * call.dims["N"] * call.dims["X"], call.moved_bytes),
    num_blocks=_proj_a_blocks,
    workspace=pipe_buffer(_proj_a_blocks, 32768),
    check=requires(
        ("{Y} packed rows for {T} tokens", lambda d: d["Y"] % d["T"] == 0),
        (
            "{N} columns and {U} maxima for {Y} packed rows of {T} tokens",
            lambda d: d["N"] % (d["Y"] // d["T"]) == 0 and d["U"] % (d["Y"] // d["T"]) == 0,
        ),
    ),
    doc="Every group's heads to its rank; `amax_parts` has each token's largest magnitude per group and `PART_COLUMNS` columns.",
)


ops.declare(
    "o_quant",
    "amax_parts: f32[U, T], o_r: f32[T, N] -> o_r_i8: {qact}[T, N], scale: f32[T, 1]",
    core="AIV",
    source=_SOURCE,
    cost=elementwise(2, "o_r"),
    num_blocks=every("T", 4),
    doc="Each token's row quantised by its largest magnitude over all groups; a copy with scale 1 in full precision.",
)


def _proj_b_blocks(call: Call) -> int:
    return ceil_div(call.dims["D"], 128)


ops.declare(
    "proj_b",
    "o_r_i8: {qact}[T, N], wo_b: {wq}[D, N], wo_b_scale: f32[D], scale: f32[T, 1] -> attn_out: {act}[T, D]",
    core="MIX",
    source=_SOURCE,
    cost=products(("o_r_i8", "wo_b")),
    num_blocks=_proj_b_blocks,
    workspace=pipe_buffer(_proj_b_blocks, 32768),
    doc="All groups to the hidden width, with token and channel scales.",
)


def _tile_cost(call: Call) -> Cost:
    part = moved(call, "o_packed") // call.attrs["groups"]
    rows = call.dims["Y"] // call.attrs["groups"]
    return Cost(2 * rows * call.dims["X"] * call.dims["O"], part + moved(call, "w", "y"))


ops.declare(
    "proj_a_mm",
    "o_packed: {act}[Y, X], w: {wd}[O, X] -> y: f32[M, O]",
    core="AIC",
    source=_SOURCE,
    params={"group": 0, "groups": "o_groups"},
    cost=_tile_cost,
    check=requires(
        (
            "{Y} packed rows of {groups} groups for {M} rows of scratch",
            lambda d: d["Y"] % d["groups"] == 0 and d["Y"] // d["groups"] <= d["M"],
        ),
        ("group {group} of {groups}", lambda d: 0 <= d["group"] < d["groups"]),
    ),
    doc="One group's heads to a tile of its rank (decode); rows beyond the tokens are zero.",
)


ops.declare(
    "quant_group",
    "o_r: f32[M, O] -> scale: f32[T, 1], o_r_i8: {qact}[T, O], o_r_i8_pad: {qact}[M, O]",
    core="AIV",
    source=_SOURCE,
    cost=elementwise(3, "o_r"),
    check=requires(ENOUGH_SCRATCH),
    doc="One group of every token quantised by itself (decode); `o_r_i8_pad` has rows up to the matmul's tile.",
)


ops.declare(
    "proj_b_mm",
    "x: {qact}[M, N], w: {wq}[O, N] -> partial: {acc}[M, O]",
    core="AIC",
    source=_SOURCE,
    cost=products(("x", "w")),
    doc="One group's part of a tile of output columns (decode).",
)


ops.declare(
    "proj_b_act",
    "wo_b_scale: f32[D], partials: {acc}[M, N], act_scale: f32[T, K] -> attn_out: {act}[T, D]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(3 * call.dims["T"] * call.dims["N"], moved(call, "wo_b_scale", "partials", "act_scale", "attn_out")),
    num_blocks=every("D", 512),
    check=requires(
        ENOUGH_SCRATCH, ("{N} columns of partial products, expected {K} groups of {D}", lambda d: d["N"] == d["K"] * d["D"])
    ),
    doc="Sum over groups of the partial products, each times its token's scale for that group, then the channel scales (decode).",
)


ops.fuse("proj_a_tiles", ("proj_a_mm", {}), inner=())
ops.fuse("quant_groups", ("quant_group", {}), inner=())
ops.fuse("proj_b_tiles", ("proj_b_mm", {}), inner=())
