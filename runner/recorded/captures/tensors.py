"""This module finds which submission made each tensor that a capture's tasks touch, and where in its ring it lies.

Addresses become offsets once the heaps' base is known: the least, over creator edges, of the tensor's address less the heaps
before its producer's ring. An argument belongs to the producer of its creator edge. Where that was merged with another of the
same two tasks, the producers that its task waits for are the candidates; in manual scopes, which have no creator edges, all that
come before it. Which of them it is follows from the order of blocks (`matching`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from runner.base.errors import ScheduleError
from runner.base.tensor_spec import BLOCK_ALIGN
from runner.recorded.captures.bases import Anchor, RingFacts, anchor_size, find_base
from runner.recorded.captures.files import CREATES, Capture, CapturedTask, Operand, number_of_id, ring_of_id
from runner.recorded.captures.folder import DEPS
from runner.recorded.captures.layout import Block, Piece, RingLayout
from runner.recorded.captures.matching import Position, makers, match
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
    certain: set[Use] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.index_of = {task: index for index, task in enumerate(self.order.ids)}
        self.tasks: dict[int, CapturedTask] = {self.index_of[t.id]: t for t in self.capture.tasks or () if t.id in self.index_of}
        self.ring_bases = [0, *accumulate(self.capture.sizes.heap)]
        self.first_use: dict[int, Use] = {}
        for task in self.capture.tasks or ():
            for operand in task.operands:
                if operand.kind != CREATES and operand.tensor_id:
                    self.first_use.setdefault(operand.tensor_id, (self.index_of.get(task.id, -1), operand.index))
        operands = [operand for _, operand in self.uses()]
        self.has_empty = any(operand.end == operand.begin for operand in operands)  # then several tensors may share an address
        self.preds: dict[int, list[int]] = {}
        for edge in self.capture.edges:
            if edge.first in self.index_of and edge.second in self.index_of:
                first, second = self.index_of[edge.first], self.index_of[edge.second]
                if first >= second:
                    ends = (f"{number_of_id(task)} of ring {ring_of_id(task)}" for task in (edge.first, edge.second))
                    raise ScheduleError(f"{self.capture.folder / DEPS}: an edge leads back, from submission {' to '.join(ends)}")
                self.preds.setdefault(second, []).append(first)

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
        """The heaps' base, by the tensors whose producers are known."""
        told = dict(self.told_producers())
        anchors = [self.anchor(use, producer) for use, producer in told.items() if self.makes_block(producer)]
        merged = [
            self.anchor(use, producer)
            for use, _ in self.uses()
            if use not in told and not self.tasks[use[0]].manual
            for producer in self.preds.get(use[0], ())
            if self.makes_block(producer)
        ]
        rings = []
        for ring in range(NUM_RINGS):
            blocks = [k for k in range(len(self.order.ids)) if self.ring(k) == ring and self.makes_block(k)]
            outputs = {number_of_id(self.order.ids[k]): self.num_outputs(k) or None for k in blocks}
            heads = [(count, head) for r, count, head in self.order.heads if r == ring]
            rings.append(RingFacts(self.capture.sizes.heap[ring], heads, outputs, 0 if self.has_empty else BLOCK_ALIGN))
        self.base, self.is_base_exact = find_base(anchors, merged, rings)

    def anchor(self, use: Use, producer: int) -> Anchor:
        operand, ring = self.operand(use), self.ring(producer)
        is_first = self.first_use[operand.tensor_id] == use
        size = anchor_size(operand.end, operand.buffer_bytes if is_first else None)
        start = operand.address - self.ring_bases[ring]
        return Anchor(start, ring, number_of_id(self.order.ids[producer]), size, is_first)

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
                self.certain.add(use)
            elif place is not None:
                per_ring.setdefault(place[0], []).append((use, place[1]))
        for ring, waiting in per_ring.items():
            self.match_ring(ring, waiting)
        if not self.is_base_exact:
            self.certain.clear()
        self.solve()

    def give(self, use: Use, producer: int, offset: int) -> None:
        self.producer[use], self.offset[use] = producer, offset

    def match_ring(self, ring: int, waiting: Sequence[tuple[Use, int]]) -> None:
        """Producers of uses whose edge was merged with another of the same two tasks, or that have none (manual scopes)."""
        stretches = self.stretches(ring)
        options = {use: list(self.options(use, offset, stretches)) for use, offset in waiting}
        told = [use for use, made_by in self.producer.items() if self.ring(made_by) == ring]
        options |= {use: list(self.options(use, self.offset[use], stretches)) for use in told}
        for only_certain in (True, False):
            named: dict[int, dict[int, list[Use]]] = {}  # per stretch: position -> uses
            for use, places in options.items():
                if places and (len(places) == 1 or not only_certain):
                    named.setdefault(places[-1][0], {}).setdefault(places[-1][1], []).append(use)
            for k, at in named.items() if not (only_certain and self.has_empty) else ():
                if any(use not in self.producer for uses in at.values() for use in uses):
                    (self.settle_stretch if only_certain else self.match_stretch)(stretches[k], at)
        self.uncertain += [use for use, places in options.items() if not places and use not in self.producer]

    def settle_stretch(self, stretch: Stretch, places: Mapping[int, list[Use]]) -> None:
        """Gives uses a producer that can be no other."""
        positions = []
        for at in sorted(places):
            position = self.position(at, places[at])
            members = stretch.members if position.allowed is None else stretch.members & position.allowed
            position.allowed = {k for k in members if not any(self.is_surely_after(k, use[0]) for use in places[at])}
            position.before = len(self.order.ids)
            positions.append(position)
        found = makers(self.slots(stretch), positions, stretch.start, stretch.end, stretch.capacity)
        for position, made_by in zip(positions, found, strict=True):
            for use in places[position.at]:
                if use not in self.producer and len(made_by) == 1:
                    self.give(use, min(made_by), position.at % stretch.capacity)
                    self.certain.add(use)

    def match_stretch(self, stretch: Stretch, places: Mapping[int, list[Use]]) -> None:
        """Gives uses the producer that is likely."""
        positions = [self.position(at, places[at]) for at in sorted(places)]
        slots = self.slots(stretch)
        found = match(slots, positions, stretch.start, stretch.end, stretch.capacity)
        for position, slot in zip(positions, found, strict=True):
            for use in places[position.at]:
                if use not in self.producer:
                    if slot is None:
                        self.uncertain.append(use)
                    else:
                        self.give(use, slots[slot][0], position.at % stretch.capacity)

    def slots(self, stretch: Stretch) -> list[tuple[int, bool]]:
        """The tensors of a stretch by submission, and whether an alloc made them: that is one slot."""
        return [(k, not num) for k in stretch.submissions for num in [self.num_outputs(k)] for _ in range(num or 1)]

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
        least = max(self.operand(use).end for use in uses)
        return Position(at, size, allowed, likely, min(use[0] for use in uses), least)

    def candidates(self, use: Use) -> set[int] | None:
        """Who may have made what a use touches: as an edge says, or one of those before it in an auto scope; None for anybody."""
        if use in self.producer:
            return {self.producer[use]}
        return None if self.tasks[use[0]].manual else set(self.preds.get(use[0], ()))

    def is_surely_after(self, submission: int, user: int) -> bool:
        """Whether a submission cannot have been made before a task; without orchestrator records its place is a guess."""
        if submission in self.tasks or self.order.is_told:
            return submission >= user
        number = number_of_id(self.order.ids[submission])
        return any(
            k >= user and number_of_id(self.order.ids[k]) < number for k in self.tasks if self.ring(k) == self.ring(submission)
        )

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

    def options(self, use: Use, offset: int, stretches: Sequence[Stretch]) -> Iterator[tuple[int, int]]:
        """The stretches and positions in them that may be what a use touches: made before it, and not given to others since."""
        candidates = self.candidates(use)
        lowest, highest = self.window(use[0], self.place_of(self.operand(use).address))
        for k, stretch in enumerate(stretches):
            may_be = [m for m in stretch.submissions if candidates is None or m in candidates]
            if not any(not self.is_surely_after(m, use[0]) for m in may_be):
                continue
            at = stretch.position(offset)
            while at == stretch.position(offset) or (stretch.end is not None and at < stretch.end):
                if lowest <= at and (highest is None or at < highest) and (stretch.end is None or at < stretch.end):
                    yield k, at
                at += stretch.capacity

    def window(self, user: int, place: tuple[int, int] | None) -> tuple[int, int | None]:
        """The positions that hold what has been made and not been given to others when a task is submitted."""
        marks, gap = self.capture.marks, self.order.gap_of[user]
        ring = place[0] if place is not None else 0
        before = max((mark.heap_head for mark in marks[: gap + 1] if mark.ring == ring), default=0)
        behind = min((mark.heap_head for mark in marks[gap + 1 :] if mark.ring == ring), default=None)
        return before - self.capture.sizes.heap[ring], behind

    # --- layouts ------------------------------------------------------------------------------------------------------

    def solve(self) -> None:
        """The layouts of all rings from the offsets that are found; exact is what already follows from those that are certain."""
        self.layouts = self.solved(self.producer)
        if len(self.certain) < len(self.producer):
            pairs = [
                (block.submission, piece) for ring in self.solved(self.certain) for block in ring.blocks for piece in block.pieces
            ]
            known = {(submission, piece.start, piece.size) for submission, piece in pairs if piece.exact}
            for ring in self.layouts:
                for block in ring.blocks:
                    for piece in block.pieces:
                        piece.exact = piece.exact and (block.submission, piece.start, piece.size) in known

    def solved(self, uses: Collection[Use]) -> list[RingLayout]:
        """The layouts that follow from some uses."""
        named: dict[int, dict[int, Piece]] = {}
        for use, operand in self.uses():
            if use in uses:
                piece = named.setdefault(self.producer[use], {}).setdefault(self.offset[use], Piece(self.offset[use]))
                piece.least = max(piece.least, operand.end)
                if self.first_use.get(operand.tensor_id) == use:
                    piece.table, piece.sure = operand.buffer_bytes, True
                elif not piece.sure:
                    piece.table = operand.buffer_bytes
        return [self.layout(ring, named) for ring in range(NUM_RINGS)]

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
