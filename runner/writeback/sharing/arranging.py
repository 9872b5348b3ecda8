"""Lists for the graphs of a program: which entries they have, in which order, and who takes whose bytes.

What may share is told by a run: two tensors may where the later one would wait for the earlier one for no longer than `patience`.
Trips of a loop that run side by side lie side by side, as copies of a group, as many as are in use at once on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from runner.base.errors import Mark
from runner.expansion.sharing.addresses import Addresses, Made, addresses, made_in
from runner.expansion.sharing.conflicts import Conflicts, Pair, by_lives, conflicts
from runner.expansion.sharing.stacking import Stacked, Stacking, leaf_pairs, stacked
from runner.expansion.sharing.texts import Lists, Stack, Texts, Unit, closure
from runner.language.graph import EVERY, Shared, Text
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
"""Orders in which entries are placed: the largest first, the first, the longest lived, the most bytes over time, the last."""


@dataclass(frozen=True)
class Scene:
    """What of a program can be put into lists.

    made      where its tensors are made, of those that lists may name
    members   per file the names of tensors, and the ids of used graphs that have lists
    others    the same of programs that the same graphs may become: whatever shares here must be able to share there
    """

    lives: Lives
    texts: Texts
    made: Mapping[int, Made]
    members: Mapping[str, Sequence[str]]
    others: tuple[Scene, ...] = ()

    @cached_property
    def used(self) -> set[tuple[str, str]]:
        """Files and entries that stand for used graphs."""
        return {(mark.file, use) for mark, (use, _) in self.texts.uses.items()}

    @cached_property
    def seen(self) -> dict[tuple[str, str], dict[int, Made]]:
        """By file and entry the tensors in it, and in which use and trips of that file: those of a used graph too."""
        found: dict[tuple[str, str], dict[int, Made]] = {}
        for tensor, at in self.made.items():
            while at.name in self.members.get(at.body.file, ()):
                found.setdefault((at.body.file, at.name), {})[tensor] = at
                if at.body.parent is None:
                    break
                at = Made(at.body.parent, at.body.use, at.body.values)
        return found


def scene_of(lives: Lives, texts: Texts, may_write: Callable[[str], bool], others: Sequence[Lives] = ()) -> Scene:
    """What may be listed: tensors of files that may be written, and uses of graphs that have any."""
    scenes = [_scene(one, texts, may_write) for one in (lives, *others)]
    members = {
        file: tuple(dict.fromkeys(name for scene in scenes for name in scene.members.get(file, ())))
        for file in dict.fromkeys(file for scene in scenes for file in scene.members)
    }
    first, *rest = (replace(scene, members=members) for scene in scenes)
    return replace(first, others=tuple(rest))


def _scene(lives: Lives, texts: Texts, may_write: Callable[[str], bool]) -> Scene:
    names: dict[str, dict[str, None]] = {}
    uses: dict[str, dict[str, None]] = {}
    kept: dict[int, Made] = {}
    for tensor, at in made_in(lives.program, texts).items():
        if at.body.file in texts.graphs and may_write(at.body.file) and not at.name.startswith("."):
            names.setdefault(at.body.file, {})[at.name] = None
            kept[tensor] = at
            body = at.body
            while body.parent is not None and may_write(body.parent.file) and body.use:
                uses.setdefault(body.parent.file, {})[body.use] = None
                body = body.parent
    members = {
        file: [*names.get(file, ()), *(use for use in uses.get(file, ()) if use not in names.get(file, ()))]
        for file in dict.fromkeys((*names, *uses))
    }
    return Scene(lives, texts, kept, members)


@dataclass(frozen=True)
class Proposal:
    """Lists, and where they put the tensors. `height` are units of all arenas together."""

    said: Said
    at: Addresses
    places: Stacked
    height: int


Bar = tuple[str, str, str]


@dataclass(frozen=True)
class Taste:
    """What lists are to be like.

    patience   microseconds that a tensor may wait for the bytes of another
    width      how many trips lie side by side, as a part of those that are in use at once on average in the run
    apart      up to this part of all sizes, tensors do not share with used graphs of which something would wait
    pooled     copies of what is in use for a short part of a trip, as a multiple of those that are in use at once on average
    bars       what does not share, though it might: file, entry, and another or `ID.NAME` for one inside of another
    more       by how much more copies of an entry, or of the group that it is in, lie side by side: file, entry, factor
    counts     copies of entries, whatever else is said: file, entry, copies
    uses       used graphs in loops have copies too
    alone      tensors of trips side by side have copies one by one, each as many as are in use at once, and are in no group
    """

    patience: float
    width: float = 1.0
    apart: float = 0.0
    pooled: float = 2.0
    bars: frozenset[Bar] = frozenset()
    more: tuple[tuple[str, str, float], ...] = ()
    counts: tuple[tuple[str, str, int], ...] = ()
    uses: bool = False
    alone: bool = False


def proposal(scene: Scene, begin: Floats, finish: Floats, taste: Taste) -> Proposal | None:
    """Lists for a run in which locals are in use from `begin` to `finish`; None if nothing can be listed."""
    said = _barred(_widened(scene, _grouped(scene, begin, finish, taste), taste), taste.bars)
    scenes = (scene, *scene.others)
    for _ in range(MAX_COPYING):
        lists = Lists(scene.texts, said)
        every = [addresses(one.lives, one.made, lists) for one in scenes]
        alive = [by_lives(at) for at in every]
        crowded = next((k for k, met in enumerate(alive) if met.same), None)
        if crowded is None:
            break
        said = _with_copies(scenes, said, every[crowded], alive[crowded].same)
    else:
        return None
    if not any(len(at.tensors) for at in every):
        return None
    soft = conflicts(every[0], begin[every[0].locals], finish[every[0].locals] - taste.patience)
    widest = max(range(len(every)), key=lambda k: len(every[k].leaves))
    at = every[widest]
    hard = _joined(at, [(one, met) for one, met in zip(every, alive, strict=True)])
    met = leaf_pairs(at, _joined(at, [(at, hard), (every[0], soft)]))
    arranging = _loosened(lambda apart: _Arranging(at, hard, met, apart), dict.fromkeys(said, taste.apart))
    found = {file: arranging.entries(lists.stacks[file]) for file in said if arranging.holds(lists.stacks[file])}
    return evaluated(scene, found)


def _loosened(arranged: Callable[[Mapping[str, float]], _Arranging], apart: dict[str, float]) -> _Arranging:
    """Lists of which those, by file, keep all apart that would wait where that takes no more bytes in all."""
    best, height = _laid(arranged(apart))
    for file in [file for file in apart if file in best.waiting]:
        looser, top = _laid(arranged({**apart, file: 1.0}))
        if top <= height:
            best, height, apart = looser, top, {**apart, file: 1.0}
    return best


def _laid(arranging: _Arranging) -> tuple[_Arranging, int]:
    """The lists, arranged, and the units of all their arenas."""
    return arranging, _height(arranging.at, arranging.run())


def _joined(at: Addresses, parts: Sequence[tuple[Addresses, Conflicts]]) -> Conflicts:
    """The conflicts of several programs with the same lists, as leaves of one of them."""
    numbers = {leaf: number for number, leaf in enumerate(at.leaves)}
    found = Conflicts()
    for other, met in parts:
        for pair, rows in met.apart.items():
            one, two = (numbers.get(other.leaves[leaf]) for leaf in pair)
            if one is not None and two is not None:
                found.apart.setdefault((min(one, two), max(one, two)), rows)
    return found


MAX_COPYING = 40
"""Rounds in which entries get more copies, or go out of the lists, until no place is in use twice at once."""


def evaluated(scene: Scene, said: Said) -> Proposal:
    """What lists come to."""
    at = addresses(scene.lives, scene.made, Lists(scene.texts, said))
    places = stacked(at, by_lives(at))
    return Proposal(said, at, places, _height(at, places))


def _height(at: Addresses, places: Stacked) -> int:
    roots = at.instance[:, 0]
    tops = np.zeros(int(roots.max(initial=-1)) + 1, np.int64)
    np.maximum.at(tops, roots, places.offsets + at.size)
    return int(tops.sum())


# --- groups and copies ------------------------------------------------------------------------------------------------


def _grouped(scene: Scene, begin: Floats, finish: Floats, taste: Taste) -> Said:
    """A list for each graph, with everything in it, in groups where trips of loops run side by side."""
    by_member = scene.seen
    loops: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # per file and variables its members in such loops
    for (file, name), tensors in by_member.items():
        variables = {tuple(at.values) for at in tensors.values()}
        if len(variables) == 1 and (around := next(iter(variables))):
            loops.setdefault((file, around), []).append(name)
    inside: dict[str, list[Shared]] = {}
    grouped: set[tuple[str, str]] = set()
    for (file, around), names in loops.items():
        mine = [name for name in names if taste.uses or (file, name) not in scene.used]
        mine = [name for name in mine if _stays_in_trips(scene, by_member[file, name])]
        if taste.alone:
            counts = {name: _side_by_side(scene, by_member[file, name], begin, finish, taste.width) for name in mine}
            inside.setdefault(file, []).extend(Shared(name, NOWHERE, (), copies) for name, copies in counts.items())
            grouped |= {(file, name) for name in mine}
            continue
        rows = {tensor: at for name in mine for tensor, at in by_member[file, name].items()}
        copies = _side_by_side(scene, rows, begin, finish, taste.width)
        if copies:
            pools = _pools(scene, {name: by_member[file, name] for name in mine}, begin, finish, copies, taste.pooled)
            inside.setdefault(file, [])
            inside[file].extend(Shared(name, NOWHERE, (), pool) for name, pool in pools.items())
            grouped |= {(file, name) for name in pools}
            mine = [name for name in mine if name not in pools]
            members = tuple(Shared(name, NOWHERE) for name in mine)
            taken = {*scene.members[file], *(entry.name for entry in inside[file])}
            labels = (f"{around[0]}_trips{number or ''}" for number in (0, *range(2, len(taken) + 3)))
            label = next(name for name in labels if name not in taken)
            inside[file].append(Shared(label, NOWHERE, (), copies, members))
            grouped |= {(file, name) for name in mine}
    return {
        file: (*(Shared(name, NOWHERE) for name in names if (file, name) not in grouped), *inside.get(file, ()))
        for file, names in scene.members.items()
    }


def _widened(scene: Scene, said: Said, taste: Taste) -> Said:
    """The lists with more copies of some entries; an entry of a group, with more of the group."""

    def factor(file: str, entry: Shared) -> float:
        names = {entry.name, *(one.name for one in entry.inside or ())}
        found = [more for where, name, more in taste.more if where == file and name in names]
        return max(found, default=1.0)

    counts = {(file, name): count for file, name, count in taste.counts}

    def widened(file: str, entry: Shared) -> Shared:
        more = factor(file, entry)
        wanted = counts.get((file, entry.name))
        if wanted is None and more == 1.0:
            return entry
        if wanted is None:
            names = [one.name for one in entry.inside] if entry.inside is not None else [entry.name]
            wanted = min(int(np.ceil(more * entry.copies.get(EVERY, 1))), _trips(scene, file, names))
        return replace(entry, copies={EVERY: wanted} if wanted > 1 or entry.inside is not None else {})

    return {file: tuple(widened(file, entry) for entry in entries) for file, entries in said.items()}


def _trips(scene: Scene, file: str, names: Sequence[str]) -> int:
    """How many trips of loops of a graph make something of a name, in the use of it where they are the most."""
    trips: dict[int, set[tuple[int, ...]]] = {}
    for name in names:
        for at in scene.seen.get((file, name), {}).values():
            trips.setdefault(id(at.body), set()).add(tuple(at.values.values()))
    return max(map(len, trips.values()), default=0)


def _barred(said: Said, bars: Iterable[Bar]) -> Said:
    """The lists, of which some entries keep apart."""
    wanted: dict[tuple[str, str], tuple[Text, ...]] = {}
    for file, name, other in sorted(bars):
        wanted[file, name] = (*wanted.get((file, name), ()), Text(other, NOWHERE))

    def barred(file: str, entry: Shared) -> Shared:
        inside = None if entry.inside is None else tuple(barred(file, one) for one in entry.inside)
        return replace(entry, apart=wanted.get((file, entry.name), ()), inside=inside)

    return {file: tuple(barred(file, entry) for entry in entries) for file, entries in said.items()}


def _indices(scene: Scene, tensors: Sequence[int]) -> np.ndarray:
    return np.searchsorted(scene.lives.locals, np.array(tensors, np.int64))


Trip = tuple[int, tuple[int, ...]]
"""A use of a graph, and the numbers of the trips of its loops."""


def _spans(scene: Scene, tensors: Mapping[int, Made], begin: np.ndarray, finish: np.ndarray) -> dict[Trip, list[float]]:
    """When the first tensor of each trip begins, and the last finishes; of none that is not used at all."""
    trips: dict[Trip, list[float]] = {}
    for at, row in zip(tensors.values(), _indices(scene, list(tensors)).tolist(), strict=True):
        if finish[row] >= begin[row]:
            span = trips.setdefault((id(at.body), tuple(at.values.values())), [np.inf, -np.inf])
            span[0], span[1] = min(span[0], float(begin[row])), max(span[1], float(finish[row]))
    return trips


def _stays_in_trips(scene: Scene, tensors: Mapping[int, Made]) -> bool:
    """Whether nothing lives on when the next trip's begins to."""
    spans = sorted(_spans(scene, tensors, scene.lives.first, scene.lives.end).values())
    return all(one[1] <= other[0] for one, other in pairwise(spans))


def _side_by_side(scene: Scene, tensors: Mapping[int, Made], begin: Floats, finish: Floats, width: float) -> dict[str, int]:
    """How many trips have bytes of their own; nothing if trips run one after the other."""
    if not tensors:
        return {}
    most, trips = _concurrency(scene, tensors, begin, finish)
    if most <= max(1.0, SIDE_BY_SIDE / max(width, 1.0)):
        return {}
    return {EVERY: int(min(np.ceil(width * most), trips))}


def _pools(
    scene: Scene,
    members: Mapping[str, Mapping[int, Made]],
    begin: Floats,
    finish: Floats,
    copies: Mapping[str, int],
    pooled: float,
) -> dict[str, dict[str, int]]:
    """Tensors of a group that are in use for so short a time that fewer copies of them do, which then lie beside the group."""
    found: dict[str, dict[str, int]] = {}
    total = int(np.prod(list(copies.values())))
    whole, _ = _concurrency(scene, {t: at for tensors in members.values() for t, at in tensors.items()}, begin, finish)
    for name, tensors in members.items():
        alone, trips = _concurrency(scene, tensors, begin, finish)
        wanted = max(2, int(np.ceil(pooled * total * alone / whole)))
        if wanted <= total / 2:
            found[name] = {EVERY: min(wanted, trips)}
    return found if len(found) < len(members) else {}


def _concurrency(scene: Scene, tensors: Mapping[int, Made], begin: Floats, finish: Floats) -> tuple[float, int]:
    """How many trips are in use at once on average, in the body where they are the most; and the most trips of a body."""
    bodies: dict[int, list[tuple[float, float, tuple[int, ...]]]] = {}
    for (body, values), (low, high) in _spans(scene, tensors, begin, finish).items():
        bodies.setdefault(body, []).append((low, high, values))
    most = 0.0
    for spans in bodies.values():
        length = max(high for _, high, _ in spans) - min(low for low, _, _ in spans)
        if length > 0:
            most = max(most, sum(high - low for low, high, _ in spans) / length)
    return most, max(map(len, bodies.values()), default=0)


def _with_copies(scenes: Sequence[Scene], said: Said, at: Addresses, same: Mapping[Pair, Pair]) -> Said:
    """The lists with more copies of what is alive twice at once, or without it where copies do not help."""
    found = dict(said)
    for pair in same:
        unit = at.units[at.leaves[pair[0]][1][0][0]]
        file = at.leaves[pair[0]][0].file
        found[file] = tuple(_copied(scenes, entry, unit.name, file) for entry in found[file])
        found[file] = _without(found[file])
    return found


_DROPPED = "."
"""What an entry is called that goes out of its list."""


def _without(entries: Iterable[Shared]) -> tuple[Shared, ...]:
    kept = (replace(entry, inside=_without(entry.inside)) if entry.inside is not None else entry for entry in entries)
    return tuple(entry for entry in kept if entry.name != _DROPPED and entry.inside != ())


def _copied(scenes: Sequence[Scene], entry: Shared, name: str, file: str) -> Shared:
    """The entry, or that of its entries, of a name with more copies; without a name if copies do not help."""
    if entry.name != name:
        inside = None if entry.inside is None else tuple(_copied(scenes, one, name, file) for one in entry.inside)
        return replace(entry, inside=inside)
    copies = _fewest_copies(scenes, file, name) if entry.inside is None else None
    return replace(entry, name=_DROPPED) if copies in (None, entry.copies) else replace(entry, copies=copies)


def _fewest_copies(scenes: Sequence[Scene], file: str, name: str) -> dict[str, int] | None:
    """The fewest copies with which no two tensors of one copy are alive at once: of the trips of one loop around them."""
    every = [[t for t, made in scene.made.items() if (made.body.file, made.name) == (file, name)] for scene in scenes]
    variables = {tuple(scene.made[tensor].values) for scene, found in zip(scenes, every, strict=True) for tensor in found}
    around = next(iter(variables)) if len(variables) == 1 else ()
    most = {
        variable: 1 + max(scene.made[t].values[variable] for scene, found in zip(scenes, every, strict=True) for t in found)
        for variable in around
    }

    def fits(copies: dict[str, int]) -> bool:
        return all(_is_apart(scene, found, copies) for scene, found in zip(scenes, every, strict=True))

    for copies in range(2, max(most.values(), default=1) + 1):
        for variable in reversed(around):
            if copies <= most[variable] and fits({variable: copies}):
                return {variable: copies}
    return most if len(around) > 1 and fits(most) else None


def _is_apart(scene: Scene, tensors: Sequence[int], copies: Mapping[str, int]) -> bool:
    last: dict[tuple, int] = {}
    rows = _indices(scene, tensors)
    for k in np.argsort(scene.lives.first[rows], kind="stable").tolist():
        at, row = scene.made[tensors[k]], rows[k]
        key = (id(at.body), *(at.values[variable] % number for variable, number in copies.items()))
        if last.get(key, -1) > scene.lives.first[row]:
            return False
        last[key] = int(scene.lives.end[row])
    return True


# --- order and sharing ------------------------------------------------------------------------------------------------


class _Arranging(Stacking):
    """Chooses the order of each list, and what shares: all pairs but those of which one would wait too long."""

    def __init__(self, at: Addresses, alive: Conflicts, soft: Mapping[Pair, Sequence], apart: Mapping[str, float]) -> None:
        super().__init__(at, alive)
        total = sum(self.sizes.values())
        self.soft, self.most = soft, {file: part * total for file, part in apart.items()}
        self.waiting: set[str] = set()  # files with a used graph that shares with what would wait
        first, last = np.full(1 + max(at.units, default=0), at.lives.num_times), np.zeros(1 + max(at.units, default=0), np.int64)
        for level in range(at.unit.shape[1]):
            rows = np.flatnonzero(at.unit[:, level] >= 0)
            np.minimum.at(first, at.unit[rows, level], at.lives.first[at.locals[rows]])
            np.maximum.at(last, at.unit[rows, level], at.lives.end[at.locals[rows]])
        self.first, self.last = first.tolist(), last.tolist()
        self.chosen: dict[int, tuple[list[Unit], dict[str, tuple[str, ...]]]] = {}

    def holds(self, stack: Stack) -> bool:
        return bool(self.chosen.get(id(stack), ((), {}))[0])

    def arranged(self, stack: Stack, present: Sequence[Unit]) -> tuple[Sequence[Unit], set[Pair]]:
        shared = {
            (one.number, other.number)
            for place, one in enumerate(present)
            for other in present[place + 1 :]
            if self._may_share(one, other, stack.file)
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

    def _may_share(self, one: Unit, other: Unit, file: str) -> bool:
        """Whether nothing but what is alive at once keeps two entries apart; of used graphs that is all that does."""
        if self._is_barred(one, other.name) or self._is_barred(other, one.name):
            return False
        if one.used is not None or other.used is not None:
            if not self._would_wait(one, other):
                return True
            shares = min(self.box(one), self.box(other)) > self.most[file]
            if shares:
                self.waiting.add(file)
            return shares
        return not self._would_wait(one, other) and not self._all_alive(one, other)

    def _is_barred(self, one: Unit, name: str) -> bool:
        return any(text.value == name for text in one.apart)

    def _would_wait(self, one: Unit, other: Unit) -> bool:
        key = one.number, other.number
        return len(self.soft.get(key, ())) > len(self.pairs.get(key, ()))

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
        names = {unit.name for unit in order}
        return tuple(
            Shared(
                unit.name,
                NOWHERE,
                tuple(Text(name, NOWHERE) for name in replaced[unit.name]),
                unit.copies,
                None if unit.inside is None else self.entries(unit.inside),
                tuple(text for text in unit.apart if not names.isdisjoint((text.value, text.value.partition(".")[0]))),
            )
            for unit in order
        )
