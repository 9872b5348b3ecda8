"""This module tells which tasks edges order, and who lay in whose bytes: what tells which edges shared bytes need."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from runner.program.lifetimes import Ints

WINDOW = 1 << 15
"""Ancestors are remembered this many tasks back, 4 KiB a task; older ones count as unordered, which can only add an edge."""

_BLOCK = 1 << 13
"""Tasks whose sets begin at the same task: a quarter of the window, so that few sets are shifted to be compared."""


class Order:
    """The partial order of the tasks by edges, built in submission order: per task one bit set, of itself and its ancestors."""

    def __init__(self) -> None:
        self._sets: list[int] = []

    @staticmethod
    def _base(task: int) -> int:
        return task // _BLOCK * _BLOCK - WINDOW if task >= WINDOW else 0

    def has(self, found: int, task: int, seen_from: int) -> bool:
        """Whether `task` is in a set of `seen_from`, False when it is out of sight."""
        at = task - self._base(seen_from)
        return at >= 0 and found >> at & 1 == 1  # sets are shorter from there than up to there: most look at late tasks

    def ancestors(self, waits: Sequence[int]) -> int:
        """Set of all that come before the next task if it waits for these."""
        sets, found, base = self._sets, 0, self._base(len(self._sets))
        for wait in waits:
            if wait >= base:
                found |= sets[wait] >> base - self._base(wait)
        return found

    def append(self, ancestors: int) -> None:
        task = len(self._sets)
        self._sets.append(ancestors | 1 << task - self._base(task))
        if len(self._sets) % _BLOCK == 0:
            for old in range(max(0, len(self._sets) - WINDOW - 2 * _BLOCK), self._base(len(self._sets))):
                self._sets[old] = 0

    def seen(self, task: int, seen_from: int) -> int:
        """`task` and its ancestors as a set of `seen_from` (a later task), none when it is out of sight."""
        base = self._base(seen_from)
        return self._sets[task] >> (base - self._base(task)) if task >= base else 0


def predecessors(tensors: Ints, first: Ints, offsets: Ints, size: Ints) -> dict[int, list[int]]:
    """For each of `tensors` whose bytes had tenants before: those that had any of them last, by first touch (ties by index)."""
    tenants: list[tuple[int, int, int]] = []  # low, high, and the tensor that last lay in `[low, high)`; disjoint, sorted
    found: dict[int, list[int]] = {}
    order = tensors[np.argsort(first[tensors], kind="stable")]
    lows, highs = offsets[order].tolist(), (offsets + size)[order].tolist()
    for tensor, low, high in zip(order.tolist(), lows, highs, strict=True):
        met = slice(bisect_right(tenants, low, key=itemgetter(1)), bisect_left(tenants, high, key=itemgetter(0)))
        before = tenants[met]
        if before:
            found[tensor] = list(dict.fromkeys(old for _, _, old in before))
        tenants[met] = [
            *((start, low, old) for start, _, old in before[:1] if start < low),
            (low, high, tensor),
            *((high, end, old) for _, end, old in before[-1:] if end > high),
        ]
    return found


def maximal(touchers: list[int], order: Order) -> list[int]:
    """Those that no other of these tasks comes after."""
    *earlier, last = touchers
    found, covered = [last], order.seen(last, last) if earlier else 0
    for task in reversed(earlier):
        if not order.has(covered, task, last):
            found.append(task)
            covered |= order.seen(task, last)
    return found


def pruned(wanted: set[int], known: int, task: int, order: Order) -> list[int]:
    """`wanted` without what is implied by `known` or by others that are wanted, ascending."""
    kept: list[int] = []
    for wait in sorted(wanted, reverse=True):
        if not order.has(known, wait, task):
            kept.append(wait)
            known |= order.seen(wait, task)
    return kept[::-1]
