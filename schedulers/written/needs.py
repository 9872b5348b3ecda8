"""What choices of scopes take on the four rings, worked out on the texts of a program alone.

The epochs of every ring come out as they will in the lowered schedule, but that of what repeats only `REPEATS` are looked at, and
trips of different kinds stand in the order in which their kinds first appear. `schedulers.written.search` measures what it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from runner.base.tensor_spec import BLOCK_ALIGN
from runner.rings.capacity import RingLoad, safe_heap
from runner.rings.schedule import NUM_RINGS
from schedulers.scopes.scoping import Four
from schedulers.written.cuts import NOTHING, Choice, Choices, Run
from schedulers.written.texts import Body, Made, Node, Written

REPEATS = 3
"""Epochs of one kind after which nothing new is expected."""


@dataclass
class _Part:
    """What lies in some items: sizes of the blocks left to the scope around them, and the epochs of the rings below."""

    blocks: list[int] = field(default_factory=list)
    epochs: list[list[tuple[int, ...]]] = field(default_factory=lambda: [[] for _ in range(NUM_RINGS)])
    dynamic: list[bool] = field(default_factory=lambda: [False] * NUM_RINGS)

    def join(self, other: _Part, count: int) -> None:
        for ring in range(NUM_RINGS):
            self.epochs[ring] += other.epochs[ring] * min(count, REPEATS)
            self.dynamic[ring] = self.dynamic[ring] or other.dynamic[ring]


class Needs:
    """Works out the safe capacities of the four rings under choices; remembers what it found for parts that they leave alone."""

    def __init__(self, written: Written) -> None:
        self.written = written
        self.known: dict[tuple, _Part] = {}
        self.texts: dict[Node, tuple[Body, ...]] = {}
        self.layouts: dict[tuple[Body, Choice], _Layout] = {}
        self._texts_in(written.root)

    def _texts_in(self, node: Node) -> tuple[Body, ...]:
        """The texts of a node and of all inside it."""
        if node not in self.texts:
            found = {node.body: None}
            for inside in node.children:
                for child, _ in inside:
                    found |= dict.fromkeys(self._texts_in(child))
            self.texts[node] = tuple(found)
        return self.texts[node]

    def of(self, choices: Choices) -> Four:
        """Capacities in units of 1,024 bytes."""
        part = self.body(self.written.root, 0, False, choices)
        epochs = [[tuple(accumulate(part.blocks, initial=0))], *part.epochs[1:]]
        loads = [RingLoad(found, dynamic=dynamic) for found, dynamic in zip(epochs, part.dynamic, strict=True)]
        a, b, c, d = (safe_heap(load) // BLOCK_ALIGN for load in loads)
        return (a, b, c, d)

    def body(self, node: Node, depth: int, dynamic: bool, choices: Choices) -> _Part:
        key = (node, depth, dynamic, tuple([choices.get(text, NOTHING) for text in self.texts[node]]))
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self._body(node, depth, dynamic, choices)
        return found

    def _body(self, node: Node, depth: int, dynamic: bool, choices: Choices) -> _Part:
        body, choice = node.body, choices.get(node.body, NOTHING)
        layout = self.layouts.get((body, choice))
        if layout is None:
            layout = self.layouts[body, choice] = _Layout.of(body, choice)
        own, hoisted = layout.blocks(node)
        found = _Part()
        open_runs: list[tuple[Run, list[int]]] = []  # with the blocks of each

        def put(blocks: list[int], in_loop: bool) -> None:
            (open_runs[-1][1] if open_runs else found.blocks).extend(blocks)
            ring = min(depth + len(open_runs), NUM_RINGS - 1)
            found.dynamic[ring] = found.dynamic[ring] or (in_loop and bool(blocks))

        def close() -> None:
            _, blocks = open_runs.pop()
            _end(found, depth + len(open_runs) + 1, blocks, put)

        for item, inside in enumerate(node.children):
            while open_runs and open_runs[-1][0][1] <= item:
                close()
            for run in layout.around[item][len(open_runs) :]:
                if run in hoisted:
                    put([hoisted[run]], dynamic)
                open_runs.append((run, []))
            if item in own:
                put([own[item]], dynamic)
            at, in_loop = depth + len(open_runs), dynamic or body.kinds[item] == "dynamic"
            for child, count in inside:
                kept = child.body.kind == "scope" and item not in choice.dropped
                part = self.body(child, at + kept, in_loop, choices)
                found.join(part, count)
                if kept:
                    _end(found, at + 1, part.blocks, put, count)
                else:
                    put(part.blocks * count, in_loop)
        while open_runs:
            close()
        return found


def _end(found: _Part, depth: int, blocks: list[int], put: Callable[[list[int], bool], None], count: int = 1) -> None:
    """A scope of `depth` with these blocks ends; one deeper than the last ring's belongs to that around it."""
    if depth >= NUM_RINGS:
        put(blocks * count, False)
    elif blocks:
        found.epochs[depth] += [tuple(accumulate(blocks, initial=0))] * min(count, REPEATS)


def home_of(body: Body, choice: Choice, made: Made) -> tuple[Run | None, Run | None]:
    """The run in whose scope a tensor lies, and the one before which it is allocated, None if its item's own block holds it."""
    home, before = None, None
    for run in reversed(choice.around(made.item)):
        if body.last[made] < run[1]:
            home = run
            break
        before = run
    return home, before


@dataclass(frozen=True)
class _Layout:
    """A choice for one text: per item the runs around it, outermost first; the run before which a tensor is allocated."""

    around: list[list[Run]]
    before: dict[Made, Run]

    @classmethod
    def of(cls, body: Body, choice: Choice) -> _Layout:
        homes = {made: home_of(body, choice, made)[1] for made in body.last}
        around = [choice.around(item) for item in range(body.num_items)]
        return cls(around, {made: run for made, run in homes.items() if run is not None})

    def blocks(self, node: Node) -> tuple[dict[int, int], dict[Run, int]]:
        """Bytes of the block of every item that makes tensors, and of the allocs before runs."""
        own: dict[int, int] = {}
        hoisted: dict[Run, int] = {}
        for made, units in node.tensors:
            before = self.before.get(made)
            if before is None:
                own[made.item] = own.get(made.item, 0) + units * BLOCK_ALIGN
            else:
                hoisted[before] = hoisted.get(before, 0) + units * BLOCK_ALIGN
        return own, hoisted
