"""Which entries lists have: everything, in groups and with copies where trips of loops run side by side.

Trips that do lie side by side as copies of a group, as many as are in use at once on average.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from runner.expansion.sharing.addresses import Addresses, Made
from runner.expansion.sharing.conflicts import Pair
from runner.language.graph import EVERY, Shared, Text
from runner.program.lifetimes import Floats
from runner.writeback.sharing.scene import NOWHERE, Bar, Said, Scene, Taste

LARGE = 0.5
"""What has at least this part of the largest tensor's bytes passes through a ring with it."""

SIDE_BY_SIDE = 1.5
"""Trips that are in use at once on average from which on a loop's trips get copies."""


def grouped(scene: Scene, begin: Floats, finish: Floats, taste: Taste) -> Said:
    """A list for each graph, with everything in it, in groups where trips of loops run side by side."""
    by_member = scene.seen
    loops: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # per file and variables its members in such loops
    for (file, name), tensors in by_member.items():
        variables = {tuple(at.values) for at in tensors.values()}
        if len(variables) == 1 and (around := next(iter(variables))):
            loops.setdefault((file, around), []).append(name)
    inside: dict[str, list[Shared]] = {}
    in_groups: set[tuple[str, str]] = set()
    for file, name in _to_lift(scene, loops, begin, finish) if taste.lifts else ():
        own = _lifted(scene, file, name, begin, finish, taste.width)
        every = scene.lifted[file, name]
        inside.setdefault(file, []).extend(_with_ring(scene, file, own, every, begin, finish, taste) if taste.rings else own)
        in_groups.add((file, name))
    for (file, around), names in loops.items():
        mine = [name for name in names if (taste.uses or (file, name) not in scene.used) and (file, name) not in in_groups]
        mine = [name for name in mine if _stays_in_trips(scene, by_member[file, name])]
        if taste.alone:
            every = {name: by_member[file, name] for name in mine}
            counts = {name: _side_by_side(scene, tensors, begin, finish, taste.width) for name, tensors in every.items()}
            own = [Shared(name, NOWHERE, (), copies) for name, copies in counts.items()]
            every = {name: tensors for name, tensors in every.items() if (file, name) not in scene.used}
            inside.setdefault(file, []).extend(_with_ring(scene, file, own, every, begin, finish, taste) if taste.rings else own)
            in_groups |= {(file, name) for name in mine}
            continue
        rows = {tensor: at for name in mine for tensor, at in by_member[file, name].items()}
        copies = _side_by_side(scene, rows, begin, finish, taste.width)
        if copies:
            pools = _pools(scene, {name: by_member[file, name] for name in mine}, begin, finish, copies, taste.pooled)
            inside.setdefault(file, [])
            inside[file].extend(Shared(name, NOWHERE, (), pool) for name, pool in pools.items())
            in_groups |= {(file, name) for name in pools}
            mine = [name for name in mine if name not in pools]
            members = tuple(Shared(name, NOWHERE) for name in mine)
            taken = {*scene.members[file], *(entry.name for entry in inside[file])}
            labels = (f"{around[0]}_trips{number or ''}" for number in (0, *range(2, len(taken) + 3)))
            label = next(name for name in labels if name not in taken)
            inside[file].append(Shared(label, NOWHERE, (), copies, members))
            in_groups |= {(file, name) for name in mine}
    return {
        file: (*(Shared(name, NOWHERE) for name in names if (file, name) not in in_groups), *inside.get(file, ()))
        for file, names in scene.members.items()
    }


def _to_lift(
    scene: Scene, loops: Mapping[tuple[str, tuple[str, ...]], Sequence[str]], begin: Floats, finish: Floats
) -> Iterator[tuple[str, str]]:
    """Files and ids of used graphs in loops whose trips run side by side."""
    for (file, _), names in loops.items():
        for name in names:
            if (file, name) in scene.lifted and _side_by_side(scene, scene.seen[file, name], begin, finish, 1.0):
                yield file, name


def _lifted(scene: Scene, file: str, use: str, begin: Floats, finish: Floats, width: float) -> list[Shared]:
    """Entries for all that a used graph makes, with copies as many as are in use at once."""
    found = []
    for name, tensors in scene.lifted[file, use].items():
        stays = _stays_in_trips(scene, tensors)
        found.append(Shared(name, NOWHERE, (), _side_by_side(scene, tensors, begin, finish, width) if stays else {}))
    return found


def _with_ring(
    scene: Scene,
    file: str,
    entries: Sequence[Shared],
    members: Mapping[str, Mapping[int, Made]],
    begin: Floats,
    finish: Floats,
    taste: Taste,
) -> list[Shared]:
    """The entries, of which the large ones that trips make pass through one ring, as large as is in use of them on average."""
    size = {name: int(scene.lives.size[_indices(scene, list(tensors))].max()) for name, tensors in members.items() if tensors}
    size = {name: units for name, units in size.items() if _stays_in_trips(scene, members[name])}
    largest = max(size.values(), default=0)
    large = [name for name, units in size.items() if units >= LARGE * largest]
    in_use = sum(size[name] * _concurrency(scene, members[name], begin, finish)[0] for name in large)
    wanted = int(np.ceil(taste.width * in_use / max(largest, 1)))
    side_by_side = any(entry.copies for entry in entries if entry.name in large)
    if len(large) < 2 or not side_by_side:
        return [*entries]
    label = f"{large[0].partition('.')[0]}_ring"
    if label in {*scene.members[file], *(entry.name for entry in entries)}:
        return [*entries]
    ring = Shared(label, NOWHERE, inside=tuple(Shared(name, NOWHERE) for name in large), ring=max(2, wanted))
    return [*(entry for entry in entries if entry.name not in large), ring]


def widened(scene: Scene, said: Said, taste: Taste) -> Said:
    """The lists with more copies of some entries; an entry of a group, with more of the group."""

    def factor(file: str, entry: Shared) -> float:
        names = {entry.name, *(one.name for one in entry.inside or ())}
        found = [more for where, name, more in taste.more if where == file and name in names]
        return max(found, default=1.0)

    counts = {(file, name): count for file, name, count in taste.counts}

    def turned(file: str, entry: Shared) -> Shared:
        """What a graph makes several times in a trip as a ring, once it waited for itself."""
        label = f"{entry.name}_ring"
        room = counts.get((file, label), 2 if factor(file, entry) > 1.0 else 0)
        if not room or entry.copies or entry.inside is not None or not _is_made_again(scene, file, entry.name):
            return entry
        taken = {*scene.members[file], *(other.name for other in said[file])}
        return entry if label in taken else Shared(label, NOWHERE, inside=(Shared(entry.name, NOWHERE),), ring=room)

    def wider(file: str, entry: Shared) -> Shared:
        if (turn := turned(file, entry)) is not entry:
            more = max((by for where, name, by in taste.more if (where, name) == (file, turn.name)), default=1.0)
            return replace(turn, ring=min(int(np.ceil(more * turn.ring)), MOST_IN_RING))
        more = factor(file, entry)
        wanted = counts.get((file, entry.name))
        if wanted is None and more == 1.0:
            return entry
        if wanted is None or more > 1.0:
            names = [one.name for one in entry.inside] if entry.inside is not None else [entry.name]
            most = _trips(scene, file, names) * (len(names) if entry.ring else 1)
            wanted = min(int(np.ceil(more * (wanted or entry.ring or entry.copies.get(EVERY, 1)))), most)
        if entry.ring:
            return replace(entry, ring=wanted)
        return replace(entry, copies={EVERY: wanted} if wanted > 1 or entry.inside is not None else {})

    return {file: tuple(wider(file, entry) for entry in entries) for file, entries in said.items()}


def _is_made_again(scene: Scene, file: str, name: str) -> bool:
    """Whether a graph makes tensors of a name twice or more in a trip of its loops, all of which have one place."""
    if "." in name or (file, name) in scene.used:
        return False
    made = Counter((id(at.body), tuple(at.values.values())) for at in scene.named(file, name).values())
    return max(made.values(), default=0) > 1


def _trips(scene: Scene, file: str, names: Sequence[str]) -> int:
    """How many trips of loops of a graph make something of a name, in the use of it where they are the most."""
    trips: dict[int, set[tuple[int, ...]]] = {}
    for name in names:
        for at in scene.named(file, name).values():
            trips.setdefault(id(at.body), set()).add(tuple(at.values.values()))
    return max(map(len, trips.values()), default=0)


def barred(said: Said, bars: Iterable[Bar]) -> Said:
    """The lists, of which some entries keep apart."""
    wanted: dict[tuple[str, str], tuple[Text, ...]] = {}
    for file, name, other in sorted(bars):
        wanted[file, name] = (*wanted.get((file, name), ()), Text(other, NOWHERE))

    def apart(file: str, entry: Shared) -> Shared:
        inside = None if entry.inside is None else tuple(apart(file, one) for one in entry.inside)
        return replace(entry, apart=wanted.get((file, entry.name), ()), inside=inside)

    return {file: tuple(apart(file, entry) for entry in entries) for file, entries in said.items()}


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


def with_copies(scenes: Sequence[Scene], said: Said, at: Addresses, same: Mapping[Pair, Pair]) -> Said:
    """The lists with more copies of what is alive twice at once, or without it where copies do not help."""
    found = dict(said)
    for pair in same:
        unit = at.units[at.leaves[pair[0]][1][0][0]]
        file = at.leaves[pair[0]][0].file
        found[file] = tuple(_copied(scenes, entry, unit.name, file) for entry in found[file])
        found[file] = _without(found[file])
    return found


MOST_IN_RING = 64
"""Largest tensors that a ring has room for: where more are in use at once it is none."""

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
    if 0 < entry.ring < MOST_IN_RING:
        return replace(entry, ring=entry.ring + 1)
    copies = _fewest_copies(scenes, file, name) if entry.inside is None else None
    return replace(entry, name=_DROPPED) if copies in (None, entry.copies) else replace(entry, copies=copies)


def _fewest_copies(scenes: Sequence[Scene], file: str, name: str) -> dict[str, int] | None:
    """The fewest copies with which no two tensors of one copy are alive at once: of the trips of one loop around them."""
    every = [scene.named(file, name) for scene in scenes]
    variables = {tuple(at.values) for found in every for at in found.values()}
    around = next(iter(variables)) if len(variables) == 1 else ()
    around = tuple(variable for variable in around if "." not in variable)  # loops of this graph
    most = {variable: 1 + max(at.values[variable] for found in every for at in found.values()) for variable in around}

    def fits(copies: dict[str, int]) -> bool:
        return all(_is_apart(scene, found, copies) for scene, found in zip(scenes, every, strict=True))

    for copies in range(2, max(most.values(), default=1) + 1):
        for variable in reversed(around):
            if copies <= most[variable] and fits({variable: copies}):
                return {variable: copies}
    return most if len(around) > 1 and fits(most) else None


def _is_apart(scene: Scene, tensors: Mapping[int, Made], copies: Mapping[str, int]) -> bool:
    last: dict[tuple, int] = {}
    rows, made = _indices(scene, list(tensors)), list(tensors.values())
    for k in np.argsort(scene.lives.first[rows], kind="stable").tolist():
        at, row = made[k], rows[k]
        key = (id(at.body), *(at.values[variable] % number for variable, number in copies.items()))
        if last.get(key, -1) > scene.lives.first[row]:
            return False
        last[key] = int(scene.lives.end[row])
    return True
