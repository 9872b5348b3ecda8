"""Token embedding. Source: torch.nn.Embedding; pypto-lib `token_embed`."""

from __future__ import annotations

from ops.rules import every, requires
from runner.program.ops import Cost, OpRegistry

ops = OpRegistry(kernels="ops.kernels.common.embedding")


ops.declare(
    "embedding",
    "ids: i64[T], table: {wd}[V, D] -> x: {x}[M, D]",
    core="AIV",
    cost=lambda call: Cost(0, 2 * call.operands["x"].size_bytes),
    num_blocks=every("T", 64),
    check=requires(("{M} rows for {T} tokens", lambda d: d["M"] >= d["T"])),
    source="torch.nn.Embedding; pypto-lib token_embed",
    doc="Each token's row of `table`; rows beyond the tokens are zero.",
)
