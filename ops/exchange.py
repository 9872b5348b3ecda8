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

from ops.cost import elementwise, per_rows
from ops.experts import first_rows
from runner.comm import Comm
from runner.errors import ExecutionError
from runner.registry import Call, Cost, OpRegistry

ops = OpRegistry()


def _check_exchange(call: Call) -> str | None:
    lanes, experts = call.dims["L"], call.dims["E"]
    return None if lanes in (1, experts) else f"the receive buffers have {lanes} lanes, expected 1 or {experts}"


@ops.op(
    "dispatch",
    "indices: i32[T, K], weights: f32[T, K], x: {qact}[T, D], x_scale: f32[T, 1]"
    " -> recv_x: {qact}[L, M, D], recv_scale: f32[L, M], recv_w: f32[L, M], recv_r_route: i32[L, M], recv_count: i32[E, 1],"
    " &pub_counts: i32[P, P * E], &comm_window: i32[1]",
    core="AIV",
    params={"layer": 0},
    needs=("comm",),
    cost=lambda call: Cost(0, 2 * call.operands["indices"].num_elements * (call.dims["D"] + 12)),
    check=_check_exchange,
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
    chosen = indices.flatten().long()
    order = chosen.argsort(stable=True)
    order = order[chosen[order] >= 0]
    counts = torch.bincount(chosen[order], minlength=comm.size * num_experts)
    pub_counts.copy_(comm.all_gather(counts.to(torch.int32)))
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
    place = _places(mine, recv_count, num_lanes, depth)
    recv_x.flatten(0, 1)[place] = rows
    recv_scale.flatten()[place] = notes[:, 0]
    recv_w.flatten()[place] = notes[:, 1]
    recv_r_route.flatten()[place] = notes[:, 2].contiguous().view(torch.int32)


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


def _places(counts: torch.Tensor, recv_count: torch.Tensor, num_lanes: int, depth: int) -> torch.Tensor:
    """Buffer rows, as [L * M], of the received rows, which come by source rank, expert and route; `counts` is [P, E]."""
    before = counts.cumsum(dim=0) - counts
    begins = (first_rows(recv_count, num_lanes, depth) + before).flatten()
    lengths = counts.flatten().long()
    ends = lengths.cumsum(dim=0)
    inside = torch.arange(int(lengths.sum()), device=counts.device) - torch.repeat_interleave(ends - lengths, lengths)
    return torch.repeat_interleave(begins, lengths) + inside


@ops.op(
    "combine_push",
    "recv_y: {act}[L, M, D], recv_r_route: i32[L, M], recv_count: i32[E, 1], pub_counts: i32[P, P * E]"
    " -> routed_y: {act}[T, K, D], &comm_window: i32[1]",
    core="AIV",
    needs=("comm",),
    cost=lambda call: Cost(0, 2 * call.operands["routed_y"].size_bytes),
    check=_check_exchange,
    source="pypto-lib moe",
)
def combine_push(recv_y, recv_r_route, recv_count, pub_counts, *, routed_y, comm_window, comm: Comm):
    """Send each expert's output row back to where its token is: row t, k of `routed_y` [T, K, D] is route t * K + k.

    Rows without a route are zero.
    """
    comm_window += 1
    num_experts, (num_lanes, depth) = recv_count.shape[0], recv_y.shape[:2]
    place = _places(_counts_of(pub_counts, comm.rank, num_experts), recv_count, num_lanes, depth)
    per_rank = pub_counts.view(comm.size, comm.size, num_experts).sum(dim=2)
    send, receive = per_rank[:, comm.rank].tolist(), per_rank[comm.rank].tolist()
    rows = comm.all_to_all(recv_y.flatten(0, 1)[place], send, receive)
    routes = comm.all_to_all(recv_r_route.flatten()[place], send, receive)
    routed_y.zero_()
    routed_y.flatten(0, 1)[routes.long()] = rows


@ops.op(
    "combine_reduce",
    "sh: {act}[T, D], routed_y: {act}[T, K, D] -> ffn_out: {act}[T, D]",
    core="AIV",
    cost=elementwise(1, "routed_y"),
    num_blocks=per_rows("T", 4),
    source="pypto-lib moe",
)
def combine_reduce(sh, routed_y, *, ffn_out):
    """The shared expert's output plus the routed rows in route order, summed in f32 and rounded once."""
    total = sh.float()
    for k in range(routed_y.shape[1]):
        total = total + routed_y[:, k].float()
    ffn_out.copy_(total)
