"""This module finds which tensor of which block lies at each position that tasks name, where no edge tells it.

Positions and blocks are in one order, so positions are matched to tensors like two texts are aligned: the cheapest match wins.
What a match costs is how badly it fits: bytes between two positions need a tensor that nobody names, and no bytes leave no room
for one. Blocks of one stretch of a ring are matched together: those between two records of scope stats, which say where its head
was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from runner.base.tensor_spec import BLOCK_ALIGN

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

    def may_be(self, submission: int) -> bool:
        return submission < self.before and (self.allowed is None or submission in self.allowed)


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
    for position in positions:
        costs: dict[int, tuple[float, tuple]] = {}
        for slot in _candidates(slots, position, best):
            submission, is_alloc = slots[slot]
            found = [
                (cost + _between(slots, last, slot, earlier, position, start, capacity), path)
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
