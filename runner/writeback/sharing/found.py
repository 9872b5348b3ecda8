"""What lists came to: their run, what waited for bytes in it, and what to say so that it no longer does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from runner.expansion.sharing.texts import Unit
from runner.language.graph import EVERY
from runner.rings.devices.timed_lives import Times
from runner.writeback.sharing.arranging import Proposal
from runner.writeback.sharing.critical import Pairs
from runner.writeback.sharing.narrowing import PARTS, Move
from runner.writeback.sharing.scene import Bar, Taste

MOST_BARS = 16
"""Pairs that are kept apart in all lists: people read them."""

PART = 0.2
"""What waited for less than this part of what waited longest is looked at again in the next run."""

MORE = 1.08
"""By how much copies grow at a time."""

WIDEST = Taste(0.0, 8.0, 1.0, 16.0)
"""As little waiting as lists can have."""

Remedy = Bar | tuple[str, str]
"""What keeps apart, or the file and name of an entry that gets more copies."""


@dataclass(frozen=True)
class Found:
    """Lists, the units of their arenas, how long a run with them takes, and what waited in it (`waits_for_bytes`)."""

    proposal: Proposal
    height: int
    makespan_us: float
    late: Pairs
    held: Pairs
    times: Times | None = None
    taste: Taste = WIDEST
    run: Times | None = None

    def fewer(self) -> Iterator[tuple[int, tuple[str, str], int]]:
        """Per entry with copies, as file and name, fewer of them; before each the units that these do without."""
        for key, size in self._sizes().items():
            count = self.counts[key]
            for taken in {max(1, int(count * part)) for part in PARTS}:
                yield taken * size, key, count - taken

    def pinned(self, others: Mapping[tuple[str, str], int] | None = None) -> Taste:
        """The taste with the copies that these lists have, or others."""
        said = {(file, name): count for file, name, count in self.taste.counts} | self.counts | dict(others or {})
        return replace(self.taste, more=(), counts=tuple((*key, count) for key, count in said.items()))

    @cached_property
    def counts(self) -> dict[tuple[str, str], int]:
        """Per file and entry how many copies it has, of those that have any."""
        said = ((file, entry) for file, entries in self.proposal.said.items() for entry in entries)
        counts = (((file, entry.name), entry.ring or entry.copies.get(EVERY, 1)) for file, entry in said)
        return {key: count for key, count in counts if count > 1}

    def _sizes(self) -> dict[tuple[str, str], int]:
        """Of the same the units of what lies in one copy."""
        at = self.proposal.at
        inside: dict[tuple[str, str], dict[int, int]] = {}
        innermost = (at.unit >= 0).sum(axis=1) - 1
        for level in range(at.unit.shape[1]):
            rows = np.flatnonzero(at.unit[:, level] >= 0).tolist()
            for row, leaf in zip(rows, at.leaf[rows, level].tolist(), strict=True):
                key = at.leaves[leaf][0].file, at.units[int(at.unit[row, level])].name
                if key in self.counts:
                    tensor, size = int(at.unit[row, innermost[row]]), int(at.size[row])
                    sizes = inside.setdefault(key, {})
                    tensor = 0 if at.units[int(at.unit[row, level])].ring else tensor  # there any has the bytes of any
                    sizes[tensor] = max(sizes.get(tensor, 0), size)
        return {key: sum(sizes.values()) for key, sizes in inside.items()}

    def blamed(self, limit_us: float) -> Pairs:
        """What waited on the run's longest chain if that waited for as long as the run is late, else what waited at all."""
        return self.late if sum(self.late.values()) >= self.makespan_us - limit_us else self.held

    @cached_property
    def row(self) -> Mapping[int, int]:
        """Of each listed local its row in the addresses."""
        return {local: row for row, local in enumerate(self.proposal.at.locals.tolist())}

    def remedy(self, pair: tuple[int, int], *, is_whole: bool = False) -> Remedy | None:
        """What to say that of two locals the later no longer waits for the earlier; if `is_whole`, a smaller tensor keeps apart
        from all of a used graph."""
        parted = self.parted(pair)
        if parted is None:
            return None
        file, ways = parted
        one, other = (way[0] for way in ways)
        if one.number == other.number:
            return file, ways[0][0].name
        sizes = [int(self.proposal.at.size[self.row[local]]) for local in pair]
        if one.used is not None or (other.used is None and other.inside is None and one.inside is not None):
            ways.reverse()  # a tensor says from what in a used graph or group it keeps apart
            sizes.reverse()
        path = [unit.name for place, unit in enumerate(ways[1]) if not place or unit.inside is None]
        is_whole = is_whole and ways[0][0].used is None and sizes[0] <= sizes[1]
        return file, ways[0][0].name, path[0] if is_whole else ".".join(path)

    def parted(self, pair: tuple[int, int]) -> tuple[str, list[list[Unit]]] | None:
        """The file of the list in which two locals part, and the entries of each from there inwards; None in other arenas."""
        at = self.proposal.at
        old, new = (self.row[local] for local in pair)
        level = int(((at.instance[old] == at.instance[new]) & (at.instance[old] >= 0)).sum()) - 1
        if level < 0:
            return None
        ways = [[at.units[unit] for unit in at.unit[row, level:].tolist() if unit >= 0] for row in (old, new)]
        return at.leaves[int(at.leaf[old, level])][0].file, ways


def remedied(taste: Taste, remedies: set[Remedy], factor: float) -> Taste:
    """The taste with these."""
    bars, more = set(taste.bars), {(file, name): by for file, name, by in taste.more}
    for what in remedies:
        if len(what) == 2:
            more[what] = more.get(what, 1.0) * factor
        elif len(bars) < MOST_BARS:
            bars.add(what)
    return replace(taste, bars=frozenset(bars), more=tuple((*what, by) for what, by in sorted(more.items())))


def without_waiting(found: Found, taste: Taste, limit_us: float, factor: float, spent: set[Remedy]) -> tuple[Taste, set[Remedy]]:
    """The taste without what waited longest; and what changed, which is nothing of what is `spent`."""
    waited: dict[Remedy, float] = {}
    for pair, late_us in found.blamed(limit_us).items():
        what = found.remedy(pair)
        if what is not None and what not in spent:
            waited[what] = waited.get(what, 0.0) + late_us
    longest = max(waited.values(), default=0.0)
    changed = {what for what, late_us in waited.items() if late_us >= PART * longest and what not in taste.bars}
    return remedied(taste, changed, factor), changed


def at_fault(found: Found, move: Move, limit_us: float) -> set[Bar]:
    """What a changed entry shares bytes with that it waited for the longest, or that for it; nothing if that is not why a run
    is late, so that with less of that it is not worth another."""
    waited: dict[Bar, float] = {}
    for pair, late_us in found.blamed(limit_us).items():
        parted = found.parted(pair)
        if parted is not None:
            file, ways = parted
            names = ways[0][0].name, ways[1][0].name
            if file == move.file and move.name in names and names[0] != names[1]:
                waited[file, *names] = waited.get((file, *names), 0.0) + late_us
    longest = max(waited.values(), default=0.0)
    return {bar for bar, late_us in waited.items() if late_us >= PART * longest}
