"""This module decides what a picture of a schedule shows as one box, and which boxes what flows between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from runner.program.program import Program, Span
from runner.program.spans import last_task
from runner.report.folding import LOOPS, Likeness, TaskScopes, is_plain, layers, named, task_scopes, trips_of
from runner.rings.schedule import Schedule

LEVELS = ("layer", "stage", "task")
MAX_LAYER_BOXES = 40
"""Boxes of a picture of layers: beyond, neighbours share one."""
MAX_SIDE_BY_SIDE = 8
"""Layers that stand side by side where they are drawn task by task."""


@dataclass(frozen=True)
class Fold:
    """Trips of a loop that are alike: the first is drawn for all `names`. `outside` counts the scopes around the whole loop."""

    key: str
    names: tuple[str, ...]
    outside: int

    @property
    def title(self) -> str:
        return named(self.names)


@dataclass
class Node:
    """Tasks that are drawn as one.

    tasks    those of the trips that are drawn, in order; `trips` says how often a plain loop around them runs
    chain    the clusters around it, outermost first: scopes by number, and folds
    fold     the layers that it stands for, at level `layer`
    layer    which of the layers that are drawn it is in, None outside of them
    created  tensors that its tasks create; `allocs` those that an alloc creates for it, by the alloc's ring
    """

    key: str
    label: str
    trips: int = 1
    folds: tuple[Fold, ...] = ()
    fold: Fold | None = None
    layer: int | None = None
    tasks: list[int] = field(default_factory=list)
    chain: tuple[int | Fold, ...] = ()
    ring: int = 0
    created: set[int] = field(default_factory=set)
    allocs: dict[int, set[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    """Where a walk is: what its paths are called, the stage, trips of plain loops, folds, the layer, and which copy of it."""

    rename: Callable[[str], str] = str
    stage: str | None = None
    trips: int = 1
    folds: tuple[Fold, ...] = ()
    fold: Fold | None = None
    layer: int | None = None
    copy: int = 0
    is_drawn: bool = True

    def but(self, **changes: object) -> _Place:
        return _Place(**{**self.__dict__, **changes})  # type: ignore[arg-type]


class Drawing:
    """The boxes of a schedule at one level of detail, and what flows between them."""

    def __init__(self, schedule: Schedule, program: Program, level: str, *, fold: bool) -> None:
        self.schedule, self.program, self.level, self.fold = schedule, program, level, fold
        self.nodes: dict[str, Node] = {}
        self.by_task: dict[int, Node] = {}
        self.copy_of: dict[int, int] = {}
        self.scopes: TaskScopes = task_scopes(schedule)
        self._likeness = Likeness(program, self.scopes)
        self._top = {id(trip) for trip in layers(program)}
        self._copies = self._num_layers = 0
        self._drawn: set[int] = set()
        self._repeated: set[str] = set()  # keys of boxes that stand for several trips that follow each other

    def walk(self, span: Span, place: _Place | None = None) -> None:
        """Finds the box of every task inside."""
        place = place or _Place()
        if span.kind == "use" or (self.level == "layer" and id(span) in self._top):
            stage = place.stage if self.level == "layer" and place.stage is not None else place.rename(span.path)
            place = place.but(stage=stage)
        if span.kind in LOOPS and is_plain(span):
            self._plain(span, place)
        elif span.kind in LOOPS and not (self.level == "layer" and place.stage is not None):
            self._layers(span, place)
        else:
            for item in span.items:
                if isinstance(item, int):
                    self._add(item, place)
                else:
                    self.walk(item, place)

    def _plain(self, loop: Span, place: _Place) -> None:
        """A loop of tasks alone is drawn once: what is in its other trips takes the keys of the first."""
        bound = loop.trips.bound if loop.trips else len(loop.items)  # the program may hold fewer trips of a dynamic one
        place = place.but(trips=place.trips * bound)
        trips = trips_of(loop)
        for trip in trips:
            self.walk(trip, place if trip is trips[0] else place.but(rename=_renamed(place.rename, trip.path, trips[0].path)))

    def _layers(self, loop: Span, place: _Place) -> None:
        """Trips that are alike take the keys of the first of them."""
        first_of: dict[int, tuple[Span, Fold | None]] = {}
        for alike in self._likeness.classes(loop) if self.fold else [[trip] for trip in trips_of(loop)]:
            fold = None
            if len(alike) > 1:
                names = tuple(place.rename(trip.path) for trip in alike)
                fold = Fold(names[0], names, self._around(loop, alike[0]))
            first_of |= {id(trip): (alike[0], fold) for trip in alike}
        layer_of: dict[int, int] = {}
        for trip in trips_of(loop):
            first, fold = first_of[id(trip)]
            self._copies += 1
            if place.layer is None and id(first) not in layer_of:
                layer_of[id(first)] = self._num_layers
                self._num_layers += 1
            inside = place.but(layer=layer_of.get(id(first), place.layer))
            inside = inside.but(copy=self._copies, is_drawn=place.is_drawn and trip is first)
            if trip is not first:
                inside = inside.but(rename=_renamed(place.rename, trip.path, first.path))
            if fold is not None:
                is_box = self.level == "layer" and id(trip) in self._top
                inside = inside.but(fold=fold) if is_box else inside.but(folds=(*place.folds, fold))
            self.walk(trip, inside)

    def _around(self, loop: Span, trip: Span) -> int:
        """How many scopes are around all of a loop."""
        first, end = next(loop.tasks(), 0), last_task(loop) + 1
        found = [self.scopes.extents[scope] for scope in self.scopes.around.get(next(trip.tasks(), -1), ())]
        return sum(low <= first and high >= end for low, high in found)

    def _add(self, task: int, place: _Place) -> None:
        path = self.program.tasks[task].path
        key = place.stage if place.stage is not None and self.level != "task" else place.rename(path)
        node = self.nodes.get(key)
        if node is None:
            node = self.nodes[key] = Node(key, _label(key, self.level), place.trips, place.folds, place.fold, place.layer)
        if place.is_drawn:
            node.tasks.append(task)
            self._drawn.add(task)
        else:
            self._repeated.add(key)
        self.by_task[task] = node
        self.copy_of[task] = place.copy

    def settled(self) -> list[Node]:
        """The boxes in submission order, with all that is known of them once every task has its box."""
        self._give_allocs()
        for node in self.nodes.values():
            self._place_in_scopes(node)
        nodes = sorted(self.nodes.values(), key=lambda node: node.tasks[0])
        if self.level == "layer" and self.fold and len(nodes) > MAX_LAYER_BOXES:
            nodes = self._merge(nodes)
        return nodes

    def _give_allocs(self) -> None:
        """Allocs go to what first writes, or else touches, what they create; tasks' own tensors to their boxes."""
        touched = _first_touches(self.program)
        gone: set[int] = set()
        for number, node in [*self.by_task.items()]:
            task = self.program.tasks[number]
            homes = {t: self.by_task.get(touched.get(t, -1)) if task.op is None else node for t in task.creates}
            if number in self._drawn:
                for tensor, home in homes.items():
                    if home is None or home is node:
                        node.created.add(tensor)
                    else:
                        home.allocs.setdefault(self._ring(number), set()).add(tensor)
            found = next((home for home in homes.values() if home is not None), None)
            if task.op is None and found is not None and None not in homes.values():
                self.by_task[number] = found
                gone.add(number)
        for node in self.nodes.values():
            node.tasks = [task for task in node.tasks if task not in gone] or node.tasks
        drawn = {id(node) for node in self.by_task.values()}
        self.nodes = {key: node for key, node in self.nodes.items() if id(node) in drawn}

    def _ring(self, task: int) -> int:
        around = self.scopes.around.get(task, ())
        return self.schedule.scopes[around[-1]].ring if around else 0

    def _place_in_scopes(self, node: Node) -> None:
        """A box lies in the scopes around all of its tasks; at level `task`, where it stands for trips, in those of its first."""
        chains = [self.scopes.around[t] for t in node.tasks if t in self.scopes.around]
        around = chains[0] if chains else ()
        if self.level != "task":
            for chain in {*chains[1:]}:
                around = _common_prefix(around, chain)
        node.ring = self.schedule.scopes[around[-1]].ring if around else 0
        clusters: list[int | Fold] = [*around]
        for fold in reversed(node.folds):
            clusters.insert(fold.outside, fold)
        node.chain = tuple(clusters)

    def _merge(self, nodes: list[Node]) -> list[Node]:
        """As few boxes as a picture of layers may have: neighbours in the order of submission share one."""
        each = -(-len(nodes) // MAX_LAYER_BOXES)
        merged: dict[int, Node] = {}
        for group in (nodes[i : i + each] for i in range(0, len(nodes), each)):
            one = Node(group[0].key, named([node.label for node in group]), tasks=sorted(t for node in group for t in node.tasks))
            for node in group:
                one.created |= node.created
                for ring, held in node.allocs.items():
                    one.allocs.setdefault(ring, set()).update(held)
                merged[id(node)] = one
            self._place_in_scopes(one)
        self.by_task = {task: merged[id(node)] for task, node in self.by_task.items()}
        self.nodes = {node.key: node for node in merged.values()}
        return [*self.nodes.values()]

    def are_level(self, source: Node, target: Node) -> bool:
        """Whether a box need not stand below one from which something flows to it.

        Task by task, a layer is about four times as high as it is wide: a few of them stand side by side.
        """
        if target.tasks[0] <= source.tasks[0]:
            return True
        if self.level != "task" or source.layer is None or target.layer is None or source.layer == target.layer:
            return False
        return self._num_layers <= MAX_SIDE_BY_SIDE

    def edges(self) -> dict[tuple[str, str], dict[tuple[int, int], set[int]]]:
        """What flows between boxes: for each two of their copies the tensors, none where the one only waits for the other."""
        found: dict[tuple[str, str], dict[tuple[int, int], set[int]]] = {}
        for number, node in self.by_task.items():
            task, copy = self.program.tasks[number], self.copy_of[number]
            for before in {*task.waits, *task.after}:
                other = self.by_task.get(before)
                if other is None or (other is node and (copy == self.copy_of[before] or node.key not in self._repeated)):
                    continue
                pairs = found.setdefault((other.key, node.key), {})
                flow = pairs.setdefault((self.copy_of[before], copy), set())
                flow.update(tensor for tensor in self.program.tasks[before].writes if tensor in task.reads)
        return found


def _first_touches(program: Program) -> dict[int, int]:
    """Per tensor the first task that writes it, or where none does the first that uses it; allocs do neither."""
    writes: dict[int, int] = {}
    uses: dict[int, int] = {}
    for task in program.tasks:
        if task.op is not None:
            for tensor in task.writes:
                writes.setdefault(tensor, task.id)
            for tensor in task.uses:
                uses.setdefault(tensor, task.id)
    return uses | writes


def _renamed(rename: Callable[[str], str], old: str, new: str) -> Callable[[str], str]:
    return lambda path: rename(new + path.removeprefix(old))


def _label(key: str, level: str) -> str:
    """The last name of a path, and what it belongs to where it says little by itself."""
    parts = key.split(".")
    return key if level == "layer" else ".".join(parts[-2:]) if parts[-1].startswith("alloc") else parts[-1]


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    return tuple(first[:length])
