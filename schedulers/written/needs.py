"""What choices of scopes take on the four rings, worked out on the texts of a program alone.

The epochs of every ring come out as they will in the lowered schedule, but that of what repeats only `REPEATS` are looked at, and
trips of different kinds stand in the order in which their kinds first appear. `schedulers.written.search` measures what it takes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate

from runner.base.tensor_spec import BLOCK_ALIGN
from runner.rings.capacity import RingLoad, safe_heap
from runner.rings.placement import in_allocs
from runner.rings.schedule import NUM_RINGS
from runner.writeback.bodies import Body, Made, Node, Written
from schedulers.scopes.cover import Run
from schedulers.scopes.scoping import Four
from schedulers.written.cuts import NOTHING, Choice, Choices

REPEATS = 3
"""Scopes of one kind in a row that are looked at: the first two may begin differently, a third begins as the second does."""


@dataclass
class _Part:
    """What lies in some items at `depth`: bytes of blocks in the scope around them, epochs of the rings below, and in which rings
    a dynamic loop allocates."""

    depth: int
    blocks: list[int] = field(default_factory=list)
    epochs: list[list[tuple[int, ...]]] = field(default_factory=lambda: [[] for _ in range(NUM_RINGS)])
    dynamic: list[bool] = field(default_factory=lambda: [False] * NUM_RINGS)

    def put(self, blocks: list[int], in_loop: bool) -> None:
        """Blocks that are allocated here."""
        self.blocks += blocks
        ring = min(self.depth, NUM_RINGS - 1)
        self.dynamic[ring] = self.dynamic[ring] or (in_loop and bool(blocks))

    def add(self, other: _Part, count: int, in_loop: bool) -> None:
        """Another part, `count` times: a scope if it lies deeper. Blocks deeper than the last ring belong to the scope around."""
        repeats = min(count, REPEATS)
        for ring in range(NUM_RINGS):
            self.epochs[ring] += other.epochs[ring] * repeats
            self.dynamic[ring] = self.dynamic[ring] or other.dynamic[ring]
        if other.depth == self.depth:
            self.put(other.blocks * count, in_loop)
        elif other.depth >= NUM_RINGS:
            self.put(other.blocks * count, False)
        elif other.blocks:
            self.epochs[other.depth] += [tuple(accumulate(other.blocks, initial=0))] * repeats


class Needs:
    """Works out the safe capacities of the four rings under choices; remembers what it found for parts that they leave alone."""

    def __init__(self, written: Written) -> None:
        self.written = written
        self.known: dict[tuple, _Part] = {}
        self.texts_in, self.hoisted = cache(self._texts_in), cache(hoisted_before)

    def _texts_in(self, node: Node) -> tuple[Body, ...]:
        """The texts of a node and of all inside it."""
        inner = (text for inside in node.children for child, _ in inside for text in self.texts_in(child))
        return tuple(dict.fromkeys((node.body, *inner)))

    def of(self, choices: Choices) -> Four:
        """Capacities in units of 1,024 bytes."""
        part = self._body(self.written.root, 0, False, choices)
        epochs = [[tuple(accumulate(part.blocks, initial=0))], *part.epochs[1:]]
        loads = [RingLoad(found, dynamic=dynamic) for found, dynamic in zip(epochs, part.dynamic, strict=True)]
        a, b, c, d = (safe_heap(load) // BLOCK_ALIGN for load in loads)
        return (a, b, c, d)

    def _body(self, node: Node, depth: int, dynamic: bool, choices: Choices) -> _Part:
        """What one instance of a body takes whose items lie at `depth`; `dynamic` inside a dynamic loop."""
        key = (node, depth, dynamic, tuple([choices.get(text, NOTHING) for text in self.texts_in(node)]))
        found = self.known.get(key)
        if found is None:
            choice, blocks = choices.get(node.body, NOTHING), defaultdict[int | Run, list[int]](list)
            for made, units in node.tensors:
                blocks[self.hoisted(node.body, choice, made) or made.item].append(units * BLOCK_ALIGN)
            found = self.known[key] = _Part(depth)
            self._run(found, node, (0, node.body.num_items), 0, blocks, dynamic, choices)
        return found

    def _run(
        self, part: _Part, node: Node, run: Run, level: int, blocks: dict[int | Run, list[int]], dynamic: bool, choices: Choices
    ) -> None:
        """Put the items of a run into `part`: `level` of the scopes that are chosen lie around it, `blocks` has the bytes of
        all tensors that lie in blocks of their own: of every item that makes some, and of those before runs."""
        item, choice = run[0], choices.get(node.body, NOTHING)
        while item < run[1]:
            around = choice.around(item)
            place = around[level] if len(around) > level else item
            if place in blocks:
                part.put([*map(sum, in_allocs(blocks[place]))], dynamic)
            if isinstance(place, tuple):
                inner = _Part(part.depth + 1)
                self._run(inner, node, place, level + 1, blocks, dynamic, choices)
                part.add(inner, 1, dynamic)
                item = place[1]
                continue
            in_loop = dynamic or node.body.kinds[item] == "dynamic"
            for child, count in node.children[item]:
                in_scope = child.body.kind == "scope" and item not in choice.dropped
                part.add(self._body(child, part.depth + in_scope, in_loop, choices), count, in_loop)
            item += 1


def hoisted_before(body: Body, choice: Choice, made: Made) -> Run | None:
    """The run before which a tensor is allocated, the outermost one that it outlives; None if its item's own block holds it."""
    return next((run for run in choice.around(made.item) if run[1] <= body.last[made]), None)
