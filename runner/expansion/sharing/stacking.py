"""Offsets of tensors by the lists that they are in.

Entries lie from the bottom up in the order of their list. Each lies above all before it, but for those whose bytes it takes, or
that take its bytes: above what of these is in use at the same time, if anything. A used graph and a group are placed as they are
inside, copies side by side.

    share: [a, b, {c: a}, {d: [b, c]}]       unit 3     b     d
                                             unit 2     b     d
    c is done with a, and d with b and c:    unit 1     b     d
    both lie on the bottom                   unit 0   a c     d    c lies below b, which it does not replace
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from runner.expansion.sharing.addresses import Addresses, Entry
from runner.expansion.sharing.conflicts import Conflicts, Pair
from runner.expansion.sharing.texts import Stack, Unit
from runner.program.lifetimes import Ints

Leaf = tuple[Entry, ...]


@dataclass(frozen=True)
class Stacked:
    """offsets   units of 1,024 bytes per tensor of the addresses, from the bottom of its block
    heights   units of every list        bases   units of every entry above the bottom of its list, by unit number
    """

    offsets: Ints
    heights: Mapping[int, int]
    bases: Mapping[int, int]
    leaves: Mapping[tuple[Stack, Leaf], int]


def stacked(at: Addresses, conflicts: Conflicts) -> Stacked:
    """The offsets of all tensors, given those that cannot share."""
    return _Stacking(at, conflicts).run()


class _Stacking:
    def __init__(self, at: Addresses, conflicts: Conflicts) -> None:
        self.at = at
        self.sizes: dict[int, int] = {}  # per tensor's unit
        depth = (at.instance >= 0).sum(axis=1) - 1
        last = at.unit[np.arange(len(depth)), depth] if len(depth) else depth
        for unit, size in zip(last.tolist(), at.size.tolist(), strict=True):
            self.sizes[unit] = max(self.sizes.get(unit, 0), size)
        self.of_stack: dict[int, list[Leaf]] = {}
        for stack, leaf in at.leaves:
            self.of_stack.setdefault(id(stack), []).append(leaf)
        self.pairs: dict[Pair, list[tuple[Leaf, Leaf]]] = {}  # by units
        for one, other in conflicts.apart:
            (_, a), (_, b) = at.leaves[one], at.leaves[other]
            self.pairs.setdefault((a[0][0], b[0][0]), []).append((a, b))
            self.pairs.setdefault((b[0][0], a[0][0]), []).append((b, a))
        self.heights: dict[int, int] = {}
        self.bases: dict[int, int] = {}
        self.found: dict[tuple[int, Leaf], int] = {}

    def run(self) -> Stacked:
        for stack, _ in self.at.leaves:
            self.height(stack)
        place = [self.found[id(stack), leaf] for stack, leaf in self.at.leaves]
        offsets = np.array(place, np.int64)[self.at.leaf[:, 0]] if place else np.zeros(0, np.int64)
        leaves = {(stack, leaf): self.found[id(stack), leaf] for stack, leaf in self.at.leaves}
        return Stacked(offsets, self.heights, self.bases, leaves)

    def height(self, stack: Stack) -> int:
        """The height of a list; notes where its entries and leaves lie."""
        if id(stack) in self.heights:
            return self.heights[id(stack)]
        leaves: dict[int, list[Leaf]] = {}
        for leaf in self.of_stack.get(id(stack), ()):
            leaves.setdefault(leaf[0][0], []).append(leaf)
        present = [(place, unit) for place, unit in enumerate(stack.units) if unit.number in leaves]
        inner = {unit.number: {leaf: self.within(unit, leaf) for leaf in leaves[unit.number]} for _, unit in present}
        shared, top = stack.may_share(), 0
        done: list[tuple[int, Unit]] = []
        for place, unit in present:
            base = 0
            for earlier, below in done:
                under = self.bases[below.number]
                if (earlier, place) not in shared:
                    base = max(base, under + self.box(below))
                    continue
                for high, low in self.pairs.get((unit.number, below.number), ()):
                    base = max(base, under + inner[below.number][low] + self.size(below, low) - inner[unit.number][high])
            self.bases[unit.number] = base
            done.append((place, unit))
            top = max(top, base + self.box(unit))
            for leaf, offset in inner[unit.number].items():
                self.found[id(stack), leaf] = base + offset
        self.heights[id(stack)] = top
        return top

    def one(self, unit: Unit) -> int:
        """The height of one copy of an entry."""
        below = unit.inside or unit.used
        return self.sizes.get(unit.number, 0) if below is None else self.height(below)

    def box(self, unit: Unit) -> int:
        return self.one(unit) * unit.num_copies

    def within(self, unit: Unit, leaf: Leaf) -> int:
        """Where a leaf lies above the bottom of its entry."""
        below = unit.inside or unit.used
        offset = leaf[0][1] * self.one(unit)
        return offset if below is None else offset + self.found[id(below), leaf[1:]]

    def size(self, unit: Unit, leaf: Leaf) -> int:
        return self.sizes[leaf[-1][0]]
