"""This module owns placements, what a strategy returns, and `lower`, which makes a flat schedule of one.

A placement is a tree of `PlacedScope`, `PlacedAlloc`, `PlacedTask`, `PlacedRead` and `PlacedLoop` items over the tasks of a
`Program`, in which a number stands for the task without extra edges; `lower` gives every tensor its place in a block and resolves
every edge to submissions.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, repeat
from operator import add, attrgetter
from typing import Protocol, TypeVar

from runner.base.errors import Mark
from runner.base.records import LARGE, builder, collector_off, give_back, working_out
from runner.base.tensor_spec import DTYPE_BYTES, MAX_BLOCK_BYTES, TensorSpec, block_bytes
from runner.program.program import Box, Program, Task, Trips
from runner.program.registered import OverwrittenWriters
from runner.rings.schedule import (
    MAX_TENSORS,
    Begin,
    End,
    MapEntry,
    Read,
    Repeat,
    Schedule,
    ScopeInfo,
    Slot,
    Step,
    Submission,
    Submit,
)


@dataclass(frozen=True, slots=True)
class PlacedTask:
    """Submit a task here. What it creates is in its own block, except tensors that a PlacedAlloc already placed."""

    task: int
    extra_waits: tuple[int, ...] = ()  # tasks: the WAR and WAW edges that sharing a block needs


new_placed = builder(PlacedTask)


@dataclass(frozen=True, slots=True)
class PlacedAlloc:
    """A kernel-less submission whose block holds these tensors.

    Without `offsets` they lie one after another, and are at most `MAX_TENSORS`. With them the block is an arena of `size_bytes`,
    one tensor whose parts they are; those whose lives do not overlap may share bytes.
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


T = TypeVar("T")
PlacedItem = int | PlacedTask | PlacedAlloc | PlacedRead | PlacedLoop | PlacedScope


def in_allocs(items: Iterable[T]) -> list[tuple[T, ...]]:
    """Cut into parts of as many tensors as one alloc may have."""
    rest = iter(items)
    return list(iter(lambda: tuple(islice(rest, MAX_TENSORS)), ()))


def one_block(program: Program, tensors: Sequence[int]) -> list[PlacedAlloc]:
    """One block for all, whatever their number: beyond what an alloc may have they are parts of one tensor, an arena.

    Several allocs would need more bytes, as a ring's end can come between them; there are several where one would be larger than
    a block may be.
    """
    sizes = block_bytes([program.tensors[tensor].spec for tensor in tensors])
    if len(tensors) <= MAX_TENSORS and sum(sizes) <= MAX_BLOCK_BYTES:
        return [PlacedAlloc(tuple(tensors))]
    return arena_blocks(tensors, list(accumulate(sizes[:-1], initial=0)), sizes, "")


def arena_blocks(
    tensors: Sequence[int], offsets: Sequence[int], sizes: Sequence[int], name: str, mark: Mark | None = None
) -> list[PlacedAlloc]:
    """Allocs of tensors at these offsets, in bytes: one, or several, cut where no tensor lies across, if a block may not be that
    large; if there is no such place, a block has to be larger than allowed."""
    by_offset = sorted(range(len(tensors)), key=offsets.__getitem__)
    lows = [offsets[k] for k in by_offset]
    ends = list(accumulate((offsets[k] + sizes[k] for k in by_offset), max))
    cuts = [len(lows)]
    if lows and ends[-1] - lows[0] > MAX_BLOCK_BYTES:
        cuts = [*(k for k in range(1, len(lows)) if lows[k] >= ends[k - 1]), len(lows)]
    found, start = [], 0
    while start < len(lows):
        fitting = [k for k in cuts if k > start and ends[k - 1] - lows[start] <= MAX_BLOCK_BYTES]
        stop = max(fitting, default=cuts[-1])
        low = lows[start]
        places = tuple([at - low for at in lows[start:stop]] if low else lows[start:stop])
        chosen = tuple([tensors[k] for k in by_offset[start:stop]])
        found.append(PlacedAlloc(chosen, places, ends[stop - 1] - low, name, mark))
        start = stop
    return found


class Scheduler(Protocol):
    """A placement strategy: pure, deterministic, mutates nothing."""

    def __call__(self, program: Program, options: Mapping[str, object]) -> Schedule: ...


@working_out(
    name=attrgetter("of.path"),
    task=attrgetter("of.id"),
    num_tensors=attrgetter("of.num_arguments"),
    **{name: attrgetter(f"of.{name}") for name in ("op", "num_blocks", "mark")},
)
class TaskSubmission(Submission):
    """The submission of a task, which knows the rest."""

    __slots__ = ("core", "entries", "explicit", "holds", "of", "size_bytes", "slots", "waits")
    of: Task


_new_slot, _new_submission, _new_scope = builder(Slot), builder(TaskSubmission), builder(ScopeInfo)
_new_begin, _new_end, _new_step = builder(Begin), builder(End), builder(Submit)


_NOWHERE = -1
"""Submission of what is not placed yet."""


def _registered(unseen: set[int], owner: list[int], of_task: list[int]) -> Callable[[int, int], bool]:
    """Whether the runtime notes that a placed task has written a tensor; see `_Lowering` for what is given."""
    return lambda task, tensor: task not in unseen and owner[tensor] != of_task[task]


class _Lowering:
    """State of one `lower` call. It refers to itself nowhere: it would be kept, as the collector is off."""

    def __init__(self, program: Program) -> None:
        self.program, self.tasks = program, program.tasks
        self.submissions: list[Submission] = []
        self.next = 0  # the number of the next one
        self.scopes: list[ScopeInfo] = []
        self.steps: list[Step] = []
        self.of_task = [_NOWHERE] * len(program.tasks)  # the task's submission
        self.submission_of = self.of_task.__getitem__
        self.owner = [_NOWHERE] * len(program.tensors)  # the submission in whose block the tensor lies
        self.owner_of = self.owner.__getitem__
        self.offset = [0] * len(program.tensors)  # and where in it
        self.arenas: set[int] = set()  # submissions
        self.unseen: set[int] = set()  # tasks in manual scopes
        self.overwritten = OverwrittenWriters(program.tasks, _registered(self.unseen, self.owner, self.of_task))
        # What many submissions have is kept once: single submissions that are held, entries of the tensormap, numbers.
        self.alike: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.known_entries: dict[tuple[int, int, int, Box | None, bool, bool], tuple[MapEntry]] = {}
        self.unboxed_writes: dict[int, tuple[tuple[int, bool], ...] | None] = {}  # by the identity of `Task.like`
        self.number: dict[int, int] = {}
        self.specs = [tensor.spec for tensor in program.tensors]
        self.sizes = block_bytes(self.specs)

    def place(self, items: Sequence[PlacedItem], depth: int, mode: str) -> None:
        for item in items:
            if isinstance(item, int):  # nearly all
                self.task(item, (), mode)
                continue
            match item:
                case PlacedTask():
                    self.task(item.task, item.extra_waits, mode)
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
                    self.overwritten.open_loop()
                    for body in item.bodies:
                        starts.append(len(self.steps))
                        self.overwritten.next_trip()
                        self.place(body, depth, mode)
                    self.overwritten.close_loop()
                    self.steps[at] = Repeat(self.writers(item.trips), item.trips, tuple(starts), len(self.steps))

    def writers(self, trips: Trips) -> tuple[int, ...]:
        return tuple(sorted({self.of_task[t] for t in trips.waits}))

    def submit(self, submission: Submission) -> None:
        self.steps.append(_new_step(self.next))
        self.submissions.append(submission)
        following, tasks = len(self.submissions), self.tasks
        self.next = tasks[following].id if following < len(tasks) else following  # no other object of the same number

    def alloc(self, item: PlacedAlloc) -> None:
        sizes = [self.sizes[tensor] for tensor in item.tensors]
        offsets = item.offsets or (0, *accumulate(sizes))
        slots = self.slots(item.tensors, offsets, sizes)
        end = max(map(add, offsets, sizes), default=0)
        mark = item.mark or self.program.tensors[item.tensors[0]].mark
        if item.offsets:
            self.arenas.add(len(self.submissions))
        num_tensors = 1 if item.offsets else len(slots)  # an arena is one tensor, of which all in it are parts
        self.submit(Submission(item.name or "alloc", max(end, item.size_bytes), slots, mark=mark, num_tensors=num_tensors))

    def slots(self, tensors: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> tuple[Slot, ...]:
        """Places in the block of the next submission."""
        owner, known, index = self.owner, self.program.tensors, self.next
        found = []
        for number, offset, size in zip(tensors, offsets, sizes, strict=False):
            tensor, at = known[number], self.number.setdefault(offset, offset)
            assert owner[number] == _NOWHERE, f"tensor {tensor.name!r} is placed twice"
            owner[number], self.offset[number] = index, at
            found.append(_new_slot(tensor.id, at, size, tensor.name))
        return tuple(found)

    def task(self, number: int, extra_waits: Sequence[int], mode: str) -> None:
        task, index, watch = self.tasks[number], self.next, self.overwritten
        creates, writes = task.creates, task.writes
        holds = {*map(self.owner_of, task.uses), *map(self.owner_of, creates)}
        slots: tuple[Slot, ...] = ()
        size_bytes = 0
        if _NOWHERE in holds:
            own = [tensor for tensor in creates if self.owner[tensor] == _NOWHERE]
            sizes = [self.sizes[tensor] for tensor in own]
            slots, size_bytes = self.slots(own, (0, *accumulate(sizes)), sizes), sum(sizes)
            holds = {*map(self.owner_of, task.uses), *map(self.owner_of, creates)} - {index}
        elif creates and task.op is None:
            self.of_task[task.id] = self.owner[creates[0]]  # an alloc whose tensors all went elsewhere
            return
        explicit: tuple[int, ...] = ()
        if mode == "manual" or self.unseen or task.after:
            explicit = self.explicit(task, holds) if task.after else ()
            waits = self.waits(task, extra_waits, mode, holds)
        else:  # nearly all
            waits = {*map(self.submission_of, task.waits), *map(self.submission_of, extra_waits), *holds}
        assert _NOWHERE not in waits, f"{task.path!r} is placed before what it waits for"
        writes_own = writes == creates
        if not writes_own or watch.entries:
            waits.update([self.of_task[t] for t in watch.follow(task, mode == "manual")])
        elif watch.open:
            watch.open[-1].trip.add(task.id)
        self.of_task[number] = index
        edges, held = tuple(sorted(waits)), tuple(holds) if len(holds) == 1 else tuple(sorted(holds))
        if len(held) == 1:
            held = self.alike.setdefault(held, held)
        has_none = not writes or (writes_own and len(slots) == len(creates)) or mode == "manual"
        entries = () if has_none else self.entries(task, writes)
        self.submit(_new_submission(task.core, entries, explicit, held, task, size_bytes, slots, edges))

    def entries(self, task: Task, writes: Sequence[int]) -> tuple[MapEntry, ...]:
        """What a task writes and has not created in its own block, which is that of the next submission."""
        like = task.like
        if like is task:
            return self.entries_by_region(task, writes)
        order = self.unboxed_writes.get(id(like), ())
        if order == ():
            order = self.unboxed_writes[id(like)] = _unboxed_writes(task, writes)
        if order is None:
            return self.entries_by_region(task, writes)
        owner, specs, offset, known, found = self.owner, self.specs, self.offset, self.known_entries, ()
        for place, is_no_part in order:
            tensor = writes[place]
            at = owner[tensor]
            if at != self.next:
                spec = specs[tensor]
                key = at, tensor if at == _NOWHERE else offset[tensor], id(spec), None, is_no_part, True
                entry = known.get(key) or known.setdefault(key, self.entry(spec, *key))
                found = found + entry if found else entry
        return found

    def entries_by_region(self, task: Task, writes: Collection[int]) -> tuple[MapEntry, ...]:
        """The same for any task."""
        found: list[tuple[MapEntry]] = []
        index, modes = self.next, task.modes
        owner, specs, offset, known = self.owner, self.specs, self.offset, self.known_entries
        for name, region in zip(task.names if modes else repeat(""), task.regions, strict=False):
            tensor = region.tensor
            if tensor not in writes or (at := owner[tensor]) == index:
                continue
            mode = modes.get(name) if modes else None
            if mode in ("in", "no_dep"):
                continue
            spec, place = specs[tensor], tensor if at == _NOWHERE else offset[tensor]
            key = at, place, id(spec), region.box, region.part is None, mode is None  # many tensors share a spec
            found.append(known.get(key) or known.setdefault(key, self.entry(spec, *key)))
        return found[0] if len(found) == 1 else tuple([entry for (entry,) in found])

    def entry(
        self, spec: TensorSpec, at: int, place: int, _: int, box: Box | None, is_no_part: bool, may_cover: bool
    ) -> tuple[MapEntry]:
        """The entry of a box of a tensor that lies at `place` of a block."""
        begin, end, is_whole = byte_range(spec, box) if is_no_part else (0, spec.size_bytes, False)
        if at in self.arenas:  # a part of one tensor, which begins with the block
            place, begin, end = 0, begin + place, end + place
        return (MapEntry(at, place, begin, end, is_whole and may_cover),)

    def explicit(self, task: Task, holds: set[int]) -> tuple[int, ...]:
        """What `after` alone keeps, whether or not the task touches its tensors."""
        return tuple(sorted({self.of_task[t] for t in task.after if t not in task.wait_only} - holds))

    def waits(self, task: Task, extra: Sequence[int], mode: str, holds: set[int]) -> set[int]:
        """The submissions that a task waits for; makes of `holds`, the blocks that it uses, those that it keeps.

        The edges that sharing needs only wait: a plan must not pay for them with the bytes of what it waits for.
        """
        of_task = self.of_task
        waits = set(map(self.submission_of, extra))
        if task.after:
            waits.update([of_task[t] for t in task.after])
        if mode == "manual":  # rule 8: nothing is inferred, so only explicit edges keep blocks
            holds.clear()
            self.unseen.add(task.id)
        elif self.unseen:  # ... and what such a task writes is not noted, so nobody waits for it
            waits.update([of_task[t] for t in task.waits if t not in self.unseen], holds)
        else:
            waits.update(map(self.submission_of, task.waits), holds)
        if task.after:
            holds.update([of_task[t] for t in task.after if t not in task.wait_only])
        return waits


def _unboxed_writes(task: Task, writes: Sequence[int]) -> tuple[tuple[int, bool], ...] | None:
    """Of what operands write, in their order: the place in `writes`, and whether it is no part. None where one writes a box of a
    tensor, or less than all edges are inferred."""
    written = [region for region in task.regions if region.tensor in writes]
    if task.modes or not written or any(region.box is not None for region in written):
        return None
    return tuple([(writes.index(region.tensor), region.part is None) for region in written])


def byte_range(spec: TensorSpec, box: Box | None) -> tuple[int, int, bool]:
    """Where the bytes of a box begin and end in its tensor, row by row, and whether it has all between."""
    if box is None:
        return 0, spec.size_bytes, True
    stride = DTYPE_BYTES[spec.dtype]
    begin = end = 0
    is_whole, is_full = True, True  # `is_full`: the box has all of the dims behind this one
    for (low, high), size in zip(reversed(box), reversed(spec.shape), strict=True):
        begin += low * stride
        end += (high - 1) * stride
        is_whole &= is_full or high - low <= 1
        is_full &= (low, high) == (0, size)
        stride *= size
    return begin, end + DTYPE_BYTES[spec.dtype], is_whole


def lower(program: Program, items: Sequence[PlacedItem], strategy: str = "") -> Schedule:
    """The flat schedule of a placement; the root scope (depth 0) is added around it."""
    if len(program.tasks) > LARGE:
        give_back()
    state = _Lowering(program)
    state.scopes.append(ScopeInfo(program.name, 0, "auto", program.body.mark))
    state.steps.append(Begin(0))
    with collector_off():
        state.place(items, 0, "auto")
        if len(state.submissions) > LARGE:
            gc.freeze()
    state.steps.append(End(0))
    return Schedule(program.name, tuple(state.submissions), tuple(state.scopes), tuple(state.steps), strategy, program)
