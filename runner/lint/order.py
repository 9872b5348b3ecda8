"""An `Order` knows which tasks are sure to have completed before another starts.

What orders tasks is what the runtime knows: creator, RAW and WAW edges and `after` of tasks in auto scopes, `after` alone in
manual scopes (whose writes nobody outside is told of), and a value read on the host, which holds up all that is submitted after:
inside of a trip that is decided at run time, only if that trip runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runner.program.program import Region, Span, Task
from runner.program.spans import Around, implied


class Order:
    """The order of the tasks that it was told of, in the order of submission, with the spans around them."""

    def __init__(self) -> None:
        self.manual: set[int] = set()
        self.creator: dict[int, int] = {}
        self._preds: list[list[int]] = []
        self.trips: list[Around] = []  # of each task
        self._syncs: list[tuple[int, tuple[int, ...], Around]] = []  # of each host read the tasks before it, its waits, and trips
        self._modes: list[bool] = [False]  # of each open span: does a manual scope hold it?
        self._spans: list[Span] = []
        self._around: list[tuple[int, int]] = []  # of the dynamic spans around the next task, which, and the trip

    def enter(self, span: Span) -> None:
        self._modes.append(self._modes[-1] or span.mode == "manual")
        if span.trips is not None and span.trips.waits:
            self._syncs.append((len(self._preds), span.trips.waits, tuple(self._around)))
        if self._is_trip(span):
            dynamic = self._spans[-1]
            self._around.append((id(dynamic), next(k for k, trip in enumerate(dynamic.items) if trip is span)))
        self._spans.append(span)

    def leave(self, span: Span) -> None:
        self._modes.pop()
        self._spans.pop()
        if self._is_trip(span):
            self._around.pop()

    def _is_trip(self, span: Span) -> bool:
        """Whether a span inside of the open ones is a trip that is decided at run time."""
        return span.kind == "iteration" and bool(self._spans) and self._spans[-1].kind == "dynamic"

    def task(self, task: Task) -> None:
        assert task.id == len(self._preds), "tasks come in the order of submission"
        self.creator.update(dict.fromkeys(task.creates, task.id))
        preds = list(task.after)
        if self._modes[-1]:
            self.manual.add(task.id)
        else:
            preds += [other for other in task.waits if other not in self.manual]
            preds += [self.creator[tensor] for tensor in task.uses]
        if self._syncs:
            preds.append(~(len(self._syncs) - 1))
        self._preds.append(preds)
        self.trips.append(tuple(self._around))

    def unordered(self, task: int, others: Iterable[int]) -> set[int]:
        """Those of `others`, all submitted before `task`, that may still run when it starts."""
        left = self._unordered(task, set(others), ())
        return {other for other in left if not self.trips[other] or self._unordered(task, {other}, self.trips[other])}

    def _unordered(self, task: int, wanted: set[int], trips: Around) -> set[int]:
        """As `unordered`; host reads count that are made whenever `task` runs, or what lies in `trips`."""
        first = min(wanted, default=0)
        pending, seen = [task], {task}
        while pending and wanted:
            node = pending.pop()
            for before in self._preds[node] if node >= 0 else self._waits(~node, task, trips):
                if before in seen or (before if before >= 0 else self._syncs[~before][0] - 1) < first:
                    continue
                seen.add(before)
                wanted.discard(before)
                pending.append(before)
        return wanted

    def _waits(self, sync: int, task: int, trips: Around) -> Iterator[int]:
        """What has completed once the submitting thread is behind a host read, if that is made; and the read before it."""
        _, waits, around = self._syncs[sync]
        if implied(around, self.trips[task]) or implied(around, trips):
            yield from waits
        if sync:
            yield ~(sync - 1)


def covers(one: Region, other: Region) -> bool:
    """Is every access that overlaps `other` sure to overlap `one`?"""
    if one.part is not None:
        return one.part == other.part
    if one.box is None:
        return True
    if other.box is None or other.part is not None:
        return False
    return all(lo <= other_lo and other_hi <= hi for (lo, hi), (other_lo, other_hi) in zip(one.box, other.box, strict=True))
