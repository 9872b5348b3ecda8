"""Kernels of the ops that `ops/deepseek_v4/draft.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.common.norm import rms_norm_quant
from ops.kernels.numerics import dequantise, matmul_nt


def _norm_quant(rows: torch.Tensor, w: torch.Tensor, y: torch.Tensor, y_scale: torch.Tensor, eps: float) -> None:
    """Rows [K, D], normed, into the first K of `y`; the others are zero, with scale 1."""
    num_rows = rows.shape[0]
    rms_norm_quant(rows, w, y=y[:num_rows], y_scale=y_scale[:num_rows], eps=eps)
    y[num_rows:].zero_()
    y_scale[num_rows:] = 1.0


def mtp_hidden_norm_quant(x, w, *, y, y_scale, eps):
    _norm_quant(x, w, y, y_scale, eps)


def mtp_prev_norm_quant(x, w, *, y, y_scale, eps):
    _norm_quant(x.flatten(0, 1), w, y, y_scale, eps)


def mtp_linear(x, e_w, prev, h_w, *, acc, prev_acc):
    matmul_nt(x, e_w, acc)
    matmul_nt(prev, h_w, prev_acc)


def mtp_dequant(acc, x_scale, e_scale, prev_acc, prev_scale, h_scale, *, out):
    num_tokens, num_streams, _ = out.shape
    token = dequantise(acc[:num_tokens], x_scale[:num_tokens], e_scale)
    rows = num_tokens * num_streams
    streams = dequantise(prev_acc[:rows], prev_scale[:rows], h_scale)
    out.copy_(token.unsqueeze(1) + streams.view(out.shape))


def sample_greedy(logits, *, sampled):
    torch.argmax(logits, dim=-1, out=sampled)


def mtp_state_prepare(input_ids, position_ids, slots, generations, tokens, meta, *, ids, seq):
    ids.copy_(input_ids)
    if seq == 1:
        return
    place = slots[:, 0].long()
    waits = (meta[place, 0] == generations) & (generations >= 0) & (meta[place, 1] == position_ids[1::seq])
    ids[1::seq] = torch.where(waits, tokens[place], ids[1::seq])


def mtp_verify(ids, position_ids, sampled, slot_mapping, generations, *, draft_ids, draft_positions, draft_slots, kept, seq):
    count, chosen, active = (x.view(-1, seq) for x in (ids, sampled, position_ids >= 0))
    agrees = active.clone()
    agrees[:, 1:] &= (count[:, 1:] == chosen[:, :-1]) | (generations < 0).unsqueeze(1)
    counts = agrees.long().cumprod(dim=1).bool()
    behind = chosen.clone()
    behind[:, :-1] = torch.where(counts[:, 1:], count[:, 1:], chosen[:, :-1])
    kept.copy_(counts.sum(dim=1))
    flat = counts.flatten()
    draft_ids.copy_(behind.flatten().masked_fill(~flat, 0))
    draft_positions.copy_(position_ids.masked_fill(~flat, -1))
    draft_slots.copy_(slot_mapping.masked_fill(~flat, -1))


def mtp_state_advance(sampled, position_ids, slots, generations, *, tokens, meta, seq):
    counts = (position_ids.view(-1, seq) >= 0).sum(dim=1)
    request = (counts > 0).nonzero().flatten()
    if request.numel() == 0:
        return
    last, place = request * seq + counts[request] - 1, slots[request, 0].long()
    tokens[place] = sampled[last]
    meta[place] = torch.stack((generations[request], position_ids[last] + 2), dim=1).to(meta.dtype)
