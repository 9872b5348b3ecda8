"""Kernels of the ops that `ops/deepseek_v4/experts/exchange.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.deepseek_v4.experts.experts import first_rows
from runner.base.errors import ExecutionError
from runner.execution.comm import Comm


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


def combine_push(recv_y, recv_r_route, recv_count, pub_counts, *, routed_y, comm_window, first, comm: Comm):
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


def combine_reduce(sh, routed_y, *, ffn_out):
    total = sh.float()
    for k in range(routed_y.shape[1]):
        total = total + routed_y[:, k].float()
    ffn_out.copy_(total)
