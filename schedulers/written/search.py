"""The best placement that graph files can say: scopes around runs of items of a body, the same for every trip, layer and use.

`runner.writeback.bodies` reads the texts out of a program, `cuts` proposes scopes for them, `Needs` works out what a
proposal takes; scopes that buy next to nothing are left out again, and the best few are lowered and measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from runner.base.errors import Mark
from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.program import Program, Span
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.lowering.lower import lower
from runner.rings.placement import PlacedAlloc, PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask, in_allocs
from runner.rings.schedule import Schedule
from runner.writeback.annotations import NO_DEMANDS, Annotations, Demands, WrittenScope
from runner.writeback.bodies import BODIES, Body, Made, Written, numbered, read_bodies
from runner.writeback.naming import names_of_scopes
from schedulers.layouts.layouts import annotated
from schedulers.scopes.cover import Run
from schedulers.scopes.scoping import Goal
from schedulers.written.cuts import NOTHING, Choice, Choices, WrittenCuts
from schedulers.written.needs import Needs, hoisted_before

LEAST_GAIN = 0.03
"""The part of the present value that a scope must save to be written: people read the files."""

EXACT_UP_TO = 12
"""Programs whose texts have at most this many items in all have every capacity walked that makes a difference."""

SHRINK = 0.5
"""Larger ones have each capacity fall by this factor at least, and are tightened around the best answer: steps by 0.8 alone take
two percent more for flash prefill."""

KEPT = 24
"""Choices that are looked at again, with what wraps cost, which may change their order."""

TRIMMED = 4
"""Those of them from which scopes are left out; with one alone, flash decode takes two percent more."""

MEASURED_TASKS = 120_000
"""Tasks that are lowered to measure proposals, if more than one is: about two seconds."""


@dataclass(frozen=True)
class Found:
    """A schedule, its rings' safe capacities, and what to write for it."""

    schedule: Schedule
    heap_bytes: tuple[int, ...]
    annotations: Annotations


def written_scopes(
    program: Program,
    goal: Goal,
    stop: Callable[[], bool],
    *,
    demands: Demands = NO_DEMANDS,
    cuts: bool = True,
    trimming: bool = True,
) -> Found:
    """The best placement that is found, never worse under `goal` than the graph's own scopes, which it is if none is better.

    `demands` say what the texts do not allow. Without `cuts` nothing is searched, without `trimming` scopes stay that buy little.
    """
    return _Search(program, goal, stop, trimming, demands).run(cuts)


class _Search:
    def __init__(self, program: Program, goal: Goal, stop: Callable[[], bool], trimming: bool, demands: Demands) -> None:
        self.program, self.goal, self.stop, self.trimming = program, goal, stop, trimming
        self.written = read_bodies(program, demands)
        self.needs = Needs(self.written)

    def run(self, cuts: bool = True) -> Found:
        best = self._measured(annotated(self.program, {}), Annotations())
        measured = max(1, MEASURED_TASKS // max(1, len(self.program.tasks)))
        for choices in self.proposals()[:measured] if cuts else ():
            placing = Placing(self.program, self.written, choices)
            found = self._measured(lower(self.program, placing.items(), "minpeak"), placing.annotations())
            best = min(best, found, key=self._value)
            if self.stop():
                break
        return replace(best, schedule=replace(best.schedule, strategy="minpeak"))

    def proposals(self) -> list[Choices]:
        """What is worth lowering, the best first; nothing if the graph's own scopes are as good in this model."""
        now = self.value({})
        best = self.candidates()[:TRIMMED]
        trimmed = {_key(less): less for less in (self._trimmed(choices, now) if self.trimming else choices for choices in best)}
        return sorted((less for less in trimmed.values() if self.value(less) < now), key=self._rank)

    def candidates(self) -> list[Choices]:
        """The best choices of scopes by the model, before any is left out."""
        num_items = sum(body.num_items for body in self.written.bodies)
        exact = num_items <= EXACT_UP_TO
        cuts = WrittenCuts(self.written, 1.0 if exact else SHRINK, 0 if exact else int(LEAST_GAIN * self.value({})))
        found: dict[frozenset, tuple[int, Choices]] = {}
        for value, choices in cuts.candidates(self.goal, self.stop):
            found[_key(choices)] = (min(value, found.get(_key(choices), (value, choices))[0]), choices)
        best = sorted(found.values(), key=lambda entry: (entry[0], _size(entry[1])))[:KEPT]
        return sorted((choices for _, choices in best), key=self._rank)

    def value(self, choices: Choices) -> int:
        """The objective in units, by what scopes hold."""
        return self.goal.value(self.needs.of(choices))

    def _rank(self, choices: Choices) -> tuple[int, int]:
        return self.value(choices), _size(choices)

    def _trimmed(self, choices: Choices, now: int) -> Choices:
        """The choices without scopes that buy less than `LEAST_GAIN` of `now` each, and without dropping what need not be."""
        value, most = self.value(choices), max(1, int(LEAST_GAIN * now))
        changed = True
        while changed:
            changed = False
            tried = [(self.value(without(choices, one)), one) for one in _parts(choices)]
            for first_value, one in sorted(tried, key=lambda entry: entry[0]):
                if first_value - value >= most:
                    break
                less = without(choices, one)
                if (new := self.value(less)) - value < most:
                    choices, value, changed = less, new, True
        return choices

    def _measured(self, schedule: Schedule, annotations: Annotations) -> Found:
        return Found(schedule, tuple(safe_heap(load) for load in ring_loads(schedule)), annotations)

    def _value(self, found: Found) -> int:
        a, b, c, d = (size // BLOCK_ALIGN for size in found.heap_bytes)
        return self.goal.value((a, b, c, d))


def _parts(choices: Choices) -> list[tuple[Body, Run | int]]:
    """Every scope that is new, short ones first, and every dropped one."""
    found: list[tuple[Body, Run | int]] = []
    for body, choice in choices.items():
        short_first = sorted(choice.runs, key=lambda run: (run[1] - run[0], run))
        found += [(body, part) for part in (*short_first, *sorted(choice.dropped))]
    return found


def without(choices: Choices, one: tuple[Body, Run | int]) -> Choices:
    """The choices without one of their scopes, or with one that they dropped."""
    body, part = one
    return choices | {body: Choice(choices[body].runs - {part}, choices[body].dropped - {part})}


def _key(choices: Choices) -> frozenset:
    return frozenset((body, choice) for body, choice in choices.items() if choice != NOTHING)


def _size(choices: Choices) -> int:
    return sum(len(choice.runs) + len(choice.dropped) for choice in choices.values())


# --- placing ----------------------------------------------------------------------------------------------------------


Place = tuple[int, int | Span]
"""An item of a span, after its place in the text."""


class Placing:
    """Turns choices into a placement, and into what the files are to say."""

    def __init__(self, program: Program, written: Written, choices: Choices) -> None:
        self.program, self.written, self.choices = program, written, choices
        self.scopes: dict[tuple[Body, Run], WrittenScope] = {}
        self.dropped: dict[tuple[Body | None, int], Mark] = {}
        self.name_of = names_of_scopes(written)

    def items(self) -> list[PlacedItem]:
        return self._body(self.program.body)

    def annotations(self) -> Annotations:
        """After `items`: the scopes that were placed and dropped."""
        outer_first = sorted(self.scopes.items(), key=lambda entry: entry[0][1][0] - entry[0][1][1])
        return Annotations(tuple(scope for _, scope in outer_first), tuple(self.dropped.values()))

    def _body(self, span: Span) -> list[PlacedItem]:
        """The items of one instance of a body."""
        body = self.written.body_of(self.program, span)
        return self._run(body, self.choices.get(body, NOTHING) if body is not None else NOTHING, numbered(self.program, span), 0)

    def _run(self, body: Body | None, choice: Choice, places: Iterable[Place], level: int) -> list[PlacedItem]:
        """Items of a run, in scopes as chosen for the next level."""
        found: list[PlacedItem] = []
        for run, group in groupby(places, key=lambda entry: next(iter(choice.around(entry[0])[level:]), None)):
            if body is not None and run is not None:
                found += self._scope(body, choice, list(group), run, level)
                continue
            for place, item in group:
                dropped = place in choice.dropped
                if dropped and isinstance(item, Span) and item.mark is not None:
                    self.dropped[body, place] = item.mark
                found += self._item(item, dropped)
        return found

    def _scope(self, body: Body, choice: Choice, places: Sequence[Place], run: Run, level: int) -> list[PlacedItem]:
        hoisted = [
            tensor
            for place, item in places
            if isinstance(item, int)
            for number, tensor in enumerate(self.program.tasks[item].creates)
            if hoisted_before(body, choice, Made(place, number)) == run
        ]
        scope = self.scopes.get((body, run))
        if scope is None:
            first, last = body.marks[run[0]], body.marks[run[1] - 1]
            marks = tuple(mark for tensor in hoisted if (mark := self.program.tensors[tensor].mark) is not None)
            assert first is not None and last is not None and len(marks) == len(hoisted)
            scope = self.scopes[body, run] = WrittenScope(self.name_of(body, run), first, last, tuple(in_allocs(marks)))
        inside = PlacedScope(scope.name, tuple(self._run(body, choice, places, level + 1)), mark=scope.first)
        return [*map(PlacedAlloc, in_allocs(hoisted)), inside]

    def _item(self, item: int | Span, dropped: bool) -> list[PlacedItem]:
        if isinstance(item, int):
            return [PlacedTask(item)]
        parts = [part for part in item.items if isinstance(part, Span)]
        if item.trips is not None:
            loop = PlacedLoop(item.trips, tuple(tuple(self._body(part)) for part in parts))
            return [loop if item.kind == "dynamic" else PlacedRead(item.trips)]
        if item.kind == "scope" and not dropped:
            return [PlacedScope(item.path, tuple(self._body(item)), item.mode, item.mark)]
        if item.kind in BODIES:
            return self._body(item)
        return [placed for part in parts for placed in self._body(part)]
