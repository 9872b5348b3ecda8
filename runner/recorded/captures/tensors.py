"""This module finds which submission made each tensor that a capture's tasks touch, and where in its ring it lies.

Addresses become offsets once the heaps' base is known: the least, over creator edges, of the tensor's address less the heaps
before its producer's ring. An argument belongs to the producer of its creator edge. Where that was merged with another of the
same two tasks, the producers that its task waits for are the candidates; in manual scopes, which have no creator edges, all that
come before it. Which of them it is follows from the order of blocks (`matching`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from runner.base.tensor_spec import round_up
from runner.recorded.captures.files import CREATES, Capture, CapturedTask, Operand, number_of_id, ring_of_id
from runner.recorded.captures.layout import Block, Piece, RingLayout
from runner.recorded.captures.matching import Position, match
from runner.recorded.captures.order import Ordered
from runner.rings.schedule import NUM_RINGS

Use = tuple[int, int]
"""A submission, and the index of one of its operands."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Submissions of a ring with blocks between two records, and where its head was at these; positions are monotonic."""

    submissions: tuple[int, ...]
    members: frozenset[int]
    start: int
    end: int | None
    capacity: int

    def position(self, offset: int) -> int:
        """The first position of an offset from the stretch's start on."""
        return offset + max(0, -(-(self.start - offset) // self.capacity)) * self.capacity


@dataclass
class Tensors:
    """What is worked out: per ring its layout, and per use in a heap the producer and the offset in the ring.

    `base` is the address of the first heap, None where no edge tells it; `is_base_exact` whether it can be no other.
    """

    capture: Capture
    order: Ordered
    base: int | None = None
    is_base_exact: bool = False
    layouts: list[RingLayout] = field(default_factory=list)
    producer: dict[Use, int] = field(default_factory=dict)
    offset: dict[Use, int] = field(default_factory=dict)
    uncertain: list[Use] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.index_of = {task: index for index, task in enumerate(self.order.ids)}
        self.tasks: dict[int, CapturedTask] = {self.index_of[t.id]: t for t in self.capture.tasks or () if t.id in self.index_of}
        self.ring_bases = [0, *accumulate(self.capture.sizes.heap)]
        self.first_use: dict[int, Use] = {}
        for task in self.capture.tasks or ():
            for operand in task.operands:
                if operand.kind != CREATES and operand.tensor_id:
                    self.first_use.setdefault(operand.tensor_id, (self.index_of.get(task.id, -1), operand.index))
        self.preds: dict[int, list[int]] = {}
        for edge in self.capture.edges:
            if edge.first in self.index_of and edge.second in self.index_of:
                self.preds.setdefault(self.index_of[edge.second], []).append(self.index_of[edge.first])

    def uses(self) -> Iterator[tuple[Use, Operand]]:
        """Every operand that a task did not create, in order of submission."""
        for index in sorted(self.tasks):
            for operand in self.tasks[index].operands:
                if operand.kind != CREATES and operand.tensor_id:
                    yield (index, operand.index), operand

    def ring(self, submission: int) -> int:
        return ring_of_id(self.order.ids[submission])

    def makes_block(self, submission: int) -> bool:
        """An alloc makes one, a task if it has outputs; without deps.json nobody knows."""
        task = self.tasks.get(submission)
        return task is None or task.num_outputs > 0

    # --- addresses ----------------------------------------------------------------------------------------------------

    def find_base(self) -> None:
        """The base: the least that creator edges allow, or less where the heads of scope stats do not allow that."""
        highest: int | None = None
        lowest = 0
        for (index, number), producer in self.told_producers():
            operand = self.operand((index, number))
            ring = self.ring(producer)
            before, behind = self.heads_around(producer)
            start = operand.address - self.ring_bases[ring]
            highest = start if highest is None else min(highest, start)
            if behind is not None and behind <= self.capture.sizes.heap[ring]:  # the ring has not wrapped
                highest = min(highest, start - before)
                lowest = max(lowest, start - behind + max(round_up(operand.end), 1024))
            if not any(self.makes_block(k) for k in self.earlier(producer)):
                lowest = max(lowest, start) if self.is_first_of_task(producer, operand) else lowest
        proved = next(self.proved_bases(), None)
        if proved is not None:
            self.base, self.is_base_exact = proved, True
            return
        if highest is not None:
            highest = min([highest, *(start for start in self.merged_starts(highest) if lowest <= start)])
        self.base = highest
        self.is_base_exact = highest is not None and lowest >= highest

    def proved_bases(self) -> Iterator[int]:
        """Bases that follow from the only output of a task: its size is known, and where it ends, as a record follows."""
        for use, producer in self.told_producers():
            operand, ring = self.operand(use), self.ring(producer)
            task, number = self.tasks.get(producer), number_of_id(self.order.ids[producer])
            head = next((head for r, count, head in self.order.heads if r == ring and count > number), None)
            if task is not None and task.num_outputs == 1 and head is not None and self.first_use[operand.tensor_id] == use:
                behind = (ring << 32 | k for k in range(number + 1, self.next_count(ring, number)))
                if not any(task_id in self.index_of and self.makes_block(self.index_of[task_id]) for task_id in behind):
                    offset = (head - round_up(operand.buffer_bytes)) % self.capture.sizes.heap[ring]
                    yield operand.address - self.ring_bases[ring] - offset

    def next_count(self, ring: int, number: int) -> int:
        """Submissions of a ring before the first record behind one of them."""
        return min(count for r, count, _ in self.order.heads if r == ring and count > number)

    def merged_starts(self, base: int) -> Iterator[int]:
        """Bases that would make arguments without an edge of their own, just below a base, tensors of their task's producers."""
        told = {use for use, _ in self.told_producers()}
        for use, operand in self.uses():
            if use not in told and not self.tasks[use[0]].manual:
                for producer in self.preds.get(use[0], ()):
                    ring = self.ring(producer)
                    start = operand.address - self.ring_bases[ring]
                    behind = self.heads_around(producer)[1]
                    if self.makes_block(producer) and behind is not None and base - behind < start < base:
                        yield start

    def is_first_of_task(self, producer: int, operand: Operand) -> bool:
        """Whether a tensor of a ring's first block must lie at its beginning: all outputs are named, and it is the lowest."""
        named = {self.operand(use).address for use, made_by in self.told_producers() if made_by == producer}
        task = self.tasks.get(producer)
        return operand.address == min(named) and (task is None or task.num_outputs == len(named))

    def earlier(self, submission: int) -> Iterator[int]:
        """Submissions of the same ring before it."""
        ring, number = self.ring(submission), number_of_id(self.order.ids[submission])
        return (self.index_of[ring << 32 | k] for k in range(number) if ring << 32 | k in self.index_of)

    def heads_around(self, submission: int) -> tuple[int, int | None]:
        """The ring's head at the records before and after a submission."""
        ring, number = self.ring(submission), number_of_id(self.order.ids[submission])
        of_ring = [(count, head) for r, count, head in self.order.heads if r == ring]
        before = max([head for count, head in of_ring if count <= number], default=0)
        return before, min([head for count, head in of_ring if count > number], default=None)

    def told_producers(self) -> Iterator[tuple[Use, int]]:
        """Uses whose producer a creator edge names."""
        for edge in self.capture.edges:
            first, second = self.index_of.get(edge.first), self.index_of.get(edge.second)
            if edge.source == "creator" and edge.operand >= 0 and first is not None and second in self.tasks:
                yield (second, edge.operand), first

    def operand(self, use: Use) -> Operand:
        return next(operand for operand in self.tasks[use[0]].operands if operand.index == use[1])

    def place_of(self, address: int) -> tuple[int, int] | None:
        """Ring and offset of an address; None for one from outside."""
        if self.base is None or not 0 <= address - self.base < self.ring_bases[-1]:
            return None
        ring = next(ring for ring in range(NUM_RINGS) if address - self.base < self.ring_bases[ring + 1])
        return ring, address - self.base - self.ring_bases[ring]

    # --- producers ----------------------------------------------------------------------------------------------------

    def resolve(self) -> None:
        """Gives every use its producer, and solves the layouts."""
        self.find_base()
        told = dict(self.told_producers())
        per_ring: dict[int, list[tuple[Use, int]]] = {}
        for use, operand in self.uses():
            place = self.place_of(operand.address)
            if place is not None and use in told and place[0] == self.ring(told[use]):
                self.give(use, told[use], place[1])
            elif place is not None:
                per_ring.setdefault(place[0], []).append((use, place[1]))
        for ring, waiting in per_ring.items():
            self.match_ring(ring, waiting)
        self.solve()

    def give(self, use: Use, producer: int, offset: int) -> None:
        self.producer[use], self.offset[use] = producer, offset

    def match_ring(self, ring: int, waiting: Sequence[tuple[Use, int]]) -> None:
        """Producers of uses whose edge was merged with another of the same two tasks, or that have none (manual scopes)."""
        stretches = self.stretches(ring)
        named: dict[int, dict[int, list[Use]]] = {}  # per stretch: position -> uses
        for use, offset in waiting:
            place = self.stretch_of(use, offset, stretches)
            if place is None:
                self.uncertain.append(use)
            else:
                named.setdefault(place[0], {}).setdefault(place[1], []).append(use)
        for k, places in named.items():
            stretch = stretches[k]
            for use, producer in self.producer.items():
                if producer in stretch.members:
                    places.setdefault(stretch.position(self.offset[use]), []).append(use)
            self.match_stretch(stretch, places)

    def match_stretch(self, stretch: Stretch, places: Mapping[int, list[Use]]) -> None:
        positions = [self.position(at, places[at]) for at in sorted(places)]
        slots = [(k, not num) for k in stretch.submissions for num in [self.num_outputs(k)] for _ in range(num or 1)]
        found = match(slots, positions, stretch.start, stretch.end, stretch.capacity)
        for position, slot in zip(positions, found, strict=True):
            for use in places[position.at]:
                if use not in self.producer:
                    if slot is None:
                        self.uncertain.append(use)
                    else:
                        self.give(use, slots[slot][0], position.at % stretch.capacity)

    def position(self, at: int, uses: Sequence[Use]) -> Position:
        """What the users of a place say about it."""
        size, allowed, likely = None, None, set()
        for use in uses:
            operand = self.operand(use)
            candidates = self.candidates(use)
            if candidates is not None:
                allowed = candidates if allowed is None else allowed & candidates
            likely |= set(self.preds.get(use[0], ()))
            if self.first_use[operand.tensor_id] == use:
                size = operand.buffer_bytes
        return Position(at, size, allowed, likely, min(use[0] for use in uses))

    def candidates(self, use: Use) -> set[int] | None:
        """Who may have made what a use touches: as an edge says, or one of those before it in an auto scope; None for anybody."""
        if use in self.producer:
            return {self.producer[use]}
        return None if self.tasks[use[0]].manual else set(self.preds.get(use[0], ()))

    def num_outputs(self, submission: int) -> int:
        """Tensors that a task creates, 0 for an alloc."""
        task = self.tasks.get(submission)
        return 0 if task is None else task.num_outputs

    def stretches(self, ring: int) -> list[Stretch]:
        """The blocks of a ring between records that say where its head was."""
        numbers = sorted(k for k in range(len(self.order.ids)) if self.ring(k) == ring)
        numbers.sort(key=lambda k: self.order.ids[k])
        heads = {count: head for r, count, head in self.order.heads if r == ring}
        bounds = sorted({0, len(numbers), *(count for count in heads if count <= len(numbers))})
        found, start = [], 0
        for low, high in pairwise(bounds):
            start = heads.get(low, start)
            members = tuple(k for k in numbers[low:high] if self.makes_block(k))
            found.append(Stretch(members, frozenset(members), start, heads.get(high), self.capture.sizes.heap[ring]))
        return found

    def stretch_of(self, use: Use, offset: int, stretches: Sequence[Stretch]) -> tuple[int, int] | None:
        """The latest stretch, and the position in it, that may hold what a use touches."""
        candidates = self.candidates(use)
        for k in range(len(stretches) - 1, -1, -1):
            stretch = stretches[k]
            at = stretch.position(offset)
            if stretch.end is not None and at >= stretch.end:
                continue
            if any(member < use[0] and (candidates is None or member in candidates) for member in stretch.submissions):
                return k, at
        return None

    # --- layouts ------------------------------------------------------------------------------------------------------

    def solve(self) -> None:
        """The layouts of all rings from the offsets that are known so far."""
        named: dict[int, dict[int, Piece]] = {}
        for use, operand in self.uses():
            if use in self.producer:
                piece = named.setdefault(self.producer[use], {}).setdefault(self.offset[use], Piece(self.offset[use]))
                piece.least = max(piece.least, operand.end)
                if self.first_use.get(operand.tensor_id) == use:
                    piece.table, piece.sure = operand.buffer_bytes, True
                elif not piece.sure:
                    piece.table = operand.buffer_bytes
        self.layouts = [self.layout(ring, named) for ring in range(NUM_RINGS)]

    def layout(self, ring: int, named: Mapping[int, Mapping[int, Piece]]) -> RingLayout:
        of_ring = sorted((k for k in range(len(self.order.ids)) if self.ring(k) == ring), key=lambda k: self.order.ids[k])
        blocks = [self.block(k, named.get(k, {})) for k in of_ring if self.makes_block(k)]
        heads = {sum(block.number < count for block in blocks): head for r, count, head in self.order.heads if r == ring}
        found = RingLayout(self.capture.sizes.heap[ring], blocks, heads)
        found.solve()
        return found

    def block(self, submission: int, named: Mapping[int, Piece]) -> Block:
        pieces = [named[offset] for offset in sorted(named)]
        task = self.tasks.get(submission)
        hidden = None if task is None else max(0, task.num_outputs - len(pieces))
        return Block(submission, number_of_id(self.order.ids[submission]), pieces, hidden)
