"""This module works out how large the rings must be: `least`, `robust` and safe capacity, windows, pools, lower bounds. In bytes.

Everything rests on one fact (docs/memory-model.md proves it): under `eager` progress a ring's blocks fall into *epochs*. An epoch
begins with the first block after the ring was empty and ends when the scope that owns that block closes; nothing is reclaimed in
between, and at its end the ring is empty. So each ring can be studied alone, as a list of epochs.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from runner.base.tensor_spec import block_bytes
from runner.program.lifetimes import Ints, first_and_last_touches, live_units
from runner.program.program import Program
from runner.program.spans import host_reads
from runner.rings.heap import INLINE_EDGES
from runner.rings.lowering.arrays import waits_of
from runner.rings.parts.ring import POOL_SWEEP
from runner.rings.schedule import NUM_RINGS, Begin, End, Schedule, remembered
from runner.rings.sizes import MIN_HEAP_BYTES, MIN_WINDOW
from runner.rings.steps import OpenLoop, StepWalk


@dataclass(slots=True)
class RingLoad:
    """What one ring is asked to hold.

    epochs       per epoch the running totals of its blocks: `(0, n1, n1 + n2, ...)`, blocks without bytes left out
    num_slots    per epoch the number of submissions
    num_allocs   how many of all of these have no kernel
    pool_bound   entries that the dependency pool can need at worst: no producer completes before its users are submitted, and
                 every sweep comes where it frees least; whatever the trip counts
    dynamic      whether the epochs depend on a trip count
    """

    epochs: list[tuple[int, ...]] = field(default_factory=list)
    num_slots: list[int] = field(default_factory=list)
    pool_bound: int = 0
    dynamic: bool = False
    num_allocs: int = 0

    @property
    def num_tasks(self) -> int:
        return sum(self.num_slots)

    @property
    def num_blocks(self) -> int:
        return sum(len(epoch) - 1 for epoch in self.epochs)

    @property
    def largest_block(self) -> int:
        return max((_largest(epoch) for epoch in set(self.epochs)), default=0)

    @property
    def span(self) -> int:
        """The most bytes that are held at once on an endless ring."""
        return max((epoch[-1] for epoch in self.epochs), default=0)


@remembered
def ring_loads(schedule: Schedule) -> list[RingLoad]:
    """The epochs of each ring when every trip that the schedule holds runs; nobody changes them."""
    facts = _Facts(schedule)
    collectors = [_Epochs(RingLoad(), ring, facts) for ring in range(NUM_RINGS)]
    walk = StepWalk(schedule)
    outer_loops: list[int] = []  # per open scope, how many dynamic loops are open around it
    epoch = collectors[0]  # of the innermost open scope's ring
    for step in walk.runs():
        if isinstance(step, range):
            epoch.submit(step, walk.scopes[-1], walk.loops, outer_loops[-1])
        elif isinstance(step, Begin):
            outer_loops.append(len(walk.loops))
            epoch = collectors[walk.rings[-1]]
        elif isinstance(step, End):
            outer_loops.pop()
            epoch.end(step.scope)
            epoch = collectors[walk.rings[-2:][0]]  # of the scope around it; the root ends last
    for collector in collectors:
        collector.settle()
    first_kept = facts.first_kept()
    for collector in collectors:
        collector.load.pool_bound = collector.pool_bound(first_kept)
    return [collector.load for collector in collectors]


class _Facts:
    """What is asked of each submission: its edges, how many take an entry of the pool unless their producers have completed, as
    allocs always have, how many it does not hold itself, its bytes, and whether it is an alloc; and what `_Epochs` notes: its
    ring, its number there, and the number of the first in its epoch (`begin`; `first` is that submission)."""

    def __init__(self, schedule: Schedule) -> None:
        submissions, self.edges = schedule.submissions, waits_of(schedule)
        num = len(submissions)
        self.is_alloc = np.fromiter((item.core is None for item in submissions), bool, num)
        self.size = np.fromiter((item.size_bytes for item in submissions), np.int64, num)
        self.num_edges = np.diff(self.edges.starts)
        to_allocs = np.concatenate(([0], np.cumsum(self.is_alloc[self.edges.values])))[self.edges.starts]
        self.num_taken = self.num_edges - np.diff(to_allocs)
        self.num_spilled = np.maximum(self.num_edges - INLINE_EDGES, 0)
        self.weight: list[int] = (self.num_taken + _ALLOC * self.is_alloc).tolist()
        self.ring = np.full(num, -1, np.int8)
        self.place, self.begin, self.first = (np.zeros(num, np.int32) for _ in range(3))

    def first_kept(self) -> Ints:
        """Of each submission the number, on its ring, of the first that it waits for in an earlier epoch; else `begin`."""
        found, owners, values = self.begin.copy(), self.edges.owners(), self.edges.values
        earlier = (values < self.first[owners]) & (self.ring[values] == self.ring[owners])
        np.minimum.at(found, owners[earlier], self.place[values[earlier]])
        return found


class _Epochs:
    """Collects the epochs of one ring: block sizes and edges of the present one, and the scope that ends it.

    An edge takes an entry of the pool unless its producer has completed, as allocs always have; but before any of a task's are
    taken there must be room for all.
    """

    def __init__(self, load: RingLoad, ring: int, facts: _Facts) -> None:
        self.load, self.ring, self.facts = load, ring, facts
        self.owner: int | None = None
        self.last = _LastEdges()
        self.runs: list[tuple[int, int]] = []  # submissions from the one to before the other, all of the ring in order
        self.in_loops: list[bool] = []  # whether each of them lies in a dynamic loop
        self.varies_from: int | None = None  # the first submission from which on they depend on trip counts, as all below
        self.num = 0  # submissions so far
        self.begins: list[int] = []  # per epoch the number of its first submission on the ring
        self.num_before: list[int | None] = []  # and the most entries from before it that no sweep may have freed; None: all

    def submit(self, run: range, scope: int, loops: Sequence[OpenLoop], num_outer: int) -> None:
        """Note submissions of `scope`; `loops` are the open dynamic loops, of which `num_outer` lie around the scope."""
        last = self.last
        if loops or last.loops:
            last.follow(loops)
            self.varies_from = self.num if self.varies_from is None else self.varies_from
        if self.owner is None:
            self.owner = scope
            self.begins.append(self.num)
            self.num_before.append(last.most(num_outer))
        last.submit(self.facts.weight[run.start : run.stop])
        self.runs.append((run.start, run.stop))
        self.in_loops.append(bool(loops))
        self.num += len(run)

    def end(self, scope: int) -> None:
        if scope == self.owner:
            self.load.num_slots.append(self.num - self.begins[-1])
            self.owner = None

    def settle(self) -> None:
        """All submissions of the ring are known: note of each where it is."""
        facts, runs = self.facts, np.array(self.runs, np.int64).reshape(-1, 2)
        lengths = runs[:, 1] - runs[:, 0]
        self.mine = np.repeat(runs[:, 1] - np.cumsum(lengths), lengths) + np.arange(self.num)
        in_loop = np.repeat(np.array(self.in_loops, bool), lengths)
        size = facts.size[self.mine]
        self.load.num_allocs = int(np.count_nonzero(facts.is_alloc[self.mine]))
        self.load.dynamic = bool(np.any(in_loop & ((self.ring == NUM_RINGS - 1) | (size > 0))))
        self.load.epochs = self.epochs(size)
        self.begin = np.repeat(np.array(self.begins, np.int64), np.diff([*self.begins, self.num]))
        facts.ring[self.mine], facts.place[self.mine] = self.ring, np.arange(self.num)
        facts.begin[self.mine], facts.first[self.mine] = self.begin, self.mine[self.begin]

    def epochs(self, size: Ints) -> list[tuple[int, ...]]:
        """See `RingLoad`; `size` is of the ring's submissions. Most epochs hold no bytes; equal ones are kept once."""
        begins, lengths, totals = self.begins, self.load.num_slots, _totals(size > 0)
        known, found = dict[tuple[int, ...], tuple[int, ...]](), list[tuple[int, ...]]([(0,)]) * len(lengths)
        ends = np.array(begins[: len(lengths)], np.int64) + lengths
        for k in np.flatnonzero(totals[ends] > totals[begins[: len(lengths)]]).tolist() if lengths else ():
            sizes = size[begins[k] : begins[k] + lengths[k]]
            epoch = (0, *accumulate(sizes[sizes > 0].tolist()))
            found[k] = known.setdefault(epoch, epoch)
        return found

    def pool_bound(self, first_kept: Ints) -> int:
        """The most entries that must be free for a task with edges; `first_kept` is of `_Facts`.

        The pool is swept only when 64 tasks have retired since the last sweep, so up to 63 tasks from before the epoch may still
        hold entries. Edges beyond the 64 that a task holds itself spill; those entries are reclaimed with their task. While a
        task waits for room all its producers are kept, and nothing behind one of them retires, in an earlier epoch either.
        """
        facts, mine, begin = self.facts, self.mine, self.begin
        kept, at = first_kept[mine], np.arange(len(mine))
        spilled, taken, allocs = (_totals(per[mine]) for per in (facts.num_spilled, facts.num_taken, facts.is_alloc))
        varies = at >= (len(mine) if self.varies_from is None else self.varies_from)
        of_epoch = np.array(
            [taken[k] if num is None else num for k, num in zip(self.begins, self.num_before, strict=True)], np.int64
        )
        before = np.repeat(of_epoch, np.diff([*self.begins, len(mine)]))
        if self.ring == NUM_RINGS - 1:  # with fewer trips a scope inside the owner may have epochs of its own, behind an alloc
            before = np.where(varies & (allocs[at] > allocs[begin]), taken[begin], before)
        swept = np.maximum(kept - POOL_SWEEP + 1, 0)
        is_kept = varies | (allocs[kept] > allocs[np.maximum(swept - 1, 0)])
        reaching = np.maximum(before, taken[begin] - np.where(is_kept, 0, taken[swept]))
        before = np.where(kept < begin, reaching, before)
        most = (before + taken[at] - taken[begin] + facts.num_edges[mine])[facts.num_taken[mine] > 0]
        most_spilled = (spilled[at + 1] - spilled[kept])[facts.num_spilled[mine] > 0]
        return int(max(most.max(initial=0), most_spilled.max(initial=0)))


def _totals(values: Ints | NDArray[np.bool_]) -> Ints:
    """Their sums before each, and at the end of all."""
    return np.concatenate(([0], np.cumsum(values, dtype=np.int64)))


@dataclass(slots=True)
class _Trips:
    """An open dynamic loop as one ring sees it; `most` is the largest `_LastEdges._last` at the starts of its trips so far, but
    for those at `places`."""

    loop: OpenLoop
    trip: int
    places: list[int]
    most: Ints


_ALLOC = 1 << 40
"""What an alloc counts for: more than all edges. A sweep that finds one as the last consumed task frees nothing."""


class _LastEdges:
    """The most edges that the last 64 submissions of a ring can have, over all trip counts of dynamic loops that have ended.

    `before[n]` is that figure for the last n submissions before number `since`; those from there on surely run, and `totals` are
    the sums before each submission and after the last. A loop that ends leaves, for each n, the largest over the trip counts: the
    tasks of its trips may push earlier ones out of the 64, and need not.
    """

    def __init__(self) -> None:
        self.lengths = np.arange(POOL_SWEEP + 1)
        self.before = np.zeros_like(self.lengths)
        self.since = 0
        self.totals = array("q", (0,))
        self.loops: list[_Trips] = []

    def submit(self, weights: Sequence[int]) -> None:
        """The next submissions have so many edges."""
        sums = accumulate(weights, initial=self.totals.pop())
        self.totals.extend(sums)

    def follow(self, loops: Sequence[OpenLoop]) -> None:
        """Bring the open loops up to date; where the ring got no submission in between, nothing has changed for it."""
        known = self.loops
        here = len(self.totals) - 1
        if known and loops and known[-1].loop is loops[-1]:  # opened once, so those around are the same, in the same trips
            if known[-1].trip != loops[-1].trip:
                known[-1].trip = loops[-1].trip
                known[-1].places.append(here)
            return
        num_same = 0
        for trips, loop in zip(known, loops, strict=False):
            if trips.loop is not loop:
                break
            num_same += 1
            if trips.trip != loop.trip:
                break
        while len(known) > num_same:  # these have ended
            self._end()
        if known and known[-1].trip != known[-1].loop.trip:
            last = known[-1]
            last.trip = last.loop.trip
            last.places.append(here)
        for loop in loops[num_same:]:
            known.append(_Trips(loop, loop.trip, [here], np.zeros_like(self.lengths)))

    def most(self, num_outer: int) -> int | None:
        """What the last 63 submissions hold where no sweep comes after them, for an epoch that begins here, in a scope inside the
        first `num_outer` of the open loops. None where all before may be held: the last sweep may come at any of the last 64,
        and one of these is an alloc.

        The other loops lie in that scope: if fewer of their trips run, its epoch begins behind them, and what came before them
        is then not pushed out by those trips.
        """
        found, num_own = list[int](), len(self.totals) - 1 - self.since
        for num in (POOL_SWEEP, POOL_SWEEP - 1):
            own = min(num, num_own)  # as in `_last`
            earlier = int(self.before[num - own]) if own < num else 0
            found.append(self.totals[-1] - self.totals[-1 - own] + earlier)
        for trips in self.loops[num_outer:]:
            self._settle(trips)
            found = list(map(max, found, trips.most[:-3:-1].tolist()))
        last, held = found
        return None if last >= _ALLOC else held

    def _end(self) -> None:
        """The innermost loop has ended."""
        for trips in self.loops:
            self._settle(trips)
        here = len(self.totals) - 1
        self.before, self.since = np.maximum(self.loops.pop().most, self._last([here])), here

    def _settle(self, trips: _Trips) -> None:
        if trips.places:
            trips.most, trips.places = np.maximum(trips.most, self._last(trips.places)), []

    def _last(self, places: Sequence[int]) -> Ints:
        """For each n the most edges of the n submissions before one of these places, which are ascending, from `since` on."""
        low = max(self.since, places[0] - POOL_SWEEP)
        totals, at = np.array(self.totals[low : places[-1] + 1], np.int64), np.array(places)[:, None]
        own = np.minimum(self.lengths, at - self.since)  # of the n those that surely run
        found = totals[at - low] - totals[at - own - low] + self.before[self.lengths - own]
        return found[0] if len(places) == 1 else found.max(axis=0)


# --- heap -------------------------------------------------------------------------------------------------------------


def fits(load: RingLoad, capacity: int) -> bool:
    """Whether the ring's epochs run in a heap of this many bytes."""
    return _next_candidate(load.epochs, capacity) is None


def least_heap(load: RingLoad, at_least: int = MIN_HEAP_BYTES) -> int:
    """The smallest multiple of 1,024 bytes from `at_least` up in which the ring's epochs run."""
    capacity = max(load.span, at_least)
    while (larger := _next_candidate(load.epochs, capacity)) is not None:
        capacity = larger
    return capacity


def robust_heap(load: RingLoad) -> int:
    """A capacity from which every larger one runs, whatever the trip counts of dynamic loops up to those in `load`.

    An epoch of bytes S with largest block M fits from any offset in S + M; a single block, and the ring's first epoch, which
    starts at 0, in S.
    """
    needs = (epoch[-1] + (_largest(epoch) if len(epoch) > 2 else 0) for epoch in set(load.epochs[1:]))
    return max(MIN_HEAP_BYTES, load.span, *needs)


def safe_heap(load: RingLoad) -> int:
    """The smaller of the figures that hold for the ring.

    `least` is the size of one run: a trip fewer shifts every block behind it and with them the gaps at the ring's end, and what
    fitted may deadlock. So it holds only where nothing depends on a trip count; `robust` counts such gaps at their worst.
    """
    return robust_heap(load) if load.dynamic else least_heap(load)


def _largest(epoch: tuple[int, ...]) -> int:
    return max((after - before for before, after in pairwise(epoch)), default=0)


def _next_candidate(epochs: Sequence[tuple[int, ...]], capacity: int) -> int | None:
    """None if the epochs run in `capacity`, else the smallest larger one at which a check of the replay comes out otherwise.

    All offsets follow from the outcomes of the checks `capacity - top >= n` and `n <= capacity`, so below that candidate the
    replay repeats itself and fails at the same block.
    """
    start = 0  # where the empty ring stands: tail = top
    candidate = 0  # smallest capacity that flips a failed check so far; 0: none failed
    for totals in epochs:
        fitting = bisect_right(totals, capacity - start) - 1  # blocks before the first that does not fit up to the end
        if fitting == len(totals) - 1:
            start += totals[-1]
            continue
        flip = start + totals[fitting + 1]
        candidate = min(candidate, flip) if candidate else flip
        rest = totals[-1] - totals[fitting]
        if start > rest:  # wrap to 0; strictly below the tail
            start = rest
        elif fitting == 0 and start <= totals[1]:  # too little room below the tail, but the ring is empty: restart at 0
            if totals[-1] > capacity:
                restarted = bisect_right(totals, capacity)
                return min(candidate, totals[restarted])
            start = totals[-1]
        else:
            return candidate
    return None


# --- slots ------------------------------------------------------------------------------------------------------------


def least_window(load: RingLoad) -> int:
    """The smallest task window in which the ring's submissions run; every larger one does too, as slots have no wrap gap."""
    most = max(load.num_slots, default=0)
    return max(MIN_WINDOW, 1 << most.bit_length())  # most <= window - 1


# --- lower bounds -----------------------------------------------------------------------------------------------------


def program_peak_live(program: Program) -> int:
    """The most bytes of a program's local tensors that lie between their first and last use at once, each rounded up as in a
    block; values read on the host count as uses."""
    size = np.array(block_bytes([tensor.spec for tensor in program.tensors]), np.int64)
    size[[tensor.id for tensor in program.tensors if not tensor.is_local]] = 0
    first, last = (2 * times + 1 for times in first_and_last_touches(program))  # a read on the host lies between two tasks
    for next_task, trips in host_reads(program.body):
        reads = np.array(trips.reads, np.int64)
        first[reads], last[reads] = np.minimum(first[reads], 2 * next_task), np.maximum(last[reads], 2 * next_task)
    used = last >= 0
    return int(live_units(first[used], last[used] + 1, size[used], 2 * len(program.tasks) + 1).max(initial=0))
