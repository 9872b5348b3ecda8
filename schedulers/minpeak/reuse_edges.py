"""The edges that shared bytes need: whoever first touches a tensor waits for the last who touched what lay there before.

The runtime orders RAW and WAW of one tensor, never WAR, and knows nothing of two tensors in the same bytes. For every tensor
whose bytes had earlier tenants, each of its *first* touches (none of its other touches comes before in the order of edges)
waits for each *last* touch of those tenants, unless edges order the two already. Then every touch of the new tensor comes after
every touch of the old ones, whatever runs in between.

Five tasks: 0 makes a, 1 reads a and makes b, 2 reads a and makes c, 3 reads b and c and makes d, 4 reads c and makes e. In an
arena of 4 units, of which a and d take 2 each:

    unit 3                c   c   c
    unit 2            b   b   b
    unit 1        a   a   a   d
    unit 0        a   a   a   d   e
    task          0   1   2   3   4

    d lies where a lay: task 3 waits for 1, 2; implied by its other edges
    e lies where d lay: task 4 waits for 3; kept

Task 3 reads b and c, so it comes after 1 and 2 as it is. Task 4 waits for 2 alone: without the edge it could write e while 3
still writes d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from runner.program.lifetimes import Ints, Rows
from runner.program.order import Order, maximal, pruned
from schedulers.minpeak.folding import Fold, FoldedLoop, unfold_edges


@dataclass(frozen=True)
class Edges:
    """Edges from `sources` to `targets`, sorted by target, how many the kept tasks want, and how many of these they keep."""

    sources: Ints
    targets: Ints
    num_wanted: int
    num_kept: int


def sharing_edges(fold: Fold, waits: Rows, touches: Rows, before: Mapping[int, Sequence[int]], pruning: bool = True) -> Edges:
    """Edges that make the shared bytes safe, without those that other edges imply if `pruning`.

    waits    per task the tasks that the runtime makes it wait for
    touches  per task the tensors that it touches
    before   per tensor the tensors that lay in its bytes before (nothing if none did), all of whose touches have smaller numbers
             than its own; of folded loops only tensors of the kept trips
    """
    return _Weaver(fold, waits, touches, before, pruning).woven()


class _Weaver:
    """Walks the kept tasks in submission order and collects edges; positions among the kept tasks are called places."""

    def __init__(self, fold: Fold, waits: Rows, touches: Rows, before: Mapping[int, Sequence[int]], pruning: bool) -> None:
        self.fold, self.waits, self.touches, self.before, self.pruning = fold, waits, touches, before, pruning
        self.num_wanted = self.num_kept = 0
        self.order = Order()
        self.stands_in, self.clones = fold.stands_in.tolist(), fold.clones.tolist()
        self.place = dict(zip(fold.kept.tolist(), range(len(fold.kept)), strict=True))
        self.firsts: dict[int, list[int]] = {}  # tensor with tenants before it -> places of its first touches so far
        self.touchers: dict[int, list[int]] = {t: [] for olds in before.values() for t in olds}
        self.lasts: dict[int, list[int]] = {}

    def woven(self) -> Edges:
        edges: list[tuple[int, int]] = []
        for place, task in enumerate(self.fold.kept.tolist()):
            known = self.order.ancestors(self._natural(task))
            wanted: set[int] = set()
            for tensor in self.touches.row(task):
                if tensor in self.touchers:
                    self.touchers[tensor].append(place)
                if tensor in self.before:
                    self._want(tensor, place, known, wanted)
            added = pruned(wanted, known, place, self.order) if self.pruning else sorted(wanted)
            self.num_wanted, self.num_kept = self.num_wanted + len(wanted), self.num_kept + len(added)
            self.order.append(known | self.order.ancestors(added) if added else known)
            edges += [(clone, task) for source in added for clone in self._clones(source, task)]
        sources, targets = unfold_edges(self.fold, np.array(edges, np.int64).reshape(-1, 2).T)
        return Edges(sources, targets, self.num_wanted, self.num_kept)

    def _want(self, tensor: int, place: int, known: int, wanted: set[int]) -> None:
        """If this is a first touch of the tensor, collect the last touches of all that lay in its bytes."""
        mine = self.firsts.setdefault(tensor, [])
        if any(self.order.has(known, earlier, place) for earlier in mine):
            return
        mine.append(place)
        for old in self.before[tensor]:
            if old not in self.lasts:
                self.lasts[old] = maximal(self.touchers[old], self.order)
            wanted.update(self.lasts[old])
        wanted.discard(place)

    def _natural(self, task: int) -> list[int]:
        """Places that `task` waits for by itself; a place that stands for many only if `task` comes after all of them."""
        alike: dict[int, list[int]] = {}
        found: list[int] = []
        for wait in set(self.waits.row(task)):
            if self.clones[wait] == 1 and self.stands_in[wait] == wait:  # nearly all
                found.append(self.place[wait])
            else:
                alike.setdefault(self.stands_in[wait], []).append(wait)
        for kept, waits in alike.items():
            loops = self._outside(kept, task) if self.clones[kept] > 1 else []
            expected = prod(loop.num_trips - 1 for loop in loops)
            is_last = max(waits) == kept + sum(loop.num_tasks * (loop.num_trips - 2) for loop in loops)
            if len(waits) == expected or (is_last and all(self._chained(kept, loop) for loop in loops)):
                found.append(self.place[kept])
        return found

    def _outside(self, kept: int, task: int) -> list[FoldedLoop]:
        """Loops in whose trip 1 `kept` lies and `task` does not lie in the same trip."""
        found, together = [], True
        for loop in self.fold.path(kept):
            trip = loop.trip_of(kept)
            if together and loop.start <= task < loop.end and loop.trip_of(task) - trip in (0, 1):
                together = loop.trip_of(task) == trip
                continue
            together = False
            if trip == 1:
                found.append(loop)
        return found

    def _chained(self, kept: int, loop: FoldedLoop) -> bool:
        """Whether edges order `kept` after its twin in the trip before: then its last clone comes after all others."""
        place = self.place[kept]
        return self.order.has(self.order.seen(place, place), self.place[kept - loop.num_tasks], place)

    def _clones(self, source: int, task: int) -> list[int]:
        """Tasks that the place `source` stands for in the eyes of `task`; of those in a chain only the last."""
        kept = int(self.fold.kept[source])
        found = [kept]
        for loop in self._outside(kept, task):
            num_more = loop.num_trips - 2
            trips = (num_more,) if self._chained(kept, loop) else range(num_more + 1)
            found = [t + loop.num_tasks * k for t in found for k in trips]
        return found
