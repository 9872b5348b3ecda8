"""Lowering one task after another: what `runner.rings.lowering` works out of arrays has to come out the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from runner.base.tensor_spec import block_bytes
from runner.program.program import Program, Task
from runner.program.registered import OverwrittenWriters
from runner.rings.lowering.entries import byte_range
from runner.rings.placement import PlacedAlloc, PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask
from runner.rings.schedule import Begin, End, MapEntry, Read, Repeat, Schedule, Slot, Submit


class ByTask:
    """`made` are the submissions of a placement: block, slots, waits, holds, explicit holds, entries, number of tensors."""

    def __init__(self, program: Program, extra: Iterable[tuple[int, int]]) -> None:
        self.program, self.extra = program, list(extra)
        self.made: list[tuple[object, ...]] = []
        self.steps: list[object] = [Begin(0)]
        self.scopes: list[tuple[str, int, str]] = [(program.name, 0, "auto")]
        self.of_task: dict[int, int] = {}
        self.owner: dict[int, int] = {}
        self.offset: dict[int, int] = {}
        self.arenas: set[int] = set()
        self.manual: set[int] = set()
        self.watch = OverwrittenWriters(program.tasks, self.is_registered)

    def is_registered(self, task: int, tensor: int) -> bool:
        return task not in self.manual and self.owner.get(tensor, -1) != self.of_task[task]

    def place(self, items: Sequence[PlacedItem], depth: int, mode: str) -> None:
        for item in items:
            match item:
                case int():
                    self.task(self.program.tasks[item], (), mode)
                case PlacedTask():
                    self.task(self.program.tasks[item.task], item.extra_waits, mode)
                case PlacedAlloc():
                    sizes = block_bytes([self.program.tensors[tensor].spec for tensor in item.tensors])
                    offsets = item.offsets or tuple(accumulate(sizes[:-1], initial=0))
                    slots = self.slots(item.tensors, offsets)
                    end = max([at + size for at, size in zip(offsets, sizes, strict=True)], default=0)
                    if item.offsets:
                        self.arenas.add(len(self.made))
                    self.submit(max(end, item.size_bytes), slots, num_tensors=1 if item.offsets else len(slots))
                case PlacedScope():
                    self.scopes.append((item.name, depth + 1, item.mode))
                    scope = len(self.scopes) - 1
                    self.steps.append(Begin(scope))
                    self.place(item.items, depth + 1, item.mode)
                    self.steps.append(End(scope))
                case PlacedRead():
                    self.steps.append(Read(self.submissions(item.trips.waits)))
                case PlacedLoop():
                    self.loop(item, depth, mode)

    def loop(self, item: PlacedLoop, depth: int, mode: str) -> None:
        at, starts = len(self.steps), []
        self.steps.append(None)
        self.watch.open_loop()
        for body in item.bodies:
            starts.append(len(self.steps))
            self.watch.next_trip()
            self.place(body, depth, mode)
        self.watch.close_loop()
        self.steps[at] = Repeat(self.submissions(item.trips.waits), item.trips, tuple(starts), len(self.steps))

    def submissions(self, tasks: Iterable[int]) -> tuple[int, ...]:
        return tuple(sorted({self.of_task[task] for task in tasks}))

    def submit(self, size_bytes: int, slots: object, waits: Any = (), holds: Any = (), explicit: Any = (), **rest: Any) -> None:
        self.steps.append(Submit(len(self.made)))
        row = size_bytes, slots, tuple(sorted(waits)), tuple(sorted(holds)), tuple(sorted(explicit))
        self.made.append((*row, rest.get("entries", ()), rest["num_tensors"]))

    def slots(self, tensors: Sequence[int], offsets: Sequence[int]) -> tuple[Slot, ...]:
        found = []
        for number, offset in zip(tensors, offsets, strict=True):
            tensor = self.program.tensors[number]
            assert number not in self.owner
            self.owner[number], self.offset[number] = len(self.made), offset
            found.append(Slot(number, offset, *block_bytes([tensor.spec]), tensor.name))
        return tuple(found)

    def task(self, task: Task, extra: Sequence[int], mode: str) -> None:
        number = len(self.made)
        own = [tensor for tensor in task.creates if tensor not in self.owner]
        if task.op is None and task.creates and not own:
            self.of_task[task.id] = self.owner[task.creates[0]]
            return
        sizes = block_bytes([self.program.tensors[tensor].spec for tensor in own])
        slots = self.slots(own, tuple(accumulate(sizes, initial=0))[: len(own)])
        blocks = {self.owner[tensor] for tensor in (*task.creates, *task.uses) if tensor in self.owner} - {number}
        kept = {self.of_task[other] for other in task.after if other not in task.wait_only}
        beside = [other for waiting, other in self.extra if waiting == task.id]
        waits = {self.of_task[other] for other in (*task.after, *extra, *beside)}
        manual = mode == "manual"
        if manual:  # nothing is inferred, and nobody waits for what it writes
            self.manual.add(task.id)
            holds = kept
        else:
            holds = blocks | kept
            waits |= {self.of_task[other] for other in task.waits if other not in self.manual} | blocks
        waits |= {self.of_task[other] for other in self.watch.follow(task, manual)}
        self.of_task[task.id] = number
        entries = () if manual else tuple(self.entries(task, number))
        self.submit(sum(sizes), slots, waits, holds, kept - blocks, entries=entries, num_tensors=task.num_arguments)

    def entries(self, task: Task, number: int) -> Iterable[MapEntry]:
        for name, region in task.operands.items():
            tensor, mode = region.tensor, task.modes.get(name)
            if tensor not in task.writes or self.owner.get(tensor) == number or mode in ("in", "no_dep"):
                continue
            spec, block = self.program.tensors[tensor].spec, self.owner.get(tensor, -1)
            begin, end, is_whole = byte_range(spec, region.box) if region.part is None else (0, spec.size_bytes, False)
            place = tensor if block < 0 else self.offset[tensor]
            if block in self.arenas:
                place, begin, end = 0, begin + place, end + place
            yield MapEntry(block, place, begin, end, is_whole and mode is None)


def differences(schedule: Schedule, program: Program, items: Sequence[PlacedItem], extra: Iterable[tuple[int, int]]) -> list[str]:
    """What of a schedule is not as it is task by task."""
    other = ByTask(program, extra)
    other.place(items, 0, "auto")
    other.steps.append(End(0))
    found = [
        (item.size_bytes, tuple(item.slots), item.waits, item.holds, item.explicit, item.entries, item.num_tensors)
        for item in schedule.submissions
    ]
    rows = enumerate(zip(found, other.made, strict=True))
    texts = [f"submission {k}: {one} for {by_task}" for k, (one, by_task) in rows if one != by_task]
    if schedule.steps != tuple(other.steps):
        texts.append("the steps differ")
    if [(scope.name, scope.depth, scope.mode) for scope in schedule.scopes] != other.scopes:
        texts.append("the scopes differ")
    return texts
