"""What a scheduler decides: the order of submissions, the scopes around them, and what lies in which block.

A strategy returns a *placement*, a tree of `PlacedScope`, `PlacedAlloc`, `PlacedTask`, `PlacedRead` and `PlacedLoop`
items over the tasks of a `Program`; `lower` turns it into a flat `Schedule` with every edge resolved. All that replays,
verifies or executes works on a `Schedule` and needs no `Program`: recorded and traced programs are made into one directly.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from runner.errors import Mark
from runner.program import Program, Task, Trips
from runner.records import LARGE, builder, collector_off
from runner.spec import TensorSpec, round_up

NUM_RINGS = 4


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
    """A runtime scope. `depth` counts from 0 at the root; its ring is `min(depth, 3)`."""

    name: str
    depth: int
    mode: str = "auto"
    mark: Mark | None = None
    end_mark: Mark | None = None

    @property
    def ring(self) -> int:
        return min(self.depth, NUM_RINGS - 1)


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


PlacedItem = PlacedTask | PlacedAlloc | PlacedRead | PlacedLoop | PlacedScope


class Scheduler(Protocol):
    """A placement strategy: pure, deterministic, mutates nothing."""

    def __call__(self, program: Program, options: Mapping[str, object]) -> Schedule: ...


_new_slot, _new_submission, _new_scope = builder(Slot), builder(Submission), builder(ScopeInfo)
_new_begin, _new_end, _new_step = builder(Begin), builder(End), builder(Submit)


@dataclass
class _Lowering:
    """State of one `lower` call."""

    program: Program
    submissions: list[Submission] = field(default_factory=list)
    scopes: list[ScopeInfo] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    of_task: dict[int, int] = field(default_factory=dict)  # task -> submission
    owner: dict[int, int] = field(default_factory=dict)  # tensor -> submission whose block holds it
    unseen: set[int] = field(default_factory=set)  # tasks in manual scopes
    sizes: dict[int, int] = field(default_factory=dict)  # id of a spec -> aligned bytes

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

    def submit(self, submission: Submission) -> int:
        index = len(self.submissions)
        self.submissions.append(submission)
        self.steps.append(_new_step(index))
        for slot in submission.slots:
            assert slot.tensor not in self.owner, f"tensor {slot.name!r} is placed twice"
            self.owner[slot.tensor] = index
        return index

    def alloc(self, item: PlacedAlloc) -> None:
        tensors = self.program.tensors
        slots, end = [], 0
        for i, tensor in enumerate(item.tensors):
            size = self.size_bytes(tensors[tensor].spec)
            offset = end if item.offsets is None else item.offsets[i]
            slots.append(_new_slot(tensor, offset, size, tensors[tensor].name))
            end = max(end, offset + size)
        mark = item.mark or tensors[item.tensors[0]].mark
        self.submit(Submission(item.name or "alloc", max(end, item.size_bytes), tuple(slots), mark=mark))

    def task(self, item: PlacedTask, mode: str) -> None:
        task = self.program.tasks[item.task]
        of_task, owner = self.of_task, self.owner
        holds = set(map(owner.__getitem__, task.uses))
        slots: tuple[Slot, ...] = ()
        size_bytes = 0
        if task.creates:
            slots, size_bytes = self.slots(task, holds)
            if task.op is None and not slots:
                of_task[task.id] = owner[task.creates[0]]  # an alloc whose tensors all went elsewhere
                return
        waits = set(map(of_task.__getitem__, (*item.extra_waits, *task.after)))
        if mode == "manual":  # rule 8: nothing is inferred, so only an explicit edge to a creator keeps its block alive
            holds &= waits
            self.unseen.add(task.id)
        elif self.unseen:  # ... and what such a task writes is not noted, so nobody waits for it
            waits.update([of_task[t] for t in task.waits if t not in self.unseen], holds)
        else:
            waits.update(map(of_task.__getitem__, task.waits), holds)
        of_task[task.id] = self.submit(
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

    def slots(self, task: Task, holds: set[int]) -> tuple[tuple[Slot, ...], int]:
        """Places in its own block of what the task creates, and the block's bytes; blocks that others lie in join `holds`."""
        owner, tensors = self.owner, self.program.tensors
        slots, end = [], 0
        for tensor in task.creates:
            block = owner.get(tensor)
            if block is not None:
                holds.add(block)
                continue
            size = self.size_bytes(tensors[tensor].spec)
            slots.append(_new_slot(tensor, end, size, tensors[tensor].name))
            end += size
        return tuple(slots), end

    def size_bytes(self, spec: TensorSpec) -> int:
        """Bytes of a tensor in a block."""
        size = self.sizes.get(id(spec))
        if size is None:
            size = self.sizes[id(spec)] = round_up(spec.size_bytes)
        return size


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
