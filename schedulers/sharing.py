"""The edges that shared bytes need: whoever first touches a tensor waits for the last who touched what lay there before.

The runtime orders RAW and WAW of one tensor, never WAR, and knows nothing of two tensors in the same bytes. For every tensor
whose bytes had earlier tenants, each of its *first* touches (none of its other touches comes before in the order of edges)
waits for each *last* touch of those tenants, unless edges order the two already. Then every touch of the new tensor comes after
every touch of the old ones, whatever runs in between.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from schedulers.lifetimes import Ints, Rows

WINDOW = 1 << 15
"""Ancestors are remembered this many tasks back; older ones count as unordered, which can only add an edge."""
_BLOCK = 1 << 13


class Order:
    """The partial order of the tasks by edges, as one bit set of ancestors per task, built in submission order."""

    def __init__(self) -> None:
        self._sets: list[int] = []

    def __len__(self) -> int:
        return len(self._sets)

    @staticmethod
    def _base(task: int) -> int:
        return max(0, task // _BLOCK * _BLOCK - WINDOW)

    def bit(self, task: int, seen_from: int) -> int:
        """The bit of `task` in a set of `seen_from`, 0 when it is out of sight."""
        at = task - self._base(seen_from)
        return 1 << at if at >= 0 else 0

    def ancestors(self, waits: Sequence[int]) -> int:
        """Set of all that come before the next task if it waits for these."""
        task = len(self._sets)
        base = self._base(task)
        found = 0
        for wait in waits:
            if wait >= base:
                shift = base - self._base(wait)
                found |= (self._sets[wait] >> shift) | (1 << (wait - base))
        return found

    def append(self, ancestors: int) -> None:
        self._sets.append(ancestors)
        if len(self._sets) % _BLOCK == 0:
            for old in range(max(0, len(self._sets) - WINDOW - 2 * _BLOCK), self._base(len(self._sets))):
                self._sets[old] = 0

    def seen(self, task: int, seen_from: int) -> int:
        """Ancestors of `task` as a set of `seen_from` (a later task)."""
        if task < self._base(seen_from):
            return 0
        return self._sets[task] >> (self._base(seen_from) - self._base(task))


class Tenants:
    """Which tensor last lay in which bytes: disjoint intervals, sorted."""

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []
        self._tensors: list[int] = []

    def move_in(self, low: int, high: int, tensor: int) -> list[int]:
        """Give `[low, high)` to `tensor`; returns the tensors that had any of it."""
        a = bisect_right(self._highs, low)
        b = bisect_left(self._lows, high)
        before = self._tensors[a:b]
        lows, highs, tensors = [low], [high], [tensor]
        if a < b and self._lows[a] < low:
            lows.insert(0, self._lows[a])
            highs.insert(0, low)
            tensors.insert(0, self._tensors[a])
        if a < b and self._highs[b - 1] > high:
            lows.append(high)
            highs.append(self._highs[b - 1])
            tensors.append(self._tensors[b - 1])
        self._lows[a:b], self._highs[a:b], self._tensors[a:b] = lows, highs, tensors
        return list(dict.fromkeys(before))


def predecessors(first: Ints, offsets: Ints, size: Ints) -> list[list[int]]:
    """For each tensor those that lay in any of its bytes just before it, by first touch (ties by index).

    Tensors with a negative offset are left out: they lie elsewhere, or nothing touches them.
    """
    tenants = Tenants()
    found: list[list[int]] = [[] for _ in range(len(size))]
    for tensor in sorted(range(len(size)), key=lambda t: (first[t], t)):
        low = int(offsets[tensor])
        if low >= 0 and size[tensor] > 0:
            found[tensor] = tenants.move_in(low, low + int(size[tensor]), tensor)
    return found


def sharing_waits(waits: Rows, touches: Rows, before: Sequence[Sequence[int]]) -> list[list[int]]:
    """Per task the tasks that it must wait for besides `waits`, none of them implied by other edges.

    waits    per task the tasks that the runtime makes it wait for
    touches  per task the tensors that it touches
    before   per tensor the tensors that lay in its bytes before, all of whose touches have smaller numbers than its own
    """
    order = Order()
    firsts: dict[int, list[int]] = {}  # tensor with tenants before it -> its first touches so far
    toucher_lists: dict[int, list[int]] = {}
    needed_later = {old for olds in before for old in olds}
    lasts: dict[int, list[int]] = {}
    extra: list[list[int]] = []
    for task in range(len(touches)):
        natural = waits.row(task)
        known = order.ancestors(natural)
        wanted: set[int] = set()
        for tensor in touches.row(task):
            if tensor in needed_later:
                toucher_lists.setdefault(tensor, []).append(task)
            if not before[tensor]:
                continue
            mine = firsts.setdefault(tensor, [])
            if any(known & order.bit(earlier, task) for earlier in mine):
                continue
            mine.append(task)
            for old in before[tensor]:
                if old not in lasts:
                    lasts[old] = _maximal(toucher_lists.pop(old, []), order)
                wanted.update(w for w in lasts[old] if w != task)
        added = _prune(wanted, known, task, order)
        extra.append(added)
        order.append(known | order.ancestors(added) if added else known)
    return extra


def _maximal(touchers: list[int], order: Order) -> list[int]:
    """Those that no other of these tasks comes after."""
    found: list[int] = []
    if not touchers:
        return found
    seen_from = touchers[-1]
    covered = 0
    for task in reversed(touchers):
        bit = order.bit(task, seen_from)
        if not bit or not covered & bit:
            found.append(task)
        covered |= order.seen(task, seen_from)
    return found


def _prune(wanted: set[int], known: int, task: int, order: Order) -> list[int]:
    """`wanted` without what is implied by `known` or by others that are wanted, ascending."""
    kept: list[int] = []
    for wait in sorted(wanted, reverse=True):
        bit = order.bit(wait, task)
        if bit and known & bit:
            continue
        kept.append(wait)
        known |= order.seen(wait, task)
    return kept[::-1]
