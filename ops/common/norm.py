"""RMS norms of rows. Source: torch.nn.RMSNorm; transformers `Qwen3RMSNorm`; pypto-lib `rmsnorm`."""

from __future__ import annotations

from ops.rules import elementwise, every
from runner.program.ops import OpRegistry

ops = OpRegistry(kernels="ops.kernels.common.norm")


ops.declare(
    "rms_norm",
    "x: {x}[T, D], w: {wd}[D] -> y: {act}[T, D]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(4, "x"),
    num_blocks=every("T", 8),
    source="torch.nn.RMSNorm; pypto-lib rmsnorm",
    doc="Each row over its root mean square, times `w`; computed in f32.",
)


ops.declare(
    "rms_norm_quant",
    "x: {x}[T, D], w: {wd}[D] -> y: {qact}[T, D], y_scale: f32[T, 1]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(6, "x"),
    num_blocks=every("T", 8),
    source="torch.nn.RMSNorm; pypto-lib rmsnorm and normed_act_quant",
    doc="Each row over its root mean square, times `w`, as a quantised product takes it; a copy with scale 1 in full precision.",
)
