"""What a token attends to, as a row of *key indices*:

    v < 0                  nothing
    0 <= v < T             row v of this call's keys (`kv`)
    T <= v < T + ring      row v - T of the request's window ring: position p is kept in row `p % ring`
    T + ring <= v          compressed row v - T - ring of the request

Symbols: T tokens, B requests, S tokens of a request, K columns of key indices or of a bias, J columns of another table, NT tiles,
W rows of a ring, L positions.

Source: pypto-lib sparse index tasks; transformers 5.23.0 `create_sliding_window_causal_mask` (which positions a window holds).
"""

from __future__ import annotations

import torch

from ops.deepseek_v4.attention.indexer import visible_rows
from ops.rules import Rule, every, requires
from runner.program.ops import OpRegistry

ops = OpRegistry()

_SOURCE = "pypto-lib sparse attention index tasks"

MASKED = -1e30
"""Bias of a key that is not attended to: finite, so that a tile without any key gives no NaN."""

_RING_COLUMNS: Rule = ("{K} columns of key indices do not hold a ring of {ring} rows", lambda d: d["K"] >= d["ring"])
_EVEN: Rule = ("{T} tokens are not {seq} for each of some requests", lambda d: d["T"] % d["seq"] == 0)


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


@ops.op(
    "sparse_lens",
    "position_ids: i32[T] -> lens: i32[1, T]",
    core="AIV",
    source=_SOURCE,
    params={"ring": "RING", "topk": "TOPK_CMP", "ratio": "compress_rate_csa"},
)
def sparse_lens(position_ids, *, lens, ring, topk, ratio):
    """Columns of each token's key indices that may hold a key, the window's and the compressed rows'; 0 for an idle token."""
    count = ring + visible_rows(position_ids, ratio).clamp(max=topk)
    lens.copy_(count.masked_fill(position_ids < 0, 0).view(lens.shape))


@ops.op("pos_map", "position_ids: i32[T] -> pos_to_token: i32[1, L]", core="AIV", source=_SOURCE)
def pos_map(position_ids, *, pos_to_token):
    """The token of this call at each position of the context, -1 for none (prefill: one request)."""
    pos_to_token.fill_(-1)
    active = (position_ids >= 0).nonzero().flatten()
    pos_to_token[0, position_ids[active].long()] = active.int()


@ops.op(
    "sparse_idx_tile",
    "position_ids: i32[T], pos_to_token: i32[1, L], topk: i32[T, J] -> indices: i32[T, K]",
    core="AIV",
    source=_SOURCE,
    params={"window": "sliding_window", "ring": "RING"},
    num_blocks=every("T", 2),
    check=requires(_RING_COLUMNS),
)
def sparse_idx_tile(position_ids, pos_to_token, topk, *, indices, window, ring):
    """Key indices of every token: its window, then the compressed rows that the indexer chose."""
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


@ops.op(
    "sparse_idx_step",
    "position_ids: i32[T], topk: i32[B, S, J] -> indices: i32[T, K], valid_block_mask: i32[T, NT]",
    core="AIV",
    source=_SOURCE,
    params={"window": "sliding_window", "ring": "RING", "seq": "S"},
    check=requires(
        _RING_COLUMNS,
        _EVEN,
        ("{K} columns are not {NT} tiles", lambda d: d["K"] % d["NT"] == 0),
        ("{T} tokens are not {S} of each of {B} requests", lambda d: d["T"] == d["B"] * d["S"]),
    ),
)
def sparse_idx_step(position_ids, topk, *, indices, valid_block_mask, window, ring, seq):
    """Key indices of every token (decode), and which of their tiles hold any key."""
    indices[:, :ring] = window_keys(position_ids, seq, window, ring)
    _put_compressed(indices[:, ring:], topk.view(position_ids.numel(), -1), position_ids.numel() + ring)
    tiles = indices.view(*valid_block_mask.shape, -1)
    valid_block_mask.copy_((tiles >= 0).any(dim=-1))


@ops.op(
    "overlay_topk",
    "position_ids: i32[T] -> indices: i32[T, K]",
    core="AIV",
    source=_SOURCE,
    params={"window": "sliding_window", "ring": "RING", "seq": "S", "ratio": "compress_rate_hca"},
    check=requires(_RING_COLUMNS, _EVEN),
)
def overlay_topk(position_ids, *, indices, window, ring, seq, ratio):
    """Key indices of every token (decode): its window, then every visible compressed row."""
    indices[:, :ring] = window_keys(position_ids, seq, window, ring)
    row = torch.arange(indices.shape[1] - ring, device=position_ids.device)
    visible = row < visible_rows(position_ids, ratio).unsqueeze(-1)
    indices[:, ring:] = torch.where(visible, row + (position_ids.numel() + ring), -1)


@ops.op(
    "win_bias",
    "position_ids: i32[T] -> indices: i32[T, W], bias: f32[T, K]",
    core="AIV",
    source=_SOURCE,
    params={"window": "sliding_window", "seq": "S"},
    check=requires(_EVEN, ("{K} columns do not hold a ring of {W} rows and {T} tokens", lambda d: d["K"] >= d["W"] + d["T"])),
)
def win_bias(position_ids, *, indices, bias, window, seq):
    """What a token sees of its request's ring and of this call's rows (decode, window only).

    `indices` [T, W] are the key indices of the ring's rows in ring order; `bias` [T, K] is 0 where a key is attended to, for the
    ring's W rows and then this call's rows, which may be padded.
    """
    num_tokens, ring = indices.shape
    position = position_ids.view(-1, seq)
    row = torch.arange(ring, device=position_ids.device)
    newest = position[:, :1] - 1
    held = (newest - (newest - row) % ring).unsqueeze(1)
    seen = ((held >= 0) & (held > position.unsqueeze(-1) - window) & (position.unsqueeze(-1) >= 0)).view(num_tokens, ring)
    indices.copy_(torch.where(seen, row + num_tokens, -1))
    request = torch.arange(num_tokens, device=position_ids.device) // seq
    own, at = request[:, None] == request, position_ids[:, None]
    fresh = own & (position_ids <= at) & (position_ids > at - window) & (position_ids >= 0)
    bias.fill_(MASKED)
    bias[:, :ring].masked_fill_(seen, 0.0)
    bias[:, ring : ring + num_tokens].masked_fill_(fresh, 0.0)


@ops.op(
    "build_bias",
    "indices: i32[T, J], lens?: i32[..., T] -> bias: f32[T, K]",
    core="AIV",
    source=_SOURCE,
    num_blocks=every("T", 16),
    check=requires(("{K} columns of {J}", lambda d: d["K"] <= d["J"])),
)
def build_bias(indices, lens, *, bias):
    """0 where a key index is a key, MASKED elsewhere and beyond `lens` columns."""
    bias.copy_(torch.where(valid_keys(indices[:, : bias.shape[1]], lens), 0.0, MASKED))


def valid_keys(indices: torch.Tensor, lens: torch.Tensor | None) -> torch.Tensor:
    """Which of the key indices [T, K] are keys, within the first `lens` columns of each token."""
    valid = indices >= 0
    if lens is not None:
        valid &= torch.arange(indices.shape[1], device=indices.device) < lens.view(-1, 1)
    return valid
