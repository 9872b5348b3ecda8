"""Token embedding. Source: transformers 5.23.0 `DeepseekV4Model`; pypto-lib `lookup_embedding`."""

from __future__ import annotations

from ops.rules import fixed
from runner.program.ops import Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.deepseek_v4.embedding")


ops.declare(
    "lookup_embedding",
    "input_ids: i64[T], weight: {wd}[V, D] -> x_hc: {act}[T, HC, D]",
    core="AIV",
    cost=lambda call: Cost(0, 2 * call.operands["x_hc"].size_bytes),
    num_blocks=fixed(48),
    source="transformers DeepseekV4Model; pypto-lib lookup_embedding",
    doc="Each token's row of `weight`, the same in all HC streams.",
)
