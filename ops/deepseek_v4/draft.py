"""The draft (MTP) layer's own tasks: what it reads, and how its tokens are proposed, verified and kept.

A step has S rows for each of B requests (T = B * S): in row 0 the last token that is certain, in row 1 the draft of the next.
Where the model's choice for row 0 is the draft, both rows count, else row 0 alone. The draft layer then runs on the rows that
count: row t reads the embedding of the token behind t and the model's streams at t, and proposes the token behind that.

What is proposed waits in a slot of the request's own, beside the generation of the slot and the position that it is meant for. A
request that took over the slot of another one, or that went on otherwise, takes nothing from it.

Symbols: T tokens, B requests, R slots, D hidden, HC streams, M and N rows of scratch (whole matrix tiles), V vocabulary.

Source: pypto-lib `mtp_projection`, `decode_mtp`, `decode_fwd_mtp` (tasks, scales); DeepSeek-V4's inference code, `MTPBlock`
(formulas).
"""

from __future__ import annotations

from ops.deepseek_v4.attention.qkv import ENOUGH_SCRATCH
from ops.rules import Rule, ceil_div, elementwise, every, fixed, products, requires
from runner.program.ops import OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.draft")

_SOURCE = "pypto-lib mtp_projection; DeepSeek-V4 inference code, MTPBlock"
_STEP = "pypto-lib decode_fwd_mtp"

_EVEN: Rule = ("{T} tokens are not {seq} for each of {B} requests", lambda d: d["T"] == d["B"] * d["seq"])


ops.declare(
    "mtp_hidden_norm_quant",
    "x: {act}[T, D], w: {wd}[D] -> y: {qact}[M, D], y_scale: f32[M, 1]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(6, "x"),
    num_blocks=every("T", 8),
    check=requires(ENOUGH_SCRATCH),
    source=_SOURCE,
    doc="The embedding of the token behind each row: RMS norm, then a quantised row and its scale; further rows are zero.",
)


ops.declare(
    "mtp_prev_norm_quant",
    "x: {act}[T, HC, D], w: {wd}[D] -> y: {qact}[N, D], y_scale: f32[N, 1]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(6, "x"),
    num_blocks=lambda call: ceil_div(call.dims["T"], 8) * call.dims["HC"],
    check=requires(("scratch has {N} rows, expected at least {HC} streams of {T} tokens", lambda d: d["N"] >= d["T"] * d["HC"])),
    source=_SOURCE,
    doc="The model's streams at each row, each by itself: RMS norm, then a quantised row, stream by stream of each token.",
)


ops.declare(
    "mtp_linear",
    "x: {qact}[M, D], e_w: {wq}[D, D], prev: {qact}[N, D], h_w: {wq}[D, D] -> acc: {acc}[M, D], prev_acc: {acc}[N, D]",
    core="AIC",
    cost=products(("x", "e_w"), ("prev", "h_w")),
    num_blocks=lambda call: ceil_div(call.dims["M"], 16) * ceil_div(call.dims["D"], 256),
    source=_SOURCE,
    doc="Both projections: `acc = x @ e_w.T`, `prev_acc = prev @ h_w.T`.",
)


ops.declare(
    "mtp_dequant",
    "acc: {acc}[M, D], x_scale: f32[M, 1], e_scale: f32[D], prev_acc: {acc}[N, D], prev_scale: f32[N, 1], h_scale: f32[D]"
    " -> out: {act}[T, HC, D]",
    core="AIV",
    cost=elementwise(5, "out"),
    num_blocks=lambda call: ceil_div(call.dims["M"], 16) * ceil_div(call.dims["D"], 1024),
    check=requires(ENOUGH_SCRATCH),
    source=_SOURCE,
    doc="What the layer reads: the token's projection, the same in all streams, plus each stream's own, scaled back.",
)


ops.declare(
    "sample_greedy",
    "logits: f32[T, V] -> sampled: i64[T]",
    core="AIV",
    cost=elementwise(1, "logits"),
    num_blocks=every("T", 1),
    source="pypto-lib lm_head_with_sampling",
    doc="The likeliest token of each row, the first of equal ones.",
)


ops.declare(
    "mtp_state_prepare",
    "input_ids: i64[T], position_ids: i32[T], slots: i32[B, 1], generations: i32[B], tokens: i64[R], meta: i32[R, 2]"
    " -> ids: i64[T]",
    core="AIV",
    params={"seq": "S"},
    num_blocks=fixed(1),
    check=requires(_EVEN),
    source=_STEP,
    doc="""The ids of a step: those given, and in each request's row 1 the token that waits in its slot.

    `meta` [R, 2] has the generation and the position of what waits. Where the slot is of another generation than `generations`
    says, or the position is not that of row 1, the given id stays.
    """,
)


ops.declare(
    "mtp_verify",
    "ids: i64[T], position_ids: i32[T], sampled: i64[T], slot_mapping: i64[T], generations: i32[B]"
    " -> draft_ids: i64[T], draft_positions: i32[T], draft_slots: i64[T], kept: i32[B]",
    core="AIV",
    params={"seq": "S"},
    num_blocks=fixed(1),
    check=requires(_EVEN),
    source=_STEP,
    doc="""How many rows of each request count, and what the draft layer reads of them.

    A row counts if it is not idle, and the row before it counts and has it for the model's choice; all rows of a request whose
    generation is -1 count. `draft_ids` has the token behind each row (the next row's if that counts, else the model's choice),
    `draft_positions` and `draft_slots` its place; of rows that do not count 0, -1 and -1.
    """,
)


ops.declare(
    "mtp_state_advance",
    "sampled: i64[T], position_ids: i32[T], slots: i32[B, 1], generations: i32[B] -> &tokens: i64[R], &meta: i32[R, 2]",
    core="AIV",
    params={"seq": "S"},
    num_blocks=fixed(1),
    check=requires(_EVEN),
    source=_STEP,
    doc="""What the draft layer chose at the last row of each request that counts waits in the request's slot.

    A row at position p proposes the token of position p + 2. Requests without a row that counts leave their slots as they are.
    """,
)
