"""Query and key-value projections of attention, with their norms and rotations.

Symbols: T tokens, M scratch rows (T rounded up to whole matrix tiles), D hidden, Q rank of the query projection, N columns of a
projection, H heads, C columns of a head, R its rotated columns.

Source: pypto-lib `qkv_proj_rope` (tasks); transformers 5.23.0 `DeepseekV4Attention` (formulas).
"""

from __future__ import annotations

from ops.rules import Rule, elementwise, every, fixed, products, requires
from runner.program.ops import OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.attention.qkv")

_SOURCE = "transformers DeepseekV4Attention; pypto-lib qkv_proj_rope"


ENOUGH_SCRATCH: Rule = ("scratch has {M} rows, expected at least the {T} of the tokens", lambda d: d["M"] >= d["T"])
ROPE_COLUMNS: Rule = (
    "{R} columns are rotated of a row of {C}, expected an even number up to that",
    lambda d: d["R"] <= d["C"] and d["R"] % 2 == 0,
)


ops.declare(
    "proj_seed",
    "-> acc: f32[M, N]",
    core="AIV",
    source=_SOURCE,
    doc="Zeroes an accumulator that a projection adds to.",
)


ops.declare(
    "proj_matmul",
    "x: {act}[T, D], w: {wd}[N, D] -> &acc: f32[M, N]",
    core="AIC",
    source=_SOURCE,
    cost=products(("x", "w")),
    num_blocks=fixed(16),
    check=requires(ENOUGH_SCRATCH),
    doc="`acc[:T] += x @ w.T`.",
)


ops.declare(
    "qr_rms_norm_quant",
    "qr_fp32: f32[M, Q], gamma: {wd}[Q] -> qr: {qact}[T, Q], qr_scale: f32[T, 1], qr_matmul: {qact}[M, Q]",
    core="AIV",
    source=_SOURCE,
    params={"eps": "rms_norm_eps"},
    cost=elementwise(6, "qr"),
    num_blocks=every("T", 8),
    check=requires(ENOUGH_SCRATCH),
    doc="""The low-rank query: RMS norm, then one quantised row per token with its scale.

    `qr_matmul` is `qr` with rows up to the matmul's row tile, zero beyond the tokens.
    """,
)


ops.declare(
    "qproj_matmul",
    "qr_matmul: {qact}[M, Q], wq_b: {wq}[N, Q] -> acc: {acc}[M, N]",
    core="AIC",
    source=_SOURCE,
    cost=products(("qr_matmul", "wq_b")),
    num_blocks=fixed(16),
    doc="`acc = qr_matmul @ wq_b.T`.",
)


ops.declare(
    "qproj_dequant",
    "acc: {acc}[M, N], wq_b_scale: f32[N], qr_scale: f32[T, 1] -> q_proj: f32[M, N]",
    core="AIV",
    source=_SOURCE,
    cost=elementwise(2, "q_proj"),
    num_blocks=fixed(16),
    check=requires(ENOUGH_SCRATCH),
    doc="Rows of the accumulator times token and channel scales; rows beyond the tokens are zero.",
)


ops.declare(
    "q_head_rms_nope_rope",
    "q_proj: f32[M, H * C], rope_cos: {act}[T, R], rope_sin: {act}[T, R] -> q: {act}[T, H, C]",
    core="AIV",
    source=_SOURCE,
    params={"eps": "rms_norm_eps"},
    cost=elementwise(4, "q"),
    num_blocks=every("H", 2),
    check=requires(ENOUGH_SCRATCH, ROPE_COLUMNS),
    doc="Every query head: RMS norm without a weight, then rotation of the trailing columns.",
)


ops.declare(
    "kv_rms_norm_rope",
    "kv_fp32: f32[M, C], gamma: {wd}[C], rope_cos: {act}[T, R], rope_sin: {act}[T, R] -> kv: {act}[T, C]",
    core="AIV",
    source=_SOURCE,
    params={"eps": "rms_norm_eps"},
    cost=elementwise(6, "kv"),
    num_blocks=every("T", 8),
    check=requires(ENOUGH_SCRATCH, ROPE_COLUMNS),
    doc="The shared key-value head: RMS norm, then rotation of the trailing columns.",
)
