"""Kernels of the ops that `ops/deepseek_v4/lm_head.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch

from ops.kernels.numerics import matmul_nt, product
from ops.kernels.products import Laid, lay_out, reads_laid_out
from runner.execution.comm import Comm


def lm_head_gather(x, *, hidden_window, comm_window, comm: Comm):
    comm_window += 1
    hidden_window.copy_(comm.all_gather(x))


@reads_laid_out(w=None)
def lm_head_mm(hidden_window, w, *, logits_shard):
    share = _share(w)
    for rows, logits in zip(hidden_window, logits_shard, strict=True):
        matmul_nt(rows, share, logits)


lm_head_mm.lay_out = partial(lay_out, is_share=True)  # else how many ranks there are would say which library multiplies


def _share(w: torch.Tensor | Laid) -> Laid:
    return w if isinstance(w, Laid) else lay_out(w, is_share=True)


def lm_head_combine(logits_shard, *, logits, comm_window, comm: Comm):
    comm_window += 1
    each = [1] * comm.size
    shards = comm.all_to_all(logits_shard, each, each)
    logits.copy_(shards.transpose(0, 1).flatten(1)[:, : logits.shape[1]])


# --- all tiles at once ---

_MOST_TILES = 8
"""Tiles whose logits are computed at a time: bounds what lies between."""


def lm_head_tiles(units: Sequence[Mapping[str, Any]]) -> None:
    """The three tasks of many tiles, of a rank by itself: one product, which reads the weight once."""
    for _, of_weight in groupby(units, key=lambda unit: id(unit["w"])):
        tiles = list(of_weight)
        for first in range(0, len(tiles), _MOST_TILES):
            _run_tiles(tiles[first : first + _MOST_TILES])


def _run_tiles(tiles: Sequence[Mapping[str, Any]]) -> None:
    rows = [tile["x"] for tile in tiles]
    made = product(torch.cat(rows), _share(tiles[0]["w"])).split([x.shape[0] for x in rows])
    for tile, logits in zip(tiles, made, strict=True):
        tile["logits"].copy_(logits[:, : tile["logits"].shape[1]])
        tile["comm_window"].add_(2)
