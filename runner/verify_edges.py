"""Whether a schedule's edges order all that its program's data needs: RAW, WAW and WAR of every region, and of shared bytes.

Found from the operands' regions alone: neither the edges that expansion inferred nor anything of a scheduler is believed. Two
accesses are ordered when a chain of waits leads from one to the other; a trip that does not run hands on what it waits for. A
value that the submitting thread reads also orders: what is submitted later starts after the tasks that the read waited for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from runner.program import Box, Program, Region
from runner.schedule import Read, Repeat, Schedule, Submit

Trip = tuple[tuple[int, int], ...]
"""The dynamic loops around a submission, outermost first: (step of the loop, trip)."""


class Order:
    """The partial order of a schedule's submissions."""

    def __init__(self, schedule: Schedule) -> None:
        self.waits = [s.waits for s in schedule.submissions]
        self.trips: list[Trip] = [()] * len(self.waits)
        self.read_before = [-1] * len(self.waits)  # the last read before each submission
        self.reads: list[tuple[tuple[int, ...], int]] = []  # (waits, number of submissions before it), in order
        self._walk(schedule)

    def _walk(self, schedule: Schedule) -> None:
        open_loops: list[tuple[int, Repeat]] = []
        submitted = 0
        for at, step in enumerate(schedule.steps):
            while open_loops and at >= open_loops[-1][1].end:
                open_loops.pop()
            if isinstance(step, Submit):
                self.trips[step.submission] = tuple((loop, bisect_right(r.starts, at) - 1) for loop, r in open_loops)
                self.read_before[step.submission] = len(self.reads) - 1
                submitted += 1
            elif isinstance(step, Read | Repeat):
                # A read inside a trip need not happen; only those outside of all loops order what comes after them.
                if step.waits and not open_loops:
                    self.reads.append((step.waits, submitted))
                if isinstance(step, Repeat):
                    open_loops.append((at, step))

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


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two submissions that touch the same bytes, at least one writing, in no order: `kind` is RAW, WAW, WAR or sharing."""

    kind: str
    first: int
    second: int
    tensor: int
    other: int | None = None  # sharing: the tensor that lay there before


@dataclass(slots=True)
class _Access:
    """The last write of a region (or nobody's, at the start) and the reads since."""

    box: Box | None
    writer: int | None
    readers: list[tuple[Box | None, int]] = field(default_factory=list)


class _History:
    """Accesses to one tensor that a later one can conflict with; `read` and `write` give the kinds of conflict and with whom."""

    __slots__ = ("boxes", "parts")

    def __init__(self) -> None:
        self.boxes: list[_Access] = [_Access(None, None)]
        self.parts: dict[tuple[int, ...], _Access] = {}

    def read(self, region: Region, by: int) -> list[tuple[str, int]]:
        found = []
        for access in self._touched(region):
            if access.writer is not None:
                found.append(("RAW", access.writer))
            access.readers.append((region.box, by))
        if region.part is not None:
            self.parts.setdefault(region.part, _Access(None, None)).readers.append((None, by))
        return found

    def write(self, region: Region, by: int) -> list[tuple[str, int]]:
        found = []
        for access in self._touched(region):
            if access.writer is not None:
                found.append(("WAW", access.writer))
            found += [("WAR", reader) for box, reader in access.readers if _overlap(box, region.box)]
        if region.part is not None:
            self.parts[region.part] = _Access(None, by)
        elif region.box is None:
            self.boxes, self.parts = [_Access(None, by)], {}
        else:
            self.boxes = [a for a in self.boxes if a.box is None or not _covers(region.box, a.box)]
            self.boxes.append(_Access(region.box, by))
        return found

    def _touched(self, region: Region) -> list[_Access]:
        if len(self.boxes) == 1 and self.boxes[0].box is None and region.box is None:
            found = self.boxes[:]
        else:
            found = [access for access in self.boxes if _overlap(access.box, region.box)]
        if region.part is None:
            found += self.parts.values()
        elif region.part in self.parts:
            found.append(self.parts[region.part])
        return found


def _overlap(a: Box | None, b: Box | None) -> bool:
    """Whether two boxes share an element; an empty one shares none."""
    if a is None or b is None:
        return all(lo < hi for lo, hi in a or b or ())
    return all(max(lo, low) < min(hi, high) for (lo, hi), (low, high) in zip(a, b, strict=True))


def _covers(outer: Box, inner: Box) -> bool:
    return all(lo <= low and high <= hi for (lo, hi), (low, high) in zip(outer, inner, strict=True))


def region_conflicts(schedule: Schedule, program: Program, order: Order) -> Iterator[Conflict]:
    """Accesses to overlapping regions of a tensor that no chain of waits orders."""
    written = {tensor for task in program.tasks for tensor in task.writes}
    histories = {tensor: _History() for tensor in written}
    for submission, item in enumerate(schedule.submissions):
        if item.task is None:
            continue
        task = program.tasks[item.task]
        regions = [region for region in task.operands.values() if region.tensor in written]
        for touch, tensors in ((_History.read, task.reads), (_History.write, task.writes)):
            for region in regions:
                if region.tensor not in tensors:
                    continue
                for kind, other in touch(histories[region.tensor], region, submission):
                    if other != submission and not order.before(other, submission):
                        yield Conflict(kind, other, submission, region.tensor)


def sharing_conflicts(schedule: Schedule, users: dict[int, list[int]], order: Order) -> Iterator[Conflict]:
    """Tensors that share bytes of a block, where not every use of the earlier one comes before every use of the later one.

    `users` lists the submissions that touch each tensor, in order. It is enough to compare the last uses of the one with the
    first uses of the other, and each tensor with those that lay just before it in its bytes.
    """
    for submission in schedule.submissions:
        slots = [slot for slot in submission.slots if users.get(slot.tensor) and slot.size_bytes]
        if not _overlapping((slot.offset, slot.offset + slot.size_bytes) for slot in slots):
            continue
        tenants: list[tuple[int, int, int]] = []  # disjoint [low, high) and the tensor that lies there
        for slot in sorted(slots, key=lambda slot: users[slot.tensor][0]):
            low, high = slot.offset, slot.offset + slot.size_bytes
            for tensor in _move_in(tenants, low, high, slot.tensor):
                yield from _shared(tensor, slot.tensor, users, order)


def _overlapping(ranges: Iterable[tuple[int, int]]) -> bool:
    end = 0
    for low, high in sorted(ranges):
        if low < end:
            return True
        end = max(end, high)
    return False


def _move_in(tenants: list[tuple[int, int, int]], low: int, high: int, tensor: int) -> list[int]:
    """Give [low, high) to `tensor`; returns the tensors that had any of it."""
    first = bisect_right(tenants, low, key=lambda t: t[1])
    last = bisect_left(tenants, high, key=lambda t: t[0])
    gone = tenants[first:last]
    left = [(gone[0][0], low, gone[0][2])] if gone and gone[0][0] < low else []
    right = [(high, gone[-1][1], gone[-1][2])] if gone and gone[-1][1] > high else []
    tenants[first:last] = [*left, (low, high, tensor), *right]
    return list(dict.fromkeys(t[2] for t in gone))


def _shared(before: int, after: int, users: dict[int, list[int]], order: Order) -> Iterator[Conflict]:
    waits = order.waits
    followed = {wait for user in users[before] for wait in waits[user]}
    last = [user for user in users[before] if user not in followed]
    own = set(users[after])
    first = [user for user in users[after] if not any(wait in own for wait in waits[user])]
    for old in last:
        for new in first:
            if old == new or not order.before(old, new):
                yield Conflict("sharing", old, new, after, before)
