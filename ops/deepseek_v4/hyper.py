"""Hyper-connections: HC residual streams, mixed into one before a sublayer and spread out again after it.

A token's streams are [HC, D]. `fn` projects them to MIX = (2 + HC) * HC coefficients: HC of *pre* (how much of each stream
enters the sublayer), HC of *post* (how much of its output each stream gets) and HC * HC of *comb* (how streams
mix), the last made doubly stochastic by Sinkhorn iterations. All coefficients are f32 in every precision.

Source: transformers 5.23.0 `DeepseekV4HyperConnection` and `DeepseekV4HyperHead` for the mathematics; the pypto-lib kernels
`hc_pre`, `hc_post` and `hc_head` for tasks, scratch tensors and block counts.
"""

from __future__ import annotations

from ops.rules import ceil_div, elementwise, every, pipe_buffer, products
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.hyper")

PIPE_ELEMENTS = 16384
"""f32 elements per SPMD block that `hc_pre` passes between cube and vector cores in the compiled reference."""


def _check_rows(call: Call) -> str | None:
    if call.dims["R"] < call.dims["T"]:
        return f"scratch has {call.dims['R']} rows, expected at least the {call.dims['T']} rows of 'x'"
    return None


def _check_hc_pre(call: Call) -> str | None:
    mix = call.operands["base"].shape[0]
    if call.dims["P"] < mix:
        return f"'mixes' has {call.dims['P']} columns, expected at least the {mix} of 'base'"
    return _check_rows(call)


ops.declare(
    "hc_pre",
    "x: {act}[T, HC, D], fn: f32[(2 + HC) * HC, HC * D], scale: f32[3], base: f32[(2 + HC) * HC]"
    " -> x_mixed: {act}[T, D], post: f32[T, HC], comb: f32[T, HC * HC], mixes: f32[R, P], mixes_raw: f32[2 * R, P]",
    core="MIX",
    params={"norm_eps": "rms_norm_eps", "hc_eps": "hc_eps", "iterations": "hc_sinkhorn_iters"},
    cost=lambda call: Cost(2 * call.operands["x"].num_elements * call.operands["base"].num_elements, call.moved_bytes),
    num_blocks=every("T", 8),
    workspace=pipe_buffer(every("T", 8), PIPE_ELEMENTS),
    scratch=("mixes", "mixes_raw"),
    check=_check_hc_pre,
    source="transformers DeepseekV4HyperConnection; pypto-lib hc_pre",
    doc="""Mix the streams of each token into one row, and the coefficients that `hc_post` needs.

    `x` [T, HC, D] streams; `fn`, `scale` (of pre, post and comb) and `base` f32 weights. `x_mixed` [T, D] is the sum over
    streams of pre * x; `post` [T, HC]; `comb` [T, HC * HC], entry (i, j) what stream j gets of stream i. Scratch of R >= T rows
    and P padded columns: `mixes_raw` holds the projection of each half of the summed dimension, one below the other, `mixes`
    their normalised sum.
    """,
)


ops.declare(
    "hc_post",
    "y: {act}[T, D], x: {act}[T, HC, D], post: f32[T, HC], comb: f32[T, HC * HC] -> x_next: {act}[T, HC, D]",
    core="AIV",
    cost=lambda call: Cost(2 * (call.dims["HC"] + 1) * call.operands["x"].num_elements, call.moved_bytes),
    num_blocks=every("T", 2),
    source="transformers DeepseekV4DecoderLayer; pypto-lib hc_post",
    doc="""Spread a sublayer's output `y` [T, D] over the streams and mix the old ones in.

    Stream j of `x_next` [T, HC, D] is post[j] * y plus the sum over i of comb[i, j] * x[i], in f32, rounded once.
    """,
)


ops.declare(
    "hc_head_cast",
    "x: {act}[T, HC, D] -> x_fp32: f32[R, HC * D]",
    core="AIV",
    check=_check_rows,
    source="pypto-lib hc_head",
    doc="The streams of each token as one f32 row; rows beyond T are zero.",
)


ops.declare(
    "hc_head_rms",
    "x_fp32: f32[R, K] -> inv_rms: f32[R, 1]",
    core="AIV",
    params={"norm_eps": "rms_norm_eps"},
    cost=elementwise(2, "x_fp32"),
    source="transformers DeepseekV4UnweightedRMSNorm; pypto-lib hc_head",
    doc="One over the root mean square of each row.",
)


ops.declare(
    "hc_head_seed",
    "-> mixes_raw: f32[R, P]",
    core="AIV",
    num_blocks=every("R", 8),
    source="pypto-lib hc_head",
    doc="Zeros, for `hc_head_linear` to add to.",
)


ops.declare(
    "hc_head_linear",
    "x_fp32: f32[R, K], fn: f32[HC, K] -> &mixes_raw: f32[R, P]",
    core="AIC",
    cost=products(("x_fp32", "fn")),
    num_blocks=lambda call: ceil_div(call.dims["R"], 16) * 8,
    check=lambda call: None if call.dims["P"] >= call.dims["HC"] else "'mixes_raw' has fewer columns than 'fn' has rows",
    source="transformers DeepseekV4HyperHead; pypto-lib hc_head",
    doc="Add the projection of each row to one coefficient a stream to `mixes_raw`, whose columns are padded to P.",
)


ops.declare(
    "hc_head_pre_fused",
    "scale: f32[1], base: f32[HC], mixes_raw: f32[R, P], inv_rms: f32[R, 1] -> pre_t: f32[P, R]",
    core="AIV",
    params={"hc_eps": "hc_eps"},
    source="transformers DeepseekV4HyperHead; pypto-lib hc_head",
    doc="How much of each stream the head takes, sigmoid(mixes * inv_rms * scale + base) + eps: one row a stream, padding zero.",
)


ops.declare(
    "hc_head_reduce",
    "pre_t: f32[P, N], x: {act}[N, HC, D] -> x_head: {act}[N, D]",
    core="AIV",
    cost=elementwise(2, "x"),
    source="transformers DeepseekV4HyperHead; pypto-lib hc_head",
    doc="One row a token: the sum over streams of pre * x.",
)
