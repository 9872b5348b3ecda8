"""The minpeak strategy: the placement that needs the least heap.

With sharing, all tensors lie in one arena of the root scope, whose offsets are planned (`schedulers.arena`) and whose reuse is
made safe by edges (`schedulers.sharing`). See docs/minpeak.md for why no placement over four rings needs fewer bytes than the
best arena.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.program import Program, Span
from runner.schedule import PlacedAlloc, PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask, Schedule, lower
from runner.spec import BLOCK_ALIGN
from schedulers.arena import Packing, Problem, pack
from schedulers.lifetimes import Lives, Rows, lives_of
from schedulers.sharing import predecessors, sharing_waits

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
    packing = pack_arena(lives)
    schedule = lower(program, arena_placement(lives, packing), "minpeak")
    total = packing.height * BLOCK_ALIGN
    return Plan(schedule, Certificate(total, lives.peak_live_bytes, "peak_live", packing.optimal))


def pack_arena(lives: Lives) -> Packing:
    return pack(Problem.free(lives.first, lives.end, lives.size))


def arena_placement(lives: Lives, packing: Packing) -> list[PlacedItem]:
    """One arena in the root scope, every task in scopes that hold no bytes."""
    extra = arena_waits(lives, packing)
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


def arena_waits(lives: Lives, packing: Packing) -> list[list[int]]:
    """Per task the tasks it must wait for because of shared bytes."""
    tasks = lives.program.tasks
    touched = np.zeros(len(lives.locals), bool)
    touched[lives.touches.values] = True
    before = predecessors(lives.first, np.where(touched, packing.offsets, -1), lives.size)
    touches = [lives.touches.row(t) for t in range(len(tasks))]
    waits = Rows.of([task.waits + task.after for task in tasks])
    return sharing_waits(waits, Rows.of(touches), before)


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
