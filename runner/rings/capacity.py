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
from functools import reduce
from itertools import accumulate, pairwise
from operator import attrgetter
from weakref import ref

import numpy as np

from runner.base.tensor_spec import block_bytes
from runner.program.lifetimes import Ints, Rows, live_units
from runner.program.program import Program
from runner.program.spans import host_reads
from runner.rings.heap import INLINE_EDGES
from runner.rings.parts.ring import POOL_SWEEP
from runner.rings.schedule import NUM_RINGS, Begin, End, Schedule, Submit
from runner.rings.sizes import MIN_HEAP_BYTES, MIN_WINDOW
from runner.rings.steps import OpenLoop, StepWalk

TOGETHER = 1 << 12
"""Tasks that are looked at together, which stay in the processor's cache meanwhile."""


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


_known: list[tuple[ref[Schedule], list[RingLoad]]] = []
"""Schedules that were asked for lately: one command asks for the same ones many times, and large ones take seconds."""

MOST_KNOWN = 8


def ring_loads(schedule: Schedule) -> list[RingLoad]:
    """The epochs of each ring when every trip that the schedule holds runs; nobody changes them."""
    found = next((loads for known, loads in _known if known() is schedule), None)
    if found is None:
        found = _collect(schedule)
        _known[:] = [(ref(schedule), found), *(known for known in _known[: MOST_KNOWN - 1] if known[0]() is not None)]
    return found


def _collect(schedule: Schedule) -> list[RingLoad]:
    ring_of, places = bytearray(len(schedule.submissions)), array("I", bytes(4 * len(schedule.submissions)))
    collectors = [_Epochs(RingLoad(), ring, ring_of, places) for ring in range(NUM_RINGS)]
    walk = StepWalk(schedule)
    submissions, scopes, rings, loops = schedule.submissions, walk.scopes, walk.rings, walk.loops
    allocs = {number for number, submission in enumerate(submissions) if submission.core is None}
    outer_loops: list[int] = []  # per open scope, how many dynamic loops are open around it
    epoch = collectors[0]  # of the innermost open scope's ring
    for step in walk:
        if isinstance(step, Submit):
            submission = submissions[step.submission]
            num_taken = len(submission.waits)
            if not allocs.isdisjoint(submission.waits):
                num_taken -= len(allocs.intersection(submission.waits))
            is_alloc = submission.core is None
            epoch.submit(step.submission, submission.waits, num_taken, is_alloc, scopes[-1], loops, outer_loops[-1])
            if submission.size_bytes:
                epoch.blocks.append(submission.size_bytes)
            if loops and (submission.size_bytes or rings[-1] == NUM_RINGS - 1):
                epoch.load.dynamic = True
        elif isinstance(step, Begin):
            outer_loops.append(len(loops))
            epoch = collectors[rings[-1]]
        elif isinstance(step, End):
            outer_loops.pop()
            epoch.end(step.scope)
            epoch = collectors[rings[-2:][0]]  # of the scope around it; the root ends last
    return [collector.load for collector in collectors]


class _Epochs:
    """Collects the epochs of one ring: block sizes and edges of the present one, and the scope that ends it.

    An edge takes an entry of the pool unless its producer has completed, as allocs always have; but before any of a task's are
    taken there must be room for all.
    """

    def __init__(self, load: RingLoad, ring: int, ring_of: bytearray, places: array[int]) -> None:
        """`ring_of` and `places` get the ring of each submission and its number there."""
        self.load = load
        self.ring, self.ring_of, self.places = ring, ring_of, places
        self.owner: int | None = None
        self.blocks: list[int] = []
        self.known: dict[tuple[int, ...], tuple[int, ...]] = {}  # layers have equal ones, which are kept once
        self.last = _LastEdges()
        self.is_varying = False  # whether the ring's submissions depend on trip counts
        self.taken = array("I", (0,))  # entries taken in all before each submission
        self.spilled = array("I", (0,))
        self.allocs = array("I", (0,))
        self.first = self.begin = 0  # the epoch's first submission and its number on the ring, as all below
        self.num_slots = 0
        self.num_before = 0  # the most entries from before it that no sweep may have freed

    def submit(
        self,
        submission: int,
        waits: tuple[int, ...],
        num_taken: int,
        is_alloc: bool,
        scope: int,
        loops: Sequence[OpenLoop],
        num_outer: int,
    ) -> None:
        """Note a submission of `scope`; `loops` are the open dynamic loops, of which `num_outer` lie around the scope."""
        last = self.last
        if loops or last.loops:
            last.follow(loops)
            self.is_varying = True
        taken, spilled, allocs = self.taken, self.spilled, self.allocs
        place = len(taken) - 1
        self.ring_of[submission], self.places[submission] = self.ring, place
        if not self.num_slots:
            self.owner, self.first, self.begin = scope, submission, place
            most = last.most(num_outer)
            self.num_before = taken[place] if most is None else most
        self.num_slots += 1
        num_edges = len(waits)
        num_spilled = num_edges - INLINE_EDGES if num_edges > INLINE_EDGES else 0
        if num_taken or num_spilled:
            self.need(waits, num_taken, num_spilled)
        taken.append(taken[place] + num_taken)
        spilled.append(spilled[place] + num_spilled)
        allocs.append(allocs[place] + is_alloc)
        last.recent.append(num_taken + _ALLOC if is_alloc else num_taken)

    def need(self, waits: tuple[int, ...], num_taken: int, num_spilled: int) -> None:
        """What must be free for a task with edges.

        The pool is swept only when 64 tasks have retired since the last sweep, so up to 63 tasks from before the epoch may still
        hold entries. Edges beyond the 64 that a task holds itself spill; those entries are reclaimed with their task. While a
        task waits for room all its producers are kept, and nothing behind one of them retires, in an earlier epoch either.
        """
        begin = place = self.begin
        before, taken, load = self.num_before, self.taken, self.load
        if self.is_varying and self.ring == NUM_RINGS - 1 and self.allocs[-1] > self.allocs[begin]:
            before = taken[begin]  # with fewer trips a scope inside the owner may have epochs of its own, behind an alloc
        if waits[0] < self.first:
            for wait in waits:
                if wait < self.first and self.ring_of[wait] == self.ring:
                    place = self.places[wait]
                    break
        if place < begin:
            swept = max(0, place - POOL_SWEEP + 1)
            is_kept = self.is_varying or self.allocs[place] > self.allocs[max(0, swept - 1)]
            before = max(before, taken[begin] - (0 if is_kept else taken[swept]))
        if num_taken and (most := before + taken[-1] - taken[begin] + len(waits)) > load.pool_bound:
            load.pool_bound = most
        if num_spilled and (most := self.spilled[-1] - self.spilled[place] + num_spilled) > load.pool_bound:
            load.pool_bound = most

    def end(self, scope: int) -> None:
        if scope != self.owner:
            return
        load = self.load
        epoch = (0, *accumulate(self.blocks))
        load.epochs.append(self.known.setdefault(epoch, epoch))
        load.num_slots.append(self.num_slots)
        load.num_allocs = self.allocs[-1]
        self.owner, self.blocks, self.num_slots = None, [], 0


@dataclass(slots=True)
class _Trips:
    """An open dynamic loop as one ring sees it; `most` is the largest `_LastEdges.before` at the starts of its trips so far."""

    loop: OpenLoop
    trip: int
    most: Ints


_ALLOC = 1 << 40
"""What an alloc counts for: more than all edges. A sweep that finds one as the last consumed task frees nothing."""


class _LastEdges:
    """The most edges that the last 64 submissions of a ring can have, over all trip counts of dynamic loops that have ended.

    `before[n]` is that figure for the last n submissions before those in `recent`, which surely run. A loop that ends leaves, for
    each n, the largest over the trip counts: the tasks of its trips may push earlier ones out of the 64, and need not.
    """

    def __init__(self) -> None:
        self.before: Ints = np.zeros(POOL_SWEEP + 1, np.int64)
        self.recent: list[int] = []
        self.loops: list[_Trips] = []

    def follow(self, loops: Sequence[OpenLoop]) -> None:
        """Bring the open loops up to date; where the ring got no submission in between, nothing has changed for it."""
        known = self.loops
        if known and loops and known[-1].loop is loops[-1] and known[-1].trip == loops[-1].trip:
            return  # a loop is opened once, so those around it are the same, and in the same trips
        num_same = 0
        for trips, loop in zip(known, loops, strict=False):
            if trips.loop is not loop:
                break
            num_same += 1
            if trips.trip != loop.trip:
                break
        while len(known) > num_same:  # these have ended
            self._merge(known.pop())
        if known and known[-1].trip != known[-1].loop.trip:
            last = known[-1]
            last.trip, last.most = last.loop.trip, np.maximum(last.most, self._settle())
        for loop in loops[num_same:]:
            known.append(_Trips(loop, loop.trip, self._settle()))

    def most(self, num_outer: int) -> int | None:
        """What the last 63 submissions hold where no sweep comes after them, for an epoch that begins here, in a scope inside the
        first `num_outer` of the open loops. None where all before may be held: the last sweep may come at any of the last 64,
        and one of these is an alloc.

        The other loops lie in that scope: if fewer of their trips run, its epoch begins behind them, and what came before them
        is then not pushed out by those trips.
        """
        *_, held, last = reduce(np.maximum, [trips.most for trips in self.loops[num_outer:]], self._settle())
        return None if last >= _ALLOC else int(held)

    def _merge(self, ended: _Trips) -> None:
        self.before = np.maximum(ended.most, self._settle())

    def _settle(self) -> Ints:
        """`before` with `recent` taken into it."""
        if self.recent:
            sums = np.array(list(accumulate(self.recent[: -POOL_SWEEP - 1 : -1], initial=0)), np.int64)
            self.before = np.concatenate((sums, sums[-1] + self.before[1 : POOL_SWEEP + 2 - len(sums)]))
            self.recent = []
        return self.before


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
    first, last = np.full(len(size), 2 * len(program.tasks), np.int64), np.full(len(size), -1, np.int64)

    def use(tensors: Ints, times: Ints) -> None:
        np.minimum.at(first, tensors, times)
        np.maximum.at(last, tensors, times)

    for start in range(0, len(program.tasks), TOGETHER):
        tasks = [task for task in program.tasks[start : start + TOGETHER] if task.op is not None]
        times = 2 * np.fromiter((task.id for task in tasks), np.int64, len(tasks)) + 1
        for touched in (_created, _read, _written):  # scratch is created, and neither read nor written
            rows = Rows.of(list(map(touched, tasks)))
            use(rows.values, times[rows.owners()])
    for next_task, trips in host_reads(program.body):
        use(np.array(trips.reads, np.int64), np.array(2 * next_task))
    used = last >= 0
    return int(live_units(first[used], last[used] + 1, size[used], 2 * len(program.tasks) + 1).max(initial=0))


_created, _read, _written = attrgetter("creates"), attrgetter("reads"), attrgetter("writes")
