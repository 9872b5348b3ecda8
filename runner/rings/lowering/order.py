"""The first half of lowering: in which order a placement submits, in which scopes, and which writers the runtime still knows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from runner.base.records import builder
from runner.program.program import Program, Task, Trips
from runner.program.registered import OverwrittenWriters
from runner.rings.lowering.facts import Facts
from runner.rings.placement import PlacedAlloc, PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask
from runner.rings.schedule import Begin, End, Read, Repeat, ScopeInfo, Step, Submit

_new_scope, _new_begin, _new_end, _new_step = builder(ScopeInfo), builder(Begin), builder(End), builder(Submit)

NOWHERE = -1
"""Submission of what is not placed."""


def _registered(unseen: set[int], owner: list[int], tasks: Sequence[Task]) -> Callable[[int, int], bool]:
    """Whether the runtime notes that a task has written a tensor: not in a manual scope, nor in the task's own block."""
    return lambda task, tensor: task not in unseen and (owner[tensor] != NOWHERE or tensor not in tasks[task].creates)


class Order:
    """What a walk over a placement finds. It refers to itself nowhere: it would be kept, as the collector is off.

    order    per submission its task, or `~k` for alloc number k
    at       per task its submission; of an alloc whose tensors all went elsewhere the one whose block has the first of them
    owner    per tensor the submission of the PlacedAlloc that it is in
    unseen   the tasks in manual scopes
    extra    submissions, and tasks that each waits for beside those that the program names
    numbers  the numbers of submissions, for which no second objects are made
    """

    def __init__(self, program: Program, facts: Facts) -> None:
        self.program, self.numbers = program, [task.id for task in program.tasks]
        self.order: list[int] = []
        self.allocs: list[PlacedAlloc] = []
        self.scopes: list[ScopeInfo] = []
        self.steps: list[Step] = []
        self.at = [NOWHERE] * len(program.tasks)
        self.owner = [NOWHERE] * len(program.tensors)
        self.unseen: set[int] = set()
        self.extra: list[tuple[int, Collection[int]]] = []
        self._is_odd = (facts.is_alloc | facts.near_overwritten).tobytes()
        self._overwritten = OverwrittenWriters(program.tasks, _registered(self.unseen, self.owner, program.tasks))

    def place(self, items: Sequence[PlacedItem], depth: int, mode: str) -> None:
        is_odd, at, order, add, manual = self._is_odd, self.at, self.order, self.order.append, mode == "manual"
        step, numbers, unseen = self.steps.append, self.numbers, self.unseen
        for item in items:
            if type(item) is int:
                task, waits = item, ()
            elif type(item) is PlacedTask:
                task, waits = item.task, item.extra_waits
            else:
                self.other(item, depth, mode)
                continue
            if manual:
                unseen.add(task)
            if is_odd[task] and not self.is_submitted(task, manual):
                continue
            if waits:
                self.extra.append((len(order), waits))
            at[task] = number = numbers[len(order)]
            add(task)
            step(_new_step(number))

    def other(self, item: PlacedItem, depth: int, mode: str) -> None:
        match item:
            case PlacedAlloc():
                self.alloc(item)
            case PlacedScope():
                scope = len(self.scopes)
                self.scopes.append(_new_scope(item.name, depth + 1, item.mode, item.mark, None))
                self.steps.append(_new_begin(scope))
                self.place(item.items, depth + 1, item.mode)
                self.steps.append(_new_end(scope))
            case PlacedRead():
                self.steps.append(Read(self.writers(item.trips)))
            case PlacedLoop():
                at = len(self.steps)
                self.steps.append(Read(()))
                starts = []
                self._overwritten.open_loop()
                for body in item.bodies:
                    starts.append(len(self.steps))
                    self._overwritten.next_trip()
                    self.place(body, depth, mode)
                self._overwritten.close_loop()
                self.steps[at] = Repeat(self.writers(item.trips), item.trips, tuple(starts), len(self.steps))

    def writers(self, trips: Trips) -> tuple[int, ...]:
        return tuple(sorted({self.at[task] for task in trips.waits}))

    def alloc(self, item: PlacedAlloc) -> None:
        self.numbers.append(len(self.numbers))  # a submission more
        number = self.numbers[len(self.order)]
        self.order.append(~len(self.allocs))
        self.steps.append(_new_step(number))
        self.allocs.append(item)
        for tensor in item.tensors:
            assert self.owner[tensor] == NOWHERE, f"tensor {self.program.tensors[tensor].name!r} is placed twice"
            self.owner[tensor] = number

    def is_submitted(self, number: int, manual: bool) -> bool:
        """Whether it is: an alloc is not whose tensors all went elsewhere. Others are told to `OverwrittenWriters`."""
        task = self.program.tasks[number]
        if task.op is None:
            owners = [self.owner[tensor] for tensor in task.creates]
            if owners and NOWHERE not in owners:
                self.at[number] = owners[0]
                return False
        found = self._overwritten.follow(task, manual)
        if found:
            self.extra.append((len(self.order), found))
        return True
