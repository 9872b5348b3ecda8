"""The arguments that take entries of the tensormap: tensors that a submission writes, and has not created in its block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
from runner.program.lifetimes import Ints
from runner.program.program import Box, Program, Task
from runner.rings.lowering.facts import Facts
from runner.rings.lowering.order import NOWHERE, Order
from runner.rings.lowering.places import Places
from runner.rings.schedule import MapEntry

Entries = tuple[MapEntry, ...]
Bools = NDArray[np.bool_]
Key = tuple[int, int, int, int, bool]
"""The values of an entry."""

TOGETHER = 1 << 14
"""Entries that are made at a time, so that what they are made of stays small."""


def entries_of(program: Program, walk: Order, facts: Facts, places: Places) -> list[Entries]:
    """The entries of all submissions, none in manual scopes. What many have is kept once."""
    found: list[Entries] = [()] * len(walk.order)
    is_auto = np.ones(len(program.tasks), bool)
    is_auto[list(walk.unseen)] = False
    maker = _Maker(program, facts, places, is_auto[places.tasks])
    for at, entries in chain(maker.plain(), maker.boxed()):
        found[at] = entries
    return found


class _Maker:
    def __init__(self, program: Program, facts: Facts, places: Places, is_auto: Bools) -> None:
        self.program, self.facts, self.places, self.is_auto = program, facts, places, is_auto
        self.known: dict[Key, Entries] = {}

    def entry(self, key: Key) -> Entries:
        return self.known.get(key) or self.known.setdefault(key, (MapEntry(*key),))

    def plain(self) -> Iterator[tuple[int, Entries]]:
        """Submissions that write whole tensors, or parts with a key, and their entries."""
        places, entry = self.places, self.entry
        writes = self.facts.writes.picked(places.tasks)
        lengths = np.diff(writes.starts)
        by = np.repeat(places.submitted, lengths)
        taken = np.flatnonzero(np.repeat(self.is_auto, lengths) & (places.owner[writes.values] != by))
        by, tensor, is_part = by[taken], writes.values[taken], self.facts.are_parts.picked(places.tasks).values[taken] != 0
        found: list[Entries] = []
        for low in range(0, len(by), TOGETHER):
            found += map(entry, self.keys(tensor[low : low + TOGETHER], is_part[low : low + TOGETHER]))
        starts = np.flatnonzero(np.diff(by, prepend=-1))
        for at, (low, high) in zip(by[starts].tolist(), pairwise([*starts.tolist(), len(by)]), strict=True):
            yield at, found[low] if high == low + 1 else tuple(chain.from_iterable(found[low:high]))

    def keys(self, tensor: Ints, is_part: Bools) -> Iterable[Key]:
        owner, offset = self.places.owner[tensor], self.places.offset[tensor]
        in_arena = self.places.in_arena[owner]
        place = np.where(owner == NOWHERE, tensor, np.where(in_arena, 0, offset))
        begin = np.where(in_arena, offset, 0)
        end = begin + self.facts.size_bytes[tensor]
        return zip(owner.tolist(), place.tolist(), begin.tolist(), end.tolist(), (~is_part).tolist(), strict=True)

    def boxed(self) -> Iterator[tuple[int, Entries]]:
        """The others, which write a box, or of which less than all edges are inferred."""
        places = self.places
        which = np.flatnonzero(self.facts.has_boxes[places.tasks] & self.is_auto)
        owner, offset = (values.tolist() if len(which) else [] for values in (places.owner, places.offset))
        for at, number in zip(places.submitted[which].tolist(), places.tasks[which].tolist(), strict=True):
            keys = self.by_region(self.program.tasks[number], at, owner, offset)
            yield at, tuple(chain.from_iterable(map(self.entry, keys)))

    def by_region(self, task: Task, at: int, owner: list[int], offset: list[int]) -> Iterator[Key]:
        writes, modes = task.writes, task.modes
        for name, region in zip(task.names, task.regions, strict=True):
            tensor, mode = region.tensor, modes.get(name)
            if tensor not in writes or owner[tensor] == at or mode in ("in", "no_dep"):
                continue
            spec, block = self.program.tensors[tensor].spec, owner[tensor]
            begin, end, is_whole = byte_range(spec, region.box) if region.part is None else (0, spec.size_bytes, False)
            place = tensor if block == NOWHERE else offset[tensor]
            if self.places.in_arena[block]:  # a part of one tensor, which begins with the block
                place, begin, end = 0, begin + place, end + place
            yield block, place, begin, end, is_whole and mode is None


def byte_range(spec: TensorSpec, box: Box | None) -> tuple[int, int, bool]:
    """Where the bytes of a box begin and end in its tensor, row by row, and whether it has all between."""
    if box is None:
        return 0, spec.size_bytes, True
    stride = DTYPE_BYTES[spec.dtype]
    begin = end = 0
    is_whole, is_full = True, True  # `is_full`: the box has all of the dims behind this one
    for (low, high), size in zip(reversed(box), reversed(spec.shape), strict=True):
        begin += low * stride
        end += (high - 1) * stride
        is_whole &= is_full or high - low <= 1
        is_full &= (low, high) == (0, size)
        stride *= size
    return begin, end + DTYPE_BYTES[spec.dtype], is_whole
