"""Rules that op declarations share: what a call costs, its SPMD blocks, its scratch and its checks, as functions of a `Call`.

A declaration reads as a sentence: `cost=products(("x", "w"))`, `num_blocks=every("T", 8)`. Every rule names operands or symbols
of the op's own signature; a name that is not there is a KeyError in the first call, never a silent zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from runner.base.tensor_spec import TensorSpec
from runner.program.ops import Call, Cost

Count = Callable[[Call], int]


def ceil_div(value: int, step: int) -> int:
    """`value / step`, rounded up."""
    return -(-value // step)


# --- SPMD blocks ---


def every(symbol: str, rows: int) -> Count:
    """One block for every `rows` of a symbol of the signature."""
    return lambda call: ceil_div(call.dims[symbol], rows)


def fixed(count: int) -> Count:
    """The same number of blocks whatever the shapes."""
    return lambda call: count


# --- costs ---


def moved(call: Call, *operands: str) -> int:
    """Bytes of the named operands."""
    return sum(call.operands[name].size_bytes for name in operands)


def products(*pairs: tuple[str, str]) -> Callable[[Call], Cost]:
    """Products `x @ w.T` of the named operands (x [.., K], w [N, K]), two operations a multiply-add; bytes of all operands."""

    def cost(call: Call) -> Cost:
        shapes = [(call.operands[x].shape, call.operands[w].shape) for x, w in pairs]
        return Cost(sum(2 * prod(x[:-1]) * prod(w) for x, w in shapes), call.moved_bytes)

    return cost


def elementwise(operations: int, over: str, *names: str) -> Callable[[Call], Cost]:
    """`operations` for each element of operand `over`; bytes of the named operands (once a name), or of all."""
    return lambda call: Cost(operations * call.operands[over].num_elements, moved(call, *names) if names else call.moved_bytes)


# --- scratch and checks ---


def pipe_buffer(num_blocks: Count, elements: int | Count) -> Callable[[Call], Mapping[str, TensorSpec]]:
    """Scratch through which the cube and vector cores of a mixed task hand over tiles: f32 `elements` for every block."""

    def workspace(call: Call) -> Mapping[str, TensorSpec]:
        per_block = elements if isinstance(elements, int) else elements(call)
        return {"gm_pipe_buffer": TensorSpec("f32", (num_blocks(call) * per_block,))}

    return workspace


Rule = tuple[str, Callable[[Mapping[str, int]], bool]]
"""What is wrong, with symbols of the signature and parameters in braces, and whether those of a call are as they should be."""


def requires(*rules: Rule) -> Callable[[Call], str | None]:
    """A check that all rules hold; the message is of the first that does not."""

    def check(call: Call) -> str | None:
        known = {**call.dims, **call.attrs}
        for message, holds in rules:
            if not holds(known):
                return message.format(**known)
        return None

    return check
