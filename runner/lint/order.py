"""Lint rules about order: write-after-read hazards, and edges that manual scopes leave out.

What orders tasks is what the runtime knows: creator, RAW and WAW edges and `after` of tasks in auto scopes, `after` alone in
manual scopes (whose writes nobody outside is told of), and a value read on the host, which holds up all that is submitted after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runner.program.ops import OpRegistry
from runner.program.program import Program, Region, Span


@dataclass(frozen=True, slots=True)
class Hazard:
    """`task` needs `other` to have completed because of `tensor`, and nothing makes it wait."""

    task: int
    other: int
    tensor: int


class Order:
    """Which tasks are sure to have completed before another starts."""

    def __init__(self, program: Program):
        self.program = program
        self.manual = set(_in_manual(program.body, False))
        self._preds: list[list[int]] = []
        self._syncs: list[tuple[int, list[int]]] = []  # how many tasks come before a host read, and what it waits for
        creator = {tensor: task.id for task in program.tasks for tensor in task.creates}
        sync_of = dict(self._host_reads(program.body))
        last = -1
        for task in program.tasks:
            last = sync_of.get(task.id, last)
            preds = list(task.after)
            if task.id not in self.manual:
                preds += [other for other in task.waits if other not in self.manual]
                preds += [creator[tensor] for tensor in task.uses]
            if last >= 0:
                preds.append(~last)
            self._preds.append(preds)

    def _host_reads(self, body: Span) -> Iterator[tuple[int, int]]:
        """First task after each host read, and the read's index; fills `_syncs`."""
        done = 0
        pending: list[Iterator[int | Span]] = [iter((body,))]
        while pending:
            item = next(pending[-1], None)
            if item is None:
                pending.pop()
            elif isinstance(item, int):
                done = item + 1
            else:
                if item.trips is not None and item.trips.waits:
                    before = [~(len(self._syncs) - 1)] if self._syncs else []
                    self._syncs.append((done, [*item.trips.waits, *before]))
                    yield done, len(self._syncs) - 1
                pending.append(iter(item.items))

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


def _in_manual(span: Span, manual: bool) -> Iterator[int]:
    manual = manual or span.mode == "manual"
    for item in span.items:
        if isinstance(item, Span):
            yield from _in_manual(item, manual)
        elif manual:
            yield item


def overlap(one: Region, other: Region) -> bool:
    """Can two regions of one tensor share an element?"""
    if one.part is not None and other.part is not None and one.part != other.part:
        return False
    if one.box is None or other.box is None:
        return True
    return all(lo < other_hi and other_lo < hi for (lo, hi), (other_lo, other_hi) in zip(one.box, other.box, strict=True))


def _covers(one: Region, other: Region) -> bool:
    """Is every access that overlaps `other` sure to overlap `one`?"""
    if one.part is not None:
        return one.part == other.part
    if one.box is None:
        return True
    if other.box is None or other.part is not None:
        return False
    return all(lo <= other_lo and other_hi <= hi for (lo, hi), (other_lo, other_hi) in zip(one.box, other.box, strict=True))


def write_after_read(program: Program, order: Order, registry: OpRegistry) -> Iterator[Hazard]:
    """Writers that may run before an earlier reader of the same bytes is done."""
    last_write = {tensor: task.id for task in program.tasks for tensor in task.writes}
    readers: dict[int, list[tuple[Region, int]]] = {}
    for task in program.tasks:
        definition = registry.get(task.op or "")
        modes = {operand.name: operand.mode for operand in definition.operands} if definition else {}
        for name, region in task.operands.items():
            if modes.get(name, "in") != "in" and region.tensor in readers:
                yield from _overwritten(region, task.id, readers, order)
        for name, region in task.operands.items():
            if modes.get(name, "in") != "out" and last_write.get(region.tensor, -1) > task.id:
                readers.setdefault(region.tensor, []).append((region, task.id))


def _overwritten(region: Region, task: int, readers: dict[int, list[tuple[Region, int]]], order: Order) -> Iterator[Hazard]:
    """Hazards of one write; readers that it covers are done with, since later writers wait for this one."""
    entries = readers[region.tensor]
    touched = {reader for other, reader in entries if reader != task and overlap(region, other)}
    for reader in sorted(order.unordered(task, touched)):
        yield Hazard(task, reader, region.tensor)
    readers[region.tensor] = [(other, reader) for other, reader in entries if not _covers(region, other)]


def missing_in_manual(program: Program, order: Order) -> Iterator[Hazard]:
    """What tasks in manual scopes, and those outside that use what they wrote, do not wait for."""
    if not order.manual:
        return
    creator = {tensor: task.id for task in program.tasks for tensor in task.creates}
    for task in program.tasks:
        needs = {*task.waits, *(creator[tensor] for tensor in task.uses)}
        if task.id not in order.manual:
            needs &= order.manual
        needs = {other for other in needs if program.tasks[other].op is not None}  # an alloc completes when it is submitted
        for other in sorted(order.unordered(task.id, needs)):
            yield Hazard(task.id, other, _shared(program, task.id, other))


def _shared(program: Program, task: int, other: int) -> int:
    """A tensor because of which `task` needs `other`."""
    one, two = program.tasks[task], program.tasks[other]
    made = {*two.writes, *two.creates}
    return next(tensor for tensor in (*one.reads, *one.writes, *one.uses) if tensor in made)
