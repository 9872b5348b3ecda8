"""From the `share:` lists of graphs to the arenas of a program, or to what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from runner.base.errors import Diagnostic, Mark
from runner.base.tensor_spec import BLOCK_ALIGN
from runner.expansion.sharing.addresses import Addresses, addresses, made_in
from runner.expansion.sharing.conflicts import Conflicts, Pair, by_lives
from runner.expansion.sharing.stacking import Stacked, stacked
from runner.expansion.sharing.texts import Lists, Texts, Unit, problems_of
from runner.language.graph import Text
from runner.program.lifetimes import lives_of
from runner.program.program import Arena, Program
from runner.program.spans import host_reads


def arenas_of(program: Program, texts: Texts) -> tuple[tuple[Arena, ...], list[Diagnostic]]:
    """The arenas that the lists of a graph, and of those that it uses, say; and what is wrong with the lists."""
    said = texts.said()
    problems = list(problems_of(texts))
    if problems:
        return (), problems
    at = addresses(lives_of(program, allocs_touch=False), made_in(program, texts), Lists(texts, said))
    met = by_lives(at)
    places = stacked(at, met)
    problems = list(_overlaps(at, met, places))
    return (() if problems else arenas(at, places)), problems


def arenas(at: Addresses, places: Stacked) -> tuple[Arena, ...]:
    """The arenas of a program whose tensors lie at these places."""
    if not len(at.tensors):
        return ()
    found = []
    order = np.argsort(at.instance[:, 0], kind="stable")
    roots = at.instance[order, 0]
    marks = [0, *(np.flatnonzero(np.diff(roots)) + 1).tolist(), len(order)]
    for start, end in pairwise(marks):
        rows = order[start:end]
        body, offsets = at.roots[int(roots[start])], places.offsets[rows]
        size = int((offsets + at.size[rows]).max())
        mine = tuple(at.tensors[rows].tolist()), tuple((offsets * BLOCK_ALIGN).tolist())
        found.append(Arena(body.path, *mine, size * BLOCK_ALIGN, body.mark))
    return tuple(found)


def _overlaps(at: Addresses, met: Conflicts, places: Stacked) -> Iterator[Diagnostic]:
    """Entries that take the bytes of others which are still in use."""
    for pair, rows in met.apart.items():
        one, two = (_alone(at, leaf) for leaf in pair)
        if one is None or two is None:
            continue
        for unit, other in ((one, two), (two, one)):
            said = next((text for text in unit.replaces if text.value == other.name), None)
            if said is not None:
                yield _still_used(at, said.mark, unit.name, said, rows)
    for pair, rows in met.same.items():
        (stack, one), (_, other) = (at.leaves[leaf] for leaf in pair)
        low, high = (places.leaves[stack, leaf] for leaf in (one, other))
        sizes = [int(at.size[row]) for row in rows]
        if low < high + max(sizes) and high < low + max(sizes):
            yield _again(at, at.units[one[0][0]], rows)


def _alone(at: Addresses, leaf: int) -> Unit | None:
    """The entry of a leaf that is one tensor; of copies, some may be in use while others are not."""
    _, entries = at.leaves[leaf]
    unit = at.units[entries[0][0]]
    return unit if len(entries) == 1 and unit.num_copies == 1 else None


def _still_used(at: Addresses, mark: Mark, name: str, said: Text, rows: Pair) -> Diagnostic:
    last, first = _tasks(at, rows)
    message = f"share: '{name}' would take the bytes of '{said}' while they are in use: {last} when {first}"
    hint = f"take '{said}' away here: both are in use at the same time"
    return Diagnostic("G339", message, mark, hint=hint, related=_marks(at, rows))


def _again(at: Addresses, unit: Unit, rows: Pair) -> Diagnostic:
    last, first = _tasks(at, rows)
    names = [at.lives.program.tensors[int(at.tensors[row])].name for row in rows]
    if unit.ring:
        message = f"share: the ring '{unit.name}' is too small: '{names[0]}' is in use: {last} when {first}"
        return Diagnostic("G339", message, unit.mark, hint=f"write 'ring: {unit.ring + 1}', or more", related=_marks(at, rows))
    what = f"'{names[0]}' of another trip" if names[0] == names[1] else f"'{names[0]}' of another trip or use"
    message = f"share: '{unit.name}' has one place for all trips, but {what} is in use: {last} when {first}"
    hint = f"give the next trips bytes of their own, as in '{unit.name}: {{copies: {{VARIABLE: 2}}}}'"
    return Diagnostic("G339", message, unit.mark, hint=hint, related=_marks(at, rows))


def _tasks(at: Addresses, rows: Pair) -> tuple[str, str]:
    """Who still touches the tensor of the earlier row, and who first touches that of the later, in words."""
    lives, (earlier, later) = at.lives, rows
    tasks, tensors = lives.program.tasks, lives.program.tensors
    first, end = (int(ends[at.locals[row]]) for ends, row in ((lives.first, later), (lives.end, earlier)))
    old, new = (tensors[int(at.tensors[row])] for row in rows)
    begins = f"'{tasks[first].path}'{_at(tasks[first].mark)} has begun to write '{new.name}'"
    if old.id in lives.program.outputs.values():
        return f"'{old.name}' is a result of the graph, read", begins
    last = end - 1
    if old.id not in (*tasks[last].uses, *tasks[last].creates):
        trips = [trips for _, trips in host_reads(lives.program.body) if old.id in trips.reads]
        return f"'{trips[-1].path}' reads '{old.name}'", begins
    return f"'{tasks[last].path}'{_at(tasks[last].mark)} uses '{old.name}'", begins


def _at(mark: Mark | None) -> str:
    return "" if mark is None else f" (line {mark.line})"


def _marks(at: Addresses, rows: Pair) -> tuple[Mark, ...]:
    """Where those two tasks are written, the first touch of the later before the last of the earlier."""
    lives, (earlier, later) = at.lives, rows
    tasks = lives.program.tasks
    found = tasks[int(lives.first[at.locals[later]])].mark, tasks[int(lives.end[at.locals[earlier]]) - 1].mark
    return tuple(mark for mark in found if mark is not None)
