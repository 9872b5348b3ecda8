"""Rules that op declarations share: cost, SPMD blocks and scratch as functions of a `Call`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runner.base.tensor_spec import TensorSpec
from runner.program.ops import Call, Cost


def ceil_div(a: int, b: int) -> int:
    """`a / b`, rounded up."""
    return -(-a // b)


def moved(call: Call, *names: str) -> int:
    """Bytes of the named operands."""
    return sum(call.operands[name].size_bytes for name in names if name in call.operands)


def elementwise(operations: int, over: str, *names: str) -> Callable[[Call], Cost]:
    """`operations` for each element of operand `over`; bytes of the named operands, or of all."""
    return lambda call: Cost(
        operations * call.operands[over].num_elements,
        moved(call, *names) if names else call.moved_bytes,
    )


def matmul(*dims: str, products: int = 1) -> Callable[[Call], Cost]:
    """Matrix products over the three dims named, and the bytes of all operands."""

    def rule(call: Call) -> Cost:
        flops = 2 * products
        for dim in dims:
            flops *= call.dims[dim]
        return Cost(flops, call.moved_bytes)

    return rule


def per_rows(dim: str, rows: int) -> Callable[[Call], int]:
    """One SPMD block for `rows` of a dim."""
    return lambda call: ceil_div(call.dims[dim], rows)


def pipe_buffer(blocks: Callable[[Call], int], elements: int) -> Callable[[Call], Mapping[str, TensorSpec]]:
    """Scratch of a mixed task: f32 elements per SPMD block that cube and vector cores pass through global memory."""
    return lambda call: {"gm_pipe_buffer": TensorSpec("f32", (blocks(call) * elements,))}
