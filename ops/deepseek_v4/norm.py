"""RMS norms: before attention, before the mixture of experts, and before the head.

Source: transformers 5.23.0 `DeepseekV4RMSNorm`; pypto-lib kernels `rmsnorm` and `gate`.
"""

from __future__ import annotations

import torch

from ops.rules import elementwise, every
from runner.program.ops import OpRegistry

ops = OpRegistry()


def normalise(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    """`x` [..., D] over its root mean square, times `w` [D]; f32."""
    rows = x.float()
    return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps) * w.float()


@ops.op(
    "rms_norm",
    "x: {x}[T, D], w: {wd}[D] -> y: {act}[T, D]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(4, "x"),
    num_blocks=every("T", 8),
    source="transformers DeepseekV4RMSNorm; pypto-lib rmsnorm",
)
def rms_norm(x, w, *, y, eps):
    """Each row over its root mean square, times `w`; computed in f32."""
    y.copy_(normalise(x, w, eps))


@ops.op(
    "ffn_norm",
    "x_mixed: {act}[N, D], w: {wd}[D] -> x_norm: {act}[N, D], x_norm_gate: f32[N, D]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(4, "x_mixed"),
    source="transformers DeepseekV4RMSNorm; pypto-lib gate",
)
def ffn_norm(x_mixed, w, *, x_norm, x_norm_gate, eps):
    """The norm before the experts: rounded in `x_norm`; in f32, for router and quantisation, in `x_norm_gate`."""
    rows = normalise(x_mixed, w, eps)
    x_norm.copy_(rows)
    x_norm_gate.copy_(rows)
