"""The cover kernel: which runs of items become scopes of one depth, so that they cover the most.

Items stand in a row between boundaries. The run between boundaries k and j may become a scope if it fits, and then covers
`worth[k, j]`. An item outside of all scopes counts for what scopes inside it cover, `gaps`. Scopes side by side that cover the
most of every interval follow from those of shorter ones, by its last item or its last scope:

    best[i, j] = max of  best[i, j - 1] + gaps[j - 1]             the last item is in no scope
                         best[i, k] + worth[k, j] for every k     the last scope is that of k to j

Example: five tasks, and tensors a to e with units of 1,024 bytes. A scope may hold 9 units, and holds what lives inside it:

    boundary   0    1    2    3    4    5
    task       | t0 | t1 | t2 | t3 | t4 |
    a 4        [=========]                      0 to 2 holds a and b, 6 units; 0 to 3 holds c too, 11: too much
    b 2             [====]                      2 to 5 holds d and e, 9 units
    c 5             [=========]                 so the best cover of all, 15 units, is 0 to 2 and 2 to 5;
    d 3                  [=========]            c, which lives in both, stays outside
    e 6                       [=========]

>>> lives = {"a": (0, 2, 4), "b": (1, 2, 2), "c": (1, 3, 5), "d": (2, 4, 3), "e": (3, 5, 6)}
>>> worth = np.array([[sum(n for a, b, n in lives.values() if i <= a and b <= j) for j in range(6)] for i in range(6)])
>>> found = cover(worth, worth <= 9, nested=True)
>>> found.scopes(0, 5), found.full
([(0, 2), (2, 5)], 15)
>>> found.scopes(0, 2), found.scopes(0, 2, inside=True)  # all of an interval is a scope, or none is
([(0, 2)], [(1, 2)])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.program.lifetimes import Ints

Run = tuple[int, int]
"""Two boundaries, or the first item and the one after the last."""

_NONE = -(1 << 60)
"""What an interval without items covers, as the left part of a longer one: far below any sum of units."""


@dataclass(frozen=True)
class Cover:
    """Per interval, by its first and last boundary: what scopes cover, and where the last one begins, -1 if the last item is in
    none. `inner` is the same as `begin`, if asked for without a scope over the whole of the interval."""

    best: Ints
    begin: Ints
    inner: Ints

    @property
    def full(self) -> int:
        """What is covered of all items."""
        return int(self.best[0, -1])

    def scopes(self, low: int, high: int, inside: bool = False) -> list[Run]:
        """The scopes that cover the interval, in order; `inside` means none over the whole of it."""
        found, begin = [], self.inner if inside else self.begin
        while high > low:
            start = int(begin[low, high])
            if start >= 0:
                found.append((start, high))
            high = start if start >= 0 else high - 1
            begin = self.begin
        return found[::-1]


def cover(
    worth: Ints, fits: np.ndarray, gaps: Sequence[int] | None = None, prefixes: bool = False, nested: bool = False
) -> Cover:
    """The scopes that cover the most of every interval, or, with `prefixes`, of those from the first boundary on.

    worth  int64[n + 1, n + 1], fits bool[n + 1, n + 1], gaps per item; `nested`, not with `prefixes`, fills in `inner` too, and
    takes an interval as one scope only if that is better than any inside it
    """
    num = len(worth)
    width = 1 if prefixes else num
    fits = np.triu(fits, 1)
    lowest, counts = fits.argmax(axis=0).tolist(), np.count_nonzero(fits, axis=0).tolist()
    up_to = worth.T.copy()
    best = np.full((num, width), _NONE, np.int64)  # lines are ends, columns are beginnings
    best[0, 0] = 0
    begin = np.full((width, num), -1, np.int64)
    inner = begin.copy() if nested else begin
    columns = np.arange(width)
    for j in range(1, num):
        i = min(j, width)
        line = best[j, :i]
        line[:] = best[j - 1, :i] + (0 if gaps is None else gaps[j - 1])
        best[j, j : j + 1] = 0
        if not counts[j]:
            continue
        low = lowest[j]
        starts = slice(low, j) if counts[j] == j - low else low + fits[low:j, j].nonzero()[0]
        got = best[starts, :i] + up_to[j, starts, None]
        if nested:
            got[np.arange(len(got)), columns[starts]] = _NONE
        last = got.argmax(axis=0)
        most = got[last, columns[:i]]
        better = most > line
        line[better] = most[better]
        begin[:i, j][better] = last[better] + low if isinstance(starts, slice) else starts[last[better]]
        if nested:
            inner[:, j] = begin[:, j]
            whole = fits[:i, j] & (up_to[j, :i] > line)
            line[whole], begin[:i, j][whole] = up_to[j, :i][whole], columns[:i][whole]
    return Cover(np.maximum(best.T, 0), begin, inner)
