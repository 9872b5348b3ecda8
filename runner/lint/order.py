"""An `Order` knows which tasks are sure to have completed before another starts.

What orders tasks is what the runtime knows: creator, RAW and WAW edges and `after` of tasks in auto scopes, `after` alone in
manual scopes (whose writes nobody outside is told of), and a value read on the host, which holds up all that is submitted after.
"""

from __future__ import annotations

from collections.abc import Iterable

from runner.program.program import Region, Span, Task


class Order:
    """The order of the tasks that it was told of, in the order of submission, with the spans around them."""

    def __init__(self) -> None:
        self.manual: set[int] = set()
        self.creator: dict[int, int] = {}
        self._preds: list[list[int]] = []
        self._syncs: list[tuple[int, list[int]]] = []  # how many tasks come before a host read, and what it waits for
        self._modes: list[bool] = [False]  # of each open span: does a manual scope hold it?

    def enter(self, span: Span) -> None:
        self._modes.append(self._modes[-1] or span.mode == "manual")
        if span.trips is not None and span.trips.waits:
            before = [~(len(self._syncs) - 1)] if self._syncs else []
            self._syncs.append((len(self._preds), [*span.trips.waits, *before]))

    def leave(self, span: Span) -> None:
        self._modes.pop()

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

    def unordered(self, task: int, others: Iterable[int]) -> set[int]:
        """Those of `others`, all submitted before `task`, that may still run when it starts."""
        wanted = set(others)
        if not wanted:
            return wanted
        first = min(wanted)
        pending, seen = [task], {task}
        while pending and wanted:
            node = pending.pop()
            for before in self._preds[node] if node >= 0 else self._syncs[~node][1]:
                if before in seen or (before if before >= 0 else self._syncs[~before][0] - 1) < first:
                    continue
                seen.add(before)
                wanted.discard(before)
                pending.append(before)
        return wanted


def covers(one: Region, other: Region) -> bool:
    """Is every access that overlaps `other` sure to overlap `one`?"""
    if one.part is not None:
        return one.part == other.part
    if one.box is None:
        return True
    if other.box is None or other.part is not None:
        return False
    return all(lo <= other_lo and other_hi <= hi for (lo, hi), (other_lo, other_hi) in zip(one.box, other.box, strict=True))
