"""Lists for the graphs of a program: in which order their entries are, and who takes whose bytes.

What may share is told by a run: two tensors may where the later one would wait for the earlier one for no longer than `patience`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.expansion.sharing.addresses import Addresses, addresses
from runner.expansion.sharing.conflicts import Conflicts, Pair, by_lives, conflicts
from runner.expansion.sharing.stacking import Stacked, Stacking, leaf_pairs, stacked
from runner.expansion.sharing.texts import Lists, Stack, Unit, closure
from runner.language.graph import Shared, Text, flat
from runner.program.lifetimes import Floats
from runner.writeback.sharing.copying import barred, grouped, widened, with_copies
from runner.writeback.sharing.scene import NOWHERE, Said, Scene, Taste

MAX_COPYING = 40
"""Rounds in which entries get more copies, or go out of the lists, until no place is in use twice at once."""

Order = Callable[[Unit, "Arranging"], tuple[float, ...]]

ORDERS: tuple[Order, ...] = (
    lambda unit, seen: (-seen.box(unit), seen.first[unit.number]),
    lambda unit, seen: (seen.first[unit.number], -seen.box(unit)),
    lambda unit, seen: (seen.first[unit.number] - seen.last[unit.number], -seen.box(unit)),
    lambda unit, seen: (-seen.box(unit) * (seen.last[unit.number] - seen.first[unit.number]),),
    lambda unit, seen: (-seen.last[unit.number], -seen.box(unit)),
)
"""Orders in which entries are placed: the largest first, the first, the longest lived, the most bytes over time, the last."""


@dataclass(frozen=True)
class Proposal:
    """Lists, and where they put the tensors. `height` are units of all arenas together."""

    said: Said
    at: Addresses
    places: Stacked
    height: int


def proposal(scene: Scene, begin: Floats, finish: Floats, taste: Taste, late: Floats | None = None) -> Proposal | None:
    """Lists for a run in which locals are in use from `begin`, which might be put off until `late`, to `finish`; None if nothing
    can be listed."""
    if taste.lazy and late is not None:
        put_off = np.maximum(np.where(np.isfinite(late), late, -np.inf) - begin, 0.0)  # what is in no trip begins at infinity
        begin = np.minimum(begin + taste.lazy * put_off, np.maximum(begin, finish))
    said = barred(widened(scene, grouped(scene, begin, finish, taste), taste), taste.bars)
    for _ in range(MAX_COPYING):
        lists = Lists(scene.texts, said)
        every = everywhere(scene, lists)
        crowded = next(((at, met.same) for at, met in every if met.same), None)
        if crowded is None:
            break
        said = with_copies((scene, *scene.others), said, *crowded)
    else:
        return None
    if not any(len(at.tensors) for at, _ in every):
        return None
    first, (at, hard) = every[0][0], widest(every)
    soft = conflicts(first, begin[first.locals], finish[first.locals] - taste.patience)
    met = leaf_pairs(at, _joined(at, [(at, hard), (first, soft)]))
    arranging = _loosened(lambda apart: Arranging(at, hard, met, apart), dict.fromkeys(said, taste.apart))
    return proposed(scene, arranging, lists)


Lived = tuple[Addresses, Conflicts]
"""A program's tensors by lists, and which of their places are in use at the same time in submission order."""


def everywhere(scene: Scene, lists: Lists) -> list[Lived]:
    """What lists say of the program, and of the others that its graphs may become."""
    found = (addresses(one.lives, one.made, lists) for one in (scene, *scene.others))
    return [(at, by_lives(at)) for at in found]


def widest(every: Sequence[Lived]) -> Lived:
    """The program with the most places, which are in use at the same time where they are in any."""
    at = max((at for at, _ in every), key=lambda at: len(at.leaves))
    return at, _joined(at, every)


def proposed(scene: Scene, arranging: Arranging, lists: Lists) -> Proposal | None:
    """Lists as they were arranged; None if a list cannot have what its user's has."""
    found = {file: arranging.entries(stack) for file, stack in lists.stacks.items() if arranging.holds(stack)}
    listed = _with_lifted(scene, found)
    return None if listed is None else evaluated(scene, listed)


def _with_lifted(scene: Scene, said: Said) -> Said | None:
    """The lists, with those of used graphs of which users' lists have entries; None if a list cannot have what its user's has."""
    found = dict(said)
    lifts = [(file, entry.name) for file, entries in said.items() for entry in flat(entries) if entry.inside is None]
    while lifts:
        file, name = lifts.pop()
        use, _, inside = name.partition(".")
        used = scene.texts.used_in.get(file, {}).get(use)
        if not inside or used is None:
            continue
        known = {entry.name for entry in flat(found.get(used, ()))}
        wanted = inside if scene.texts.used_in.get(used, {}).get(inside.partition(".")[0]) is None else inside.partition(".")[0]
        if inside not in known and wanted not in known:
            if used in said:
                return None
            found[used] = (*found.get(used, ()), Shared(wanted, NOWHERE))
        lifts.append((used, inside))
    return found


def _loosened(arranged: Callable[[Mapping[str, float]], Arranging], apart: dict[str, float]) -> Arranging:
    """Lists of which those, by file, keep all apart that would wait where that takes no more bytes in all."""
    best, height = _laid(arranged(apart))
    for file in [file for file in apart if file in best.waiting]:
        looser, top = _laid(arranged({**apart, file: 1.0}))
        if top <= height:
            best, height, apart = looser, top, {**apart, file: 1.0}
    return best


def _laid(arranging: Arranging) -> tuple[Arranging, int]:
    """The lists, arranged, and the units of all their arenas."""
    return arranging, height_of(arranging.at, arranging.run())


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


def evaluated(scene: Scene, said: Said) -> Proposal:
    """What lists come to."""
    at = addresses(scene.lives, scene.made, Lists(scene.texts, said))
    places = stacked(at, by_lives(at))
    return Proposal(said, at, places, height_of(at, places))


def height_of(at: Addresses, places: Stacked) -> int:
    """The units of all arenas together."""
    roots = at.instance[:, 0]
    tops = np.zeros(int(roots.max(initial=-1)) + 1, np.int64)
    np.maximum.at(tops, roots, places.offsets + at.size)
    return int(tops.sum())


# --- order and sharing ------------------------------------------------------------------------------------------------


class Arranging(Stacking):
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
        if stack.is_ring:
            self.chosen[id(stack)] = list(present), {unit.name: () for unit in present}
            return present, stack.may_share()
        shared = {
            (one.number, other.number)
            for place, one in enumerate(present)
            for other in present[place + 1 :]
            if self.may_share(one, other, stack.file)
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

    def may_share(self, one: Unit, other: Unit, file: str) -> bool:
        """Whether nothing but what is alive at once keeps two entries apart; of used graphs that is all that does."""
        if self.is_barred(one, other.name) or self.is_barred(other, one.name):
            return False
        if one.used is not None or other.used is not None:
            if not self._would_wait(one, other):
                return True
            shares = min(self.box(one), self.box(other)) > self.most[file]
            if shares:
                self.waiting.add(file)
            return shares
        return not self._would_wait(one, other) and not self.all_alive(one, other)

    def is_barred(self, one: Unit, name: str) -> bool:
        return any(text.value == name for text in one.apart)

    def _would_wait(self, one: Unit, other: Unit) -> bool:
        key = one.number, other.number
        return len(self.soft.get(key, ())) > len(self.pairs.get(key, ()))

    def all_alive(self, one: Unit, other: Unit) -> bool:
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
                unit.ring,
            )
            for unit in order
        )
