"""This module owns placements, what a strategy makes, of which `runner.rings.lowering` makes a flat schedule.

A placement is a tree of `PlacedScope`, `PlacedAlloc`, `PlacedTask`, `PlacedRead` and `PlacedLoop` items over the tasks of a
`Program`, in which a number stands for the task without extra edges; `lower` gives every tensor its place in a block and resolves
every edge to submissions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Protocol, TypeVar

from runner.base.errors import Mark
from runner.base.tensor_spec import MAX_BLOCK_BYTES, block_bytes
from runner.program.program import Program, Trips
from runner.rings.schedule import MAX_TENSORS, Schedule


@dataclass(frozen=True, slots=True)
class PlacedTask:
    """Submit a task here. What it creates is in its own block, except tensors that a PlacedAlloc already placed."""

    task: int
    extra_waits: tuple[int, ...] = ()  # tasks: the WAR and WAW edges that sharing a block needs


@dataclass(frozen=True, slots=True)
class PlacedAlloc:
    """A kernel-less submission whose block holds these tensors.

    Without `offsets` they lie one after another, and are at most `MAX_TENSORS`. With them the block is an arena of `size_bytes`,
    one tensor whose parts they are; those whose lives do not overlap may share bytes.
    """

    tensors: tuple[int, ...]
    offsets: tuple[int, ...] | None = None
    size_bytes: int = 0
    name: str = ""
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class PlacedRead:
    trips: Trips


@dataclass(frozen=True, slots=True)
class PlacedLoop:
    """A dynamic loop: `trips` and one tuple of items per trip."""

    trips: Trips
    bodies: tuple[tuple[PlacedItem, ...], ...]


@dataclass(frozen=True, slots=True)
class PlacedScope:
    name: str
    items: tuple[PlacedItem, ...]
    mode: str = "auto"
    mark: Mark | None = None


T = TypeVar("T")
PlacedItem = int | PlacedTask | PlacedAlloc | PlacedRead | PlacedLoop | PlacedScope


def in_allocs(items: Iterable[T]) -> list[tuple[T, ...]]:
    """Cut into parts of as many tensors as one alloc may have."""
    rest = iter(items)
    return list(iter(lambda: tuple(islice(rest, MAX_TENSORS)), ()))


def one_block(program: Program, tensors: Sequence[int]) -> list[PlacedAlloc]:
    """One block for all, whatever their number: beyond what an alloc may have they are parts of one tensor, an arena.

    Several allocs would need more bytes, as a ring's end can come between them; there are several where one would be larger than
    a block may be.
    """
    sizes = block_bytes([program.tensors[tensor].spec for tensor in tensors])
    if len(tensors) <= MAX_TENSORS and sum(sizes) <= MAX_BLOCK_BYTES:
        return [PlacedAlloc(tuple(tensors))]
    return arena_blocks(tensors, list(accumulate(sizes[:-1], initial=0)), sizes, "")


def arena_blocks(
    tensors: Sequence[int], offsets: Sequence[int], sizes: Sequence[int], name: str, mark: Mark | None = None
) -> list[PlacedAlloc]:
    """Allocs of tensors at these offsets, in bytes: one, or several, cut where no tensor lies across, if a block may not be that
    large; if there is no such place, a block has to be larger than allowed."""
    by_offset = sorted(range(len(tensors)), key=offsets.__getitem__)
    lows = [offsets[k] for k in by_offset]
    ends = list(accumulate((offsets[k] + sizes[k] for k in by_offset), max))
    cuts = [len(lows)]
    if lows and ends[-1] - lows[0] > MAX_BLOCK_BYTES:
        cuts = [*(k for k in range(1, len(lows)) if lows[k] >= ends[k - 1]), len(lows)]
    found, start = [], 0
    while start < len(lows):
        fitting = [k for k in cuts if k > start and ends[k - 1] - lows[start] <= MAX_BLOCK_BYTES]
        stop = max(fitting, default=cuts[-1])
        low = lows[start]
        places = tuple([at - low for at in lows[start:stop]] if low else lows[start:stop])
        chosen = tuple([tensors[k] for k in by_offset[start:stop]])
        found.append(PlacedAlloc(chosen, places, ends[stop - 1] - low, name, mark))
        start = stop
    return found


class Scheduler(Protocol):
    """A placement strategy: pure, deterministic, mutates nothing."""

    def __call__(self, program: Program, options: Mapping[str, object]) -> Schedule: ...
