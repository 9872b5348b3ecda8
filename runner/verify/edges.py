"""This module tells what a schedule's edges order, and which of the orders that are needed (`needs`) they lack.

Two accesses are ordered when a chain of waits leads from one to the other; a trip that does not run hands on what it waits for. A
value that the submitting thread reads also orders: what is submitted later starts after the tasks that the read waited for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from operator import itemgetter

from runner.base.records import builder
from runner.program.spans import Around, implied
from runner.rings.schedule import Read, Repeat, Schedule, Submit
from runner.rings.steps import StepWalk

NEEDS = 1 << 14
"""Needs that are looked up together."""

NEAR = 1 << 8
"""Submissions that lie less than this far apart are compared in one pass, which remembers at least so many before each."""

SOURCES = 1 << 13
"""Submissions whose followers are traced together, a bit each; more where one need has more."""

FEW = 8
"""Firsts of a need that take no longer to look at than to remember."""

MOST_KNOWN = 1 << 10
"""Longer ones that are remembered."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two submissions that touch the same bytes, at least one writing, in no order: `kind` is RAW, WAW, WAR or sharing."""

    kind: str
    first: int
    second: int
    tensor: int
    others: tuple[int, ...] = ()  # sharing: the tensors that lay there before


@dataclass(frozen=True, slots=True)
class Need:
    """`second` has to come after every one of `firsts` (ascending, at least one); else each of them conflicts with it.

    For sharing, `others` are the tensors that `firsts` touched.
    """

    kind: str
    firsts: tuple[int, ...]
    second: int
    tensor: int
    others: tuple[int, ...] = ()

    def conflict(self, first: int) -> Conflict:
        return Conflict(self.kind, first, self.second, self.tensor, self.others)


new_need = builder(Need)

_NOTHING = (), (), 0, 0


def _magnitude(need: Need) -> int:
    """How far its submissions lie apart, roughly."""
    return (need.second - need.firsts[0]).bit_length() // 4


def _batches(needs: Iterable[Need]) -> Iterator[list[Need]]:
    """Runs of needs with at most about `SOURCES` different firsts in all, however many needs share them."""
    batch: list[Need] = []
    sources: set[int] = set()
    known: set[int] = set()  # identities of firsts, which many needs share, that are in `sources`
    for need in needs:
        if id(need.firsts) not in known:
            if batch and len(sources) + len(need.firsts) > SOURCES and len(sources.union(need.firsts)) > SOURCES:
                yield batch
                batch, sources, known = [], set(), set()
            known.add(id(need.firsts))
            sources.update(need.firsts)
        batch.append(need)
    if batch:
        yield batch


class Order:
    """The partial order of a schedule's submissions."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.waits = [s.waits for s in schedule.submissions]
        self.reads: list[tuple[tuple[int, ...], int]] = []  # (waits, number of submissions before it), in order
        submitted = loop_end = 0
        for at, step in enumerate(schedule.steps):
            if isinstance(step, Submit):
                submitted += 1
            elif isinstance(step, Read | Repeat) and at >= loop_end:
                # A read inside a trip need not happen: only those outside of all loops order all that comes after them.
                loop_end = step.end if isinstance(step, Repeat) else loop_end
                if step.waits:
                    self.reads.append((step.waits, submitted))

    @cached_property
    def trips(self) -> list[Around]:
        """The trips that each submission lies in."""
        found: list[Around] = [()] * len(self.waits)
        walk = StepWalk(self.schedule)
        for step in walk:
            if isinstance(step, Submit):
                found[step.submission] = tuple((loop.at, loop.trip) for loop in walk.loops)
        return found

    @cached_property
    def _inner_reads(self) -> list[tuple[tuple[int, ...], int, Around]]:
        """What reads inside of trips wait for, how many submissions come before each, and the trips around it, in order."""
        found, submitted = [], 0
        walk = StepWalk(self.schedule)
        for step in walk:
            if isinstance(step, Submit):
                submitted = step.submission + 1
            elif isinstance(step, Read | Repeat) and step.waits and walk.loops:
                found.append((step.waits, submitted, tuple((loop.at, loop.trip) for loop in walk.loops)))
        return found

    @cached_property
    def _read_by(self) -> list[int]:
        """How many submissions come before the first read outside of all loops that waits for each, or for what comes after it;
        all that is submitted from there on comes after it. More than there are where there is none."""
        found = [len(self.waits) + 1] * len(self.waits)
        reads = list(self.reads)
        for submission in range(len(found) - 1, -1, -1):
            while reads and reads[-1][1] > submission:
                waits, at = reads.pop()
                for wait in waits:
                    found[wait] = at
            at = found[submission]
            if at <= len(found):
                for wait in self.waits[submission]:
                    if at < found[wait]:
                        found[wait] = at
        return found

    def runs_with(self, inner: int, outer: int) -> bool:
        """Whether submission `inner` runs whenever `outer` does: its loop trips are trips of `outer`, or come before them."""
        return implied(self.trips[inner], self.trips[outer])

    def _read_between(self, first: int, second: int) -> bool:
        """Whether a read inside of a trip, that is made whenever one of the two runs, waits for `first`."""
        begin = bisect_right(self._inner_reads, first, key=itemgetter(1))
        end = bisect_right(self._inner_reads, second, key=itemgetter(1))
        return any(
            wait == first or self.before(first, wait)
            for waits, _, trips in self._inner_reads[begin:end]
            if implied(trips, self.trips[second]) or implied(trips, self.trips[first])
            for wait in waits
            if wait >= first
        )

    def before(self, first: int, second: int) -> bool:
        """Whether `second` starts only after `first` has completed."""
        if first in self.waits[second]:
            return True
        stack, seen = list(self.waits[second]), set()
        read = bisect_right(self.reads, second, key=lambda read: read[1]) - 1  # the last before `second`
        while stack or read >= 0:
            if not stack:
                waits, submitted = self.reads[read]
                read = read - 1 if submitted > first else -1
                stack += waits
                continue
            node = stack.pop()
            if node == first:
                return True
            if node < first or node in seen:
                continue
            seen.add(node)
            stack += self.waits[node]
        return False

    def unordered(self, needs: Iterable[Need]) -> Iterator[Conflict]:
        """The pairs of submissions for which a need is not met."""
        return (found for found in self._without_inner_reads(needs) if not self._read_between(found.first, found.second))

    def _without_inner_reads(self, needs: Iterable[Need]) -> Iterator[Conflict]:
        """As `unordered`, but for what reads inside of trips order: few pairs are left to look them up for."""
        remaining = self._not_by_reads(needs)
        while chunk := list(islice(remaining, NEEDS)):
            near = [need for need in chunk if need.second - need.firsts[0] < NEAR]
            if near:
                yield from self._unmet_near(near)
            # Submissions that lie about as far apart are traced together: a few distant ones would make every trace long.
            far = [(_magnitude(need), need.firsts[0], need) for need in chunk if need.second - need.firsts[0] >= NEAR]
            far.sort(key=itemgetter(0, 1))
            for _, alike in groupby(far, key=itemgetter(0)):
                for batch in _batches(need for _, _, need in alike):
                    yield from self._unmet(batch)

    def _not_by_reads(self, needs: Iterable[Need]) -> Iterator[Need]:
        """The needs, but for those of their firsts that come before a read outside of all loops, and `second` after it."""
        read_by = self._read_by
        known = dict[int, tuple[tuple[int, ...], tuple[int, ...], int, int]]()  # by the identity of firsts
        for need in needs:
            second, key = need.second, id(need.firsts)
            # What was left of them for a need before, and after how many submissions the first of that has been read.
            firsts, left, soonest, before = known.get(key, _NOTHING)
            if firsts is not need.firsts or second < before:
                firsts = left = need.firsts
                soonest = min(map(read_by.__getitem__, left))
            if left and soonest <= second:
                left = tuple([first for first in left if read_by[first] > second])
                soonest = min(map(read_by.__getitem__, left), default=0)
            if len(firsts) > FEW:
                if len(known) == MOST_KNOWN:
                    known.clear()
                known[key] = firsts, left, soonest, second
            if left:
                yield need if left is need.firsts else new_need(need.kind, left, second, need.tensor, need.others)

    def _unmet_near(self, needs: Sequence[Need]) -> Iterator[Conflict]:
        """As `unordered`, for needs whose submissions lie less than `NEAR` apart.

        Sets of what comes before a submission have a bit for each from `base` on, which moves by `NEAR` at a time.
        """
        asked: dict[int, list[Need]] = {}
        for need in needs:
            asked.setdefault(need.second, []).append(need)
        low, last = min(need.firsts[0] for need in needs), max(asked)
        waits, reads, read = self.waits, self.reads, bisect_right(self.reads, low, key=lambda r: r[1])
        base = low - NEAR
        reached = [0] * NEAR  # per submission from `base` on its own bit and those that come before it
        gate = 0  # what the submitting thread has waited for
        for submission in range(low, last + 1):
            if submission - base == 2 * NEAR:
                base += NEAR
                gate >>= NEAR
                reached = [bits >> NEAR for bits in reached[NEAR:]]
            while read < len(reads) and reads[read][1] <= submission:
                for wait in reads[read][0]:
                    if wait >= base:
                        gate |= reached[wait - base]
                read += 1
            found = gate
            for wait in waits[submission]:
                if wait >= base:
                    found |= reached[wait - base]
            for need in asked.get(submission, ()):
                mask = 0
                for first in need.firsts:
                    mask |= 1 << first - base
                if mask & ~found:
                    yield from (need.conflict(first) for first in need.firsts if not found >> first - base & 1)
            reached.append(found | 1 << submission - base)

    def _unmet(self, needs: Sequence[Need]) -> Iterator[Conflict]:
        """As `unordered`, for needs that are traced together."""
        alike = {id(need.firsts): need.firsts for need in needs}
        sources = sorted({first for firsts in alike.values() for first in firsts})
        bits = {source: 1 << k for k, source in enumerate(sources)}
        masks = {key: sum(map(bits.__getitem__, firsts)) for key, firsts in alike.items()}
        asked: dict[int, list[Need]] = {}
        for need in needs:
            asked.setdefault(need.second, []).append(need)
        for second, reached in self._trace(min(sources[0], *asked), bits, asked):
            for need in asked[second]:
                if masks[id(need.firsts)] & ~reached:
                    yield from (need.conflict(first) for first in need.firsts if not reached & bits[first])

    def _trace(self, low: int, bits: dict[int, int], asked: Iterable[int]) -> Iterator[tuple[int, int]]:
        """For each submission of `asked` the union of the `bits` of those that come before it; all have numbers from `low` on."""
        wanted, full = set(asked), (1 << len(bits)) - 1
        waits, reads, read = self.waits, self.reads, bisect_right(self.reads, low, key=lambda r: r[1])
        reached: list[int] = []  # per submission from `low` on its own bit and those that come before it
        gate = 0  # what the submitting thread has waited for
        for submission in range(low, max(wanted) + 1):
            while read < len(reads) and reads[read][1] <= submission:
                for wait in reads[read][0]:
                    if wait >= low:
                        gate |= reached[wait - low]
                read += 1
            found = gate
            for wait in waits[submission]:
                # Sets have thousands of bits, so none is made that is not a new one.
                if wait >= low and (more := reached[wait - low]) and more is not found:
                    found |= more
            if found == full:
                found = full  # mostly by far: one object for all
            if submission in wanted:
                yield submission, found
            own = bits.get(submission)
            reached.append(found | own if own else found)
