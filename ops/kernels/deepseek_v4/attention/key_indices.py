"""Kernels of the ops that `ops/deepseek_v4/attention/key_indices.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

import torch

from ops.kernels.deepseek_v4.attention.indexer import visible_rows

MASKED = -1e30
"""Bias of a key that is not attended to: finite, so that a tile without any key gives no NaN."""


def window_keys(position_ids: torch.Tensor, seq: int, window: int, ring: int) -> torch.Tensor:
    """Key indices [T, ring] of the last `window` positions of every token, for requests of `seq` consecutive tokens each."""
    position = position_ids.view(-1, seq)
    first = position[:, :1, None]
    back = torch.arange(ring - 1, -1, -1, device=position_ids.device)
    key = position.unsqueeze(-1) - back
    request = torch.arange(position.shape[0], device=position_ids.device).view(-1, 1, 1)
    fresh = request * seq + key - first
    index = torch.where(key >= first, fresh, position_ids.numel() + key.clamp(min=0) % ring)
    hidden = (key < 0) | (back >= window)
    return index.masked_fill(hidden, -1).view(-1, ring).int()


def sparse_lens(position_ids, *, lens, ring, topk, ratio):
    count = ring + visible_rows(position_ids, ratio).clamp(max=topk)
    lens.copy_(count.masked_fill(position_ids < 0, 0).view(lens.shape))


def pos_map(position_ids, *, pos_to_token):
    pos_to_token.fill_(-1)
    active = (position_ids >= 0).nonzero().flatten()
    pos_to_token[0, position_ids[active].long()] = active.int()


def sparse_idx_tile(position_ids, pos_to_token, topk, *, indices, window, ring):
    num_tokens = position_ids.numel()
    back = torch.arange(ring - 1, -1, -1, device=position_ids.device)
    key = position_ids.unsqueeze(-1) - back
    known = key.clamp(min=0)
    token = pos_to_token[0, known]
    rows = torch.where(token >= 0, token, num_tokens + known % ring)
    indices[:, :ring] = rows.masked_fill((key < 0) | (back >= window), -1)
    _put_compressed(indices[:, ring:], topk, num_tokens + ring)


def _put_compressed(columns: torch.Tensor, rows: torch.Tensor, offset: int) -> None:
    """Compressed rows (-1 for none) as key indices, as many as there are columns."""
    width = min(columns.shape[1], rows.shape[1])
    columns[:, :width] = torch.where(rows[:, :width] >= 0, rows[:, :width] + offset, -1)
    columns[:, width:] = -1


def sparse_idx_step(position_ids, topk, *, indices, valid_block_mask, window, ring, seq):
    indices[:, :ring] = window_keys(position_ids, seq, window, ring)
    _put_compressed(indices[:, ring:], topk.view(position_ids.numel(), -1), position_ids.numel() + ring)
    tiles = indices.view(*valid_block_mask.shape, -1)
    valid_block_mask.copy_((tiles >= 0).any(dim=-1))


def overlay_topk(position_ids, *, indices, window, ring, seq, ratio):
    indices[:, :ring] = window_keys(position_ids, seq, window, ring)
    row = torch.arange(indices.shape[1] - ring, device=position_ids.device)
    visible = row < visible_rows(position_ids, ratio).unsqueeze(-1)
    indices[:, ring:] = torch.where(visible, row + (position_ids.numel() + ring), -1)


def win_bias(position_ids, *, indices, bias, window, seq):
    num_tokens, ring = indices.shape
    position = position_ids.view(-1, seq, 1)
    row = torch.arange(ring, device=position_ids.device)
    newest = position - 1
    key = newest - (newest - row) % ring  # the newest position before the token's own that has its place in this row
    first, request = position[:, :1], torch.arange(position.shape[0], device=position_ids.device).view(-1, 1, 1)
    index = torch.where(key >= first, request * seq + key - first, num_tokens + row)
    seen = (key >= 0) & (key > position - window) & (position >= 0)
    indices.copy_(torch.where(seen, index, -1).view(num_tokens, ring))
    bias.fill_(MASKED)
    bias[:, :ring].masked_fill_(seen.view(num_tokens, ring), 0.0)
    own = torch.arange(num_tokens, device=position_ids.device)
    bias[own, ring + own] = torch.where(position_ids >= 0, 0.0, MASKED)


def build_bias(indices, lens, *, bias):
    bias.copy_(torch.where(valid_keys(indices[:, : bias.shape[1]], lens), 0.0, MASKED))


def valid_keys(indices: torch.Tensor, lens: torch.Tensor | None) -> torch.Tensor:
    """Which of the key indices [T, K] are keys, within the first `lens` columns of each token."""
    valid = indices >= 0
    if lens is not None:
        valid &= torch.arange(indices.shape[1], device=indices.device) < lens.view(-1, 1)
    return valid
