"""Kernels of the ops that `ops/deepseek_v4/lm_head.py` declares; its docstring says symbols and sources."""

from __future__ import annotations

from ops.kernels.numerics import matmul_nt
from ops.kernels.products import reads_laid_out
from runner.execution.comm import Comm


def lm_head_gather(x, *, hidden_window, comm_window, comm: Comm):
    comm_window += 1
    hidden_window.copy_(comm.all_gather(x))


@reads_laid_out(w=None)
def lm_head_mm(hidden_window, w, *, logits_shard):
    for rows, logits in zip(hidden_window, logits_shard, strict=True):
        matmul_nt(rows, w, logits)


def lm_head_combine(logits_shard, *, logits, comm_window, comm: Comm):
    comm_window += 1
    each = [1] * comm.size
    shards = comm.all_to_all(logits_shard, each, each)
    logits.copy_(shards.transpose(0, 1).flatten(1)[:, : logits.shape[1]])
