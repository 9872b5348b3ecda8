"""Tokens to the ranks that hold their experts, and the experts' outputs back.

A *route* is one choice of one token: number t * K + k. `pub_counts` [P, P * E] says how many routes each rank (row) sends
to each expert of all ranks; every rank learns all of it before any row moves. Rows of an expert are ordered by source rank,
then by route, which fixes every result bit for bit.

Every op that exchanges anything updates `comm_window`, the number of exchanges so far. That orders these ops among
themselves, so that all ranks run them in the same order whatever else runs at the same time.

Source: pypto-lib `moe` (dispatch and combine); the ragged layout is ours.
"""

from __future__ import annotations

import torch

from ops.deepseek_v4.experts.experts import first_rows, lanes_problem
from ops.rules import elementwise, every
from runner.base.errors import ExecutionError
from runner.execution.comm import Comm
from runner.program.ops import Call, Cost, OpRegistry

ops = OpRegistry()


@ops.op(
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
)
def dispatch(
    indices,
    weights,
    x,
    x_scale,
    *,
    recv_x,
    recv_scale,
    recv_w,
    recv_r_route,
    recv_count,
    pub_counts,
    comm_window,
    layer,
    comm: Comm,
):
    """Send each route's row, scale, weight and number to the rank of its expert; receive those for this rank's experts.

    `indices` [T, K] names experts of all ranks, -1 for no route. The buffers are [L, M], one lane an expert (padded) or one lane
    (ragged); `recv_count` [E, 1] is the number of rows of each expert, and the other rows are left as they are.

    Raises ExecutionError, on every rank alike and before any row moves, where some expert would get more rows than a lane holds.
    """
    comm_window += 1
    num_experts, (num_lanes, depth) = recv_count.shape[0], recv_x.shape[:2]
    order, counts = _by_expert(indices, comm.size * num_experts)
    pub_counts.copy_(comm.all_gather(counts))
    totals = pub_counts.sum(dim=0)
    if num_lanes == num_experts:
        _check_depth(totals, depth, num_experts, layer)

    per_rank = pub_counts.view(comm.size, comm.size, num_experts).sum(dim=2)
    send, receive = per_rank[comm.rank].tolist(), per_rank[:, comm.rank].tolist()
    token = order // indices.shape[1]
    rows = comm.all_to_all(x[token], send, receive)
    notes = torch.stack((x_scale[token, 0], weights.flatten()[order], order.to(torch.int32).view(torch.float32)), dim=1)
    notes = comm.all_to_all(notes, send, receive)

    mine = _counts_of(pub_counts, comm.rank, num_experts)
    recv_count.copy_(mine.sum(dim=0).unsqueeze(1))
    place = _places(mine, first_rows(recv_count, num_lanes, depth))
    recv_x.flatten(0, 1)[place] = rows
    recv_scale.flatten()[place] = notes[:, 0]
    recv_w.flatten()[place] = notes[:, 1]
    recv_r_route.flatten()[place] = notes[:, 2].contiguous().view(torch.int32)


def _by_expert(indices: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Routes that go somewhere, in the order of their experts of all ranks, and how many go to each: i32[P * E]."""
    chosen = indices.flatten().long()
    order = chosen.argsort(stable=True)
    order = order[chosen[order] >= 0]
    return order, torch.bincount(chosen[order], minlength=num_experts).to(torch.int32)


def _counts_of(pub_counts: torch.Tensor, rank: int, num_experts: int) -> torch.Tensor:
    """Rows that each rank sends to each expert of `rank`: [P, E]."""
    return pub_counts[:, rank * num_experts : (rank + 1) * num_experts]


def _check_depth(totals: torch.Tensor, depth: int, num_experts: int, layer: int) -> None:
    most = int(totals.max())
    if most <= depth:
        return
    expert = int(totals.argmax())
    rounded = -(-most // 16) * 16
    raise ExecutionError(
        f"layer {layer}: expert {expert} (expert {expert % num_experts} of rank {expert // num_experts}) would receive "
        f"{most} rows, but 'recv_max' is {depth}",
        hint=f"--set recv_max={rounded}, or --set recv_layout=ragged, which cannot overflow",
    )


def _places(counts: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
    """Buffer rows of the rows that come by source rank, expert and route, `counts` [P, C] of them.

    `begins` [C] says where each expert's rows begin in the buffer, all lanes seen as one.
    """
    before = counts.cumsum(dim=0) - counts
    starts = (begins + before).flatten()
    lengths = counts.flatten().long()
    ends = lengths.cumsum(dim=0)
    inside = torch.arange(int(lengths.sum()), device=counts.device) - torch.repeat_interleave(ends - lengths, lengths)
    return torch.repeat_interleave(starts, lengths) + inside


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


@ops.op(
    "combine_push",
    "recv_y: {act}[G, N, D], recv_r_route: i32[L, M], recv_count: i32[C, 1], pub_counts: i32[P, P * E]"
    " -> &routed_y: {act}[T, K, D], &comm_window: i32[1]",
    core="AIV",
    params={"first": 0},
    needs=("comm",),
    cost=_push_cost,
    check=_check_push,
    source="pypto-lib moe; some experts at a time is ours",
)
def combine_push(recv_y, recv_r_route, recv_count, pub_counts, *, routed_y, comm_window, first, comm: Comm):
    """Send the experts' output rows back to where their tokens are: row t, k of `routed_y` [T, K, D] is route t * K + k.

    `recv_y` [G, N, D] holds the rows of the C experts of this rank from `first` on, one lane an expert or packed in one lane;
    `recv_count` [C, 1] counts them. `recv_r_route` [L, M] is of all experts. All ranks send the rows of the same experts at
    the same time. A push from expert 0 on clears `routed_y` first, so that rows without a route are zero; others leave the rest.
    """
    comm_window += 1
    num_ranks, held = comm.size, slice(first, first + recv_count.shape[0])
    per_rank = pub_counts.view(num_ranks, num_ranks, -1)  # [source, owner, expert of the owner]
    mine = per_rank[:, comm.rank]
    totals = mine.sum(dim=0, dtype=torch.int32).unsqueeze(1)
    row = _places(mine[:, held], first_rows(recv_count, *recv_y.shape[:2]))
    note = _places(mine[:, held], first_rows(totals, *recv_r_route.shape)[held])
    moved = per_rank[:, :, held].sum(dim=2)
    send, receive = moved[:, comm.rank].tolist(), moved[comm.rank].tolist()
    rows = comm.all_to_all(recv_y.flatten(0, 1)[row], send, receive)
    routes = comm.all_to_all(recv_r_route.flatten()[note], send, receive)
    if first == 0:
        routed_y.zero_()
    routed_y.flatten(0, 1)[routes.long()] = rows


@ops.op(
    "combine_reduce",
    "sh: {act}[T, D], routed_y: {act}[T, K, D] -> ffn_out: {act}[T, D]",
    core="AIV",
    cost=elementwise(1, "routed_y"),
    num_blocks=every("T", 4),
    source="pypto-lib moe",
)
def combine_reduce(sh, routed_y, *, ffn_out):
    """The shared expert's output plus the routed rows in route order, summed in f32 and rounded once."""
    total = sh.float()
    for k in range(routed_y.shape[1]):
        total = total + routed_y[:, k].float()
    ffn_out.copy_(total)
