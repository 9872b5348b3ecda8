"""The placement of a scoping: scopes opened where their first tensor is touched, and closed by the next cut of their depth."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from runner.program.lifetimes import Lives, named_allocs
from runner.program.program import Span
from runner.program.spans import last_task
from runner.rings.placement import PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask, one_block
from schedulers.scopes.scoping import NO_CUT, NUM_DEPTHS, Scoping

MAX_DIRECT = 256
"""Tasks side by side in one scope; more get scopes without bytes, so that their slots retire long before a window is full."""


@dataclass
class _Frame:
    """An open scope: the tensors that it holds directly, the task before which it was opened, its items so far."""

    own: list[int]
    first: int
    items: list[PlacedItem] = field(default_factory=list)


def place_scopes(lives: Lives, found: Scoping) -> list[PlacedItem]:
    """The placement of a scoping of all tensors of `lives`, one block per scope."""
    placer = _Placer(lives, found)
    placer.walk(lives.program.body)
    placer.close_to(1)
    return placer.filled(placer.open[0], 0)


class _Placer:
    def __init__(self, lives: Lives, found: Scoping) -> None:
        self.program, self.named = lives.program, named_allocs(lives.program)
        order = np.argsort(lives.first, kind="stable")
        per_depth = [order[found.depth[order] == d] for d in range(NUM_DEPTHS)]
        self.tensors = [lives.locals[mine].tolist() for mine in per_depth]
        self.firsts = [lives.first[mine].tolist() for mine in per_depth]
        self.ends = [[*np.flatnonzero(found.cuts <= d).tolist(), len(found.cuts)] for d in range(NUM_DEPTHS)]
        self.level = found.cuts.tolist()
        self.end = 0  # the task after the last one placed
        self.base = 1  # frames that stay open: those around the trip at hand
        self.open = [_Frame(self.tensors[0], 0)]

    def walk(self, span: Span) -> None:
        """Place the items of a span."""
        for item in span.items:
            if isinstance(item, int):
                self._reach(item, item + 1, NO_CUT)
                self.end = item + 1
                if self.program.tasks[item].op is not None or item in self.named:  # other allocs' tensors lie in blocks of scopes
                    self.open[-1].items.append(PlacedTask(item))
            elif item.kind == "dynamic":
                self._loop(item)
            elif item.trips is not None:
                self.open[-1].items.append(PlacedRead(item.trips))
            else:
                self.walk(item)

    def _loop(self, loop: Span) -> None:
        """Place a dynamic loop: what lies around all of its trips is opened before it, the rest inside each."""
        first, end = next(loop.tasks(), -1), last_task(loop) + 1
        if first >= 0:
            self._reach(first, end, min(self.level[first + 1 : end], default=NO_CUT))
        base, self.base = self.base, len(self.open)
        around, before, bodies = self.open[-1], self.open[-1].items, []
        for trip in loop.items:
            if isinstance(trip, Span):
                around.items = []
                self.walk(trip)
                self.close_to(self.base)
                bodies.append(tuple(self._chunked(around.items, self.base - 1)))
        assert loop.trips is not None
        around.items, self.base = [*before, PlacedLoop(loop.trips, tuple(bodies))], base

    def _reach(self, first: int, end: int, level: int) -> None:
        """Close the scopes that end before task `first`, and open those around tasks up to `end` whose depth is below `level`."""
        self.close_to(max(self.level[first], self.base))
        depths = range(len(self.open), min(level, NUM_DEPTHS))
        deepest = level - 1 if level < NO_CUT else max((d for d in depths if self._born(d, first, end)), default=0)
        for d in range(len(self.open), deepest + 1):
            next_cut = self.ends[d][bisect_right(self.ends[d], first)]
            self.open.append(_Frame(self._born(d, first, next_cut), first))

    def _born(self, depth: int, low: int, high: int) -> list[int]:
        """Tensors of a depth that are first touched in `[low, high)`."""
        firsts = self.firsts[depth]
        return self.tensors[depth][bisect_left(firsts, low) : bisect_left(firsts, high)]

    def close_to(self, count: int) -> None:
        """Close scopes until no more than `count` are open."""
        while len(self.open) > count:
            depth = len(self.open) - 1
            frame = self.open.pop()
            name = f"{self.program.tasks[frame.first].path}..{self.end - frame.first}"
            self.open[-1].items.append(PlacedScope(name, tuple(self.filled(frame, depth))))

    def filled(self, frame: _Frame, depth: int) -> list[PlacedItem]:
        """The items of a scope, after the block with all tensors of its own, unless one of its tasks creates just these."""
        items = list(self._chunked(frame.items, depth))
        created = (set(self.program.tasks[item.task].creates) for item in items if isinstance(item, PlacedTask))
        if not frame.own or set(frame.own) in created:
            return items
        return [*one_block(self.program, frame.own), *items]

    def _chunked(self, items: list[PlacedItem], depth: int) -> Iterator[PlacedItem]:
        """The items of a scope of this depth, with long runs of tasks in scopes of their own."""
        for bare, group in groupby(items, key=lambda item: isinstance(item, PlacedTask)):
            run = list(group)
            if not bare or len(run) <= MAX_DIRECT or depth + 1 == NUM_DEPTHS:
                yield from run
                continue
            for k in range(0, len(run), MAX_DIRECT):
                part = tuple(run[k : k + MAX_DIRECT])
                yield PlacedScope(f"{self.program.tasks[run[0].task].path}.{k // MAX_DIRECT}", part)  # type: ignore[union-attr]
