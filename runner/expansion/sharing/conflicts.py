"""Which places in lists tensors are in at the same time, and so cannot share bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runner.expansion.sharing.addresses import Addresses
from runner.program.lifetimes import Floats, Ints

Pair = tuple[int, int]


@dataclass(frozen=True)
class Conflicts:
    """Pairs of leaves that belong to different entries of one list, smaller number first, each with two tensors (as rows of the
    addresses) that show it, the earlier first; and pairs of leaves of one entry, in different trips or uses of it."""

    apart: dict[Pair, Pair] = field(default_factory=dict)
    same: dict[Pair, Pair] = field(default_factory=dict)
    """By the leaves at the level of that entry; of a ring, those that lie in each other there."""


def by_lives(at: Addresses) -> Conflicts:
    """Conflicts of tensors that are alive at the same time in submission order."""
    return conflicts(at, at.lives.first[at.locals].astype(float), at.lives.end[at.locals].astype(float))


def conflicts(at: Addresses, begin: Floats, finish: Floats) -> Conflicts:
    """Conflicts of tensors of which the earlier one, in the order of first touches, finishes after the later one begins."""
    order = np.argsort(at.lives.first[at.locals], kind="stable")
    soonest = np.minimum.accumulate(begin[order][::-1])[::-1]  # of all begins that are to come
    active = np.empty(0, np.int64)
    earlier: list[Ints] = []
    later: list[Ints] = []
    for place, row in enumerate(order.tolist()):
        active = active[finish[active] > soonest[place]]
        met = active[finish[active] > begin[row]]
        earlier.append(met)
        later.append(np.full(len(met), row, np.int64))
        active = np.append(active, row)
    if not earlier:
        return Conflicts()
    return _sorted(at, np.concatenate(earlier), np.concatenate(later))


def _rings(at: Addresses) -> Ints:
    """Per tensor the number of the ring that it is in, -1 of others."""
    rings = [number for number, unit in at.units.items() if unit.ring]
    return np.where(np.isin(at.unit, rings), at.unit, -1).max(axis=1, initial=-1)


def _sorted(at: Addresses, earlier: Ints, later: Ints) -> Conflicts:
    """The pairs of rows by where their ways part."""
    found = Conflicts()
    equal = (at.instance[earlier] == at.instance[later]) & (at.instance[earlier] >= 0)
    level = equal.sum(axis=1) - 1  # instances are equal down to some level
    kept = level >= 0
    earlier, later, level = earlier[kept], later[kept], level[kept]
    is_same = at.entry[earlier, level] == at.entry[later, level]
    is_copy = ~is_same & (at.unit[earlier, level] == at.unit[later, level])
    in_ring = is_copy & (at.high[earlier] > at.low[earlier]) & (at.unit[earlier, level] == _rings(at)[earlier])
    is_same |= in_ring & (at.low[earlier] < at.high[later]) & (at.low[later] < at.high[earlier])
    one, other = at.leaf[earlier, level], at.leaf[later, level]
    for wanted, into in ((~is_same & ~is_copy, found.apart), (is_same, found.same)):
        keys = np.minimum(one, other) * len(at.leaves) + np.maximum(one, other)
        chosen = np.flatnonzero(wanted)
        unique, first = np.unique(keys[chosen], return_index=True)
        for key, place in zip(unique.tolist(), chosen[first].tolist(), strict=True):
            into[divmod(key, len(at.leaves))] = (int(earlier[place]), int(later[place]))
    return found
