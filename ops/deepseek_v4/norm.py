"""The norm before the mixture of experts; that before attention and the head is in `ops/common/norm.py`.

Source: transformers 5.23.0 `DeepseekV4RMSNorm`; pypto-lib kernel `gate`.
"""

from __future__ import annotations

from ops.rules import elementwise
from runner.program.ops import OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.norm")


ops.declare(
    "ffn_norm",
    "x_mixed: {act}[N, D], w: {wd}[D] -> x_norm: {act}[N, D], x_norm_gate: f32[N, D]",
    core="AIV",
    params={"eps": "rms_norm_eps"},
    cost=elementwise(4, "x_mixed"),
    source="transformers DeepseekV4RMSNorm; pypto-lib gate",
    doc="The norm before the experts: rounded in `x_norm`; in f32, for router and quantisation, in `x_norm_gate`.",
)


ops.fuse("ffn_norm_tiles", ("ffn_norm", {}), inner=())
