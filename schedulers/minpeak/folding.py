"""Loops solved once: of a loop whose trips are alike, two stand for all.

A loop folds when its trips have the same tasks, sizes, touches and edges up to a shift, and no tensor of one trip is touched by
another. Then every trip gets the same offsets, and the edges of trip 1 (towards trip 0 and what comes before the loop) shifted
are those of every later trip. `Fold` says which tasks are kept; tasks and tensors keep their numbers of the whole program. A kept
task of trip 1 stands for its clones in trips 1, 2, ...; inside nested loops, for the clones in all trips of each.

Five tasks: 0 makes x, a loop of three trips (1, 2, 3) reads x and makes a y in each, 4 makes z. Trips 0 and 1 are kept. To place
tensors one trip is enough, the *template*, whose times are 0, 1 and 2; offsets and edges are then repeated for the others:

    unit 1            y0  y1  y2
    unit 0        x   x   x   x   z
    task          0   1   2   3   4
    trip              0   1   2
    stands in     0   1   2   2   4
    time          0   1           2

    reuse edges: 1 -> 2, 2 -> 3, 3 -> 4

Edge 1 -> 2, between kept tasks, is repeated as 2 -> 3. So 3 comes after 1 and 2, and z, which lies where x lay, waits for 3.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from runner.program.lifetimes import Ints, Lives, Rows, task_columns
from runner.program.program import Span
from runner.program.spans import last_task, spans_of
from schedulers.minpeak.packing import Problem

KEPT_TRIPS = 2
"""Trips of a folded loop that are kept: the second alone shows which edges lead to the trip before."""

MIN_SAVED = 16
"""Loops that would drop fewer tasks than this stay as they are: less is saved than the comparison of trips takes."""

_BEFORE = 1 << 40
"""Larger than any task's number: what is added to it or taken off is not taken for a number inside the loop."""


@dataclass(frozen=True)
class FoldedLoop:
    """A loop of `num_trips` trips with `num_tasks` tasks and `num_locals` local tensors each.

    `start` is its first task, `base` its first local; `inner` lists the folded loops of each kept trip. One trip here may be
    several of the program's (see `regroup`).
    """

    start: int
    num_tasks: int
    num_trips: int
    base: int
    num_locals: int
    inner: tuple[tuple[FoldedLoop, ...], ...]

    @property
    def end(self) -> int:
        return self.start + self.num_tasks * self.num_trips

    def trip_start(self, trip: int) -> int:
        return self.start + trip * self.num_tasks

    def trip_of(self, task: int) -> int:
        return (task - self.start) // self.num_tasks

    def shape(self, start: int) -> tuple:
        """What trips of an outer loop must have in common about this one, seen from their own start."""
        inner = tuple(loop.shape(self.start) for loop in self.inner[0])
        return (self.start - start, self.num_tasks, self.num_trips, inner)


@dataclass(frozen=True)
class Fold:
    """`loops` are the outermost folded loops in order.

    kept       ids of the tasks that stand for all, ascending
    stands_in  per task the kept one that stands for it, seen from outside of all loops
    clones     per kept task (by id) how many it stands for, seen from there
    """

    loops: tuple[FoldedLoop, ...]
    kept: Ints
    stands_in: Ints
    clones: Ints

    def path(self, task: int) -> list[FoldedLoop]:
        """The folded loops around a kept task, outermost first."""
        found: list[FoldedLoop] = []
        loops = self.loops
        while (at := bisect_right(loops, task, key=lambda loop: loop.start) - 1) >= 0 and task < loops[at].end:
            found.append(loops[at])
            loops = loops[at].inner[loops[at].trip_of(task)]
        return found


def fold(lives: Lives, waits: Rows) -> Fold:
    """Fold every loop of the program that folds; `waits` are the edges of each task."""
    folder = _Folder(lives, waits)
    return _folded(tuple(folder.loops_in(lives.program.body)), len(waits))


def _folded(loops: tuple[FoldedLoop, ...], num_tasks: int) -> Fold:
    stands_in, clones = np.arange(num_tasks), np.ones(num_tasks, np.int64)
    _stand_in(loops, stands_in, clones)
    return Fold(loops, np.flatnonzero(stands_in == np.arange(num_tasks)), stands_in, clones)


def regroup(fold: Fold, group: int) -> Fold:
    """The fold in which `group` trips of each innermost loop count as one (or the most up to it that divide the loop's trips).

    Trips of one group may get bytes of their own, and then need not wait for each other.
    """

    def grouped(loop: FoldedLoop) -> FoldedLoop:
        if any(loop.inner):
            return replace(loop, inner=tuple(tuple(map(grouped, inner)) for inner in loop.inner))
        most = max(1, min(group, loop.num_trips // (KEPT_TRIPS + 1)))
        by = next(g for g in range(most, 0, -1) if loop.num_trips % g == 0)
        return replace(loop, num_tasks=by * loop.num_tasks, num_trips=loop.num_trips // by, num_locals=by * loop.num_locals)

    return _folded(tuple(map(grouped, fold.loops)), len(fold.stands_in))


def unfolded(num_tasks: int) -> Fold:
    """No loop folded: every task stands for itself."""
    return _folded((), num_tasks)


def _stand_in(loops: Sequence[FoldedLoop], stands_in: Ints, clones: Ints) -> None:
    for loop in loops:
        for inner in loop.inner:
            _stand_in(inner, stands_in, clones)
        second = slice(loop.trip_start(1), loop.trip_start(2))
        clones[second] *= loop.num_trips - 1
        table = stands_in[loop.start : loop.end].reshape(loop.num_trips, -1)
        table[KEPT_TRIPS:] = table[1]


class _Folder:
    """Finds the loops that fold. `created` is per task the number of locals created before it, `made` these in that order."""

    def __init__(self, lives: Lives, waits: Rows) -> None:
        self.lives, self.waits = lives, waits
        creates = task_columns(lives.program).tensors(lambda task: task.creates)
        self.created, self.made = creates.starts, np.searchsorted(lives.locals, creates.values)

    def loops_in(self, span: Span) -> Iterator[FoldedLoop]:
        """Folded loops inside a span, in order, those inside folded ones left to them."""
        for item in span.items:
            if isinstance(item, Span):
                loop = self.folded(item) if item.kind in ("for", "dynamic") else None
                yield from self.loops_in(item) if loop is None else (loop,)

    def folded(self, span: Span) -> FoldedLoop | None:
        """The span as a folded loop, None if its trips are not alike or too few."""
        trips = [trip for trip in span.items if isinstance(trip, Span)]
        if len(trips) <= KEPT_TRIPS or len(trips) != len(span.items):
            return None
        start, end = next(span.tasks(), -1), last_task(span) + 1
        size, rest = divmod(end - start, len(trips))
        if start < 0 or rest or (len(trips) - KEPT_TRIPS) * size < MIN_SAVED:
            return None
        begins = [start + k * size for k in range(len(trips))]
        if [next(trip.tasks(), -1) for trip in trips] != begins or not self._alike(start, size, len(trips)):
            return None
        inner: list[tuple[FoldedLoop, ...]] = [()] * KEPT_TRIPS
        if any(isinstance(item, Span) for trip in trips for item in trip.items):
            inner = [tuple(self.loops_in(trip)) for trip in trips]
            shapes = {tuple(loop.shape(begin) for loop in loops) for begin, loops in zip(begins, inner, strict=True)}
            reads = {self._reads(trip, begin, size) for begin, trip in zip(begins, trips, strict=True)}
            if len(shapes) > 1 or len(reads) > 1:
                return None
        first, last = int(self.created[start]), int(self.created[end])
        base = int(self.made[first]) if last > first else 0
        return FoldedLoop(start, size, len(trips), base, (last - first) // len(trips), tuple(inner[:KEPT_TRIPS]))

    def _alike(self, start: int, size: int, num_trips: int) -> bool:
        """Whether all trips create and touch alike, and those from trip 1 on wait alike."""
        tasks = slice(start, start + size * num_trips)
        made = self.created[start : start + size * num_trips + 1]
        num_made = int(made[-1] - made[0])
        own_locals = self.made[int(made[0]) : int(made[-1])]
        if not _same(np.diff(made), num_trips) or (np.diff(own_locals) != 1).any():
            return False
        base, per_trip = int(own_locals[0]) if num_made else len(self.lives.size), num_made // num_trips
        if per_trip and not _same(self.lives.size[base : base + num_made], num_trips):
            return False
        touched = _table(self.lives.touches, tasks, num_trips)
        waited = _table(self.waits, tasks, num_trips, skip=1)
        if touched is None or waited is None:
            return False
        own = base + per_trip * np.arange(num_trips)[:, None]
        if ((touched >= base) & ((touched < own) | (touched >= own + per_trip))).any():
            return False  # a tensor of another trip
        begins = start + size * np.arange(1, num_trips)[:, None]
        touches = np.where(touched >= base, touched - own, touched - _BEFORE)
        return _same(touches, num_trips) and _same(np.where(waited >= start, waited - begins, waited - _BEFORE), num_trips - 1)

    def _reads(self, trip: Span, begin: int, size: int) -> tuple[tuple[int, ...], ...]:
        """Tensors read on the host inside a trip: its own ones as numbers from its first, others as they are, below 0."""
        made = self.lives.locals[self.made[self.created[begin] : self.created[begin + size]]].tolist()
        reads = (span.trips.reads for span in spans_of(trip) if span.trips is not None)
        return tuple(tuple(t - made[0] if t in made else t - _BEFORE for t in read) for read in reads)


def _table(rows: Rows, tasks: slice, num_trips: int, skip: int = 0) -> Ints | None:
    """Values of the rows of `tasks`, one line per trip, None unless all trips (but the first `skip`) have rows of the same
    lengths."""
    starts = rows.starts[tasks.start : tasks.stop + 1]
    lengths = np.diff(starts).reshape(num_trips, -1)[skip:]
    if (lengths != lengths[0]).any():
        return None
    first = starts[(tasks.stop - tasks.start) // num_trips * skip]
    return rows.values[first : starts[-1]].reshape(num_trips - skip, -1)


def _same(values: Ints, num_trips: int) -> bool:
    """Whether all trips have the same values."""
    table = values.reshape(num_trips, -1)
    return bool((table == table[0]).all())


@dataclass(frozen=True, kw_only=True)
class Template(Problem):
    """The program with one trip of every folded loop, as a packing problem.

    A tensor from outside a loop that lives in any of its trips lives through its only trip here. `tensors` are the locals that
    are left.
    """

    tensors: Ints


def template(fold: Fold, lives: Lives) -> Template:
    """Lives over the tasks of first trips; times are their numbers among these."""
    in_template = np.ones(lives.num_times, bool)
    first, last = lives.first.copy(), lives.end - 1
    level = list(fold.loops)
    while level:
        around, owner = np.full(lives.num_times, -1), np.full(len(lives.size), -1)  # the loop at this level, -1 for none
        for at, loop in enumerate(level):
            in_template[loop.trip_start(1) : loop.end] = False
            around[loop.start : loop.end] = at
            owner[loop.base : loop.base + loop.num_locals * loop.num_trips] = at
        starts, stops = [loop.start for loop in level], [loop.trip_start(1) - 1 for loop in level]
        for times, edges in ((first, starts), (last, stops)):
            # What begins or ends inside a loop and does not belong to it lives through its first trip.
            stretched = (around[times] >= 0) & (around[times] != owner)
            times[stretched] = np.array(edges)[around[times[stretched]]]
        level = [inner for loop in level for inner in loop.inner[0]]
    time = np.cumsum(in_template) - 1
    left = np.flatnonzero(in_template[lives.first])  # what a loop touches first belongs to it, or its first trip touches it
    return Template(time[first[left]], time[last[left]] + 1, lives.size[left], tensors=left)


def unfold_offsets(fold: Fold, left: Ints, offsets: Ints, num_locals: int) -> Ints:
    """Offsets of all locals from those of the template's tensors `left`."""
    found = np.zeros(num_locals, np.int64)
    found[left] = offsets
    _unfold(fold.loops, found)
    return found


def _unfold(loops: Sequence[FoldedLoop], found: Ints) -> None:
    for loop in loops:
        _unfold(loop.inner[0], found)
        own = found[loop.base : loop.base + loop.num_locals * loop.num_trips]
        own[:] = np.tile(own[: loop.num_locals], loop.num_trips)


def unfold_edges(fold: Fold, edges: Ints) -> Ints:
    """All edges, int64[2, num_edges] of sources and targets, from those whose target is kept: trip 1's are repeated for every
    later trip. Sorted by target, then source."""
    edges = _repeat(fold.loops, edges[:, np.lexsort(edges)])
    return edges[:, np.lexsort(edges)]


def _repeat(loops: Sequence[FoldedLoop], edges: Ints) -> Ints:
    """Edges of one frame, sorted by target, with those of all trips."""
    pieces: list[Ints] = []
    done = 0
    for loop in loops:
        marks = [loop.start, loop.trip_start(1), loop.trip_start(2), loop.end]
        start, second, third, end = np.searchsorted(edges[1], marks).tolist()
        repeated = _repeat(loop.inner[1], edges[:, second:third])
        shifts = loop.num_tasks * np.arange(1, loop.num_trips - 1)[:, None, None]
        later = repeated + shifts * (repeated >= loop.start)  # [trip, source or target, edge]
        pieces += [edges[:, done:start], _repeat(loop.inner[0], edges[:, start:second]), repeated, *later]
        done = end
    return np.hstack([*pieces, edges[:, done:]])
