"""This module owns shapes and dtypes as plain data: no torch here, so that planning never touches memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

BLOCK_ALIGN = 1024
"""Every tensor in a block starts at, and is rounded up to, a multiple of this many bytes."""

MAX_BLOCK_BYTES = 2**31 - 1
"""The runtime holds a block's size in 32 bits, and would wrap silently."""

BLOCK_UNITS = MAX_BLOCK_BYTES // BLOCK_ALIGN
"""The largest block in units of `BLOCK_ALIGN`: where an arena is larger, no tensor lies across a multiple of it."""

DTYPE_BYTES: dict[str, int] = {
    "bool": 1,
    "i8": 1,
    "u8": 1,
    "i16": 2,
    "i32": 4,
    "i64": 8,
    "f8e4m3": 1,
    "f8e8m0": 1,
    "f16": 2,
    "bf16": 2,
    "f32": 4,
    "f64": 8,
}


def round_up(size_bytes: int, align: int = BLOCK_ALIGN) -> int:
    """`size_bytes` rounded up to a multiple of `align`."""
    return -(-size_bytes // align) * align


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Dtype and shape of a tensor, contiguous and row-major."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.num_elements * DTYPE_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def block_bytes(specs: Iterable[TensorSpec]) -> list[int]:
    """Bytes of each tensor in a block. Many tensors share a spec, which is measured once."""
    sizes: dict[int, int] = {}
    found = []
    for spec in specs:
        size = sizes.get(id(spec))
        if size is None:
            size = sizes[id(spec)] = round_up(spec.size_bytes)
        found.append(size)
    return found


def with_block_ends(walls: tuple[int, ...], top: int) -> tuple[int, ...]:
    """Offsets that no tensor of an arena may straddle, in units: `walls`, and below `top` the ends of its blocks."""
    return walls if top <= BLOCK_UNITS else tuple(sorted({*walls, *range(BLOCK_UNITS, top, BLOCK_UNITS)}))
