"""This module tells whether a schedule's edges order all that its program's data needs: regions (RAW, WAW, WAR), shared bytes.

Found from the operands' regions alone: neither the edges that expansion inferred nor anything of a scheduler is believed. Two
accesses are ordered when a chain of waits leads from one to the other; a trip that does not run hands on what it waits for. A
value that the submitting thread reads also orders: what is submitted later starts after the tasks that the read waited for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Generic, TypeVar

from runner.program.program import Box, Region
from runner.rings.schedule import Read, Repeat, Schedule, Submit
from runner.rings.steps import StepWalk

Item = TypeVar("Item")

Trip = tuple[tuple[int, int], ...]
"""The dynamic loops around a submission, outermost first: (step of the loop, trip)."""

NEEDS = 1 << 16
"""Needs that are looked up together."""

NEAR = 1 << 10
"""Submissions that lie less than this far apart are compared in one pass, which remembers at least so many before each."""

SOURCES = 1 << 11
"""Submissions whose followers are traced together, a bit each; more where one need has more."""

FEW = 16
"""Boxes of which each search looks at all."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two submissions that touch the same bytes, at least one writing, in no order: `kind` is RAW, WAW, WAR or sharing."""

    kind: str
    first: int
    second: int
    tensor: int
    other: int | None = None  # sharing: the tensor that lay there before


@dataclass(frozen=True, slots=True)
class Need:
    """`second` has to come after every one of `firsts` (ascending, at least one); else each of them conflicts with it.

    For sharing, `others` gives the tensor that each of `firsts` touched.
    """

    kind: str
    firsts: tuple[int, ...]
    second: int
    tensor: int
    others: Mapping[int, int] | None = None

    def conflict(self, first: int) -> Conflict:
        return Conflict(self.kind, first, self.second, self.tensor, self.others[first] if self.others else None)


def _batches(needs: Iterable[Need]) -> Iterator[list[Need]]:
    """Runs of needs with at most about `SOURCES` different firsts in all, however many needs share them."""
    batch: list[Need] = []
    sources: set[int] = set()
    known: set[tuple[int, ...]] = set()  # whose firsts are in `sources`
    for need in needs:
        if need.firsts not in known:
            if batch and len(sources) + len(need.firsts) > SOURCES and len(sources.union(need.firsts)) > SOURCES:
                yield batch
                batch, sources, known = [], set(), set()
            known.add(need.firsts)
            sources.update(need.firsts)
        batch.append(need)
    if batch:
        yield batch


class Order:
    """The partial order of a schedule's submissions."""

    def __init__(self, schedule: Schedule) -> None:
        self.waits = [s.waits for s in schedule.submissions]
        self.trips: list[Trip] = [()] * len(self.waits)
        self.read_before = [-1] * len(self.waits)  # the last read before each submission
        self.reads: list[tuple[tuple[int, ...], int]] = []  # (waits, number of submissions before it), in order
        self._walk(schedule)

    def _walk(self, schedule: Schedule) -> None:
        submitted = 0
        walk = StepWalk(schedule)
        for step in walk:
            if isinstance(step, Submit):
                self.trips[step.submission] = tuple((loop.at, loop.trip) for loop in walk.loops)
                self.read_before[step.submission] = len(self.reads) - 1
                submitted += 1
            elif isinstance(step, Read | Repeat) and step.waits and not walk.loops:
                # A read inside a trip need not happen; only those outside of all loops order what comes after them.
                self.reads.append((step.waits, submitted))

    def runs_with(self, inner: int, outer: int) -> bool:
        """Whether submission `inner` runs whenever `outer` does: its loop trips are trips of `outer`, or come before them."""
        own, other = self.trips[inner], dict(self.trips[outer])
        return all(loop in other and trip <= other[loop] for loop, trip in own)

    def before(self, first: int, second: int) -> bool:
        """Whether `second` starts only after `first` has completed."""
        if first in self.waits[second]:
            return True
        stack, seen = list(self.waits[second]), set()
        read = self.read_before[second]
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
        remaining = iter(needs)
        while chunk := list(islice(remaining, NEEDS)):
            # Submissions that lie equally far apart are traced together: a few distant ones would make every trace long.
            chunk.sort(key=lambda need: ((need.second - need.firsts[0]).bit_length(), need.firsts[0]))
            near = bisect_left(chunk, NEAR.bit_length(), key=lambda need: (need.second - need.firsts[0]).bit_length())
            if near:
                yield from self._unmet_near(chunk[:near])
            for _, alike in groupby(chunk[near:], key=lambda need: (need.second - need.firsts[0]).bit_length()):
                for batch in _batches(alike):
                    yield from self._unmet(batch)

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
        alike = {need.firsts for need in needs}
        sources = sorted({first for firsts in alike for first in firsts})
        bits = {source: 1 << k for k, source in enumerate(sources)}
        masks = {firsts: sum(bits[first] for first in firsts) for firsts in alike}
        asked: dict[int, list[Need]] = {}
        for need in needs:
            asked.setdefault(need.second, []).append(need)
        for second, reached in self._trace(min(sources[0], *asked), bits, asked):
            for need in asked[second]:
                if masks[need.firsts] & ~reached:
                    yield from (need.conflict(first) for first in need.firsts if not reached & bits[first])

    def _trace(self, low: int, bits: dict[int, int], asked: Iterable[int]) -> Iterator[tuple[int, int]]:
        """For each submission of `asked` the union of the `bits` of those that come before it; all have numbers from `low` on."""
        wanted = set(asked)
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
                if wait >= low:
                    found |= reached[wait - low]
            if submission in wanted:
                yield submission, found
            reached.append(found | bits.get(submission, 0))


class _Boxes(Generic[Item]):
    """Items by the box that they take, found by what overlaps: no search looks at all of many tiles.

    Many boxes are sorted along each axis by their low ends: what overlaps [lo, hi) begins before `hi`, not `longest` before `lo`.
    A search takes the axis on which the fewest do. Empty boxes share no element with any, and are not kept.
    """

    __slots__ = ("_added", "_axes", "_few", "_longest")

    def __init__(self) -> None:
        self._few: list[tuple[Box, Item]] = []  # while they are few
        self._axes: list[list[tuple[int, int, Box, Item]]] = []  # per axis (low end, number of the item, box, item)

    def add(self, box: Box, item: Item) -> None:
        if _is_empty(box):
            return
        if self._axes:
            self._insert(box, item)
            return
        self._few.append((box, item))
        if len(self._few) > FEW:
            self._axes, self._longest, self._added = [[] for _ in box], [0] * len(box), 0
            for known, other in self._few:
                self._insert(known, other)
            self._few = []

    def _insert(self, box: Box, item: Item) -> None:
        self._added += 1
        for axis, (lo, hi) in enumerate(box):
            insort(self._axes[axis], (lo, self._added, box, item))
            self._longest[axis] = max(self._longest[axis], hi - lo)

    def overlapping(self, box: Box | None) -> list[Item]:
        """The items that share an element with `box` (None: everything)."""
        if self._axes:
            return [entry[3] for entry in (self._found(box) if box else self._axes[0])]
        if not box:
            return [item for _, item in self._few]
        return [item for other, item in self._few if _overlap(other, box)]

    def drop_covered(self, outer: Box) -> None:
        """Removes the items that lie inside of `outer`."""
        if not self._axes:
            self._few = [(box, item) for box, item in self._few if not _covers(outer, box)]
            return
        for _, number, box, _ in self._found(outer):
            if _covers(outer, box):
                for axis, (low, _) in enumerate(box):
                    del self._axes[axis][bisect_left(self._axes[axis], (low, number))]

    def _found(self, box: Box) -> list[tuple[int, int, Box, Item]]:
        slices = []
        for starts, longest, (lo, hi) in zip(self._axes, self._longest, box, strict=True):
            slices.append((starts, bisect_left(starts, (lo - longest + 1,)), bisect_left(starts, (hi,))))
        starts, first, last = min(slices, key=lambda s: s[2] - s[1])
        return [entry for entry in starts[first:last] if _overlap(entry[2], box)]


def _is_empty(box: Box | None) -> bool:
    return box is not None and any(lo >= hi for lo, hi in box)


def _overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share an element; an empty one shares none."""
    return all(max(lo, low) < min(hi, high) for (lo, hi), (low, high) in zip(a, b, strict=True))


def _covers(outer: Box, inner: Box) -> bool:
    return all(lo <= low and high <= hi for (lo, hi), (low, high) in zip(outer, inner, strict=True))


class _Access:
    """The last write of a region (or nobody's, at the start) and the reads since: those of everything, and those of boxes."""

    __slots__ = ("parts", "readers", "writer")

    def __init__(self, writer: int | None = None) -> None:
        self.writer = writer
        self.readers: list[int] = []
        self.parts: _Boxes[int] | None = None

    def add(self, box: Box | None, by: int) -> None:
        if not box:
            self.readers.append(by)
        else:
            self.parts = self.parts or _Boxes()
            self.parts.add(box, by)

    def read_by(self, box: Box | None) -> list[int]:
        return self.readers + self.parts.overlapping(box) if self.parts else self.readers


class _Seen:
    """Accesses to tensors that later ones can conflict with; `read` and `write` give the kinds of conflict and with whom.

    Most tensors are accessed as a whole and no other way: of these the last writer (-1: nobody) and the readers since are kept.
    """

    def __init__(self) -> None:
        self._whole: dict[int, list[int]] = {}
        self._others: dict[int, _History] = {}

    def forget(self, tensor: int) -> None:
        """Nobody touches it any more."""
        self._whole.pop(tensor, None)
        self._others.pop(tensor, None)

    def read(self, region: Region, by: int) -> Iterable[tuple[str, int]]:
        tensor = region.tensor
        if region.box or region.part is not None or tensor in self._others:
            return self._history(tensor).read(region, by)
        known = self._whole.get(tensor)
        if known is None:
            self._whole[tensor] = [-1, by]
            return ()
        known.append(by)
        return (("RAW", known[0]),) if known[0] >= 0 else ()

    def write(self, region: Region, by: int) -> Iterable[tuple[str, int]]:
        tensor = region.tensor
        if region.box or region.part is not None or tensor in self._others:
            return self._history(tensor).write(region, by)
        known, self._whole[tensor] = self._whole.get(tensor), [by]
        if known is None:
            return ()
        readers = [("WAR", reader) for reader in known[1:]]
        return [("WAW", known[0]), *readers] if known[0] >= 0 else readers

    def _history(self, tensor: int) -> _History:
        if tensor not in self._others:
            self._others[tensor] = _History(*self._whole.pop(tensor, ()))
        return self._others[tensor]


class _History:
    """The same for one tensor of which boxes or parts are accessed."""

    __slots__ = ("all", "boxes", "parts")

    def __init__(self, writer: int = -1, *readers: int) -> None:
        self.all = _Access(writer if writer >= 0 else None)  # the last of everything; later boxes and parts may have taken some
        self.all.readers += readers
        self.boxes: _Boxes[_Access] | None = None
        self.parts: dict[tuple[int, ...], _Access] | None = None

    def read(self, region: Region, by: int) -> list[tuple[str, int]]:
        found = []
        for access in self._touched(region):
            if access.writer is not None:
                found.append(("RAW", access.writer))
            access.add(region.box, by)
        if region.part is not None:
            self.parts = self.parts or {}
            self.parts.setdefault(region.part, _Access()).add(None, by)
        return found

    def write(self, region: Region, by: int) -> list[tuple[str, int]]:
        found = []
        for access in self._touched(region):
            if access.writer is not None:
                found.append(("WAW", access.writer))
            found += [("WAR", reader) for reader in access.read_by(region.box)]
        if region.part is not None:
            self.parts = self.parts or {}
            self.parts[region.part] = _Access(by)
        elif not region.box:
            self.all, self.boxes, self.parts = _Access(by), None, None
        else:
            self.boxes = self.boxes or _Boxes()
            self.boxes.drop_covered(region.box)
            self.boxes.add(region.box, _Access(by))
        return found

    def _touched(self, region: Region) -> list[_Access]:
        if _is_empty(region.box):
            return []
        found = [self.all]
        if self.boxes:
            found += self.boxes.overlapping(region.box)
        if self.parts:
            if region.part is None:
                found += self.parts.values()
            elif region.part in self.parts:
                found.append(self.parts[region.part])
        return found


def region_needs(schedule: Schedule, users: Mapping[int, Sequence[int]]) -> Iterator[Need]:
    """Accesses to overlapping regions of a tensor that have to be ordered, but for those that an edge orders.

    `users` lists the submissions that touch each tensor, in order.
    """
    program = schedule.program
    assert program is not None
    written = {tensor for task in program.tasks for tensor in task.writes}
    written -= {tensor.id for tensor in program.tensors if not tensor.spec.size_bytes}  # no bytes, nothing to order
    seen = _Seen()
    for submission, item in enumerate(schedule.submissions):
        if item.task is None:
            continue
        task, waits = program.tasks[item.task], item.waits
        reads, writes, modes = task.reads, task.writes, task.modes
        regions = [(name, region) for name, region in task.operands.items() if region.tensor in written]
        for _, region in regions:
            if region.tensor in reads:
                for kind, other in seen.read(region, submission):
                    if other != submission and other not in waits:
                        yield Need(kind, (other,), submission, region.tensor)
        for name, region in regions:
            if region.tensor in writes and not (modes and modes.get(name) == "in"):
                for kind, other in seen.write(region, submission):
                    if other != submission and other not in waits:
                        yield Need(kind, (other,), submission, region.tensor)
        for _, region in regions:
            if users.get(region.tensor, (-1,))[-1] == submission:
                seen.forget(region.tensor)


def sharing_needs(schedule: Schedule, users: dict[int, list[int]]) -> Iterator[Need]:
    """Uses of tensors that share bytes of a block, which have to be ordered: every use of the earlier one comes first.

    `users` lists the submissions that touch each tensor, in order. It is enough to compare the last uses of the one with the
    first uses of the other, and each tensor with those that lay just before it in its bytes.
    """
    waits = [submission.waits for submission in schedule.submissions]
    for submission in schedule.submissions:
        if len(submission.slots) < 2:
            continue
        slots = [slot for slot in submission.slots if slot.tensor in users and slot.size_bytes]
        if not _overlapping((slot.offset, slot.offset + slot.size_bytes) for slot in slots):
            continue
        tenants = _Tenants()
        last: dict[int, tuple[int, ...]] = {}
        for slot in sorted(slots, key=lambda slot: users[slot.tensor][0]):
            others: dict[int, int] = {}
            for tensor in tenants.move_in(slot.offset, slot.offset + slot.size_bytes, slot.tensor):
                if tensor not in last:
                    touched = users[tensor]
                    followed = set(chain.from_iterable([waits[user] for user in touched]))
                    last[tensor] = tuple([user for user in touched if user not in followed])
                others |= dict.fromkeys(last[tensor], tensor)
            if others:
                own, firsts = set(users[slot.tensor]), ()
                for user in own:
                    if own.isdisjoint(waits[user]) and not others.keys() <= {*waits[user]}:
                        firsts = firsts or tuple(sorted(others))
                        yield Need("sharing", firsts, user, slot.tensor, others)


def _overlapping(ranges: Iterable[tuple[int, int]]) -> bool:
    end = 0
    for low, high in sorted(ranges):
        if low < end:
            return True
        end = max(end, high)
    return False


class _Tenants:
    """Which tensor lay last in which bytes of a block: disjoint ranges, ascending."""

    def __init__(self) -> None:
        self.lows: list[int] = []
        self.highs: list[int] = []
        self.tensors: list[int] = []

    def move_in(self, low: int, high: int, tensor: int) -> list[int]:
        """Give [low, high) to `tensor`; returns the tensors that had any of it."""
        lows, highs, tensors = self.lows, self.highs, self.tensors
        first, end = bisect_right(highs, low), bisect_left(lows, high)
        gone = tensors[first:end]
        new_lows, new_highs, new_tensors = [low], [high], [tensor]
        if gone and highs[end - 1] > high:
            new_lows, new_highs, new_tensors = [low, high], [high, highs[end - 1]], [tensor, gone[-1]]
        if gone and lows[first] < low:
            new_lows, new_highs, new_tensors = [lows[first], *new_lows], [low, *new_highs], [gone[0], *new_tensors]
        lows[first:end], highs[first:end], tensors[first:end] = new_lows, new_highs, new_tensors
        return gone if len(gone) < 2 else list(dict.fromkeys(gone))
