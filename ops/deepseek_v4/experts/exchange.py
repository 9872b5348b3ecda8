"""Tokens to the ranks that hold their experts, and the experts' outputs back.

A *route* is one choice of one token: number t * K + k. `pub_counts` [P, P * E] says how many routes each rank (row) sends
to each expert of all ranks; every rank learns all of it before any row moves. Rows of an expert are ordered by source rank,
then by route, which fixes every result bit for bit.

Every op that exchanges anything updates `comm_window`, the number of exchanges so far. That orders these ops among
themselves, so that all ranks run them in the same order whatever else runs at the same time.

Source: pypto-lib `moe` (dispatch and combine); the ragged layout is ours.
"""

from __future__ import annotations

from ops.deepseek_v4.experts.experts import lanes_problem
from ops.rules import elementwise, every
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.experts.exchange")


ops.declare(
    "dispatch",
    "indices: i32[T, K], weights: f32[T, K], x: {qact}[T, D], x_scale: f32[T, 1]"
    " -> recv_x: {qact}[L, M, D], recv_scale: f32[L, M], recv_w: f32[L, M], recv_r_route: i32[L, M], recv_count: i32[E, 1],"
    " &pub_counts: i32[P, P * E], &comm_window: i32[1]",
    core="AIV",
    params={"layer": 0},
    needs=("comm",),
    cost=lambda call: Cost(0, 2 * call.operands["indices"].num_elements * (call.dims["D"] + 12)),
    check=lambda call: lanes_problem("the receive buffer", call.dims["L"], call.dims["E"]),
    source="pypto-lib moe",
    doc="""Send each route's row, scale, weight and number to the rank of its expert; receive those for this rank's experts.

    `indices` [T, K] names experts of all ranks, -1 for no route. The buffers are [L, M], one lane an expert (padded) or one lane
    (ragged); `recv_count` [E, 1] is the number of rows of each expert, and the other rows are left as they are.

    Raises ExecutionError, on every rank alike and before any row moves, where some expert would get more rows than a lane holds.
    """,
)


def _experts_of_a_rank(call: Call) -> int:
    num_ranks, num_experts = call.operands["pub_counts"].shape
    return num_experts // num_ranks


def _check_push(call: Call) -> str | None:
    experts = _experts_of_a_rank(call)
    if call.dims["C"] > experts:
        return f"'recv_count' is of {call.dims['C']} experts, but a rank has {experts}"
    problem = lanes_problem("the receive buffer", call.dims["L"], experts)
    return problem or lanes_problem("'recv_y'", call.dims["G"], call.dims["C"])


def _push_cost(call: Call) -> Cost:
    """The held experts' share of all rows, read and written."""
    return Cost(0, 2 * call.operands["routed_y"].size_bytes * call.dims["C"] // _experts_of_a_rank(call))


ops.declare(
    "combine_push",
    "recv_y: {act}[G, N, D], recv_r_route: i32[L, M], recv_count: i32[C, 1], pub_counts: i32[P, P * E]"
    " -> &routed_y: {act}[T, K, D], &comm_window: i32[1]",
    core="AIV",
    params={"first": 0},
    needs=("comm",),
    cost=_push_cost,
    check=_check_push,
    source="pypto-lib moe; some experts at a time is ours",
    doc="""Send the experts' output rows back to where their tokens are: row t, k of `routed_y` [T, K, D] is route t * K + k.

    `recv_y` [G, N, D] holds the rows of the C experts of this rank from `first` on, one lane an expert or packed in one lane;
    `recv_count` [C, 1] counts them. `recv_r_route` [L, M] is of all experts. All ranks send the rows of the same experts at
    the same time. A push from expert 0 on clears `routed_y` first, so that rows without a route are zero; others leave the rest.
    """,
)


ops.declare(
    "combine_reduce",
    "sh: {act}[T, D], routed_y: {act}[T, K, D] -> ffn_out: {act}[T, D]",
    core="AIV",
    cost=elementwise(1, "routed_y"),
    num_blocks=every("T", 4),
    source="pypto-lib moe",
    doc="The shared expert's output plus the routed rows in route order, summed in f32 and rounded once.",
)
