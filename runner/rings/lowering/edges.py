"""What each submission waits for, and which blocks it keeps.

Pairs of a submission and one that it waits for are keys `submission * number of all + other`, of which sorting makes rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from runner.program.lifetimes import Ints, distinct
from runner.program.program import Program
from runner.rings.lowering.facts import Facts
from runner.rings.lowering.order import Order
from runner.rings.lowering.places import Places

Numbers = list[tuple[int, ...]]

TOGETHER = 1 << 14
"""Submissions of which Python objects are made at a time, so that what these are made of stays small."""


@dataclass(frozen=True)
class Edges:
    """Per submission what `runner.rings.schedule.Submission` has: what it waits for, holds, and holds by `after:` alone."""

    waits: Numbers
    holds: Numbers
    explicit: Numbers


def edges_of(program: Program, walk: Order, facts: Facts, places: Places, extra: tuple[Ints, Ints] | None) -> Edges:
    """The edges of all submissions. Nothing is inferred in manual scopes, and nobody waits for what is written there (rule 8).

    The edges that sharing needs only wait: a plan must not pay for them with the bytes of what it waits for.
    """
    found = _Pairs(program, walk, facts, places)
    blocks = distinct(found.keys(*found.blocks(found.is_auto)))
    after, kept = found.named()
    holds = distinct(np.concatenate([blocks, kept]))
    waits = [holds, after, found.inferred(), found.extra()]
    if extra is not None:
        waits.append(found.keys(found.at[extra[0]], found.at[extra[1]]))
    numbers = found.numbers
    explicit: Numbers = [()] * found.num
    if len(kept):
        by, block = found.blocks(~found.is_auto)
        touched = np.concatenate([blocks, by * np.int64(found.num) + block])
        explicit = numbers(distinct(kept[~np.isin(kept, touched)]))
    return Edges(numbers(distinct(np.concatenate(waits))), numbers(holds), explicit)


class _Pairs:
    def __init__(self, program: Program, walk: Order, facts: Facts, places: Places) -> None:
        self.program, self.walk, self.facts, self.places = program, walk, facts, places
        self.num, self.at, self.is_seen = len(walk.order), np.array(walk.at, np.int64), np.ones(len(walk.at), bool)
        self.is_seen[list(walk.unseen)] = False
        self.is_auto = self.is_seen[places.tasks]

    def keys(self, by: Ints, others: Ints) -> Ints:
        """The keys of pairs, in which the others are submitted before."""
        late = (others < 0) | (others >= by)
        if late.any():
            path = self.program.tasks[self.walk.order[int(by[late][0])]].path
            raise AssertionError(f"{path!r} is placed before what it waits for")
        return by * np.int64(self.num) + others

    def blocks(self, chosen: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """Of the chosen tasks, and the blocks of what they touch that are not their own."""
        touched = self.facts.touches.picked(self.places.tasks)
        lengths = np.diff(touched.starts)
        by, block = np.repeat(self.places.submitted, lengths), self.places.owner[touched.values]
        is_other = (block != by) & np.repeat(chosen, lengths)
        return by[is_other], block[is_other]

    def inferred(self) -> Ints:
        """With those whose data they need."""
        waits = self.facts.waits.picked(self.places.tasks)
        lengths = np.diff(waits.starts)
        counts = np.repeat(self.is_auto, lengths) & self.is_seen[waits.values]
        return self.keys(np.repeat(self.places.submitted, lengths)[counts], self.at[waits.values[counts]])

    def named(self) -> tuple[Ints, Ints]:
        """With those that they name in `after:`; and of these pairs the ones that keep a block."""
        placed = [(by, task) for task in self.facts.with_after if (by := self.walk.at[task.id]) >= 0]
        named = [(by, task, other) for by, task in placed for other in task.after]
        after = self.of((by, self.walk.at[other]) for by, _, other in named)
        is_kept = np.array([other not in task.wait_only for _, task, other in named], bool)
        return after, after[is_kept]

    def extra(self) -> Ints:
        """With those that a placement, or a writer that the runtime still knows, makes them wait for."""
        return self.of((by, self.walk.at[task]) for by, tasks in self.walk.extra for task in tasks)

    def of(self, pairs: Iterable[tuple[int, int]]) -> Ints:
        found = np.array(list(pairs), np.int64).reshape(-1, 2)
        return self.keys(found[:, 0], found[:, 1])

    def numbers(self, keys: Ints) -> Numbers:
        """Per submission the others of its pairs, whose keys ascend. Numbers are kept once, and so are tuples of one."""
        starts = np.searchsorted(keys, np.arange(self.num + 1) * np.int64(self.num))
        others = np.remainder(keys, max(1, self.num))
        known, number, found = dict[int, tuple[int, ...]](), self.walk.numbers.__getitem__, Numbers()
        for first in range(0, self.num, TOGETHER):
            cuts = starts[first : first + TOGETHER + 1].tolist()
            low = cuts[0]
            flat = tuple(map(number, others[low : cuts[-1]].tolist()))
            for start, end in pairwise(cuts):
                one = flat[start - low : end - low]
                found.append(known.setdefault(one[0], one) if end - start == 1 else one)
        return found
