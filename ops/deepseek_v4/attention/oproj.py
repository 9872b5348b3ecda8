"""Grouped low-rank output projection: heads of each group to a low rank (`wo_a`), then all groups to the hidden width (`wo_b`).

Prefill quantises a token's row over all groups at once, from maxima that the first product leaves behind; decode quantises each
group of a token by itself and keeps one partial product per group.

Symbols: T tokens, M scratch rows, D hidden, Y x X the packed attention output (row `t * groups + g`), N = groups * rank columns,
O columns of a tile, U parts of the maxima.

Source: pypto-lib sparse attention (tasks, quantisation); transformers 5.23.0 `DeepseekV4GroupedLinear` (formulas).
"""

from __future__ import annotations

import torch

from ops.deepseek_v4.attention.qkv import ENOUGH_SCRATCH
from ops.numerics import AMAX_FLOOR, INT8_MAX, dequantise, matmul_nt, quantise_rows
from ops.rules import ceil_div, elementwise, every, moved, pipe_buffer, products, requires
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry()

_SOURCE = "transformers DeepseekV4GroupedLinear; pypto-lib sparse_attn"

_PART_COLUMNS = 128
"""Columns whose maximum is one part."""


def _store(x: torch.Tensor, w: torch.Tensor, out: torch.Tensor) -> None:
    """`out = x @ w.T` where operands may be slices of larger matrices."""
    product = torch.empty(out.shape, dtype=out.dtype, device=out.device)
    matmul_nt(x.contiguous(), w.contiguous(), product)
    out.copy_(product)


def _proj_a_blocks(call: Call) -> int:
    return ceil_div(call.dims["N"], _PART_COLUMNS)


@ops.op(
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
)
def proj_a(o_packed, wo_a, *, o_r, amax_parts):
    """Every group's heads to its rank; `amax_parts` has each token's largest magnitude per group and `_PART_COLUMNS` columns."""
    num_tokens = o_r.shape[0]
    packed = o_packed.view(num_tokens, -1, o_packed.shape[1])
    groups = packed.shape[1]
    rank = wo_a.shape[0] // groups
    parts = amax_parts.view(groups, -1, num_tokens)
    for group in range(groups):
        columns = slice(group * rank, (group + 1) * rank)
        _store(packed[:, group], wo_a[columns], o_r[:, columns])
        for i, part in enumerate(o_r[:, columns].split(_PART_COLUMNS, dim=1)):
            torch.amax(part.abs(), dim=1, out=parts[group, i])


@ops.op(
    "o_quant",
    "amax_parts: f32[U, T], o_r: f32[T, N] -> o_r_i8: {qact}[T, N], scale: f32[T, 1]",
    core="AIV",
    source=_SOURCE,
    cost=elementwise(2, "o_r"),
    num_blocks=every("T", 4),
)
def o_quant(amax_parts, o_r, *, o_r_i8, scale):
    """Each token's row quantised by its largest magnitude over all groups; a copy with scale 1 in full precision."""
    if o_r_i8.dtype != torch.int8:
        o_r_i8.copy_(o_r)
        scale.fill_(1.0)
        return
    factor = INT8_MAX / amax_parts.amax(dim=0).clamp_min(AMAX_FLOOR).unsqueeze(-1)
    o_r_i8.copy_((o_r * factor).round_())
    scale.copy_(1.0 / factor)


def _proj_b_blocks(call: Call) -> int:
    return ceil_div(call.dims["D"], 128)


@ops.op(
    "proj_b",
    "o_r_i8: {qact}[T, N], wo_b: {wq}[D, N], wo_b_scale: f32[D], scale: f32[T, 1] -> attn_out: {act}[T, D]",
    core="MIX",
    source=_SOURCE,
    cost=products(("o_r_i8", "wo_b")),
    num_blocks=_proj_b_blocks,
    workspace=pipe_buffer(_proj_b_blocks, 32768),
)
def proj_b(o_r_i8, wo_b, wo_b_scale, scale, *, attn_out):
    """All groups to the hidden width, with token and channel scales."""
    kind = torch.int32 if o_r_i8.dtype == torch.int8 else torch.float32
    acc = torch.empty(attn_out.shape, dtype=kind, device=attn_out.device)
    matmul_nt(o_r_i8, wo_b, acc)
    attn_out.copy_(dequantise(acc, scale, wo_b_scale))


def _tile_cost(call: Call) -> Cost:
    part = moved(call, "o_packed") // call.attrs["groups"]
    rows = call.dims["Y"] // call.attrs["groups"]
    return Cost(2 * rows * call.dims["X"] * call.dims["O"], part + moved(call, "w", "y"))


@ops.op(
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
)
def proj_a_mm(o_packed, w, *, y, group, groups):
    """One group's heads to a tile of its rank (decode); rows beyond the tokens are zero."""
    x = o_packed[group::groups]
    _store(x, w, y[: x.shape[0]])
    y[x.shape[0] :] = 0


@ops.op(
    "quant_group",
    "o_r: f32[M, O] -> scale: f32[T, 1], o_r_i8: {qact}[T, O], o_r_i8_pad: {qact}[M, O]",
    core="AIV",
    source=_SOURCE,
    cost=elementwise(3, "o_r"),
    check=requires(ENOUGH_SCRATCH),
)
def quant_group(o_r, *, scale, o_r_i8, o_r_i8_pad):
    """One group of every token quantised by itself (decode); `o_r_i8_pad` has rows up to the matmul's tile."""
    num_tokens = o_r_i8.shape[0]
    quantise_rows(o_r[:num_tokens], o_r_i8, scale)
    o_r_i8_pad[:num_tokens] = o_r_i8
    o_r_i8_pad[num_tokens:] = 0


@ops.op(
    "proj_b_mm",
    "x: {qact}[M, N], w: {wq}[O, N] -> partial: {acc}[M, O]",
    core="AIC",
    source=_SOURCE,
    cost=products(("x", "w")),
)
def proj_b_mm(x, w, *, partial):
    """One group's part of a tile of output columns (decode)."""
    _store(x, w, partial)


@ops.op(
    "proj_b_act",
    "wo_b_scale: f32[D], partials: {acc}[M, N], act_scale: f32[T, K] -> attn_out: {act}[T, D]",
    core="AIV",
    source=_SOURCE,
    cost=lambda call: Cost(3 * call.dims["T"] * call.dims["N"], moved(call, "wo_b_scale", "partials", "act_scale", "attn_out")),
    num_blocks=every("D", 512),
    check=requires(
        ENOUGH_SCRATCH, ("{N} columns of partial products, expected {K} groups of {D}", lambda d: d["N"] == d["K"] * d["D"])
    ),
)
def proj_b_act(wo_b_scale, partials, act_scale, *, attn_out):
    """Sum over groups of the partial products, each times its token's scale for that group, then the channel scales (decode)."""
    num_tokens, groups = act_scale.shape
    parts = partials[:num_tokens].view(num_tokens, groups, -1).float()
    attn_out.copy_((parts * act_scale.unsqueeze(-1)).sum(dim=1) * wo_b_scale)
