"""What a choice of scopes is, and what it needs of the four rings: a depth for every tensor, from which the scopes follow.

A tensor of depth d lies in a scope of depth d (the root is 0) that is open for all of its life. So a scope of depth d may end
before a task unless a tensor of depth d or deeper lives on there, and it loses nothing by ending: a *cut* of level c before a
task ends the scopes of depth c and deeper, and the least level that the tensors allow is the best. Level 4 ends none.

    task           0   1   2   3   4
    a  depth 1     |=======|              cut before task 1: a lives on at depth 1, so level 2
    b  depth 2     |===|                  2: likewise
    c  depth 2         |===|              3: nothing lives on but d at depth 1, level 2
    d  depth 1             |=======|      4: likewise
    e  depth 3                 |===|

    cut level          2   2   2   2

A dynamic loop is submitted from one body for any number of trips, so a scope lies inside one trip or around the whole loop:
cuts at its start, at its end and between its trips are raised to one level, and cuts inside trips to at least that.

A scope's tensors go into one block at its beginning. Then the ring of a depth is empty whenever a scope of that depth opens, so
it needs the most bytes that one scope of that depth holds directly, for any trip counts, and no placement needs less.
docs/memory-model.md has the proofs, and why scopes deeper than 3 gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runner.program.lifetimes import Ints, Lives, live_units
from runner.program.program import Span
from runner.program.spans import last_task, spans_of

NUM_DEPTHS = 4
NO_CUT = NUM_DEPTHS
Four = tuple[int, int, int, int]


@dataclass(frozen=True)
class Goal:
    """What to make small: `value` of the needs of the four rings, at least `floor` of units that must be somewhere at once."""

    value: Callable[[Four], int]
    floor: Callable[[int], int]


def _total(need: Four) -> int:
    return max(1, need[0]) + max(1, need[1]) + max(1, need[2]) + max(1, need[3])


TOTAL = Goal(_total, lambda units: max(NUM_DEPTHS, units))
"""The sum of all four rings in units of 1,024 bytes, of which even an unused ring has one."""

WORST = Goal(max, lambda units: -(-units // NUM_DEPTHS))
"""The largest ring."""


@dataclass(frozen=True)
class Lifetimes:
    """Tensors for a search of scopes: each lives in the tasks `[first, end)`; `size` in units of 1,024 bytes.

    `loops` are the dynamic loops that hold tasks, outer ones before inner ones.
    """

    first: Ints
    end: Ints
    size: Ints
    num_tasks: int
    loops: Sequence[Span] = ()

    @classmethod
    def of(cls, lives: Lives) -> Lifetimes:
        """A program's tensors; the scope of a value that is read on the host is still open at the task after it."""
        loops = tuple(span for span in spans_of(lives.program.body) if span.kind == "dynamic" and last_task(span) >= 0)
        return cls(lives.first, np.maximum(lives.end, lives.scope_end), lives.size, lives.num_times, loops)

    def cuts_of(self, loop: Span) -> tuple[slice, list[int]]:
        """Tasks inside a dynamic loop, and those at its edges and its trips': cuts inside have at least the levels of these."""
        starts = [task for trip in loop.items if isinstance(trip, Span) and (task := next(trip.tasks(), -1)) >= 0]
        end = last_task(loop) + 1
        return slice(starts[0] + 1, end), [*starts, end] if end < self.num_tasks else starts


@dataclass(frozen=True)
class Scoping:
    """`depth` per tensor, `cuts` per task (the level of the cut before it), `need` per depth in units."""

    depth: Ints
    cuts: Ints
    need: Four

    @classmethod
    def of(cls, lives: Lifetimes, depth: Ints) -> Scoping:
        """The scoping with these depths and the most cuts that they allow."""
        cuts = _cuts_of(lives, depth)
        most = []
        for d in range(NUM_DEPTHS):
            mine = depth == d
            scope = np.cumsum(cuts <= d)[lives.first[mine]]  # in which the tensor's first task lies, by number
            most.append(int(np.bincount(scope, lives.size[mine]).max(initial=0)))
        return cls(depth, cuts, (most[0], most[1], most[2], most[3]))


def _cuts_of(lives: Lifetimes, depth: Ints) -> Ints:
    """The least level that the cut before each task may have, int64[tasks]."""
    cuts = np.ones(lives.num_tasks, np.int64)
    for d in range(1, NUM_DEPTHS):
        mine = depth == d
        living_on = live_units(lives.first[mine] + 1, lives.end[mine], np.ones(mine.sum(), np.int64), lives.num_tasks + 1)
        cuts[living_on[:-1] > 0] = d + 1
    for loop in lives.loops:
        inside, edges = lives.cuts_of(loop)
        cuts[inside] = np.maximum(cuts[inside], cuts[edges].max())
    return cuts
