"""RMS norms of rows. Source: torch.nn.RMSNorm; transformers `Qwen3RMSNorm`; pypto-lib `rmsnorm`."""

from __future__ import annotations

import torch

from ops.numerics import quantise_rows
from ops.rules import elementwise, every
from runner.program.ops import OpRegistry

ops = OpRegistry()


def normalise(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    """`x` [..., D] over its root mean square, times `w` [D]; f32."""
    rows = x.float()
    return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps) * w.float()


@ops.op(
    "rms_norm_quant",
    "x: {x}[T, D], w: {wd}[D] -> y: {qact}[T, D], y_scale: f32[T, 1]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(6, "x"),
    num_blocks=every("T", 8),
    source="torch.nn.RMSNorm; pypto-lib rmsnorm and normed_act_quant",
)
def rms_norm_quant(x, w, *, y, y_scale, eps):
    """Each row over its root mean square, times `w`, as a quantised product takes it; a copy with scale 1 in full precision."""
    quantise_rows(normalise(x, w, eps), y, y_scale)
