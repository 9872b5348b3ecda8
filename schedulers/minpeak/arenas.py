"""Placements in which tensors share bytes: arenas with planned offsets, edges for their reuse, scopes that only let slots
retire.

    root scope          block arena0: all tensors of ring 0 at their offsets
      scope ring1       block arena1, if there are arenas on several rings
        scope root.0    256 tasks or fewer, no bytes: its slots retire when it ends
        scope root.1    ...
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.lifetimes import Floats, Ints, Lives, Rows
from runner.program.order import predecessors
from runner.program.program import Span
from runner.rings.placement import PlacedItem, PlacedLoop, PlacedRead, PlacedScope, arena_blocks
from runner.rings.schedule import NUM_RINGS
from schedulers.minpeak.folding import Fold, template, unfold_offsets
from schedulers.minpeak.packing import ROUNDS, STARTS, Packing, pack, pack_bins
from schedulers.minpeak.reuse_edges import Edges, sharing_edges
from schedulers.minpeak.techniques import ALL, Techniques

MAX_DIRECT = 256
"""Tasks in one scope without bytes: 1/64 of the slots of a ring's window, so that many such scopes are in flight at once."""

MAX_OPEN = 4_000
"""Tasks that may run inside one open scope of the last ring, whose slots cannot retire: a quarter of a window of 16,384."""

PARTED_UP_TO = 200
"""Tasks of programs whose arena lies on several rings where it can: in larger ones the 3 KiB of rings without one are nothing."""


@dataclass(frozen=True)
class Arenas:
    """Offsets of all locals over one arena per ring: ring r's is `[edges[r], edges[r + 1])`, in units of 1,024 bytes."""

    offsets: Ints
    edges: tuple[int, ...]
    packing: Packing

    @property
    def height(self) -> int:
        return self.edges[-1]


def one_arena(
    fold: Fold, lives: Lives, techniques: Techniques = ALL, times: tuple[Floats, Floats] | None = None, limit: int = 0
) -> Arenas:
    """All locals in one arena.

    With `times` (begin and finish of each), those that are in use at once share bytes only where the arena would exceed `limit`
    units otherwise.
    """
    one, rounds = template(fold, lives), ROUNDS
    if times is not None:
        one = replace(one, begin=times[0][one.tensors], finish=times[1][one.tensors], soft_limit=limit)
        rounds = len(STARTS)
    packing = pack(one, techniques, rounds=rounds)
    return Arenas(unfold_offsets(fold, one.tensors, packing.offsets, len(lives.locals)), (0, packing.height), packing)


def level_arenas(fold: Fold, lives: Lives, techniques: Techniques = ALL) -> Arenas:
    """All locals over arenas of the same height on as many rings as can stay open throughout."""
    num_bins = NUM_RINGS if lives.num_times <= MAX_OPEN else NUM_RINGS - 1
    one = template(fold, lives)
    packing, height = pack_bins(one, num_bins, techniques)
    offsets = unfold_offsets(fold, one.tensors, packing.offsets, len(lives.locals))
    return Arenas(offsets, tuple(height * k for k in range(num_bins + 1)), packing)


def parted(arenas: Arenas, size: Ints) -> list[Arenas]:
    """The same offsets on one ring, and cut where nothing lies across, for more and more rings: those without blocks have a unit
    each all the same."""
    inside = np.zeros(arenas.height + 2, np.int64)
    np.add.at(inside, arenas.offsets + 1, 1)
    np.add.at(inside, arenas.offsets + size, -1)
    cuts = (np.flatnonzero(np.cumsum(inside)[1 : arenas.height] == 0) + 1).tolist()[: NUM_RINGS - 1]
    return [replace(arenas, edges=(0, *cuts[:count], arenas.height)) for count in range(len(cuts) + 1)]


def place_arenas(
    fold: Fold, lives: Lives, waits: Rows, arenas: Arenas, techniques: Techniques = ALL
) -> tuple[list[PlacedItem], Edges]:
    """The arenas in scopes nested one in the other, every task inside all of them, and the reuse edges that `lower` has to add;
    `waits` are the edges of each task."""
    touched = np.zeros(len(lives.locals), bool)
    touched[lives.touches.values] = True
    kept = fold.stands_in[lives.first] == lives.first  # of the kept trips
    before = predecessors(np.flatnonzero(touched & kept), lives.first, arenas.offsets, lives.size)
    edges = sharing_edges(fold, waits, lives.touches, before, "pruning" in techniques)
    ring_of = np.searchsorted(arenas.edges, arenas.offsets, side="right") - 1
    rings = [np.flatnonzero(ring_of == ring) for ring in range(int(ring_of.max(initial=0)) + 1)]
    items = slot_scopes(lives.program.body, len(rings))
    for ring in reversed(range(len(rings))):
        mine = rings[ring][np.argsort(arenas.offsets[rings[ring]], kind="stable")]
        given, sizes = lives.locals[mine].tolist(), (lives.size[mine] * BLOCK_ALIGN).tolist()
        places = ((arenas.offsets[mine] - arenas.edges[ring]) * BLOCK_ALIGN).tolist()
        items = [*arena_blocks(given, places, sizes, f"arena{ring}"), *items]
        if ring:
            items = list[PlacedItem]([PlacedScope(f"ring{ring}", tuple(items))])
    return items, edges


def slot_scopes(span: Span, depth: int) -> list[PlacedItem]:
    """The items of a program inside a scope of `depth - 1`, runs of them in scopes of `depth` if there are many tasks.

    Such scopes hold no bytes: they let slots and pool entries retire. A dynamic loop of many tasks has a scope or more in each
    trip, and lies in none itself.
    """
    body = _Body(span, depth < NUM_RINGS)
    return body.runs() if body.weight > MAX_DIRECT and depth < NUM_RINGS else body.items


class _Body:
    """Items of one body without spans, each with its number of tasks; `weight` is that of all."""

    def __init__(self, span: Span, may_part: bool) -> None:
        self.path, self.may_part = span.path, may_part
        self.items: list[PlacedItem] = []
        self.weights: list[int] = []
        self.fill(span)
        self.weight = sum(self.weights)

    def fill(self, span: Span) -> None:
        add, weigh = self.items.append, self.weights.append
        for item in span.items:
            if isinstance(item, int):
                add(item)
                weigh(1)
            elif item.trips is not None:
                trips = [_Body(trip, self.may_part) for trip in item.items if isinstance(trip, Span)]
                weight = sum(trip.weight for trip in trips)
                parts = self.may_part and weight > MAX_DIRECT
                bodies = tuple(tuple(trip.runs() if parts else trip.items) for trip in trips)
                add(PlacedLoop(item.trips, bodies) if item.kind == "dynamic" else PlacedRead(item.trips))
                weigh(weight)
            else:
                self.fill(item)

    def runs(self) -> list[PlacedItem]:
        """The items in scopes of at most `MAX_DIRECT` tasks; a loop of more stays outside."""
        found: list[PlacedItem] = []
        start, room = 0, MAX_DIRECT
        for at, weight in enumerate([*self.weights, MAX_DIRECT + 1]):
            if weight > room:
                if at > start:
                    found.append(PlacedScope(f"{self.path}.{len(found)}", tuple(self.items[start:at])))
                start, room = at, MAX_DIRECT
            if weight > MAX_DIRECT:
                found += self.items[at : at + 1]
                start = at + 1
            else:
                room -= weight
        return found
