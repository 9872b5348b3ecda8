"""This module finds which tensor of which block lies at each position that tasks name, where no edge tells it.

Positions and blocks are in one order, so positions are matched to tensors like two texts are aligned: the cheapest match wins.
What a match costs is how badly it fits: bytes between two positions need a tensor that nobody names, and no bytes leave no room
for one. Blocks of one stretch of a ring are matched together: those between two records of scope stats, which say where its head
was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from runner.base.tensor_spec import BLOCK_ALIGN, round_up

WRONG = 1000.0
"""What contradicts a size that is known."""


@dataclass(slots=True)
class Position:
    """A place that tasks name: `size` is that of the tensor there, None where it is not known.

    `allowed` are the submissions that may have made it (None: any), `likely` those that are named by an edge of its users.
    """

    at: int
    size: int | None
    allowed: set[int] | None
    likely: set[int] = field(default_factory=set)
    before: int = 0  # its first user
    least: int = 0  # bytes that tasks touch

    def may_be(self, submission: int) -> bool:
        return submission < self.before and (self.allowed is None or submission in self.allowed)

    @property
    def least_bytes(self) -> int:
        return max(BLOCK_ALIGN, round_up(self.least), round_up(self.size or 0))


def match(
    slots: Sequence[tuple[int, bool]], positions: Sequence[Position], start: int, end: int | None, capacity: int
) -> list[int | None]:
    """The index of the slot of each position, None where none is left.

    A slot is a tensor: `(submission, whether it is an alloc)`; an alloc is one slot, which may take several positions.
    `positions` ascend, `start` and `end` are where the stretch begins and ends.
    """
    best: dict[int, tuple[float, tuple]] = {-1: (0.0, ())}
    chosen: list[int | None] = []
    earlier: Position | None = None
    room = _Room(slots, start, end, capacity)
    for position in positions:
        costs: dict[int, tuple[float, tuple]] = {}
        for slot in _candidates(slots, position, best):
            submission, is_alloc = slots[slot]
            found = [
                (
                    cost
                    + _between(slots, last, slot, earlier, position, start, capacity)
                    + (0.0 if earlier is None or room.fits(last, slot, earlier, position) else WRONG),
                    path,
                )
                for last, (cost, path) in best.items()
                if last < slot or (last == slot and is_alloc)
            ]
            if found:
                cost, path = min(found, key=lambda item: item[0])
                costs[slot] = (cost - 0.1 * (submission in position.likely), (slot, path))
        if costs:
            best, earlier = costs, position
        chosen.append(0 if costs else None)
    last = min(best, key=lambda slot: best[slot][0] + _behind(slots, slot, earlier, end))
    path = best[last][1]
    for k in range(len(chosen) - 1, -1, -1):
        if chosen[k] is not None:
            chosen[k], path = path
    return chosen


def _candidates(slots: Sequence[tuple[int, bool]], position: Position, best: Collection[int]) -> list[int]:
    return [slot for slot in range(max(0, min(best)), len(slots)) if position.may_be(slots[slot][0])]


def _between(
    slots: Sequence[tuple[int, bool]],
    last: int,
    slot: int,
    earlier: Position | None,
    position: Position,
    start: int,
    capacity: int,
) -> float:
    """The cost of leaving the slots between two without a name."""
    num_skipped = max(0, slot - last - 1)
    ended = start if earlier is None else None if earlier.size is None else earlier.at + earlier.size
    if ended is None:
        return float(num_skipped)
    hides = slots[slot][1] or (last >= 0 and slots[last][1])
    return _cost(num_skipped, position.at - ended, hides, position.at % capacity == 0)


def _behind(slots: Sequence[tuple[int, bool]], last: int, earlier: Position | None, end: int | None) -> float:
    if end is None or earlier is None or earlier.size is None:
        return 0.0
    return _cost(len(slots) - last - 1, end - earlier.at - earlier.size, last >= 0 and slots[last][1], False)


def _cost(num_skipped: int, room: int, hides: bool, wraps: bool) -> float:
    """How badly so many tensors without a name fit into so many bytes; `hides`: an alloc beside them may have more of its own."""
    if room < 0:
        return WRONG
    if not room or num_skipped * BLOCK_ALIGN > room:
        return 10.0 * num_skipped
    if num_skipped:
        return 0.2 * num_skipped
    return 0.0 if wraps else 3.0 if hides else 100.0


# --- what must be -----------------------------------------------------------------------------------------------------


def makers(
    slots: Sequence[tuple[int, bool]], positions: Sequence[Position], start: int, end: int | None, capacity: int
) -> list[set[int]]:
    """Per position the submissions that may have made it: those that some matching of all positions gives it.

    A matching is ruled out by what cannot be only: tensors take at least what a block rounds to, lie one behind another, and a
    block never lies across the ring's end. `positions[k].allowed` and `before` must be facts, not guesses.
    """
    room = _Room(slots, start, end, capacity)
    allowed = [[slot for slot, (made_by, _) in enumerate(slots) if position.may_be(made_by)] for position in positions]
    forward: list[set[int]] = []
    for k, position in enumerate(positions):
        if k == 0:
            forward.append({slot for slot in allowed[0] if room.fits_first(slot, position)})
        else:
            earlier = positions[k - 1]
            forward.append(
                {slot for slot in allowed[k] if any(room.fits(last, slot, earlier, position) for last in forward[k - 1])}
            )
    kept = {slot for slot in forward[-1] if room.fits_last(slot, positions[-1])} if forward else set()
    found = [kept]
    for k in range(len(positions) - 2, -1, -1):
        earlier, position = positions[k], positions[k + 1]
        kept = {last for last in forward[k] if any(room.fits(last, slot, earlier, position) for slot in kept)}
        found.append(kept)
    return [{slots[slot][0] for slot in kept} for kept in reversed(found)] if positions else []


@dataclass(frozen=True, slots=True)
class _Room:
    """Whether tensors fit between each other in one stretch of a ring."""

    slots: Sequence[tuple[int, bool]]
    start: int
    end: int | None
    capacity: int

    def fits(self, last: int, slot: int, earlier: Position, position: Position) -> bool:
        (before, hides_behind), (behind, hides_before) = self.slots[last], self.slots[slot]
        if slot < last or (slot == last and not hides_before):
            return False
        crosses = earlier.at // self.capacity != position.at // self.capacity
        if crosses and before == behind:
            return False
        num_skipped, gap = max(0, slot - last - 1), position.at - earlier.at
        if earlier.least_bytes + num_skipped * BLOCK_ALIGN > gap:
            return False
        if num_skipped or hides_behind or hides_before:
            return True
        if crosses:
            return position.at % self.capacity == 0
        return earlier.size is None or round_up(earlier.size) == gap

    def fits_first(self, slot: int, position: Position) -> bool:
        gap = position.at - self.start
        if slot * BLOCK_ALIGN > gap:
            return False
        return bool(slot) or self.slots[slot][1] or not gap or position.at % self.capacity == 0

    def fits_last(self, slot: int, position: Position) -> bool:
        if self.end is None:
            return True
        gap, num_skipped = self.end - position.at, len(self.slots) - slot - 1
        if position.least_bytes + num_skipped * BLOCK_ALIGN > gap:
            return False
        return num_skipped > 0 or self.slots[slot][1] or position.size is None or round_up(position.size) == gap
