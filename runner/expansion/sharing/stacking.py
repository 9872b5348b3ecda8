"""Offsets of tensors by the lists that they are in.

Entries are placed in the order of their list, each in the lowest place where it lies in the bytes of none before it, but for
those that it replaces or that replace it: of these, where nothing lies that is in use at the same time. A used graph and a group
are placed as they are inside, copies side by side; what passes through a ring lies in it where its address says. In an arena of
more than 2 GiB no tensor lies across a multiple of the largest block, so that it can be cut there.

    share: [a, {b: a}, c, {d: [b, c]}]       unit 2     c
                                             unit 1   a     d
    b takes the bytes of a, and d those      unit 0   a b   d
    of b and c, and so of a
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from runner.base.tensor_spec import BLOCK_UNITS
from runner.expansion.sharing.addresses import Addresses, Entry, ends_of
from runner.expansion.sharing.conflicts import Conflicts, Pair
from runner.expansion.sharing.texts import Stack, Unit
from runner.program.lifetimes import Ints

Leaf = tuple[Entry, ...]
"""Entries from a list inwards, at least one."""


@dataclass(frozen=True)
class Stacked:
    """offsets   units of 1,024 bytes per tensor of the addresses, from the bottom of its block
    leaves    the same of every leaf above the bottom of its list
    """

    offsets: Ints
    leaves: Mapping[tuple[Stack, Leaf], int]


def stacked(at: Addresses, conflicts: Conflicts) -> Stacked:
    """The offsets of all tensors, given those that cannot share."""
    return Stacking(at, conflicts).run()


class Stacking:
    """Places lists from the inside out. `sizes` are units per tensor's entry, `heights` those of lists, `bases` those of entries
    above the bottom of their list."""

    def __init__(self, at: Addresses, conflicts: Conflicts) -> None:
        self.at = at
        self.sizes: dict[int, int] = {}
        depth = (at.instance >= 0).sum(axis=1) - 1
        for unit, size in zip(at.unit[np.arange(len(depth)), depth].tolist(), at.size.tolist(), strict=True):
            self.sizes[unit] = max(self.sizes.get(unit, 0), size)
        self.of_unit: dict[int, list[Leaf]] = {}
        for _, leaf in at.leaves:
            self.of_unit.setdefault(leaf[0][0], []).append(leaf)
        self.pairs = leaf_pairs(at, conflicts)
        self.keep_apart()
        self.heights: dict[int, int] = {}
        self.bases: dict[int, int] = {}
        self.boxes: dict[int, int] = {}
        self.within: dict[int, dict[Leaf, tuple[int, int]]] = {}
        """Per entry the low and high end of its leaves above its own bottom."""

    def keep_apart(self) -> None:
        """Adds what lists keep apart to the pairs that cannot share."""
        for stack in dict.fromkeys(stack for stack, _ in self.at.leaves):
            beside = {unit.name: unit for unit in stack.units if unit.number in self.of_unit}
            for unit in beside.values():
                for text in unit.apart:
                    name, _, inside = (text.value, "", "") if text.value in beside else text.value.partition(".")
                    if name in beside and name != unit.name:
                        self._add_apart(unit, beside[name], inside)

    def _add_apart(self, unit: Unit, other: Unit, inside: str) -> None:
        theirs = [leaf for leaf in self.of_unit[other.number] if not inside or self._lies_in(leaf[1:], inside)]
        for one, two in product(self.of_unit[unit.number], theirs):
            self.pairs.setdefault((unit.number, other.number), []).append((one, two))
            self.pairs.setdefault((other.number, unit.number), []).append((two, one))

    def _lies_in(self, leaf: Leaf, name: str) -> bool:
        """Whether entries lead to what a name with dots stands for; groups on the way are not named."""
        path = ""
        for unit in (self.at.units[number] for number, _ in leaf):
            if f"{path}{unit.name}" == name:
                return True
            path += f"{unit.name}." if unit.inside is None else ""
        return False

    def run(self) -> Stacked:
        for stack, _ in self.at.leaves:
            self.height(stack)
        leaves = {(stack, leaf): self.bases[leaf[0][0]] + self.within[leaf[0][0]][leaf][0] for stack, leaf in self.at.leaves}
        places = np.array(list(leaves.values()), np.int64)
        return Stacked(places[self.at.leaf[:, 0]] if len(places) else places, leaves)

    def height(self, stack: Stack) -> int:
        """The height of a list, which this places."""
        if id(stack) not in self.heights:
            present = [unit for unit in stack.units if unit.number in self.of_unit]
            for unit in present:
                self.within[unit.number] = dict(self._inside(unit))
            order, shared = self.arranged(stack, present)
            bases = self.laid(order, shared)
            self.bases |= bases
            self.heights[id(stack)] = max((bases[unit.number] + self.box(unit) for unit in present), default=0)
        return self.heights[id(stack)]

    def arranged(self, stack: Stack, present: Sequence[Unit]) -> tuple[Sequence[Unit], set[Pair]]:
        """The order in which entries are placed, and pairs of their numbers that may share, smaller first."""
        return present, stack.may_share()

    def laid(self, order: Sequence[Unit], shared: set[Pair]) -> dict[int, int]:
        """Where the entries of a list lie, by number."""
        bases: dict[int, int] = {}
        for place, unit in enumerate(order):
            blocked: list[tuple[int, int]] = []
            mine = self.within[unit.number]
            top = max((bases[other.number] + self.box(other) for other in order[:place]), default=0)
            blocked += across_blocks(set(mine.values()), top, self.box(unit))
            for other in order[:place]:
                base, key = bases[other.number], (min(unit.number, other.number), max(unit.number, other.number))
                if key not in shared:
                    blocked.append((base - self.box(unit), base + self.box(other)))
                    continue
                theirs = self.within[other.number]
                for one, two in self.pairs.get((unit.number, other.number), ()):
                    blocked.append((base + theirs[two][0] - mine[one][1], base + theirs[two][1] - mine[one][0]))
            bases[unit.number] = lowest(blocked)
        return bases

    def one(self, unit: Unit) -> int:
        """The height of one copy of an entry."""
        below = unit.inside or unit.used
        return self.sizes.get(unit.number, 0) if below is None else self.height(below)

    def box(self, unit: Unit) -> int:
        """The height of all its copies."""
        found = self.boxes.get(unit.number)
        if found is None:
            found = self.boxes[unit.number] = self.one(unit) * self.copies(unit)
        return found

    def copies(self, unit: Unit) -> int:
        """How many copies of an entry lie one upon the other, of a ring how many of its largest."""
        return unit.num_copies

    def bottom(self, unit: Unit, place: int) -> int:
        """Where a copy of an entry, or a place in a ring, begins above the entry's own bottom."""
        return ends_of(place)[0] if unit.ring else place * self.one(unit)

    def _inside(self, unit: Unit) -> Iterator[tuple[Leaf, tuple[int, int]]]:
        """The leaves of an entry with their ends."""
        self.one(unit)  # places what lies inside
        for leaf in self.of_unit[unit.number]:
            base = self.bottom(unit, leaf[0][1])
            if len(leaf) > 1:
                base += self.bases[leaf[1][0]] + self.within[leaf[1][0]][leaf[1:]][0]
            size = self.sizes[[number for number, _ in leaf][-1]]
            for number, place in leaf:
                if self.at.units[number].ring:
                    low, high = ends_of(place)
                    size = high - low
            yield leaf, (base, base + size)


def leaf_pairs(at: Addresses, conflicts: Conflicts) -> dict[Pair, list[tuple[Leaf, Leaf]]]:
    """By the numbers of two entries, both ways, their leaves that are in use at the same time."""
    found: dict[Pair, list[tuple[Leaf, Leaf]]] = {}
    for one, other in conflicts.apart:
        (_, a), (_, b) = at.leaves[one], at.leaves[other]
        found.setdefault((a[0][0], b[0][0]), []).append((a, b))
        found.setdefault((b[0][0], a[0][0]), []).append((b, a))
    return found


def across_blocks(ends: Iterable[tuple[int, int]], top: int, box: int) -> Iterator[tuple[int, int]]:
    """Ranges of bases, in an arena that is `top` units high, where a tensor of an entry with these ends would lie across a
    multiple of the largest block: there the arena is cut. None if that cannot be had, as in some copies side by side."""
    if top + box > BLOCK_UNITS and not any(low // BLOCK_UNITS < (high - 1) // BLOCK_UNITS for low, high in ends):
        for cut in range(BLOCK_UNITS, top + BLOCK_UNITS + box, BLOCK_UNITS):
            yield from ((cut - high, cut - low) for low, high in ends)


def lowest(blocked: Iterable[tuple[int, int]]) -> int:
    """The least base of 0 or more that lies strictly inside none of the ranges."""
    base = 0
    for low, high in sorted(blocked):
        if low >= base:
            break
        base = max(base, high)
    return base
