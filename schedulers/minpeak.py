"""The minpeak strategy: the placement that needs the least heap.

With sharing, all tensors lie in one arena of the root scope, whose offsets are planned (`schedulers.arena`) and whose reuse is
made safe by edges (`schedulers.sharing`). See docs/minpeak.md for why no placement over four rings needs fewer bytes than the
best arena.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from runner.program import Program, Span
from runner.schedule import PlacedAlloc, PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask, Schedule, lower
from runner.spec import BLOCK_ALIGN
from schedulers.arena import Packing, Problem, pack
from schedulers.fold import Fold, fold, kept_locals, template, unfold_offsets, unfolded
from schedulers.lifetimes import Lives, Rows, lives_of
from schedulers.sharing import predecessors, sharing_edges

FOLD_FROM = 4_000
"""Programs with more tasks than this have their loops folded; smaller ones are solved in full."""

MAX_DIRECT = 256
"""More tasks than this in one scope are put into scopes of their own, which cost no bytes and let slots retire."""


@dataclass(frozen=True)
class Certificate:
    """`lower_bound_bytes` holds for every placement of this order; `proved_optimal` when no valid one has a smaller total."""

    total_bytes: int
    lower_bound_bytes: int
    bound: str
    proved_optimal: bool

    @property
    def gap_bytes(self) -> int:
        return self.total_bytes - self.lower_bound_bytes


@dataclass(frozen=True)
class Plan:
    schedule: Schedule
    certificate: Certificate


def minpeak(program: Program, options: Mapping[str, object]) -> Schedule:
    """The schedule of `plan`."""
    return plan(program, options).schedule


def plan(program: Program, options: Mapping[str, object]) -> Plan:
    """A placement of `program` with the least total heap, and what is proved about it."""
    lives = lives_of(program)
    waits = Rows.of([task.waits + task.after for task in program.tasks])
    folded = fold(lives, waits) if len(program.tasks) > FOLD_FROM else unfolded(len(program.tasks))
    packing = pack_arena(folded, lives)
    schedule = lower(program, arena_placement(folded, lives, waits, packing), "minpeak")
    total = packing.height * BLOCK_ALIGN
    return Plan(schedule, Certificate(total, lives.peak_live_bytes, "peak_live", packing.optimal))


def pack_arena(folded: Fold, lives: Lives) -> Packing:
    """Offsets of all locals in one arena."""
    one = template(folded, lives)
    packing = pack(Problem.free(one.first, one.end, one.size))
    offsets = unfold_offsets(folded, one.tensors, packing.offsets, len(lives.locals))
    return Packing(
        offsets, packing.height, packing.height * BLOCK_ALIGN == lives.peak_live_bytes or (packing.optimal and not folded.loops)
    )


def arena_placement(folded: Fold, lives: Lives, waits: Rows, packing: Packing) -> list[PlacedItem]:
    """One arena in the root scope, every task in scopes that hold no bytes."""
    extra = arena_waits(folded, lives, waits, packing)
    items = scoped_items(lives.program.body, extra, 1)
    if not len(lives.locals):
        return items
    arena = PlacedAlloc(
        tuple(lives.locals.tolist()),
        tuple((packing.offsets * BLOCK_ALIGN).tolist()),
        packing.height * BLOCK_ALIGN,
        "arena",
    )
    return [arena, *items]


def arena_waits(folded: Fold, lives: Lives, waits: Rows, packing: Packing) -> list[tuple[int, ...]]:
    """Per task the tasks it must wait for because of shared bytes."""
    touched = np.zeros(len(lives.locals), bool)
    touched[lives.touches.values] = True
    tensors = kept_locals(folded, len(lives.locals))
    before = predecessors(tensors[touched[tensors]], lives.first, packing.offsets, lives.size)
    sources, targets = sharing_edges(folded, waits, lives.touches, before)
    found: list[tuple[int, ...]] = [()] * len(waits)
    marks = [*np.flatnonzero(np.diff(targets, prepend=-1)).tolist(), len(targets)]
    for low, high in pairwise(marks):
        found[int(targets[low])] = tuple(sources[low:high].tolist())
    return found


def scoped_items(span: Span, extra: Sequence[Sequence[int]], depth: int) -> list[PlacedItem]:
    """The items of a span; children with several tasks get a scope while rings are left, and so do long runs of tasks."""
    items: list[PlacedItem] = []
    for item in span.items:
        if isinstance(item, int):
            items.append(PlacedTask(item, tuple(extra[item])))
        elif item.kind == "read":
            assert item.trips is not None
            items.append(PlacedRead(item.trips))
        elif item.kind == "dynamic":
            assert item.trips is not None
            bodies = tuple(tuple(_wrap(trip, extra, depth)) for trip in item.items if isinstance(trip, Span))
            items.append(PlacedLoop(item.trips, bodies))
        else:
            items += _wrap(item, extra, depth)
    return _chunk(items, span.path, depth)


def _wrap(span: Span, extra: Sequence[Sequence[int]], depth: int) -> list[PlacedItem]:
    inner = scoped_items(span, extra, depth + 1)
    if len(inner) <= 1 or depth > 3:
        return inner
    return [PlacedScope(span.path, tuple(inner), mark=span.mark)]


def _chunk(items: list[PlacedItem], path: str, depth: int) -> list[PlacedItem]:
    if len(items) <= MAX_DIRECT or depth > 3:
        return items
    return [PlacedScope(f"{path}.{k}", tuple(items[k : k + MAX_DIRECT])) for k in range(0, len(items), MAX_DIRECT)]
