"""Kernels of the ops that `ops/deepseek_v4/embedding.py` declares; its docstring says symbols and sources."""

from __future__ import annotations


def lookup_embedding(input_ids, weight, *, x_hc):
    x_hc.copy_(weight[input_ids].unsqueeze(1).expand_as(x_hc))
