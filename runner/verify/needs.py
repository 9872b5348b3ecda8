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
from runner.verify.columns import TOGETHER, Bools, Columns, Pairs, in_turn, places, ranges
from runner.verify.edges import Need, new_need

Item = TypeVar("Item")

FEW = 16
"""Boxes, or waits, of which each search looks at all."""


CELLS = 16
"""Ends of others within a tensor's bytes, on average, up to which it is quick to look at all cells, from end to end, apart."""


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
        written &= columns.program.size_bytes > 0  # no bytes, nothing to order
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
        self.regions: list[Region] = []
        for number, group in groupby(zip(task.tolist(), place.tolist(), strict=True), key=itemgetter(0)):
            regions = tuple(program.tasks[number].regions)
            self.regions += [regions[at] for _, at in group]


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
    uses = _Uses(columns, columns.tensor[slots])
    new, old = _moves(columns, slots)
    moved, gone = columns.tensor[slots[new]], columns.tensor[slots[old.values]]
    cuts = np.searchsorted(new, np.arange(0, len(slots) + TOGETHER, TOGETHER))
    for low, high in pairwise(cuts.tolist()):
        some = Rows(old.starts[low : high + 1] - old.starts[low], gone[old.starts[low] : old.starts[high]])
        yield from _needs_of_moves(columns, uses, moved[low:high], some)


def _moves(columns: Columns, slots: Ints) -> tuple[Ints, Rows]:
    """Of slots in the order in which tensors move in, block by block: those whose bytes others had, and per one of them the
    slots that had any of these bytes last, by address; all by their places in `slots`."""
    block, low, size = columns.block[slots].astype(np.int64), columns.offset[slots], columns.size[slots]
    low = low + block * (int((low + size).max(initial=0)) + 1)  # blocks one behind the other
    ends = distinct(np.concatenate([low, low + size]))
    first, end = np.searchsorted(ends, low), np.searchsorted(ends, low + size)  # cells between two ends that follow each other
    if int((end - first).sum()) > CELLS * len(slots):
        return _moves_one_by_one(low.tolist(), (low + size).tolist())
    cell, by = ranges(first, end)
    key = np.sort(cell * np.int64(len(slots)) + by)  # who moved into each cell, one after the other
    cell, by = key // len(slots), key % len(slots)
    again = np.flatnonzero(cell[1:] == cell[:-1])
    new, old, cell = by[again + 1], by[again], cell[again]
    order = np.argsort(new * np.int64(len(ends)) + cell)
    new, old = new[order], old[order]
    # Who had several of the cells counts once.
    pair = new * np.int64(len(slots)) + old
    order = np.argsort(pair, kind="stable")
    kept = np.sort(order[np.append(True, np.diff(pair[order]) > 0)[: len(order)]])
    new, old = new[kept], old[kept]
    moved = distinct(new)
    return moved, Rows(np.append(np.searchsorted(new, moved), len(new)), old)


def _moves_one_by_one(lows: Sequence[int], highs: Sequence[int]) -> tuple[Ints, Rows]:
    """The same where many lie across the ends of many others."""
    tenants, new, old = _Tenants(), list[int](), list[list[int]]()
    for place, (low, high) in enumerate(zip(lows, highs, strict=True)):
        gone = tenants.move_in(low, high, place)
        if gone:
            new.append(place)
            old.append(gone)
    return np.array(new, np.int64), Rows.of(old)


class _Uses:
    """The first and last uses of tensors: who waits for no other user of the tensor, and for whom none does."""

    def __init__(self, columns: Columns, tensors: Ints) -> None:
        users = columns.users
        is_first, is_last = np.ones(len(users.values), bool), np.ones(len(users.values), bool)
        num, start = (np.diff(users.starts)[tensors], users.starts[tensors])
        for at in in_turn(start[num == 2]):  # nearly all
            waits = at[columns.edges.have(users.values[at + 1], users.values[at])]
            is_first[waits + 1] = is_last[waits] = False
        many = distinct(tensors[num > 2])
        at, which = places(users, many)
        known = Pairs.of(which, users.values[at], columns.num)
        for picked in in_turn(np.arange(len(at))):
            wait, user = places(columns.waits, users.values[at[picked]])
            found = known.find(which[picked[user]], columns.waits.values[wait])
            is_first[at[picked[user[found >= 0]]]] = False
            is_last[at[found[found >= 0]]] = False
        self.first, self.last = _only(users, is_first), _only(users, is_last)


def _needs_of_moves(columns: Columns, uses: _Uses, new: Ints, old: Rows) -> Iterator[Need]:
    """What follows from each of the `new` tensors, which come to lie where the `old` lay; most have one, and one user to ask."""
    first_of, last_of = uses.first.starts, uses.last.starts
    one = old.values[old.starts[:-1]]
    is_simple = (first_of[new + 1] - first_of[new] == 1) & (last_of[one + 1] - last_of[one] == 1) & (np.diff(old.starts) == 1)
    tensor, gone = new[is_simple], one[is_simple]
    first, second = uses.last.values[last_of[gone]], uses.first.values[first_of[tensor]]
    left = ~columns.edges.have(second, first)
    alike = (first[left].tolist(), second[left].tolist(), tensor[left].tolist(), gone[left].tolist())
    for earlier, later, number, before in zip(*alike, strict=True):
        yield new_need("sharing", (earlier,), later, number, (before,))
    if not is_simple.all():
        many = old.only(~is_simple)
        yield from _needs_of_many(columns, uses, new[~is_simple], Rows(many.starts[np.append(~is_simple, True)], many.values))


def _needs_of_many(columns: Columns, uses: _Uses, new: Ints, old: Rows) -> Iterator[Need]:
    """What follows where each of the `new` tensors comes to lie where the `old` ones lay, whatever their users are."""
    values = old.values.tolist()
    olds = [tuple(values[low:high]) for low, high in pairwise(old.starts.tolist())]
    places_of = {gone: place for place, gone in enumerate(dict.fromkeys(olds))}  # many come to lie where the same ones lay
    gone = Rows.of(list(places_of))
    at, which = places(uses.last, gone.values)
    last = Pairs.of(gone.owners()[which], uses.last.values[at], columns.num).rows(len(gone))
    users = last.values.tolist()
    known: dict[tuple[int, ...], tuple[int, ...]] = {}  # and many have the same users, which may be thousands
    firsts = [known.setdefault(row, row) for row in (tuple(users[a:b]) for a, b in pairwise(last.starts.tolist()))]
    of_move = np.array([places_of[tensors] for tensors in olds])
    at, which = places(uses.first, new)
    second = uses.first.values[at]
    may_wait = np.diff(columns.waits.starts)[second] >= np.diff(last.starts)[of_move[which]]  # for all of them
    entries = which.tolist(), of_move[which].tolist(), second.tolist(), may_wait.tolist(), new[which].tolist()
    for move, place, user, may, tensor in zip(*entries, strict=True):
        if not (may and set(columns.schedule.submissions[user].waits).issuperset(firsts[place])):
            yield new_need("sharing", firsts[place], user, tensor, olds[move])


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
