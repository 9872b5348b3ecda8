"""Placements in which tensors share bytes: arenas with planned offsets, edges for their reuse, scopes that only let slots
retire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.program import Span
from runner.rings.heap import MAX_BLOCK_BYTES
from runner.rings.placement import PlacedAlloc, PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask, placed_task
from runner.rings.schedule import NUM_RINGS
from schedulers.lifetimes import Floats, Lives, Rows, last_task, live_units
from schedulers.minpeak.folding import Fold, Template, kept_locals, template, unfold_offsets
from schedulers.minpeak.packing import EFFORT, STARTS, Packing, Problem, pack, pack_bins
from schedulers.minpeak.reuse_edges import predecessors, sharing_edges

MAX_DIRECT = 256
"""More items than this in one scope are put into scopes of their own, which cost no bytes and let slots retire."""

MAX_DEALS = 20_000
"""Steps of the search that deals tensors to rings."""

MAX_OPEN = 4_000
"""Programs with more tasks never run inside one open scope of the last ring, whose slots could not retire."""


@dataclass(frozen=True)
class Arenas:
    """Offsets of all locals over one arena per ring: ring r's is `[edges[r], edges[r + 1])`, in units.

    `bound` is what all arenas together need at least, as far as it was proved by search; 0 if it was not.
    """

    offsets: np.ndarray
    edges: tuple[int, ...]
    bound: int = 0

    @property
    def height(self) -> int:
        return self.edges[-1]


def one_arena(fold: Fold, lives: Lives, times: tuple[Floats, Floats] | None = None, limit: int = 0) -> Arenas:
    """All locals in one arena.

    With `times` (begin and finish of each), those that are in use at once share bytes only where the arena would exceed `limit`
    units otherwise.
    """
    one = template(fold, lives)
    problem = Problem.free(one.first, one.end, one.size)
    if times is not None:
        problem = replace(problem, begin=times[0][one.tensors], finish=times[1][one.tensors], soft_limit=limit)
    packing = pack(problem, rounds=0 if times is None else max(1, min(len(STARTS), EFFORT // max(1, len(problem)))))
    # Folding stretches some lives, so the height of a folded packing proves nothing.
    bound = packing.height if packing.optimal and not fold.loops and times is None else 0
    return Arenas(_unfold(fold, one, packing, lives), (0, packing.height), bound)


def split_arena(fold: Fold, lives: Lives, arena: Arenas) -> Arenas:
    """Arenas over all rings with the least total, if it is less than that of one: a ring without blocks has 1,024 bytes anyway.

    Tensors are dealt to the rings one by one, those that live together at the peak first; `bound` is set if the search ended.
    """
    one = template(fold, lives)
    search = _Deal(Problem.free(one.first, one.end, one.size), arena.height + NUM_RINGS - 1)
    search.run()
    proved = not search.exhausted and not fold.loops
    bound = search.limit if proved else arena.bound
    if search.best is None:
        return replace(arena, bound=bound)
    offsets, edges = np.zeros(len(one.size), np.int64), [0]
    for tensors, packing in search.best:
        offsets[tensors] = packing.offsets + edges[-1]
        edges.append(edges[-1] + packing.height)
    return Arenas(unfold_offsets(fold, one.tensors, offsets, len(lives.locals)), tuple(edges), bound)


class _Deal:
    """Branch and bound over the ways to deal tensors to rings; `limit` is the total to beat, in units."""

    def __init__(self, problem: Problem, limit: int) -> None:
        self.problem, self.limit = problem, limit
        self.floor = max(NUM_RINGS, problem.lower_bound())
        self.nodes = MAX_DEALS
        self.exhausted = False
        self.best: list[tuple[np.ndarray, Packing]] | None = None
        live = live_units(problem.first, problem.end, problem.size, int(problem.end.max(initial=0)))
        at_peak = int(np.argmax(live)) if len(live) else 0
        spans = (problem.first <= at_peak) & (problem.end > at_peak)
        self.order = np.lexsort((-problem.size, ~spans)).tolist()
        self.lives = list(zip(problem.first.tolist(), problem.end.tolist(), problem.size.tolist(), strict=True))
        self.levels = [[0] * len(live) for _ in range(NUM_RINGS)]
        self.peaks = [0] * NUM_RINGS
        self.dealt: list[list[int]] = [[] for _ in range(NUM_RINGS)]

    def run(self, at: int = 0) -> None:
        if self.limit <= self.floor or self.exhausted:
            return
        self.nodes -= 1
        if self.nodes < 0:
            self.exhausted = True
        elif at == len(self.order):
            self._pack()
        else:
            tensor = self.order[at]
            first, end, size = self.lives[tensor]
            for ring in range(NUM_RINGS):
                level, peak = self.levels[ring], self.peaks[ring]
                old = level[first:end]
                level[first:end] = [units + size for units in old]
                self.peaks[ring] = max(peak, max(old) + size)
                self.dealt[ring].append(tensor)
                if sum(self.peaks) + self.peaks.count(0) < self.limit:
                    self.run(at + 1)
                level[first:end] = old
                self.peaks[ring] = peak
                self.dealt[ring].pop()
                if not self.dealt[ring]:
                    break  # the rings after it are empty too

    def _pack(self) -> None:
        """Offsets for a deal whose peaks promise a lower total."""
        found = []
        total = NUM_RINGS - sum(map(bool, self.dealt))
        for ring in filter(None, self.dealt):
            mine, problem = np.array(ring), self.problem
            packing = pack(Problem.free(problem.first[mine], problem.end[mine], problem.size[mine]))
            self.exhausted = self.exhausted or not packing.optimal
            total += packing.height
            found.append((mine, packing))
        if total < self.limit:
            self.limit, self.best = total, found


def level_arenas(fold: Fold, lives: Lives) -> Arenas:
    """All locals over arenas of the same height on as many rings as can stay open throughout."""
    num_bins = NUM_RINGS if lives.num_times <= MAX_OPEN else NUM_RINGS - 1
    one = template(fold, lives)
    packing, height = pack_bins(Problem.free(one.first, one.end, one.size), num_bins)
    proved = packing.optimal and not fold.loops and num_bins == NUM_RINGS
    bound = height if proved or height == int(one.size.max(initial=0)) else 0  # no ring is smaller than its largest block
    return Arenas(_unfold(fold, one, packing, lives), tuple(height * k for k in range(num_bins + 1)), bound)


def _unfold(fold: Fold, one: Template, packing: Packing, lives: Lives) -> np.ndarray:
    return unfold_offsets(fold, one.tensors, packing.offsets, len(lives.locals))


def place_arenas(fold: Fold, lives: Lives, waits: Rows, arenas: Arenas) -> list[PlacedItem]:
    """The arenas in scopes nested one in the other, every task inside all of them."""
    extra = arena_waits(fold, lives, waits, arenas.offsets)
    ring_of = np.searchsorted(arenas.edges, arenas.offsets, side="right") - 1
    rings = [np.flatnonzero(ring_of == ring) for ring in range(len(arenas.edges) - 1)]
    while len(rings) > 1 and not len(rings[-1]):
        rings.pop()
    items = scoped_items(lives.program.body, extra, len(rings))
    for ring in reversed(range(len(rings))):
        mine = rings[ring]
        if len(mine):
            items = [*_allocs(lives, mine, arenas.offsets[mine] - arenas.edges[ring], f"arena{ring}"), *items]
        if ring:
            items = list[PlacedItem]([PlacedScope(f"ring{ring}", tuple(items))])
    return items


def _allocs(lives: Lives, mine: np.ndarray, offsets: np.ndarray, name: str) -> list[PlacedItem]:
    """An alloc of the tensors `mine` at these offsets; several, cut where no tensor lies across, if a block may not be that
    large."""
    ends = offsets + lives.size[mine]
    most = MAX_BLOCK_BYTES // BLOCK_ALIGN
    found: list[PlacedItem] = []
    low = 0
    by_offset = np.argsort(offsets, kind="stable")
    while len(by_offset):
        reach = by_offset[ends[by_offset] <= low + most]
        high = int(ends[reach].max())
        if len(reach) < len(by_offset):
            high = _clean_cut(offsets[by_offset], ends[by_offset], low, most)
            reach = by_offset[ends[by_offset] <= high]
        tensors = tuple(lives.locals[mine[reach]].tolist())
        places = tuple(((offsets[reach] - low) * BLOCK_ALIGN).tolist())
        found.append(PlacedAlloc(tensors, places, (high - low) * BLOCK_ALIGN, name))
        by_offset = by_offset[ends[by_offset] > high]
        low = int(offsets[by_offset].min()) if len(by_offset) else high
    return found


def _clean_cut(offsets: np.ndarray, ends: np.ndarray, low: int, most: int) -> int:
    """The highest offset up to `low + most` that no tensor lies across; if there is none, a block has to be larger than
    allowed."""
    for high in sorted(set(ends[(ends > low) & (ends <= low + most)].tolist()), reverse=True):
        if not ((offsets < high) & (ends > high)).any():
            return high
    return int(ends.max())


def arena_waits(fold: Fold, lives: Lives, waits: Rows, offsets: np.ndarray) -> list[tuple[int, ...]]:
    """Per task the tasks it must wait for because of shared bytes."""
    touched = np.zeros(len(lives.locals), bool)
    touched[lives.touches.values] = True
    tensors = kept_locals(fold, len(lives.locals))
    before = predecessors(tensors[touched[tensors]], lives.first, offsets, lives.size)
    sources, targets = sharing_edges(fold, waits, lives.touches, before)
    found: list[tuple[int, ...]] = [()] * len(waits)
    marks = [*np.flatnonzero(np.diff(targets, prepend=-1)).tolist(), len(targets)]
    for low, high in pairwise(marks):
        found[int(targets[low])] = tuple(sources[low:high].tolist())
    return found


def scoped_items(span: Span, extra: Sequence[tuple[int, ...]], depth: int) -> list[PlacedItem]:
    """The items of a span inside a scope of `depth - 1`; trips of long loops get scopes, while rings are left, and so do long
    runs.

    Such scopes hold no bytes: they let slots and pool entries retire. Inner loops, which have the most trips, go first where
    there are not enough rings for all.
    """
    wrapped: set[int] = set()
    _choose(span, depth, wrapped)
    return _Scoped(extra, wrapped).items(span, depth)


def _choose(span: Span, depth: int, wrapped: set[int]) -> int:
    """Note which trips get a scope (by `id`); returns how many levels of such scopes lie inside the span."""
    most = 0
    for item in span.items:
        if isinstance(item, int) or item.kind == "read":
            continue
        long = item.kind in ("for", "dynamic") and _num_tasks(item) > MAX_DIRECT
        inside = _choose(item, depth + long, wrapped)
        if long and inside + depth < NUM_RINGS:
            wrapped |= {id(trip) for trip in item.items if isinstance(trip, Span)}
            inside += 1
        most = max(most, inside)
    return most


def _num_tasks(span: Span) -> int:
    first = next(span.tasks(), None)
    return 0 if first is None else last_task(span) + 1 - first


@dataclass(frozen=True)
class _Scoped:
    extra: Sequence[tuple[int, ...]]
    wrapped: set[int]

    def items(self, span: Span, depth: int) -> list[PlacedItem]:
        items: list[PlacedItem] = []
        self._fill(span, depth, items)
        return _chunk(items, span.path, depth)

    def _fill(self, span: Span, depth: int, items: list[PlacedItem]) -> None:
        extra = self.extra
        for item in span.items:
            if isinstance(item, int):
                items.append(placed_task(item, extra[item]))
            elif item.kind == "read":
                assert item.trips is not None
                items.append(PlacedRead(item.trips))
            elif item.kind == "dynamic":
                assert item.trips is not None
                bodies = tuple(tuple(self._trip(trip, depth)) for trip in item.items if isinstance(trip, Span))
                items.append(PlacedLoop(item.trips, bodies))
            elif id(item) in self.wrapped:
                items += self._trip(item, depth)
            else:
                self._fill(item, depth, items)

    def _trip(self, trip: Span, depth: int) -> list[PlacedItem]:
        if id(trip) in self.wrapped:
            return [PlacedScope(trip.path, tuple(self.items(trip, depth + 1)), mark=trip.mark)]
        items: list[PlacedItem] = []
        self._fill(trip, depth, items)
        return items


def _chunk(items: list[PlacedItem], path: str, depth: int) -> list[PlacedItem]:
    """Scopes around runs of bare tasks, where there are many."""
    if sum(isinstance(item, PlacedTask) for item in items) <= MAX_DIRECT or depth >= NUM_RINGS:
        return items
    found: list[PlacedItem] = []
    run: list[PlacedItem] = []

    def close() -> None:
        if run:
            found.append(PlacedScope(f"{path}.{len(found)}", tuple(run)))
            run.clear()

    for item in items:
        if isinstance(item, PlacedTask | PlacedRead) and len(run) < MAX_DIRECT:
            run.append(item)
            continue
        close()
        (run if isinstance(item, PlacedTask | PlacedRead) else found).append(item)
    close()
    return found


def automatic(items: Sequence[PlacedItem]) -> list[PlacedItem]:
    """The same placement with every scope automatic: the same bytes, and all the edges that the data needs."""

    def one(item: PlacedItem) -> PlacedItem:
        if isinstance(item, PlacedScope):
            return replace(item, items=tuple(map(one, item.items)), mode="auto")
        if isinstance(item, PlacedLoop):
            return replace(item, bodies=tuple(tuple(map(one, body)) for body in item.bodies))
        return item

    return list(map(one, items))
