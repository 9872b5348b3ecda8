"""This module works out the blocks of one ring: where each tensor lies and how many bytes it takes, and which of that is known.

Known are the offsets of tensors that some task names, the ring's head at scope records, and what follows: tensors of one block
lie one behind another, a block begins where the last one ended, and one that does not fit before the ring's end begins at 0, so
that a block never lies across the end. Positions are monotonic, `offset + laps x capacity`, as the heads of scope stats are.

What stays unknown is filled in evenly and marked as not exact. An alloc may hold tensors that no task names, whose number is not
told, so its end is known by what follows only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from runner.base.tensor_spec import BLOCK_ALIGN, round_up


@dataclass(slots=True)
class Piece:
    """A tensor in a block: named by a task, then its offset is known; else hidden.

    `least` are bytes that tasks touch, `table` the size that the table of tensors gives, `sure` whether that is of this tensor.
    `low` and `high` bound where a hidden tensor may lie.
    """

    offset: int | None = None
    least: int = 0
    table: int = 0
    sure: bool = False
    start: int | None = None
    size: int | None = None
    exact: bool = False
    low: int = 0
    high: int | None = None

    @property
    def named(self) -> bool:
        return self.offset is not None

    @property
    def end(self) -> int | None:
        return None if self.start is None or self.size is None else self.start + self.size


@dataclass(slots=True)
class Block:
    """The block of a submission. `num_hidden` is how many tensors without a name it has and has not placed, None for an alloc.

    `start` and `end` are set when they are proved (or assumed, when nothing more can be proved).
    """

    submission: int
    number: int
    pieces: list[Piece]
    num_hidden: int | None
    start: int | None = None
    end: int | None = None

    @property
    def is_complete(self) -> bool:
        return self.num_hidden == 0

    def hide(self, at: int, start: int | None, size: int | None, exact: bool) -> None:
        """Adds a tensor that nobody names before piece `at`."""
        self.pieces.insert(at, Piece(start=start, size=size, exact=exact))
        if self.num_hidden:
            self.num_hidden -= 1


@dataclass
class RingLayout:
    """The blocks of one ring, in order of their numbers. `heads[k]` is where block k - 1 ends, by a record of scope stats.

    `problems` are contradictions: an offset that lies outside of what the records around it allow.
    """

    capacity: int
    blocks: Sequence[Block]
    heads: Mapping[int, int]
    problems: list[str] = field(default_factory=list)
    assuming: bool = False

    def solve(self) -> None:
        """Gives every piece its start and size."""
        self.unwrap()
        for block in self.blocks:
            if block.num_hidden is None and not block.pieces:
                block.pieces.append(Piece())
            elif block.num_hidden and not block.pieces:
                block.pieces += [Piece() for _ in range(block.num_hidden)]
                block.num_hidden = 0
            for piece in block.pieces:
                if piece.named and piece.sure and piece.table >= piece.least:
                    piece.size, piece.exact = round_up(piece.table), True
        self.propagate()
        for settle in (self.settle_named, self.assume_starts, self.assume_ends, self.place_hidden):
            settle()
            self.assuming = self.assuming or settle != self.settle_named
            self.propagate()
        self.fill()

    def unwrap(self) -> None:
        """Positions of all named pieces: the least that its offset, the pieces before it and the heads allow."""
        low = 0
        for index, block in enumerate(self.blocks):
            low = max(low, self.heads.get(index, 0))
            for piece in block.pieces:
                if piece.offset is None:
                    continue
                laps = max(0, -(-(low - piece.offset) // self.capacity))
                piece.start = piece.offset + laps * self.capacity
                low = piece.start + max(piece.least, 1)
            high = self.heads.get(index + 1)
            if high is not None and low > high:
                where = ", ".join(str(piece.offset) for piece in block.pieces if piece.named)
                self.problems.append(f"submission {block.number} has offsets {where}, but the ring's head is at {high} behind it")
                low = high

    # --- what follows -------------------------------------------------------------------------------------------------

    def propagate(self) -> None:
        """Works out what is known from what is known, until nothing new follows."""
        changed = True
        while changed:
            changed = False
            for index, block in enumerate(self.blocks):
                changed = self.block_start(index) or changed
                changed = self.block_end(index) or changed
                changed = self.inside(block) or changed
            changed = changed or self.squeeze()

    def squeeze(self) -> bool:
        """Sizes of tensors that have no more room between two known places than they take at least."""
        changed, run, start = False, list[Piece](), None
        for index, block in enumerate(self.blocks):
            begun = self.heads.get(index, block.start)
            if begun is not None:
                changed = self.squeezed(run, start, begun) or changed
                run, start = [], begun if block.start in (None, begun) else block.start
            if block.num_hidden or not block.pieces:  # an output that has no place yet
                run, start = [], None
                continue
            for piece in block.pieces:
                if piece.start is not None:
                    changed = self.squeezed(run, start, piece.start) or changed
                    run, start = [], piece.start
                run.append(piece)
        return self.squeezed(run, start, self.heads.get(len(self.blocks))) or changed

    def squeezed(self, run: Sequence[Piece], start: int | None, end: int | None) -> bool:
        least = [piece.size or max(BLOCK_ALIGN, round_up(piece.least)) for piece in run]
        if start is None or end is None or sum(least) != end - start or start // self.capacity != (end - 1) // self.capacity:
            return False
        changed = False
        for piece, size in zip(run, least, strict=True):
            if piece.size is None:
                piece.start, piece.size, piece.exact = start, size, not self.assuming
                changed = True
            start += size
        return changed

    def before(self, index: int) -> int | None:
        """Where the block before ends, if that is known."""
        if index in self.heads:
            return self.heads[index]
        return self.blocks[index - 1].end if index else 0

    def block_start(self, index: int) -> bool:
        block = self.blocks[index]
        if block.start is not None:
            return False
        ended = self.before(index)
        if ended is not None:
            block.start = self.start_behind(ended, block)
        elif block.is_complete and block.pieces and block.pieces[0].start is not None:
            block.start = block.pieces[0].start
        return block.start is not None

    def start_behind(self, ended: int, block: Block) -> int | None:
        """Where a block begins that follows one which ended there: there, or at the ring's next lap."""
        lap = round_up(ended, self.capacity)
        if ended == lap:
            return ended
        anchor = next((piece.start for piece in block.pieces if piece.start is not None), None)
        if anchor is not None:
            return ended if anchor < lap else lap
        if block.end is not None:
            return ended if block.end <= lap else lap
        sizes = [piece.size for piece in block.pieces]
        if block.is_complete and None not in sizes:
            return ended if ended + sum(size or 0 for size in sizes) <= lap else lap
        return None

    def block_end(self, index: int) -> bool:
        block = self.blocks[index]
        if block.end is not None:
            return False
        after = self.blocks[index + 1].start if index + 1 < len(self.blocks) else None
        if index + 1 in self.heads:
            block.end = self.heads[index + 1]
        elif after is not None and after % self.capacity:  # a block that begins at 0 may follow a gap
            block.end = after
        elif block.is_complete and block.pieces:
            block.end = block.pieces[-1].end
        return block.end is not None

    def inside(self, block: Block) -> bool:
        """Starts and sizes of the pieces of one block."""
        changed = False
        pieces = block.pieces
        if not pieces:
            return False
        if block.start is not None and pieces[0].start != block.start:
            if pieces[0].start is None:
                pieces[0].start = block.start
            elif pieces[0].start > block.start and block.num_hidden != 0:
                block.hide(0, block.start, pieces[0].start - block.start, self.is_alone(block))
            changed = pieces[0].start == block.start
        for at, (piece, after) in enumerate(pairwise(pieces[:])):
            if after.start is None and piece.end is not None:
                after.start = piece.end
                changed = True
            elif piece.size is None and piece.start is not None and after.start is not None and block.num_hidden == 0:
                changed = self.give(piece, after.start) or changed
            elif piece.end is not None and after.start is not None and piece.end < after.start and block.num_hidden != 0:
                block.hide(at + 1, piece.end, after.start - piece.end, self.is_alone(block))
                return True
        last = pieces[-1]
        if block.end is not None and last.start is not None:
            if last.size is None and (block.num_hidden == 0 or not last.named):
                changed = self.give(last, block.end) or changed
                if not last.named and block.num_hidden != 0:  # an alloc that nobody names may hold several tensors
                    last.exact = last.exact and last.size is not None and last.size <= BLOCK_ALIGN
            elif last.end is not None and last.end < block.end and block.num_hidden != 0:
                block.hide(len(pieces), last.end, block.end - last.end, self.is_alone(block))
                changed = True
        return changed

    def is_alone(self, block: Block) -> bool:
        """Whether bytes between two known places are of one tensor: an alloc may have several beside one that has a name."""
        return not self.assuming and block.num_hidden == 1

    def give(self, piece: Piece, end: int) -> bool:
        """The size of a piece that ends there."""
        if piece.start is None or end < piece.start:
            return False
        piece.size, piece.exact = end - piece.start, not self.assuming
        return True

    # --- what is likely -----------------------------------------------------------------------------------------------

    def settle_named(self) -> None:
        """Sizes of named tensors whose address has been another's: by what tasks touch, the table, and the room there is."""
        for index, block in enumerate(self.blocks):
            for at, piece in enumerate(block.pieces):
                if not piece.named or piece.size is not None or piece.start is None:
                    continue
                after = block.pieces[at + 1].start if at + 1 < len(block.pieces) else block.end
                likely = [round_up(piece.least), round_up(piece.table)]
                if after is not None:
                    room = max(0, after - piece.start)
                    fits = [size for size in likely if size == room] or (likely[:1] if likely[0] == likely[1] < room else [room])
                    piece.size, piece.exact = fits[0], likely[0] in (room, likely[1])
                    continue
                room = self.room(index, piece.start)
                piece.size = likely[1] if likely[0] <= likely[1] <= room else max(likely[0], min(BLOCK_ALIGN, room))
                piece.exact = likely[0] == likely[1]

    def room(self, index: int, start: int) -> int:
        """Most bytes that a piece of a block may take before what is known to follow."""
        for later in range(index + 1, len(self.blocks) + 1):
            if later in self.heads:
                return min(self.heads[later] - start, self.capacity)
            if later < len(self.blocks) and (known := [p.start for p in self.blocks[later].pieces if p.start is not None]):
                return min(known[0] - start, self.capacity)
        return self.capacity - start % self.capacity

    def assume_starts(self) -> None:
        """No alloc has a tensor without a name before its first that has one."""
        for block in self.blocks:
            if block.start is None and block.num_hidden is None and block.pieces and block.pieces[0].named:
                block.start = block.pieces[0].start

    def assume_ends(self) -> None:
        """No alloc has a tensor without a name behind its last that has one."""
        for index, block in enumerate(self.blocks):
            if block.end is None and block.num_hidden is None and block.pieces and block.pieces[-1].named:
                lacking = self.lacking(index)
                if lacking:
                    block.pieces.append(Piece(least=lacking, start=block.pieces[-1].end))
                else:
                    block.end = block.pieces[-1].end

    def lacking(self, index: int) -> int:
        """Bytes that a block must have beside those that are known, since it did not fit before the ring's end."""
        block, ended = self.blocks[index], self.before(index)
        if block.start is None or ended is None or not ended < block.start:
            return 0
        known = sum(piece.size or 0 for piece in block.pieces)
        return max(0, block.start - ended + BLOCK_ALIGN - known) if known <= block.start - ended else 0

    def place_hidden(self) -> None:
        """Outputs that nobody names lie behind those that somebody does."""
        for block in self.blocks:
            while block.num_hidden:
                last = block.pieces[-1]
                size = block.end - last.end if block.num_hidden == 1 and block.end is not None and last.end is not None else None
                block.hide(len(block.pieces), last.end, size if size is None or size >= 0 else None, False)

    # --- what is left -------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Fills in what is unknown, evenly, such that what is known comes out."""
        flat = [(index, piece) for index, block in enumerate(self.blocks) for piece in block.pieces]
        at = 0
        ended, last = 0, -1  # where the piece before ended, and the block that it is of
        while at < len(flat):
            index, piece = flat[at]
            if index != last and index in self.heads:
                ended = max(ended, self.heads[index])
            if piece.size is not None:
                start = piece.start if piece.start is not None else self.fitting(ended, index, last, piece.size)
                piece.start = start
                piece.low, piece.high, ended, last = start, start + piece.size, start + piece.size, index
                at += 1
                continue
            group = [flat[at]]
            while at + len(group) < len(flat):
                follower = flat[at + len(group)]
                crosses = follower[0] != group[-1][0] and follower[0] in self.heads
                if follower[1].size is not None or follower[1].start is not None or crosses:
                    break
                group.append(follower)
            at += len(group)
            ended = self.fill_group(group, ended, self.target(group, flat[at] if at < len(flat) else None))
            last = group[-1][0]

    def fitting(self, ended: int, index: int, last: int, size: int) -> int:
        lap = round_up(ended, self.capacity)
        return ended if index == last or ended + size <= lap else lap

    def target(self, group: Sequence[tuple[int, Piece]], after: tuple[int, Piece] | None) -> int | None:
        """The next position that is known behind a group."""
        index = group[-1][0]
        if after is not None and after[0] == index:
            return after[1].start
        if index + 1 in self.heads:
            return self.heads[index + 1]
        return None if after is None else after[1].start

    def fill_group(self, group: Sequence[tuple[int, Piece]], ended: int, target: int | None) -> int:
        """Shares the bytes up to `target` between pieces of unknown size; returns where the last one ends."""
        for k, (_, piece) in enumerate(group):  # each of those before and behind takes at least what a block rounds to
            piece.low = ended + k * BLOCK_ALIGN
            piece.high = None if target is None else target - (len(group) - 1 - k) * BLOCK_ALIGN
        if target is None:
            for index, piece in group:
                size = max(round_up(piece.least), BLOCK_ALIGN)
                piece.start = self.fitting(ended, index, -1, size)
                piece.size, ended = size, piece.start + size
            return ended
        lap = round_up(ended, self.capacity)
        if ended < lap < target:  # the last block begins the new lap
            behind = [piece for index, piece in group if index == group[-1][0]]
            self.share([piece for index, piece in group if index != group[-1][0]], ended, lap)
            self.share(behind, lap, target)
        else:
            self.share([piece for _, piece in group], ended, target)
        return target

    def share(self, pieces: Sequence[Piece], start: int, end: int) -> None:
        spare = max(0, end - start - sum(round_up(piece.least) for piece in pieces))
        for left, piece in zip(range(len(pieces), 0, -1), pieces, strict=True):
            more = spare if left == 1 else spare // left // BLOCK_ALIGN * BLOCK_ALIGN
            piece.start, piece.size = start, round_up(piece.least) + more
            spare -= more
            start += piece.size

    def named_pieces(self) -> Iterator[tuple[Block, Piece]]:
        return ((block, piece) for block in self.blocks for piece in block.pieces if piece.named)
