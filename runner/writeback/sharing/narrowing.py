"""Changes of lists, one entry at a time: fewer copies, or bytes shared with what the entry kept apart from.

What a change gains is told without a run: entries are placed anew, by the pairs that shared bytes before and those that the
change adds. Used graphs that take each other's bytes may be equally high, so that less of one of them alone gains nothing: what
lists lose that lie at the top, or almost, counts too, for a part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

from runner.expansion.sharing.addresses import ends_of
from runner.expansion.sharing.conflicts import Pair
from runner.expansion.sharing.texts import Lists, Stack, Unit
from runner.language.graph import EVERY, Shared
from runner.writeback.sharing.arranging import Arranging, Lived, Proposal, everywhere, height_of, proposed, widest
from runner.writeback.sharing.scene import Bar, Said, Scene

PARTS = (0.5, 0.25, 0.0)
"""By which parts of them copies are taken away at a time, at least one."""

SIDE = 1 / 8
"""What counts of the units that lists at the top lose."""

DEEP = 4
"""Lists in each other of which an entry at the top is at the top of all."""

NEAR = 0.2
"""The part of the height of its list by which an entry, with all that lies on it, may be from the top."""


@dataclass(frozen=True)
class Move:
    """An entry gets so many copies (0: as many as it has), and may share bytes with others of its list."""

    file: str
    name: str
    count: int = 0
    others: frozenset[str] = frozenset()


class _Moved(Arranging):
    """Lists of which only given pairs share, with fewer copies of one entry: places of more than there are fall on others."""

    def __init__(self, lived: Lived, allowed: Collection[Pair]) -> None:
        super().__init__(*lived, {}, {})
        self.allowed: Collection[Pair] = allowed
        self.fewer: Mapping[int, int] = {}

    def changed(self, allowed: Collection[Pair], fewer: Mapping[int, int], stacks: Collection[Stack]) -> _Moved:
        """The same after a change of these lists, to be placed anew; all others lie as they do."""
        again, around = copy(self), {id(stack) for stack in stacks}
        again.allowed, again.fewer = allowed, fewer
        again.heights = {number: height for number, height in self.heights.items() if number not in around}
        below = {unit.number: unit.inside or unit.used for unit in self.at.units.values()}
        again.boxes = {n: box for n, box in self.boxes.items() if n not in fewer and id(below.get(n)) not in around}
        again.bases, again.within, again.chosen = dict(self.bases), dict(self.within), dict(self.chosen)
        return again

    def may_share(self, one: Unit, other: Unit, file: str) -> bool:
        if _pair(one, other) not in self.allowed:
            return False
        return one.used is not None or other.used is not None or not self.all_alive(one, other)

    def copies(self, unit: Unit) -> int:
        return self.fewer.get(unit.number, unit.num_copies)

    def bottom(self, unit: Unit, place: int) -> int:
        if unit.number not in self.fewer:
            return super().bottom(unit, place)
        if not unit.ring:
            return place % self.fewer[unit.number] * self.one(unit)
        low, high = ends_of(place)
        return min(low, self.box(unit) - (high - low))


class Layout:
    """Lists as they are, and what changes make of them."""

    def __init__(self, scene: Scene, said: Said, added: Move | None = None) -> None:
        self.scene, self.said = scene, said
        self.lists = Lists(scene.texts, said)
        self.stacks = [stack for top in self.lists.stacks.values() for stack in _within(top)]
        self.allowed = {pair for stack in self.stacks if not stack.is_ring for pair in stack.may_share()}
        if added is not None:
            self.allowed |= self._added(added)
        self.every = everywhere(scene, self.lists)
        self.gains: dict[Move, float] = {}

    @cached_property
    def placed(self) -> _Moved:
        """As they are, placed anew."""
        found = _Moved(widest(self.every), self.allowed)
        found.run()
        return found

    def moves(self, apart: Set[Bar]) -> Iterator[Move]:
        """Changes of entries near the top: fewer copies, or all bytes that are not in use at once, but for those of what is to
        stay `apart`."""
        for stack in self._near:
            present = [unit for unit in stack.units if unit.number in self.placed.of_unit]
            for unit in present if not stack.is_ring else ():
                if unit.number not in self._near[stack]:
                    continue
                count = self.placed.copies(unit) if unit.ring or EVERY in unit.copies else 1
                for taken in sorted({max(1, int(count * part)) for part in PARTS}):
                    if count - taken >= (2 if unit.ring else 1):
                        yield Move(stack.file, unit.name, count - taken)
                names = (other.name for other in present if self._might_share(unit, other))
                others = frozenset(name for name in names if apart.isdisjoint(_bars(stack.file, unit.name, name)))
                if others:
                    yield Move(stack.file, unit.name, others=others)

    def _might_share(self, one: Unit, other: Unit) -> bool:
        if (
            one is other
            or _pair(one, other) in self.allowed
            or self.placed.is_barred(one, other.name)
            or self.placed.is_barred(other, one.name)
        ):
            return False
        return one.used is not None or other.used is not None or not self.placed.all_alive(one, other)

    def best(self, moves: Collection[Move]) -> Move | None:
        """The change that gains the most, None if none gains a unit."""
        left = {move: self.gains.get(move, self._most(move)) for move in moves}
        while left:
            move = max(left, key=lambda one: left[one])
            if left[move] < 1 or move in self.gains:
                return move if left[move] >= 1 else None
            left[move] = self._gain(move)
        return None

    def _most(self, move: Move) -> float:
        """What a change may gain at most: with the bytes of an entry, all lists around it lose as many."""
        unit = self.lists.ways[move.file][move.name][-1]
        size = (self.placed.copies(unit) - move.count) * self.placed.one(unit) if move.count else self.placed.box(unit)
        return size * (1 + DEEP * SIDE)

    def lowered(self, most: int) -> dict[tuple[str, str], int]:
        """Copies, by file and entry, with which lists come to at most so many units, or as few as fewer copies give; taken from
        where that gains the most at a time."""
        layout, counts = self, dict[tuple[str, str], int]()
        while layout.height > most:
            move = layout.best([move for move in layout.moves(set()) if move.count])
            if move is None:
                break
            counts[move.file, move.name] = move.count
            layout = layout._with_fewer(move)
        return counts

    def _with_fewer(self, move: Move) -> Layout:
        """The same lists where an entry has fewer copies."""
        again = copy(self)
        again.__dict__ = {name: value for name, value in vars(self).items() if name not in ("placed", "_near", "_values")}
        again.placed, again.gains = self._after(move), {}
        return again

    @property
    def height(self) -> int:
        """The units of all arenas."""
        return self._values[0]

    def made(self, move: Move) -> Proposal | None:
        """The lists after a change; None if they cannot be."""
        if not move.count:
            arranged = self._after(move)
            arranged.run()
            return proposed(self.scene, arranged, self.lists)

        def fewer(entry: Shared) -> Shared:
            inside = None if entry.inside is None else tuple(map(fewer, entry.inside))
            if entry.name != move.name:
                return replace(entry, inside=inside)
            changed = {"ring": move.count} if entry.ring else {"copies": {EVERY: move.count} if move.count > 1 else {}}
            return replace(entry, inside=inside, **changed)

        said = {file: tuple(map(fewer, entries)) if file == move.file else entries for file, entries in self.said.items()}
        layout = Layout(self.scene, said, move)
        if any(met.same for _, met in layout.every):
            return None
        layout.placed.run()
        return proposed(self.scene, layout.placed, layout.lists)

    def _gain(self, move: Move) -> float:
        if move not in self.gains:
            (height, side), (new, new_side) = self._values, self._values_of(self._after(move))
            self.gains[move] = 0.0 if new > height else height - new + SIDE * (side - new_side)
        return self.gains[move]

    @cached_property
    def _values(self) -> tuple[int, int]:
        return self._values_of(self.placed)

    def _values_of(self, arranged: _Moved) -> tuple[int, int]:
        """The units of all arenas, and of all lists near the top."""
        height = height_of(arranged.at, arranged.run())
        return height, sum(arranged.heights.get(id(stack), 0) for stack in self._near)

    def _after(self, move: Move) -> _Moved:
        unit = self.lists.ways[move.file][move.name][-1]
        mine = next(stack for stack in self.stacks if unit in stack.units)
        around, more = {mine}, [mine]
        while more:
            more = [stack for stack in self._users.get(more.pop(), ()) if stack not in around] + more
            around.update(more)
        fewer = {**self.placed.fewer, unit.number: move.count} if move.count else self.placed.fewer
        return self.placed.changed(self.allowed | self._added(move), fewer, around)

    @cached_property
    def _users(self) -> dict[Stack, list[Stack]]:
        """Per list those with entries that stand for all of it."""
        found: dict[Stack, list[Stack]] = {}
        for stack in self.stacks:
            for below in (unit.inside or unit.used for unit in stack.units):
                if below is not None:
                    found.setdefault(below, []).append(stack)
        return found

    def _added(self, move: Move) -> set[Pair]:
        ways = self.lists.ways[move.file]
        return {_pair(ways[move.name][-1], ways[other][-1]) for other in move.others}

    @cached_property
    def _near(self) -> dict[Stack, set[int]]:
        """Lists at the top or little below, with the numbers of their entries that are."""
        placed = self.placed
        roots = [
            stack
            for stack in self.lists.stacks.values()
            if stack in {placed.at.leaves[leaf][0] for leaf in placed.at.leaf[:, 0].tolist()}
        ]
        found: dict[Stack, set[int]] = {}
        while roots:
            stack = roots.pop()
            if stack in found:
                continue
            most, room = NEAR * placed.height(stack), self._room(stack)
            found[stack] = {number for number, units in room.items() if units <= most}
            for unit in stack.units:
                below = unit.inside or unit.used
                if unit.number in found[stack] and below is not None:
                    roots.append(below)
        return found

    def _room(self, stack: Stack) -> dict[int, int]:
        """By how much each entry of a list, by number, is from the top, with all that lies on it."""
        placed, height = self.placed, self.placed.height(stack)
        if stack.is_ring:
            return {}
        found: dict[int, int] = {}
        units = [unit for unit in stack.units if unit.number in placed.of_unit]
        base = placed.bases
        for unit in sorted(units, key=lambda unit: -base[unit.number]):
            top = base[unit.number] + placed.box(unit)
            above = [
                one for one in units if one.number in found and base[one.number] >= top and _pair(one, unit) not in self.allowed
            ]
            found[unit.number] = min([height - top, *(base[one.number] - top + found[one.number] for one in above)])
        return found


def _bars(file: str, one: str, other: str) -> set[Bar]:
    return {(file, one, other), (file, other, one)}


def _pair(one: Unit, other: Unit) -> Pair:
    return min(one.number, other.number), max(one.number, other.number)


def _within(stack: Stack) -> Iterator[Stack]:
    yield stack
    for unit in stack.units:
        if unit.inside is not None:
            yield from _within(unit.inside)
