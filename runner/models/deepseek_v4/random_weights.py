"""Random weights of DeepSeek-V4 that keep every stage's rows near unit variance, so that numbers mean something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from runner.base.tensor_spec import TensorSpec


def random_weight(name: str, spec: TensorSpec, values: Mapping[str, Any], generator: torch.Generator) -> torch.Tensor:
    """The tensor of a canonical name: routing tables with experts that there are, everything else normal."""
    if name.endswith(".tid2eid"):
        return _distinct(spec.shape, values["n_routed_experts"], generator)
    mean, deviation = _statistics(name, spec.shape)
    return torch.empty(spec.shape).normal_(mean, deviation, generator=generator)


def _statistics(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation that keep every stage's rows near unit variance, and logits apart."""
    if name.endswith("norm.weight"):
        return 1.0, 0.1
    if name.endswith(("_base", ".ape", ".attn_sink")):
        return 0.0, 0.5
    if name.endswith("_scale"):
        return 0.7, 0.1
    if name.endswith(".gate.bias"):
        return 0.0, 0.05
    if name == "embed.weight":
        return 0.0, 1.0
    return 0.0, (2.0 if name == "head.weight" else 1.0) * shape[-1] ** -0.5


def _distinct(shape: tuple[int, ...], experts: int, generator: torch.Generator) -> torch.Tensor:
    """i64 rows of distinct experts, each row a random choice without order."""
    rows, topk = shape
    parts = [torch.rand(min(4096, rows - at), experts, generator=generator).topk(topk).indices for at in range(0, rows, 4096)]
    return torch.cat(parts)
