"""This module finds where the heaps lie: the address of the first one, and whether it can be no other.

A tensor whose producer is named by an edge lies in the heap of the producer's ring; scope stats say between which bytes of a ring
its block was made. Each such tensor bounds the base from both sides. Where the bounds leave room, the base is the greatest that
they allow; it is exact only if the tensor there begins its ring's first block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.base.tensor_spec import BLOCK_ALIGN, round_up


@dataclass(frozen=True, slots=True)
class Anchor:
    """A tensor that a task names and whose producer is known: `start` is its address less the heaps before the producer's ring.

    `size` are the bytes that it takes, at least; `is_size` whether they are all.
    """

    start: int
    ring: int
    number: int
    size: int
    is_size: bool


@dataclass(frozen=True, slots=True)
class RingFacts:
    """What is known of a ring: its heap, `(count, head)` of its records, and tensors by submission: of an alloc None."""

    capacity: int
    heads: Sequence[tuple[int, int]]
    outputs: Mapping[int, int | None]
    least_tensor: int = BLOCK_ALIGN

    def around(self, number: int) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """The last record before a submission, and the first behind it."""
        before = max((mark for mark in self.heads if mark[0] <= number), key=lambda mark: mark[1], default=(0, 0))
        return before, min((mark for mark in self.heads if mark[0] > number), key=lambda mark: mark[1], default=None)

    def least_bytes(self, numbers: Iterable[int]) -> int:
        """Bytes that submissions take at least: an alloc has a tensor."""
        return self.least_tensor * sum(1 if count is None else count for count in map(self.outputs.__getitem__, numbers))


def find_base(anchors: Sequence[Anchor], merged: Sequence[Anchor], rings: Sequence[RingFacts]) -> tuple[int | None, bool]:
    """The base, and whether it is exact; None where nothing tells it.

    `merged` are tensors of which only candidates for the producer are known, one anchor each: they may also come from outside.
    """
    if not anchors:
        return None, False
    bounds = [_bounds(anchor, anchors, rings[anchor.ring]) for anchor in anchors]
    low, high = max(low for low, _ in bounds), min(high for _, high in bounds)
    if low >= high:
        return high, low == high
    base = min([high, *(anchor.start for anchor in merged if low <= anchor.start < high and _may_lie(anchor, rings))])
    return base, any(_begins(anchor, base, rings[anchor.ring]) for anchor in (*anchors, *merged))


def _bounds(anchor: Anchor, anchors: Sequence[Anchor], ring: RingFacts) -> tuple[int, int]:
    """The least and the greatest base that a tensor allows."""
    (count, before), behind = ring.around(anchor.number)
    low, high = anchor.start + anchor.size - ring.capacity, anchor.start
    own = ring.outputs[anchor.number]
    earlier = [k for k in ring.outputs if k < anchor.number]
    if not earlier and own is not None and own == len({a.start for a in anchors if _same(a, anchor)}):
        lowest = min(a.start for a in anchors if _same(a, anchor))
        return lowest, lowest  # all outputs of the ring's first block are named
    if behind is None:
        return low, min(high, anchor.start - ring.least_bytes(earlier)) if before == 0 else high
    if before // ring.capacity != (behind[1] - 1) // ring.capacity:
        return low, high
    lap = before // ring.capacity * ring.capacity
    least_before = ring.least_bytes(k for k in earlier if k >= count)
    later = [k for k in ring.outputs if anchor.number < k < behind[0]]
    high = anchor.start - (before - lap) - least_before
    low = anchor.start + anchor.size + ring.least_bytes(later) - (behind[1] - lap)
    if own == 1 and anchor.is_size and not later:
        high = low
    return low, high


def _same(one: Anchor, other: Anchor) -> bool:
    return (one.ring, one.number) == (other.ring, other.number)


def _may_lie(anchor: Anchor, rings: Sequence[RingFacts]) -> bool:
    """Whether a tensor may be the first of its candidate's ring: nothing was made before its block."""
    return not any(k < anchor.number for k in rings[anchor.ring].outputs)


def _begins(anchor: Anchor, base: int, ring: RingFacts) -> bool:
    """Whether a tensor at a ring's beginning is of its first block, an alloc's: then none of that without a name lies before."""
    return anchor.start == base and ring.outputs[anchor.number] is None and min(ring.outputs) == anchor.number


def anchor_size(touched: int, table: int | None) -> int:
    """Bytes that a tensor takes at least, by what tasks touch and by the table of tensors where that is of this one."""
    return round_up(max(touched, table or 0))
