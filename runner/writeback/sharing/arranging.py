"""Lists for the graphs of a program: which entries they have, in which order, and who takes whose bytes.

What may share is told by a run: two tensors may where the later one would wait for the earlier one for no longer than `patience`.
Trips of a loop that run side by side lie side by side, as copies of a group, as many as are in use at once on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from runner.base.errors import Mark
from runner.expansion.sharing.addresses import Addresses, Made, addresses
from runner.expansion.sharing.conflicts import Pair, by_lives, conflicts
from runner.expansion.sharing.stacking import Stacked, Stacking, leaf_pairs, stacked
from runner.expansion.sharing.texts import Lists, Stack, Texts, Unit, closure
from runner.language.graph import Shared, Text
from runner.program.lifetimes import Floats, Lives

Said = dict[str, tuple[Shared, ...]]
"""Per file what its list says."""

SIDE_BY_SIDE = 1.5
"""Trips that are in use at once on average from which on a loop's trips get copies."""

NOWHERE = Mark("", 0)

Order = Callable[[Unit, "_Arranging"], tuple[float, ...]]

ORDERS: tuple[Order, ...] = (
    lambda unit, seen: (-seen.box(unit), seen.first[unit.number]),
    lambda unit, seen: (seen.first[unit.number], -seen.box(unit)),
    lambda unit, seen: (seen.first[unit.number] - seen.last[unit.number], -seen.box(unit)),
    lambda unit, seen: (-seen.box(unit) * (seen.last[unit.number] - seen.first[unit.number]),),
    lambda unit, seen: (-seen.last[unit.number], -seen.box(unit)),
)
"""Orders in which entries are placed first fit: the largest, the first, the longest lived, the largest over their lives, the last."""


@dataclass(frozen=True)
class Member:
    """What lists may name, in one graph: a tensor, or the id of a used graph. `rows` are its tensors as indices of locals."""

    file: str
    name: str
    is_use: bool


@dataclass(frozen=True)
class Scene:
    """What of a program can be put into lists.

    made      where its tensors are made, of those that lists may name
    members   per file the names of tensors, and the ids of used graphs that have lists
    """

    lives: Lives
    texts: Texts
    made: Mapping[int, Made]
    members: Mapping[str, Sequence[str]]


def scene_of(lives: Lives, texts: Texts, made: Mapping[int, Made], may_write: Callable[[str], bool]) -> Scene:
    """What may be listed: tensors of files that may be written, and uses of graphs that have any."""
    names: dict[str, dict[str, None]] = {}
    uses: dict[str, dict[str, None]] = {}
    kept: dict[int, Made] = {}
    for tensor, at in made.items():
        if may_write(at.body.file) and not at.name.startswith("."):
            names.setdefault(at.body.file, {})[at.name] = None
            kept[tensor] = at
            body = at.body
            while body.parent is not None and may_write(body.parent.file) and body.use:
                uses.setdefault(body.parent.file, {})[body.use] = None
                body = body.parent
    members = {}
    for file in {*names, *uses}:
        mine = names.get(file, {})
        members[file] = [*mine, *(use for use in uses.get(file, ()) if use not in mine)]
    return Scene(lives, texts, kept, members)


@dataclass(frozen=True)
class Proposal:
    """Lists, and where they put the tensors. `height` are units of all arenas together."""

    said: Said
    at: Addresses
    places: Stacked
    height: int


def proposal(scene: Scene, begin: Floats, finish: Floats, patience: float, tied: bool = True) -> Proposal | None:
    """Lists for a run in which locals are in use from `begin` to `finish`; None if nothing can be listed."""
    said = _grouped(scene, begin, finish)
    for _ in range(MAX_COPYING):
        lists = Lists(scene.texts, said)
        at = addresses(scene.lives, scene.made, lists)
        if not len(at.tensors):
            return None
        alive = by_lives(at)
        if not alive.same:
            break
        said = _with_copies(scene, said, at, alive.same)
    else:
        return None
    soft = conflicts(at, begin[at.locals], finish[at.locals] - patience)
    arranging = _Arranging(at, alive, leaf_pairs(at, soft))
    arranging.run()
    found = {file: arranging.entries(lists.stacks[file]) for file in said if arranging.holds(lists.stacks[file])}
    return evaluated(scene, found)


MAX_COPYING = 40
"""Rounds in which entries get more copies, or go out of the lists, until no place is in use twice at once."""


def evaluated(scene: Scene, said: Said) -> Proposal:
    """What lists come to."""
    at = addresses(scene.lives, scene.made, Lists(scene.texts, said))
    places = stacked(at, by_lives(at))
    roots = at.instance[:, 0]
    tops = np.zeros(int(roots.max(initial=-1)) + 1, np.int64)
    np.maximum.at(tops, roots, places.offsets + at.size)
    return Proposal(said, at, places, int(tops.sum()))


# --- groups and copies ------------------------------------------------------------------------------------------------


def _grouped(scene: Scene, begin: Floats, finish: Floats) -> Said:
    """A list for each graph, with everything in it, in groups where trips of loops run side by side."""
    groups: dict[tuple[str, tuple[str, ...], frozenset[str]], list[int]] = {}
    by_member: dict[tuple[str, str], list[int]] = {}
    for tensor, at in scene.made.items():
        if at.name in scene.members.get(at.body.file, ()):
            by_member.setdefault((at.body.file, at.name), []).append(tensor)
    loops: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # per file and variables its members in such loops
    for (file, name), tensors in by_member.items():
        variables = {tuple(scene.made[tensor].values) for tensor in tensors}
        if len(variables) == 1 and (around := next(iter(variables))):
            loops.setdefault((file, around), []).append(name)
    del groups
    inside: dict[str, list[Shared]] = {}
    grouped: set[tuple[str, str]] = set()
    for (file, around), names in loops.items():
        mine = [name for name in names if _stays_in_trips(scene, by_member[file, name])]
        rows = [tensor for name in mine for tensor in by_member[file, name]]
        copies = _side_by_side(scene, rows, around, begin, finish)
        if copies:
            members = tuple(Shared(name, NOWHERE) for name in mine)
            taken = set(scene.members[file])
            label = next(name for k in range(1, 1000) if (name := f"{around[0]}_trips{'' if k == 1 else k}") not in taken)
            taken.add(label)
            while any(entry.name == label for entry in inside.get(file, ())):
                label += "_"
            inside.setdefault(file, []).append(Shared(label, NOWHERE, (), copies, members))
            grouped |= {(file, name) for name in mine}
    return {
        file: (*(Shared(name, NOWHERE) for name in names if (file, name) not in grouped), *inside.get(file, ()))
        for file, names in scene.members.items()
    }


def _indices(scene: Scene, tensors: Sequence[int]) -> np.ndarray:
    return np.searchsorted(scene.lives.locals, np.array(tensors, np.int64))


def _trip(scene: Scene, tensor: int) -> tuple[int, tuple[int, ...]]:
    at = scene.made[tensor]
    return id(at.body), tuple(at.values.values())


def _stays_in_trips(scene: Scene, tensors: Sequence[int]) -> bool:
    """Whether no tensor lives on when that of the next trip begins to."""
    rows = _indices(scene, tensors)
    order = np.argsort(scene.lives.first[rows], kind="stable")
    first, end = scene.lives.first[rows][order], scene.lives.end[rows][order]
    return bool((end[:-1] <= first[1:]).all())


def _side_by_side(
    scene: Scene, tensors: Sequence[int], around: tuple[str, ...], begin: Floats, finish: Floats
) -> dict[str, int]:
    """How many trips have bytes of their own, by variable; nothing if trips run one after the other."""
    if not tensors:
        return {}
    rows = _indices(scene, tensors)
    trips: dict[tuple[int, tuple[int, ...]], list[float]] = {}
    for tensor, row in zip(tensors, rows.tolist(), strict=True):
        if finish[row] >= begin[row]:
            span = trips.setdefault(_trip(scene, tensor), [np.inf, -np.inf])
            span[0], span[1] = min(span[0], begin[row]), max(span[1], finish[row])
    bodies: dict[int, list[tuple[float, float, tuple[int, ...]]]] = {}
    for (body, values), (low, high) in trips.items():
        bodies.setdefault(body, []).append((low, high, values))
    most = 0.0
    for spans in bodies.values():
        length = max(high for _, high, _ in spans) - min(low for low, _, _ in spans)
        if length > 0:
            most = max(most, sum(high - low for low, high, _ in spans) / length)
    if most < SIDE_BY_SIDE:
        return {}
    wanted, found = int(np.ceil(most)), dict[str, int]()
    for place, variable in enumerate(around):
        trips_of = max(len({values[place] for _, _, values in spans}) for spans in bodies.values())
        found[variable] = min(wanted, trips_of)
        wanted = -(-wanted // max(1, found[variable]))
    return found if any(copies > 1 for copies in found.values()) else {}


def _with_copies(scene: Scene, said: Said, at: Addresses, same: Mapping[Pair, Pair]) -> Said:
    """The lists with more copies of what is alive twice at once, or without it where copies do not help."""
    found = dict(said)
    for pair in same:
        unit = at.units[at.leaves[pair[0]][1][0][0]]
        file = at.leaves[pair[0]][0].file
        found[file] = tuple(_copied(scene, entry, unit.name, file) for entry in found[file])
        found[file] = tuple(entry for entry in found[file] if entry.inside != ())
        found[file] = _without(found[file])
    return found


_DROPPED = "."
"""What an entry is called that goes out of its list."""


def _without(entries: Iterable[Shared]) -> tuple[Shared, ...]:
    kept = (replace(entry, inside=_without(entry.inside)) if entry.inside is not None else entry for entry in entries)
    return tuple(entry for entry in kept if entry.name != _DROPPED and entry.inside != ())


def _copied(scene: Scene, entry: Shared, name: str, file: str) -> Shared:
    if entry.inside is not None and entry.name != name:
        return replace(entry, inside=tuple(_copied(scene, one, name, file) for one in entry.inside))
    if entry.name != name or entry.inside is not None:
        return entry if entry.name != name else replace(entry, name=_DROPPED)
    tensors = [t for t, made in scene.made.items() if (made.body.file, made.name) == (file, name)]
    copies = _fewest_copies(scene, tensors) if tensors else None
    return replace(entry, name=_DROPPED) if copies is None or copies == entry.copies else replace(entry, copies=copies)


def _fewest_copies(scene: Scene, tensors: Sequence[int]) -> dict[str, int] | None:
    """The fewest copies with which no two tensors of one copy are alive at once: of the trips of one loop around them."""
    rows = _indices(scene, tensors)
    order = [tensors[k] for k in np.argsort(scene.lives.first[rows], kind="stable")]
    variables = {tuple(scene.made[tensor].values) for tensor in order}
    if len(variables) != 1:
        return None
    around = next(iter(variables))
    trips = {variable: 1 + max(scene.made[t].values[variable] for t in order) for variable in around}
    for copies in range(2, max(trips.values(), default=1) + 1):
        for variable in reversed(around):
            if copies <= trips[variable] and _is_apart(scene, order, {variable: copies}):
                return {variable: copies}
    return trips if around and len(around) > 1 and _is_apart(scene, order, trips) else None


def _is_apart(scene: Scene, tensors: Sequence[int], copies: Mapping[str, int]) -> bool:
    last: dict[tuple, int] = {}
    lives = scene.lives
    for tensor, row in zip(tensors, _indices(scene, tensors).tolist(), strict=True):
        at = scene.made[tensor]
        key = (id(at.body), *(at.values[variable] % n for variable, n in copies.items()))
        if last.get(key, -1) > lives.first[row]:
            return False
        last[key] = int(lives.end[row])
    return True


# --- order and sharing ------------------------------------------------------------------------------------------------


class _Arranging(Stacking):
    """Chooses the order of each list, and what shares: all pairs but those of which one would wait too long."""

    def __init__(self, at, alive, soft: Mapping[Pair, Sequence]) -> None:  # noqa: ANN001
        super().__init__(at, alive)
        self.soft = soft
        self.first: dict[int, int] = {}
        self.last: dict[int, int] = {}
        first, end = at.lives.first[at.locals], at.lives.end[at.locals]
        for level in range(at.unit.shape[1]):
            for unit, low, high in zip(at.unit[:, level].tolist(), first.tolist(), end.tolist(), strict=True):
                if unit >= 0:
                    self.first[unit] = min(self.first.get(unit, low), low)
                    self.last[unit] = max(self.last.get(unit, high), high)
        self.chosen: dict[int, tuple[list[Unit], dict[str, tuple[str, ...]]]] = {}

    def holds(self, stack: Stack) -> bool:
        return bool(self.chosen.get(id(stack), ((), {}))[0])

    def arranged(self, stack: Stack, present: Sequence[Unit]) -> tuple[Sequence[Unit], set[Pair]]:
        shared = {
            (one.number, other.number)
            for place, one in enumerate(present)
            for other in present[place + 1 :]
            if self._may_share(one, other)
        }
        tries = []
        for key in ORDERS:
            order = sorted(present, key=lambda unit, key=key: key(unit, self))
            bases = self.laid(order, shared)
            tries.append((max((bases[unit.number] + self.box(unit) for unit in present), default=0), len(tries), order, bases))
        _, _, order, bases = min(tries, default=(0, 0, [], {}), key=lambda entry: entry[:2])
        replaced = self._replaced(present, bases, shared)
        kept = closure(replaced, present)
        by_base = sorted(order, key=lambda unit: (bases[unit.number], self.first[unit.number]))
        top = max((bases[unit.number] + self.box(unit) for unit in present), default=0)
        again = {id(one): self.laid(one, kept) for one in (by_base, order)}
        tops = [max((again[id(one)][u.number] + self.box(u) for u in present), default=0) for one in (by_base, order)]
        chosen = by_base if tops[0] <= max(top, tops[1]) else order
        self.chosen[id(stack)] = list(chosen), replaced
        return chosen, kept

    def _may_share(self, one: Unit, other: Unit) -> bool:
        """Whether nothing but what is alive at once keeps two entries apart; of used graphs that is all that does."""
        if one.used is not None or other.used is not None:
            return True
        return len(self.soft.get((one.number, other.number), ())) <= len(self.pairs.get((one.number, other.number), ())) and (
            not self._all_alive(one, other)
        )

    def _all_alive(self, one: Unit, other: Unit) -> bool:
        pairs = len(self.pairs.get((one.number, other.number), ()))
        return pairs == len(self.of_unit[one.number]) * len(self.of_unit[other.number])

    def _replaced(self, present: Sequence[Unit], bases: Mapping[int, int], shared: set[Pair]) -> dict[str, tuple[str, ...]]:
        """Per entry the earlier ones whose bytes it takes, without those that these have taken in turn."""
        order = sorted(present, key=lambda unit: self.first[unit.number])
        found: dict[str, tuple[str, ...]] = {}
        older: dict[str, set[str]] = {}
        for place, unit in enumerate(order):
            low, high = bases[unit.number], bases[unit.number] + self.box(unit)
            mine: list[str] = []
            for other in reversed(order[:place]):
                key = min(unit.number, other.number), max(unit.number, other.number)
                base = bases[other.number]
                meets = low < base + self.box(other) and base < high and key in shared
                if meets and not any(other.name in older[name] for name in mine):
                    mine.append(other.name)
            older[unit.name] = set(mine).union(*(older[name] for name in mine))
            found[unit.name] = tuple(mine)
        return found

    def entries(self, stack: Stack) -> tuple[Shared, ...]:
        """The list as it is to be written."""
        order, replaced = self.chosen[id(stack)]
        return tuple(
            Shared(
                unit.name,
                NOWHERE,
                tuple(Text(name, NOWHERE) for name in replaced[unit.name]),
                unit.copies,
                None if unit.inside is None else self.entries(unit.inside),
            )
            for unit in order
        )
