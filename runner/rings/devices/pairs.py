"""Which tensors may not share bytes, as pairs: those that are in use at once, in order or in time.

A life is a half-open interval. Each tensor may have several: the tasks between which it is used, and the times. Two tensors may
share where they are apart in all lives, and in the same order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from runner.program.lifetimes import Floats, Ints, distinct

MAX_PAIRS = 8_000_000
"""Pairs of tensors that may not share that are listed for all orders, 128 MB; of more, each tensor's are found when it comes."""

Live = tuple[Ints | Floats, Ints | Floats]
"""Begins and ends of all tensors."""


class Neighbours:
    """Which tensors may not share bytes with another one, listed once for all orders if there are not too many pairs: one of two
    must end before the other begins, in all of the `lives` given."""

    def __init__(self, *lives: Live) -> None:
        self.lives, self.num = lives, len(lives[0][0])
        self._starts: list[int] | None = None  # of each tensor's in the values; None if there are too many
        if (pairs := met_pairs(lives)) is not None:
            owners = np.concatenate([*pairs, np.arange(self.num)])
            self._starts = [0, *np.cumsum(np.bincount(owners, minlength=self.num)).tolist()]
            few_bytes = owners.astype(np.min_scalar_type(self.num))  # two are sorted by their digits
            self._values = np.concatenate([*pairs[::-1], np.full(self.num, self.num)])[np.argsort(few_bytes, kind="stable")]

    def of(self, tensor: int) -> Ints:
        """Those that a tensor may not share with, maybe with itself, and last one more than there are, which stands for none."""
        if self._starts is None:
            return np.append(np.flatnonzero(are_met(self.lives, tensor, slice(None))), self.num)
        return self._values[self._starts[tensor] : self._starts[tensor + 1]]


def met_pairs(lives: Sequence[Live]) -> tuple[Ints, Ints] | None:
    """Pairs of tensors that are not apart in all lives, and in the same order; None if there are too many."""
    found, num = [_overlapping(begin, end) for begin, end in lives], len(lives[0][0])
    found += [_turned(*two) for two in pairwise(lives)]
    if any(len(one) > MAX_PAIRS for one, _ in found):
        return None
    codes = [np.minimum(one, other) * num + np.maximum(one, other) for one, other in found]
    one, other = np.divmod(distinct(np.concatenate(codes)), max(1, num))
    is_met = are_met(lives, one, other)
    return None if np.count_nonzero(is_met) > MAX_PAIRS else (one[is_met], other[is_met])


def _overlapping(begin: Ints | Floats, end: Ints | Floats) -> tuple[Ints, Ints]:
    """Pairs of which one begins before the other ends, and the other way round; of too many, the first."""
    order, each = np.lexsort((end, begin)), np.arange(len(begin))
    counts = np.maximum(np.searchsorted(begin[order], end[order]) - each - 1, 0)  # of the next ones that begin before it ends
    stops = np.cumsum(counts)
    each = each[: np.searchsorted(stops, MAX_PAIRS, side="right") + 1]
    one = np.repeat(each, counts[: len(each)])
    return order[one], order[one + 1 + np.arange(len(one)) - (stops - counts)[one]]


def _turned(first: Live, second: Live) -> tuple[Ints, Ints]:
    """Pairs of which one comes first in the first lives, and begins when the other has ended in the second ones; see above."""
    (begin, end), ones, others, passed = second, list[int](), list[int](), list[tuple[float, int]]()
    for tensor in np.lexsort((first[1], first[0])).tolist():
        later = passed[bisect_left(passed, (float(end[tensor]), -1)) :]
        ones += [one for _, one in later]
        others += [tensor] * len(later)
        if len(ones) > MAX_PAIRS:
            break
        insort(passed, (float(begin[tensor]), tensor))
    return np.array(ones, np.int64), np.array(others, np.int64)


def are_met(lives: Sequence[Live], one: Ints | int, other: Ints | slice) -> np.ndarray:
    """Which pairs of tensors are not apart in all lives, and in the same order."""
    before = np.all([end[other] <= begin[one] for begin, end in lives], axis=0)
    return ~(before | np.all([begin[other] >= end[one] for begin, end in lives], axis=0))
