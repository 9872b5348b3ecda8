"""Kernels of the ops that `ops/deepseek_v4/experts/exchange.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

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
    num_experts, num_lanes = recv_count.shape[0], recv_x.shape[0]
    order, counts = _by_expert(indices, comm.size * num_experts)
    pub_counts.copy_(comm.all_gather(counts))
    if num_lanes == num_experts:
        _check_depth(pub_counts.sum(dim=0), recv_x.shape[1], num_experts, layer)

    per_rank = pub_counts.view(comm.size, comm.size, num_experts).sum(dim=2).tolist()
    send, receive = per_rank[comm.rank], [row[comm.rank] for row in per_rank]
    order = order[order.shape[0] - sum(send) :]
    token = order // indices.shape[1]
    rows = comm.all_to_all(x.index_select(0, token), send, receive)
    routes = order.to(torch.int32).view(torch.float32)
    weight = weights.flatten().index_select(0, order)
    notes = torch.stack((x_scale.index_select(0, token).view(-1), weight, routes), dim=1)
    notes = comm.all_to_all(notes, send, receive)

    mine = _counts_of(pub_counts, comm.rank, num_experts)
    torch.sum(mine, 0, dtype=torch.int32, out=recv_count.view(-1))
    place = _places(mine, recv_x, 0, sum(receive))
    recv_x.flatten(0, 1)[place] = rows
    scale, weight, routes = notes.unbind(1)
    recv_scale.flatten()[place] = scale
    recv_w.flatten()[place] = weight
    recv_r_route.flatten()[place] = routes.contiguous().view(torch.int32)


def _by_expert(indices: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Routes in the order of their experts of all ranks, those that go nowhere first, and how many go to each: i32[P * E]."""
    chosen = indices.flatten()
    counts = torch.bincount(chosen + 1, minlength=1 + num_experts)
    return chosen.argsort(stable=True), counts[1:].to(torch.int32)


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


def _places(counts: torch.Tensor, buffer: torch.Tensor, first: int, total: int) -> slice | torch.Tensor:
    """Rows of `buffer` [L, M, ...], all lanes seen as one, of the `total` rows that come by source rank, expert and route.

    Rank p sends `counts[p, c]` rows to each of C experts in a row, of which `first` is the first one in the buffer.
    """
    num_lanes, depth = buffer.shape[:2]
    if num_lanes == 1 and counts.shape[0] == 1 and first == 0:
        return slice(0, total)  # they lie there as they come
    totals = counts.sum(dim=0)
    begins = (
        totals.cumsum(0) - totals if num_lanes == 1 else torch.arange(first, first + len(totals), device=totals.device) * depth
    )
    before = counts.cumsum(dim=0) - counts
    lengths = counts.flatten()
    shift = (begins + before).flatten() - (lengths.cumsum(dim=0) - lengths)
    return shift.repeat_interleave(lengths, output_size=total).add_(torch.arange(total, device=counts.device))


def combine_push(recv_y, recv_r_route, recv_count, pub_counts, *, routed_y, comm_window, first, comm: Comm):
    comm_window += 1
    num_ranks, num_held = comm.size, recv_count.shape[0]
    per_rank = pub_counts.view(num_ranks, num_ranks, -1)  # [source, owner, expert of the owner]
    mine, held = per_rank[:, comm.rank], slice(first, first + num_held)
    moved = per_rank[:, :, held].sum(dim=2).tolist()
    send, receive = [row[comm.rank] for row in moved], moved[comm.rank]
    counts, total = mine[:, held], sum(send)
    row = _places(counts, recv_y, 0, total)
    note = _places(counts, recv_r_route, first, total)
    if first and recv_r_route.shape[0] == 1:
        note = note + mine[:, :first].sum()
    rows = comm.all_to_all(recv_y.flatten(0, 1)[row], send, receive)
    routes = comm.all_to_all(recv_r_route.flatten()[note], send, receive)
    flat = routed_y.flatten(0, 1)
    if first == 0 and sum(receive) < flat.shape[0]:
        flat.zero_()
    flat.index_copy_(0, routes.long(), rows)


def combine_reduce(sh, routed_y, *, ffn_out):
    total = sh.float()
    for k in range(routed_y.shape[1]):
        total = total + routed_y[:, k].float()
    ffn_out.copy_(total)
