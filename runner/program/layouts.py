"""Where the elements of a tensor lie, and how the same bytes are seen under another shape or dtype: a view costs nothing.

    x: f32[4, 6]    seen as f32[4, 2, 3]     strides (6, 3, 1)     its [:, 1] is x[:, 3:6]
                    seen as f32[24]          strides (1,)          its [8:16] lies in x[1:3]

A region of a view has the box of its tensor that holds it, so that whoever asks which regions overlap need not know of views. A
box may hold more than the region does: then more tasks are ordered than have to be, and none less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec


@dataclass(frozen=True, slots=True)
class Layout:
    """Elements in the bytes of a tensor: `offset` and `strides` are in elements of `dtype`, from the tensor's first byte."""

    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.dtype, self.shape)

    @property
    def is_consecutive(self) -> bool:
        """Whether nothing lies between its elements."""
        wanted = contiguous_strides(self.shape)
        return all(size == 1 or had == want for size, had, want in zip(self.shape, self.strides, wanted, strict=True))

    def part(self, ranges: Sequence[tuple[int, int]], dropped: Sequence[int]) -> Layout:
        """Half-open ranges of its dims, of which those that are `dropped` are gone."""
        offset = self.offset + sum(lo * stride for (lo, _), stride in zip(ranges, self.strides, strict=True))
        kept = [axis for axis in range(len(ranges)) if axis not in dropped]
        shape = tuple([ranges[axis][1] - ranges[axis][0] for axis in kept])
        return Layout(self.dtype, offset, shape, tuple([self.strides[axis] for axis in kept]))

    def seen_as(self, spec: TensorSpec) -> Layout | None:
        """The same bytes under another type with as many of them; None where no strides say that."""
        assert spec.size_bytes == prod(self.shape) * DTYPE_BYTES[self.dtype], "a view has the bytes of what it shows"
        old, new = DTYPE_BYTES[self.dtype], DTYPE_BYTES[spec.dtype]
        if 0 in spec.shape:
            return Layout(spec.dtype, 0, spec.shape, contiguous_strides(spec.shape))
        if old == new:
            strides = _strides_of(self.shape, self.strides, spec.shape)
            return None if strides is None else Layout(spec.dtype, self.offset, spec.shape, strides)
        if not self.is_consecutive or self.offset * old % new:
            return None
        return Layout(spec.dtype, self.offset * old // new, spec.shape, contiguous_strides(spec.shape))

    def place(self, index: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
        """The index in a tensor of this dtype and `shape` of one of its elements."""
        at = self.offset + sum(i * stride for i, stride in zip(index, self.strides, strict=True))
        return tuple([at // stride % size for size, stride in zip(shape, contiguous_strides(shape), strict=True)])


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    return tuple([prod(shape[axis + 1 :]) for axis in range(len(shape))])


def whole(spec: TensorSpec) -> Layout:
    """All of a tensor."""
    return Layout(spec.dtype, 0, spec.shape, contiguous_strides(spec.shape))


def _strides_of(shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """Strides under which elements that lie at `strides` have another shape, in the same order; None if there are none.

    Dims that follow each other without a gap are one run, and each run is cut into dims of its own.
    """
    runs: list[tuple[int, int]] = []  # elements, and the stride of the last dim
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = runs[-1][0] * size, stride
        else:
            runs.append((size, stride))
    found: list[int] = []
    left, stride = runs.pop() if runs else (1, 1)
    for size in reversed(wanted):
        if left == 1 and size != 1:
            left, stride = runs.pop()
        found.append(stride)
        if left % size:
            return None
        left, stride = left // size, stride * size
    return tuple(reversed(found))


def hull(spec: TensorSpec, layout: Layout) -> tuple[tuple[int, int], ...]:
    """The smallest box of a tensor found that holds a layout of its bytes.

    The place of an element is a number whose digits are the index in the tensor, and the byte in an element. Each stride adds to
    one digit; what goes beyond it is carried.
    """
    if 0 in layout.shape:
        return tuple([(0, 0)] * len(spec.shape))
    size = DTYPE_BYTES[layout.dtype]
    sizes = (*spec.shape, DTYPE_BYTES[spec.dtype])
    units = contiguous_strides(sizes)
    most = [0] * len(sizes)  # by digit, what strides add to it at most
    for count, stride in (*zip(layout.shape, [stride * size for stride in layout.strides], strict=True), (size, 1)):
        if count > 1:
            digit = next(at for at, unit in enumerate(units) if unit <= stride and stride % unit == 0 and sizes[at] > 1)
            most[digit] += (count - 1) * stride // units[digit]
    carried, box, first = 0, list[tuple[int, int]](), layout.offset * size
    for digit in reversed(range(len(sizes))):
        low = first // units[digit] % sizes[digit]
        high = low + most[digit] + carried
        carried = high // sizes[digit]
        box.append((0, sizes[digit]) if carried else (low, high + 1))
    return tuple(reversed(box[1:]))
