"""RMS norms: before attention, before the mixture of experts, and before the head.

Source: transformers 5.23.0 `DeepseekV4RMSNorm`; pypto-lib kernels `rmsnorm` and `gate`.
"""

from __future__ import annotations

from ops.rules import elementwise, every
from runner.program.ops import OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.norm")


ops.declare(
    "rms_norm",
    "x: {act}[T, D], w: {wd}[D] -> y: {act}[T, D]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(4, "x"),
    num_blocks=every("T", 8),
    source="transformers DeepseekV4RMSNorm; pypto-lib rmsnorm",
    doc="Each row over its root mean square, times `w`; computed in f32.",
)


ops.declare(
    "ffn_norm",
    "x_mixed: {act}[N, D], w: {wd}[D] -> x_norm: {act}[N, D], x_norm_gate: f32[N, D]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(4, "x_mixed"),
    source="transformers DeepseekV4RMSNorm; pypto-lib gate",
    doc="The norm before the experts: rounded in `x_norm`; in f32, for router and quantisation, in `x_norm_gate`.",
)
