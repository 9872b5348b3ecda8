"""This module tells which orders a program's data needs: of regions (RAW, WAW, WAR), and of tensors that share bytes.

Found from the operands' regions alone: neither the edges that expansion inferred nor anything of a scheduler is believed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Generic, TypeVar

import numpy as np

from runner.program.lifetimes import Ints, Rows, distinct
from runner.program.program import Box, Program, Region, Task
from runner.verify.columns import TOGETHER, Bools, Columns, Pairs, in_turn, least_bytes, places
from runner.verify.edges import Need, new_need

Item = TypeVar("Item")

FEW = 16
"""Boxes, or waits, of which each search looks at all."""


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


class _History:
    """Accesses to one tensor that later ones can conflict with; `read` and `write` give the kinds of conflict and with whom."""

    __slots__ = ("all", "boxes", "parts")

    def __init__(self) -> None:
        self.all = _Access()  # the last of everything; later boxes and parts may have taken some
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


class _Accesses:
    """What submissions do to tensors that some task writes, in order: each operand is an entry of the arrays.

    `in_parts` says whether boxes or parts of an entry's tensor are accessed; of these entries `regions` are kept.
    """

    def __init__(self, columns: Columns, program: Program) -> None:
        written, in_parts = np.zeros(len(program.tensors), bool), np.zeros(len(program.tensors), bool)
        written[columns.program.tensors(lambda task: task.writes).values] = True
        written &= least_bytes(program) > 0  # no bytes, nothing to order
        operands = columns.program.tensors(lambda task: [region.tensor for region in task.regions])
        flags = columns.program.numbers(_flags).values
        in_parts[operands.values[flags & _IN_PARTS > 0]] = True
        at, by = columns.per_submission(operands)
        kept = written[operands.values[at]]
        at, self.by = at[kept], by[kept]
        self.tensor, flags = operands.values[at], flags[at]
        self.is_read, self.is_write = flags & _READ > 0, flags & _WRITE > 0
        self.in_parts = in_parts[self.tensor]
        task = columns.tasks[np.searchsorted(columns.submitted, self.by[self.in_parts])]
        place = at[self.in_parts] - operands.starts[task]
        self.regions = [tuple(program.tasks[k].regions)[i] for k, i in zip(task.tolist(), place.tolist(), strict=True)]


_READ, _WRITE, _IN_PARTS = 1, 2, 4


def _flags(task: Task) -> list[int]:
    """What a task does with each of its operands."""
    reads, writes, modes = task.reads, task.writes, task.modes
    return [
        _READ * (region.tensor in reads)
        | _WRITE * (region.tensor in writes and modes.get(name) != "in")
        | _IN_PARTS * (bool(region.box) or region.part is not None)
        for name, region in task.operands.items()
    ]


def region_needs(columns: Columns) -> Iterator[Need]:
    """Accesses to overlapping regions of a tensor that have to be ordered, but for those that an edge orders.

    Most tensors are accessed as a whole and no other way: these are looked at together. Of the others boxes are remembered.
    """
    assert columns.schedule.program is not None
    accesses = _Accesses(columns, columns.schedule.program)
    yield from _needs_of_wholes(columns, accesses)
    yield from _needs_of_parts(columns, accesses)


def _needs_of_wholes(columns: Columns, accesses: _Accesses) -> Iterator[Need]:
    tensor, by = accesses.tensor, accesses.by
    whole = np.flatnonzero(~accesses.in_parts).astype(np.int32)
    whole = whole[np.argsort(tensor[whole], kind="stable")]
    ends = np.append(np.flatnonzero(np.diff(tensor[whole])) + 1, len(whole))  # of the accesses to each tensor
    found: list[tuple[int, int, int]] = []  # an access, a kind, and the access to come before it
    start = 0
    while start < len(whole):
        end = int(ends[min(np.searchsorted(ends, start + TOGETHER), len(ends) - 1)])
        first, second, kind = _in_turn(accesses, whole[start:end], columns.num)
        needed = (by[first] != by[second]) & ~columns.edges.have(by[second], by[first])
        found += zip(second[needed].tolist(), kind[needed].tolist(), first[needed].tolist(), strict=True)
        start = end
    for second, kind, first in sorted(found):
        yield new_need(("RAW", "WAW", "WAR")[kind], (int(by[first]),), int(by[second]), int(tensor[second]), ())


def _in_turn(accesses: _Accesses, picked: Ints, num: int) -> tuple[Ints, Ints, Ints]:
    """Pairs of accesses to the same whole tensor of which the second has to come after the first, and kinds: 0 RAW, 1 WAW, 2 WAR.

    `picked` are all accesses to some tensors, by `num` submissions.
    """
    entry = np.concatenate([picked[accesses.is_read[picked]], picked[accesses.is_write[picked]]])
    writes = np.arange(len(entry)) >= np.count_nonzero(accesses.is_read[picked])
    # Those to one tensor side by side, by submission, each of which reads before it writes.
    order = np.argsort((accesses.tensor[entry] * np.int64(num) + accesses.by[entry]) * 2 + writes, kind="stable")
    entry, writes = entry[order], writes[order]
    tensor, at = accesses.tensor[entry], np.arange(len(entry))
    last = np.maximum.accumulate(np.where(writes, at, -1))  # write of any tensor up to here, ...
    before = np.concatenate([[-1], last])[: len(at)]  # ... before here, ...
    after = np.minimum.accumulate(np.where(writes, at, len(at))[::-1])[::-1]  # ... and from here on
    tensors = np.append(tensor, -1)
    followed = np.flatnonzero(tensors[before] == tensor)
    read = np.flatnonzero(~writes & (tensors[after] == tensor))
    first = np.concatenate([before[followed], read])
    second = np.concatenate([followed, after[read]])
    kind = np.concatenate([writes[followed].astype(np.int64), np.full(len(read), 2)])
    return entry[first], entry[second], kind


def _needs_of_parts(columns: Columns, accesses: _Accesses) -> Iterator[Need]:
    histories: dict[int, _History] = {}
    users, submissions = columns.users, columns.schedule.submissions
    picked = np.flatnonzero(accesses.in_parts)
    last = users.values[users.starts[accesses.tensor[picked] + 1] - 1]
    entries = zip(
        accesses.by[picked].tolist(), accesses.is_read[picked].tolist(), accesses.is_write[picked].tolist(), last.tolist(),
        accesses.regions, strict=True,
    )  # fmt: skip
    for by, group in groupby(entries, key=itemgetter(0)):
        done, waits = list(group), submissions[by].waits
        waits = waits if len(waits) <= FEW else frozenset(waits)
        for column, access in ((1, _History.read), (2, _History.write)):
            for entry in done:
                if entry[column]:
                    region = entry[4]
                    history = histories.get(region.tensor) or histories.setdefault(region.tensor, _History())
                    for kind, other in access(history, region, by):
                        if other != by and other not in waits:
                            yield Need(kind, (other,), by, region.tensor)
        for *_, last_user, region in done:
            if last_user == by:
                histories.pop(region.tensor, None)  # nobody touches it any more


def sharing_needs(columns: Columns) -> Iterator[Need]:
    """Uses of tensors that share bytes of a block, which have to be ordered: every use of the earlier one comes first.

    It is enough to compare the last uses of the one with the first uses of the other, and each tensor with those that lay just
    before it in its bytes.
    """
    users = columns.users
    slots = np.flatnonzero((np.diff(users.starts)[columns.tensor] > 0) & (columns.size > 0))
    slots = slots[np.isin(columns.block[slots], _shared_blocks(columns, slots))]
    # Who moves in, by first use, tensor by tensor, block by block.
    slots = slots[np.lexsort((users.values[users.starts[columns.tensor[slots]]], columns.block[slots]))]
    uses, tenants, block = _Uses(columns, columns.tensor[slots]), _Tenants(), -1
    for part in in_turn(slots):
        low, size = columns.offset[part], columns.size[part]
        entries = columns.tensor[part].tolist(), low.tolist(), (low + size).tolist(), columns.block[part].tolist()
        new, old = list[int](), list[list[int]]()
        for tensor, start, end, its_block in zip(*entries, strict=True):
            if its_block != block:
                tenants, block = _Tenants(), its_block
            gone = tenants.move_in(start, end, tensor)
            if gone:
                new.append(tensor)
                old.append(gone)
        yield from _needs_of_moves(columns, uses, np.array(new, np.int64), old)


class _Uses:
    """The first and last uses of tensors: who waits for no other user of the tensor, and for whom none does."""

    def __init__(self, columns: Columns, tensors: Ints) -> None:
        users = columns.users
        known = Pairs.of(users.owners(), users.values, columns.num)
        is_first, is_last = np.ones(len(users.values), bool), np.ones(len(users.values), bool)
        for picked in in_turn(tensors):
            at, which = places(users, picked)
            wait, user = places(columns.waits, users.values[at])
            found = known.find(picked[which[user]], columns.waits.values[wait])
            is_first[at[user[found >= 0]]] = False
            is_last[found[found >= 0]] = False
        self.first, self.last = _only(users, is_first), _only(users, is_last)


def _needs_of_moves(columns: Columns, uses: _Uses, new: Ints, olds: Sequence[list[int]]) -> Iterator[Need]:
    """What follows from each of the `new` tensors, which come to lie where the `olds` lay; most have one, and one user to ask."""
    old = np.fromiter(map(itemgetter(0), olds), np.int64, len(olds))
    first_of, last_of = uses.first.starts, uses.last.starts
    is_simple = (first_of[new + 1] - first_of[new] == 1) & (last_of[old + 1] - last_of[old] == 1)
    is_simple &= np.fromiter(map(len, olds), np.int64, len(olds)) == 1
    first, second = uses.last.values[last_of[old[is_simple]]], uses.first.values[first_of[new[is_simple]]]
    left = ~columns.edges.have(second, first)
    alike = (first[left].tolist(), second[left].tolist(), new[is_simple][left].tolist(), old[is_simple][left].tolist())
    for one, other, tensor, gone in zip(*alike, strict=True):
        yield new_need("sharing", (one,), other, tensor, (gone,))
    others = np.flatnonzero(~is_simple).tolist()
    if others:
        yield from _needs_of_many(columns, uses, new[others].tolist(), [tuple(olds[k]) for k in others])


def _needs_of_many(columns: Columns, uses: _Uses, new: Sequence[int], old: Sequence[tuple[int, ...]]) -> Iterator[Need]:
    """What follows where each of the `new` tensors comes to lie where the `old` ones lay, whatever their users are."""
    gone = Rows.of(old)
    at, which = places(uses.last, gone.values)
    last = Pairs.of(gone.owners()[which], uses.last.values[at], columns.num).rows(len(new))
    users = last.values.tolist()
    known: dict[tuple[int, ...], tuple[int, ...]] = {}  # many have the same, which may be thousands
    firsts = [known.setdefault(row, row) for row in (tuple(users[a:b]) for a, b in pairwise(last.starts.tolist()))]
    at, which = places(uses.first, np.array(new))
    second = uses.first.values[at]
    may_wait = np.diff(columns.waits.starts)[second] >= np.diff(last.starts)[which]  # for all of them
    for move, user, may in zip(which.tolist(), second.tolist(), may_wait.tolist(), strict=True):
        if not (may and set(columns.schedule.submissions[user].waits).issuperset(firsts[move])):
            yield new_need("sharing", firsts[move], user, new[move], old[move])


def _only(rows: Rows, kept: Bools) -> Rows:
    """The rows with only some of their values."""
    return Rows(np.concatenate([[0], np.cumsum(kept)])[rows.starts], rows.values[kept])


def _shared_blocks(columns: Columns, slots: Ints) -> Ints:
    """The blocks of which some bytes are in two of these slots."""
    block, low = columns.block[slots].astype(np.int64), columns.offset[slots]
    order = np.lexsort((low, block))
    block, low, high = block[order], low[order], low[order] + columns.size[slots][order]
    ends = distinct(high)
    # The largest end of the slots before in the same block, found at once for all: blocks take turns in one row of numbers.
    reached = np.maximum.accumulate(np.searchsorted(ends, high) + block * len(ends))[:-1] - block[1:] * len(ends)
    meets = (block[1:] == block[:-1]) & (ends[reached * (block[1:] == block[:-1])] > low[1:])
    return distinct(block[1:][meets])


class _Tenants:
    """Which tensor lay last in which bytes of a block: disjoint ranges, ascending."""

    def __init__(self) -> None:
        self.lows: list[int] = []
        self.highs: list[int] = []
        self.tensors: list[int] = []

    def move_in(self, low: int, high: int, tensor: int) -> list[int]:
        """Give [low, high) to `tensor`; returns the tensors that had any of it."""
        lows, highs, tensors = self.lows, self.highs, self.tensors
        first = bisect_right(highs, low)
        if first < len(lows) and lows[first] == low and highs[first] == high:
            old, tensors[first] = tensors[first], tensor
            return [old]
        end = bisect_left(lows, high)
        gone = tensors[first:end]
        new_lows, new_highs, new_tensors = [low], [high], [tensor]
        if gone and highs[end - 1] > high:
            new_lows, new_highs, new_tensors = [low, high], [high, highs[end - 1]], [tensor, gone[-1]]
        if gone and lows[first] < low:
            new_lows, new_highs, new_tensors = [lows[first], *new_lows], [low, *new_highs], [gone[0], *new_tensors]
        lows[first:end], highs[first:end], tensors[first:end] = new_lows, new_highs, new_tensors
        return gone if len(gone) < 2 else list(dict.fromkeys(gone))
