"""Submissions as arrays: what they wait for and hold, and their slots, of which an arena may have half a million."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import overload

import numpy as np

from runner.base.records import builder
from runner.program.lifetimes import Ints, Rows
from runner.program.program import Tensor
from runner.rings.schedule import Schedule, Slot, remembered

_new_slot = builder(Slot)


class ArenaSlots(Sequence[Slot]):
    """Slots of tensors of a program at these offsets and of these sizes, in bytes; each is made when it is asked for."""

    __slots__ = ("_known", "offsets", "sizes", "tensors")

    def __init__(self, known: Sequence[Tensor], tensors: Ints, offsets: Ints, sizes: Ints) -> None:
        self._known, self.tensors, self.offsets, self.sizes = known, tensors, offsets, sizes

    def __len__(self) -> int:
        return len(self.tensors)

    @overload
    def __getitem__(self, index: int) -> Slot: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Slot, ...]: ...
    def __getitem__(self, index: int | slice) -> Slot | tuple[Slot, ...]:
        if isinstance(index, slice):
            columns = self.tensors[index].tolist(), self.offsets[index].tolist(), self.sizes[index].tolist()
            names = [self._known[tensor].name for tensor in columns[0]]
            return tuple(map(_new_slot, *columns, names))
        tensor = int(self.tensors[index])
        return _new_slot(tensor, int(self.offsets[index]), int(self.sizes[index]), self._known[tensor].name)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


@remembered
def waits_of(schedule: Schedule) -> Rows:
    """Per submission those that it waits for."""
    return Rows.of([item.waits for item in schedule.submissions], np.int32)


@remembered
def holds_of(schedule: Schedule) -> Rows:
    """Per submission those whose blocks it holds."""
    return Rows.of([item.holds for item in schedule.submissions], np.int32)


def slot_arrays(blocks: Iterable[Sequence[Slot]]) -> tuple[Ints, Ints, Ints]:
    """The tensors, offsets and sizes of all slots, block by block."""
    found = [(np.zeros(0, np.int64),) * 3]
    for kind, group in groupby(blocks, type):
        if kind is ArenaSlots:
            found += [(block.tensors, block.offsets, block.sizes) for block in group if isinstance(block, ArenaSlots)]
        else:
            slots = list(chain.from_iterable(group))
            values = [[slot.tensor for slot in slots], [slot.offset for slot in slots], [slot.size_bytes for slot in slots]]
            found.append(tuple(np.array(column, np.int64) for column in values))
    tensors, offsets, sizes = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return tensors, offsets, sizes
