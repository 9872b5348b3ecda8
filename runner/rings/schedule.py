"""What a scheduler decides: the order of submissions, the scopes around them, and what lies in which block.

A strategy returns a *placement*, a tree of `PlacedScope`, `PlacedAlloc`, `PlacedTask`, `PlacedRead` and `PlacedLoop`
items over the tasks of a `Program`; `lower` turns it into a flat `Schedule` with every edge resolved. All that replays,
verifies or executes works on a `Schedule` and needs no `Program`: recorded and traced programs are made into one directly.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import add
from typing import Protocol

from runner.base.errors import Mark
from runner.base.records import LARGE, builder, collector_off
from runner.base.tensor_spec import block_bytes
from runner.program.program import Program, Trips

NUM_RINGS = 4
"""Ring heaps of a device; a scope that lies deeper than there are rings shares the last one."""


def ring_of(depth: int) -> int:
    """The ring of a scope at `depth`, counted from 0 at the root."""
    return min(depth, NUM_RINGS - 1)


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor's place in its submission's block."""

    tensor: int
    offset: int
    size_bytes: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """One slot of a ring's window and one block of its heap (`size_bytes` may be 0).

    `waits` are the submissions that must have completed before this one may start (creator, RAW, WAW, explicit and
    sharing edges, without repeats, all earlier in the schedule); `holds` those of them whose blocks it touches, which therefore
    stay alive until it completes. `core` is None for an alloc, which completes as soon as it is submitted.
    """

    name: str
    size_bytes: int = 0
    slots: tuple[Slot, ...] = ()
    waits: tuple[int, ...] = ()
    holds: tuple[int, ...] = ()
    core: str | None = None
    op: str | None = None
    task: int | None = None
    num_blocks: int = 1
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class ScopeInfo:
    """A runtime scope. `depth` counts from 0 at the root and decides the ring (`ring_of`)."""

    name: str
    depth: int
    mode: str = "auto"
    mark: Mark | None = None
    end_mark: Mark | None = None

    @property
    def ring(self) -> int:
        return ring_of(self.depth)


@dataclass(frozen=True, slots=True)
class Begin:
    scope: int


@dataclass(frozen=True, slots=True)
class End:
    scope: int


@dataclass(frozen=True, slots=True)
class Submit:
    submission: int


@dataclass(frozen=True, slots=True)
class Read:
    """The submitting thread blocks until these submissions have completed."""

    waits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A dynamic loop or `if`: blocks like `Read`, then knows its trip count.

    Trip k's steps begin at index `starts[k]`; after the last trip that runs, go on at `end`. Planning takes every trip that the
    schedule holds; running asks `trips.evaluate`.
    """

    waits: tuple[int, ...]
    trips: Trips | None
    starts: tuple[int, ...]
    end: int


Step = Begin | End | Submit | Read | Repeat


@dataclass(frozen=True, slots=True)
class Schedule:
    """A flat, ordered program for the rings. `steps` begins with the root scope's Begin and ends with its End."""

    name: str
    submissions: tuple[Submission, ...]
    scopes: tuple[ScopeInfo, ...]
    steps: tuple[Step, ...]
    strategy: str = ""
    program: Program | None = None


# --- placement: what a strategy returns -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlacedTask:
    """Submit a task here. What it creates is in its own block, except tensors that a PlacedAlloc already placed."""

    task: int
    extra_waits: tuple[int, ...] = ()  # tasks: the WAR and WAW edges that sharing a block needs


@dataclass(frozen=True, slots=True)
class PlacedAlloc:
    """A kernel-less submission whose block holds these tensors.

    Without `offsets` they lie one after another; with them the block is an arena of `size_bytes`, where
    tensors whose lives do not overlap may share bytes.
    """

    tensors: tuple[int, ...]
    offsets: tuple[int, ...] | None = None
    size_bytes: int = 0
    name: str = ""
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class PlacedRead:
    trips: Trips


@dataclass(frozen=True, slots=True)
class PlacedLoop:
    """A dynamic loop: `trips` and one tuple of items per trip."""

    trips: Trips
    bodies: tuple[tuple[PlacedItem, ...], ...]


@dataclass(frozen=True, slots=True)
class PlacedScope:
    name: str
    items: tuple[PlacedItem, ...]
    mode: str = "auto"
    mark: Mark | None = None


placed_task: Callable[[int, tuple[int, ...]], PlacedTask] = builder(PlacedTask)

PlacedItem = PlacedTask | PlacedAlloc | PlacedRead | PlacedLoop | PlacedScope


class Scheduler(Protocol):
    """A placement strategy: pure, deterministic, mutates nothing."""

    def __call__(self, program: Program, options: Mapping[str, object]) -> Schedule: ...


_new_slot, _new_submission, _new_scope = builder(Slot), builder(Submission), builder(ScopeInfo)
_new_begin, _new_end, _new_step = builder(Begin), builder(End), builder(Submit)


_NOWHERE = -1
"""Submission of what is not placed yet."""


class _Lowering:
    """State of one `lower` call."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.submissions: list[Submission] = []
        self.scopes: list[ScopeInfo] = []
        self.steps: list[Step] = []
        self.of_task = [_NOWHERE] * len(program.tasks)  # the task's submission
        self.owner = [_NOWHERE] * len(program.tensors)  # the submission in whose block the tensor lies
        self.unseen: set[int] = set()  # tasks in manual scopes
        self.sizes = block_bytes([tensor.spec for tensor in program.tensors])

    def place(self, items: Sequence[PlacedItem], depth: int, mode: str) -> None:
        for item in items:
            match item:
                case PlacedTask():
                    self.task(item, mode)
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
                    for body in item.bodies:
                        starts.append(len(self.steps))
                        self.place(body, depth, mode)
                    self.steps[at] = Repeat(self.writers(item.trips), item.trips, tuple(starts), len(self.steps))

    def writers(self, trips: Trips) -> tuple[int, ...]:
        return tuple(sorted({self.of_task[t] for t in trips.waits}))

    def submit(self, submission: Submission) -> None:
        self.steps.append(_new_step(len(self.submissions)))
        self.submissions.append(submission)

    def alloc(self, item: PlacedAlloc) -> None:
        sizes = [self.sizes[tensor] for tensor in item.tensors]
        offsets = item.offsets or (0, *accumulate(sizes))
        slots = self.slots(item.tensors, offsets, sizes)
        end = max(map(add, offsets, sizes), default=0)
        mark = item.mark or self.program.tensors[item.tensors[0]].mark
        self.submit(Submission(item.name or "alloc", max(end, item.size_bytes), slots, mark=mark))

    def slots(self, tensors: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> tuple[Slot, ...]:
        """Places in the block of the next submission."""
        owner, known, index = self.owner, self.program.tensors, len(self.submissions)
        names = []
        for tensor in tensors:
            name = known[tensor].name
            assert owner[tensor] == _NOWHERE, f"tensor {name!r} is placed twice"
            owner[tensor] = index
            names.append(name)
        return tuple(map(_new_slot, tensors, offsets, sizes, names))

    def task(self, item: PlacedTask, mode: str) -> None:
        task = self.program.tasks[item.task]
        of_task, owner = self.of_task, self.owner
        holds = {owner[tensor] for tensor in task.uses}
        slots: tuple[Slot, ...] = ()
        size_bytes = 0
        if task.creates:
            own = [tensor for tensor in task.creates if owner[tensor] == _NOWHERE]
            if len(own) < len(task.creates):
                holds.update([owner[tensor] for tensor in task.creates if owner[tensor] != _NOWHERE])
            if own:
                sizes = [self.sizes[tensor] for tensor in own]
                slots = self.slots(own, (0, *accumulate(sizes)), sizes)
                size_bytes = sum(sizes)
            elif task.op is None:
                of_task[task.id] = owner[task.creates[0]]  # an alloc whose tensors all went elsewhere
                return
        waits = {of_task[t] for t in item.extra_waits}
        waits.update([of_task[t] for t in task.after])
        if mode == "manual":  # rule 8: nothing is inferred, so only an explicit edge to a creator keeps its block alive
            holds &= waits
            self.unseen.add(task.id)
        elif self.unseen:  # ... and what such a task writes is not noted, so nobody waits for it
            waits.update([of_task[t] for t in task.waits if t not in self.unseen], holds)
        else:
            waits.update([of_task[t] for t in task.waits], holds)
        assert _NOWHERE not in waits, f"{task.path!r} is placed before what it waits for"
        of_task[task.id] = len(self.submissions)
        self.submit(
            _new_submission(
                task.path,
                size_bytes,
                slots,
                tuple(sorted(waits)),
                tuple(sorted(holds)),
                task.core,
                task.op,
                task.id,
                task.num_blocks,
                task.mark,
            )
        )


def lower(program: Program, items: Sequence[PlacedItem], strategy: str = "") -> Schedule:
    """The flat schedule of a placement; the root scope (depth 0) is added around it."""
    state = _Lowering(program)
    state.scopes.append(ScopeInfo(program.name, 0, "auto", program.body.mark))
    state.steps.append(Begin(0))
    with collector_off():
        state.place(items, 0, "auto")
        if len(state.submissions) > LARGE:
            gc.freeze()
    state.steps.append(End(0))
    return Schedule(program.name, tuple(state.submissions), tuple(state.scopes), tuple(state.steps), strategy, program)
