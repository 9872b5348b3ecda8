"""Where a program's tensors lie by the lists of its graphs: in which entry of which list, for every list around it.

A tensor of a used graph lies in an entry of that graph's list, and with it in the entry of its user's list that stands for that
use, unless a list further out has an entry for it alone, `ID.NAME`; a tensor of a group lies in the entry of the group. So it has
a row of *levels*, the outermost first:

    instance   which use of the graph, or which trips of a group: tensors of one instance lie in one piece of memory
    entry      the unit there, and the copy of it; of a ring the place in it (`place_in`)
    leaf       the entry and those of the levels below it: tensors with the same leaf have the same place in every instance
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from runner.base.errors import Mark
from runner.expansion.sharing.texts import Lists, Stack, Texts, Unit
from runner.language.graph import EVERY
from runner.program.lifetimes import Ints, Lives
from runner.program.program import Program
from runner.program.spans import Span, SpanWalk


@dataclass(eq=False)
class Body:
    """A used graph or, without a `parent`, the program: `values` are the trips of loops around it in its user's body."""

    file: str
    path: str
    mark: Mark | None
    first: int = -1
    parent: Body | None = None
    use: str = ""
    values: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1


@dataclass(frozen=True)
class Made:
    """Where a local tensor is made: in which body, under which name, in which trips of the body's loops."""

    body: Body
    name: str
    values: Mapping[str, int]

    @cached_property
    def lifted(self) -> tuple[Made, ...]:
        """The same as lists of users may name it, from the innermost user outwards: `ID.NAME`, in all trips of loops around it,
        those of used graphs under names with dots."""
        user, use = self.body.parent, self.body.use
        if user is None:
            return ()
        values = {**self.body.values, **{f"{use}.{name}": trip for name, trip in self.values.items()}}
        outer = Made(user, f"{use}.{self.name}", values)
        return outer, *outer.lifted


def made_in(program: Program, texts: Texts) -> dict[int, Made]:
    """Where every local tensor is made that has a place in a text."""
    found: dict[int, Made] = {}
    root = Body(program.body.mark.file if program.body.mark else "", "", program.body.mark)
    here: list[tuple[Body, Mapping[str, int]]] = [(root, {})]

    def leave(span: Span) -> None:
        if span.kind in ("use", "iteration"):
            here.pop()

    for item in SpanWalk(program.body, leave):
        body, values = here[-1]
        if isinstance(item, int):
            for tensor in program.tasks[item].creates:
                if program.tensors[tensor].is_local and program.tensors[tensor].mark is not None:
                    found[tensor] = Made(body, texts.name_of(program.tensors[tensor]), values)
        elif item.kind == "use":
            use, file = texts.uses.get(item.mark, ("", "")) if item.mark else ("", "")
            here.append((Body(file, item.path, item.mark, parent=body, use=use, values=values), {}))
        elif item.kind == "iteration":
            variable = texts.loops.get(item.mark) if item.mark else None
            trip = item.path.rpartition(".")[2].removeprefix(variable or "").removeprefix("_")
            here.append((body, {**values, variable: int(trip)} if variable and trip.isdecimal() else values))
    return found


class _Numbers:
    """Small integers for things, in the order in which they come."""

    def __init__(self) -> None:
        self.known: dict[Hashable, int] = {}

    def of(self, thing: Hashable) -> int:
        return self.known.setdefault(thing, len(self.known))


Entry = tuple[int, int]
"""A unit's number, and the copy or, of a ring, the place."""

_PLACES = 1 << 40
"""More than any size in units."""


def place_in(low: int, size: int) -> int:
    """A place in a ring as one number: the same for what lies in the same units."""
    return low * _PLACES + size


def ends_of(place: int) -> tuple[int, int]:
    """The low and the high end of a place in a ring."""
    low, size = divmod(place, _PLACES)
    return low, low + size


Step = tuple[int, Stack, Entry]
"""An instance, its list, and the entry there."""


@dataclass(frozen=True)
class Addresses:
    """The levels of the tensors that lie in lists; one row per tensor, one column per level, -1 behind the last.

    tensors   their ids, ascending        locals     the same as indices into `lives.locals`
    instance  numbers of instances        entry      numbers of entries         unit   numbers of units
    leaf      numbers of leaves           leaves     what each is: entries, and the list of the first
    low, high the ends of places in rings, one per tensor, both 0 of what is in none
    roots     per instance of the first level its body
    """

    lives: Lives
    tensors: Ints
    locals: Ints
    instance: Ints
    entry: Ints
    unit: Ints
    leaf: Ints
    low: Ints
    high: Ints
    leaves: list[tuple[Stack, tuple[Entry, ...]]]
    units: dict[int, Unit]
    roots: dict[int, Body]

    @property
    def size(self) -> Ints:
        """Per tensor its units of 1,024 bytes."""
        return self.lives.size[self.locals]


def addresses(lives: Lives, made: Mapping[int, Made], lists: Lists) -> Addresses:
    """The addresses of a program's tensors in lists."""
    return _Reader(lives, lists).read(made)


Way = tuple[Unit, ...]
"""An entry of a list, behind the groups around it."""


@dataclass(frozen=True, slots=True)
class _Leg:
    """From a body's list to one of its entries: `values` are trips of all loops between the list and what lies there."""

    body: Body
    way: Way
    values: Mapping[str, int]


class _Reader:
    def __init__(self, lives: Lives, lists: Lists) -> None:
        self.lives, self.lists = lives, lists
        self.instances, self.entries, self.leaves = _Numbers(), _Numbers(), _Numbers()
        self.units: dict[int, Unit] = {}
        self.roots: dict[int, Body] = {}
        self.stations: dict[int, tuple[Body, ...]] = {}  # per body, by id, those whose lists lead to it, itself last
        self.legs: dict[int, _Leg | None] = {}  # per body, by id, the last of what leads to it, None where memory begins
        self.ways: dict[int, tuple[tuple[Step, ...], int]] = {}  # per body, by id, all of that as levels, and its instance
        self.around: dict[int, frozenset[str]] = {}  # per unit that counts all trips, the loops around all that is in it
        self.turns: dict[tuple[int, int], _Numbers] = {}  # the trips of an instance, by unit
        self.largest: dict[int, int] = {}  # per ring the units of its largest tensor
        self.heads: dict[tuple[int, int], int] = {}  # per ring of an instance where its next tensor may lie

    def read(self, made: Mapping[int, Made]) -> Addresses:
        legs = {tensor: leg for tensor, at in sorted(made.items()) if (leg := self._leg(at)) is not None}
        self._count(legs.values())
        tensors = np.array(list(legs), np.int64)
        found = np.searchsorted(self.lives.locals, tensors)
        sizes = self.lives.size[found].tolist()
        for leg, size in zip(legs.values(), sizes, strict=True):
            for unit in leg.way[:-1]:
                self.largest[unit.number] = max(self.largest.get(unit.number, 0), size)
        each = zip(legs.items(), sizes, strict=True)
        rows = {tensor: (*self._to(leg.body)[0], *self._steps(leg, size)) for (tensor, leg), size in each}
        depth = max(map(len, rows.values()), default=1)
        table = np.full((4, len(tensors), depth), -1, np.int64)
        ends = np.zeros((2, len(tensors)), np.int64)
        for at, tensor in enumerate(tensors.tolist()):
            row = rows[tensor]
            for level, (instance, stack, entry) in enumerate(row):
                leaf = self.leaves.of((stack, tuple(step[2] for step in row[level:])))
                table[:, at, level] = instance, self.entries.of(entry), entry[0], leaf
                if self.units[entry[0]].ring:
                    ends[:, at] = ends_of(entry[1])
        levels = (*table, *ends)
        return Addresses(self.lives, tensors, found, *levels, list(self.leaves.known), self.units, self.roots)  # type: ignore[arg-type]

    def _leg(self, at: Made) -> _Leg | None:
        """The entry of a tensor, in the outermost list on its way that has one."""
        return next(self._named(at, self._stations(at.body), is_used=False), None)

    def _named(self, at: Made, bodies: Sequence[Body], *, is_used: bool) -> Iterator[_Leg]:
        """What lists of some bodies have for a tensor or used graph."""
        for body in bodies:
            one = at if body is at.body else at.lifted[at.body.depth - body.depth - 1]
            way = self.lists.ways.get(body.file, {}).get(one.name)
            if way is not None and way[-1].inside is None and (way[-1].used is not None) == is_used:
                yield _Leg(body, way, one.values)

    def _stations(self, body: Body) -> tuple[Body, ...]:
        """The bodies whose lists lead to one, itself last: from each, the entry for the most of the way that is left."""
        found = self.stations.get(id(body))
        if found is None:
            before = self._stations(body.parent) if body.parent is not None else ()
            used = None if body.parent is None else Made(body.parent, body.use, body.values)
            leg = None if used is None else next(self._named(used, before, is_used=True), None)
            self.legs[id(body)] = leg
            found = self.stations[id(body)] = (*(before if leg is None else before[: before.index(leg.body) + 1]), body)
        return found

    def _count(self, legs: Iterable[_Leg]) -> None:
        for leg in (*legs, *(leg for leg in self.legs.values() if leg is not None)):
            for unit in leg.way:
                if EVERY in unit.copies:
                    self.around[unit.number] = self.around.get(unit.number, frozenset(leg.values)) & frozenset(leg.values)

    def _turn(self, unit: Unit, instance: int, values: Mapping[str, int]) -> Mapping[str, int]:
        """The trips' numbers, with that of all loops together: how many others were made before."""
        if EVERY not in unit.copies:
            return values
        trips = self.turns.setdefault((instance, unit.number), _Numbers())
        around = self.around[unit.number]
        return {**values, EVERY: trips.of(tuple(number for name, number in values.items() if name in around))}

    def _to(self, body: Body) -> tuple[tuple[Step, ...], int]:
        """What leads to a body from where its memory begins, and its instance."""
        found = self.ways.get(id(body))
        if found is None:
            self._stations(body)
            leg = self.legs[id(body)]
            instance = self.instances.of(id(body))
            if leg is None:
                self.roots[instance] = body
            steps = () if leg is None else (*self._to(leg.body)[0], *self._steps(leg))
            found = self.ways[id(body)] = steps, instance
        return found

    def _steps(self, leg: _Leg, size: int = 0) -> list[Step]:
        """The levels from a graph's list to one of its entries, of so many units."""
        steps: list[Step] = []
        instance, stack = self._to(leg.body)[1], self.lists.stacks[leg.body.file]
        for unit in leg.way:
            self.units[unit.number] = unit
            counted = self._turn(unit, instance, leg.values)
            copy = self._next(unit, instance, size) if unit.ring else unit.copy(counted)
            steps.append((instance, stack, (unit.number, copy)))
            if unit.inside is not None:
                trips = tuple(counted.get(variable, 0) for variable in unit.copies)
                key = instance, unit.number, len(self.instances.known) if unit.ring else trips  # each tensor of a ring is alone
                instance, stack = self.instances.of(key), unit.inside
        return steps

    def _next(self, ring: Unit, instance: int, size: int) -> int:
        """The place of the next tensor in a ring: behind the last one, or at the bottom if it has no room there."""
        key = instance, ring.number
        low = self.heads.get(key, 0)
        low = low if low + size <= ring.ring * self.largest[ring.number] else 0
        self.heads[key] = low + size
        return place_in(low, size)
