"""A placement tree from cuts between tasks and a depth for each tensor (`schedulers.scopes.scoping`)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.program.program import Program, Span, Trips
from runner.rings.placement import PlacedAlloc, PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask
from schedulers.lifetimes import Ints, Lives, last_task, named_allocs
from schedulers.scopes.scoping import NO_CUT, Scoping

MAX_DEPTH = 3
MAX_DIRECT = 256
"""A run of more tasks than this gets scopes without bytes, so that slots retire."""

NO_WAITS: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Loop:
    """A dynamic loop in a flat body: its number, its first task (both -1 if it holds none), and the flat body of each trip."""

    number: int
    first: int
    trips: Trips
    bodies: tuple[tuple[Node, ...], ...]


Node = int | Trips | Loop
"""A task, a value read on the host, or a dynamic loop."""


def flatten(program: Program, loops: Sequence[Span]) -> tuple[Node, ...]:
    """The program's body without the spans that mean nothing to a scheduler; `loops` numbers the dynamic spans that hold
    tasks."""
    number_of = {id(span): k for k, span in enumerate(loops)}

    def walk(span: Span) -> list[Node]:
        nodes: list[Node] = []
        for item in span.items:
            if isinstance(item, int):
                nodes.append(item)
            elif item.kind == "read":
                assert item.trips is not None
                nodes.append(item.trips)
            elif item.kind == "dynamic":
                assert item.trips is not None
                bodies = tuple(tuple(walk(trip)) for trip in item.items if isinstance(trip, Span))
                first = next(item.tasks(), -1)
                nodes.append(Loop(number_of.get(id(item), -1), first, item.trips, bodies))
            else:
                nodes += walk(item)
        return nodes

    return tuple(walk(program.body))


@dataclass(frozen=True)
class ScopePlacement:
    """Turns cuts and depths into scopes.

    cuts         level of the cut before each task
    loop_level   per loop the depth at which scopes lie inside its trips, 4 for none
    tensors      per depth the placed tensors' ids, by first touch; `firsts` those times
    named        allocs that stay in the order because `after:` names them
    waits        per task the extra edges it gets
    """

    program: Program
    cuts: Sequence[int]
    loop_level: Sequence[int]
    tensors: Sequence[Sequence[int]]
    firsts: Sequence[Sequence[int]]
    named: frozenset[int] = frozenset()
    waits: Sequence[Sequence[int]] = ()

    def items(self, nodes: Sequence[Node]) -> list[PlacedItem]:
        """The placement of a whole flat program."""
        return self._filled(nodes, 0, self.tensors[0])

    def _filled(self, nodes: Sequence[Node], depth: int, own: Sequence[int]) -> list[PlacedItem]:
        """The items of one scope of `depth` that holds the tensors `own`, in one block."""
        items = self._split(nodes, depth)
        creators = {item.task for item in items if isinstance(item, PlacedTask)}
        if not own or any(set(self.program.tasks[t].creates) == set(own) for t in creators):
            return items
        return [PlacedAlloc(tuple(own)), *items]

    def _split(self, nodes: Sequence[Node], depth: int) -> list[PlacedItem]:
        """Nodes of a scope of `depth`, in scopes of the next depth as the cuts say."""
        items: list[PlacedItem] = []
        run: list[Node] = []

        def close() -> None:
            if run:
                items.extend(self._scope(run, depth + 1))
                run.clear()

        for node in nodes:
            at = _first_task(node)
            if run and at is not None and self.cuts[at] <= depth + 1:
                close()
            if isinstance(node, Loop) and node.number >= 0 and self.loop_level[node.number] <= depth + 1:
                close()
                items.append(PlacedLoop(node.trips, tuple(tuple(self._split(body, depth)) for body in node.bodies)))
            else:
                run.append(node)
        close()
        return items

    def _scope(self, nodes: list[Node], depth: int) -> list[PlacedItem]:
        """A run of nodes as a scope of `depth`, or bare where no scope is needed."""
        tasks = [t for t in map(_first_task, nodes) if t is not None]
        if not tasks:
            return self._plain(nodes)
        low, high = tasks[0], _end_task(nodes)
        if depth > MAX_DEPTH or not any(self._between(d, low, high) for d in range(depth, MAX_DEPTH + 1)):
            return _chunked(self._plain(nodes), self.program.tasks[low].path, depth)
        own = self._between(depth, low, high)
        name = self.program.tasks[low].path
        return [PlacedScope(f"{name}..{high - low}", tuple(self._filled(nodes, depth, own)))]

    def _between(self, depth: int, low: int, high: int) -> Sequence[int]:
        """Tensors of a depth that are first touched in `[low, high)`."""
        firsts = self.firsts[depth]
        return self.tensors[depth][bisect_left(firsts, low) : bisect_left(firsts, high)]

    def _plain(self, nodes: Sequence[Node]) -> list[PlacedItem]:
        items: list[PlacedItem] = []
        for node in nodes:
            if isinstance(node, int):
                if self.program.tasks[node].op is not None or node in self.named:  # an alloc's tensors lie in blocks of scopes
                    items.append(PlacedTask(node, tuple(self.waits[node]) if self.waits else NO_WAITS))
            elif isinstance(node, Loop):
                items.append(PlacedLoop(node.trips, tuple(tuple(self._plain(body)) for body in node.bodies)))
            else:
                items.append(PlacedRead(node))
        return items


def _first_task(node: Node) -> int | None:
    if isinstance(node, int):
        return node
    if isinstance(node, Loop):
        return node.first if node.first >= 0 else None
    return None


def _end_task(nodes: Sequence[Node]) -> int:
    """The number after the last task in these nodes, 0 if there is none."""
    for node in reversed(nodes):
        if isinstance(node, int):
            return node + 1
        if isinstance(node, Loop):
            end = max((_end_task(body) for body in node.bodies), default=0)
            if end:
                return end
    return 0


def _chunked(items: list[PlacedItem], path: str, depth: int) -> list[PlacedItem]:
    if len(items) <= MAX_DIRECT or depth > MAX_DEPTH:
        return items
    runs = [items[k : k + MAX_DIRECT] for k in range(0, len(items), MAX_DIRECT)]
    return [PlacedScope(f"{path}.{k}", tuple(run)) for k, run in enumerate(runs)]


def loop_levels(cuts: Ints, loops: Sequence[Span]) -> list[int]:
    """The level of each loop: the outermost cut strictly inside it."""
    return [int(cuts[next(loop.tasks()) + 1 : last_task(loop) + 1].min(initial=NO_CUT)) for loop in loops]


def place_scopes(lives: Lives, loops: Sequence[Span], found: Scoping) -> list[PlacedItem]:
    """The placement of a scoping of all tensors of `lives`, one block per scope."""
    order = np.argsort(lives.first, kind="stable")
    per_depth = [order[found.depth[order] == d] for d in range(MAX_DEPTH + 1)]
    return ScopePlacement(
        lives.program,
        found.cuts.tolist(),
        loop_levels(found.cuts, loops),
        [lives.locals[mine].tolist() for mine in per_depth],
        [lives.first[mine].tolist() for mine in per_depth],
        named_allocs(lives.program),
    ).items(flatten(lives.program, loops))
