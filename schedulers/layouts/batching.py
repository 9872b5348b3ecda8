"""This module owns what the layouts share: the tree of scopes over a program's spans, and the compiler's block batching.

Batching gathers all tensors that the tasks of a scope's or loop's body create into blocks of up to 16, at the entry of that body.
The scratch memory of a body's first task stands there already and keeps a block of its own, just before that task.

Source: docs/schedulers.md, which compares the blocks with those that the public pypto compiler generated.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from runner.base.tensor_spec import block_bytes
from runner.program.program import Arena, Program, Span, Task
from runner.program.sharing import certain_waits, reuse_edges
from runner.program.spans import SpanWalk
from runner.rings.placement import PlacedAlloc, PlacedItem, PlacedLoop, PlacedRead, PlacedScope, PlacedTask, arena_blocks

ScopeMode = Callable[[Span, int, bool], str | None]

MAX_TENSORS = 16
"""Most tensors that the compiler puts into one alloc."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a strategy decides.

    `scope_mode` gets a span (scope, use, iteration or if), the depth that its scope would have and whether it lies in a manual
    scope; it returns the mode of the scope to put around the span's items, or None for none. `batch` is block batching. With
    `hoist`, tensors created directly in a manual scope are allocated just before that scope. With `outlive`, so are tensors that
    are used after a scope which the graph does not write itself. With `automatic`, every scope is one in mode auto in the end.
    With `written`, an alloc of the graph goes out of a scope with all of its tensors, in one block, as a file says it. `kept` are
    ids of spans that stay as the graph has them, whatever the strategy says. Without `share`, tensors lie in no arenas of the
    graph's.
    """

    scope_mode: ScopeMode
    batch: bool = False
    hoist: bool = False
    outlive: bool = False
    automatic: bool = False
    written: bool = False
    kept: Container[int] = ()
    share: bool = True


@dataclass
class _Body:
    """Items of one body; if it gathers, also the tensors to allocate at its entry."""

    gathers: bool
    depth: int
    manual: bool
    items: list[PlacedItem] = field(default_factory=list)
    created: list[int] = field(default_factory=list)  # tensors that belong to this body and to no inner scope
    gathered: list[int] = field(default_factory=list)
    started: bool = False  # whether a task stands in it already


def place(program: Program, layout: Layout) -> list[PlacedItem]:
    """The placement of a whole program under a layout; `lower` adds the root scope around it."""
    written = {tensor: task.creates for task in program.tasks if task.op is None for tensor in task.creates}
    arenas: dict[str, list[PlacedAlloc]] = {}
    edges: Mapping[int, tuple[int, ...]] = {}
    if program.arenas and layout.share:
        arenas = {arena.path: _blocks(program, arena) for arena in program.arenas}
        edges = reuse_edges(program, certain_waits(program, automatic=layout.automatic, explicit=layout.hoist))
    placing = _Placing(program, layout, *(_last_uses(program) if layout.outlive else ({}, {})), written, arenas, edges)
    return [*arenas.get("", ()), *placing.body(program.body.items, 0, False)]


def _blocks(program: Program, arena: Arena) -> list[PlacedAlloc]:
    sizes = block_bytes([program.tensors[tensor].spec for tensor in arena.tensors])
    return arena_blocks(arena.tensors, arena.offsets, sizes, ".".join((*arena.path.split("."), "arena")).strip("."), arena.mark)


def _last_uses(program: Program) -> tuple[dict[int, int], dict[int, int]]:
    """Places in a walk: of the last item that uses each tensor, a loop what it reads; and of each span's end, by id."""
    last, ends, places = dict[int, int](), dict[int, int](), count()
    for item in SpanWalk(program.body, lambda span: ends.update({id(span): next(places)})):
        if isinstance(item, int):
            last.update(dict.fromkeys((*program.tasks[item].creates, *program.tasks[item].uses), next(places)))
        elif item.trips is not None:
            last.update(dict.fromkeys(item.trips.reads, next(places)))
    return last, ends


@dataclass(frozen=True)
class _Placing:
    program: Program
    layout: Layout
    last_use: dict[int, int]
    ends: dict[int, int]
    written: dict[int, tuple[int, ...]]  # per tensor of an alloc all tensors of that alloc
    arenas: Mapping[str, Sequence[PlacedAlloc]]  # per path of a used graph its arena
    edges: Mapping[int, tuple[int, ...]]  # per task those that sharing needs

    @cached_property
    def in_arenas(self) -> frozenset[int]:
        return frozenset(tensor for blocks in self.arenas.values() for block in blocks for tensor in block.tensors)

    def body(self, items: Iterable[int | Span], depth: int, manual: bool) -> list[PlacedItem]:
        body = _Body(self.layout.batch, depth, manual)
        self.fill(items, body)
        return [*self.blocks(body.gathered), *body.items]

    def fill(self, items: Iterable[int | Span], body: _Body) -> None:
        for item in items:
            if isinstance(item, int):
                self.add_task(self.program.tasks[item], body)
                continue
            if item.kind == "use":
                body.items += self.arenas.get(item.path, ())
            if item.trips is not None:
                trips = tuple(tuple(self.trip(trip, body)) for trip in item.items if isinstance(trip, Span))
                body.items.append(PlacedLoop(item.trips, trips) if item.kind == "dynamic" else PlacedRead(item.trips))
            elif item.kind == "iteration":
                body.items += self.trip(item, body)
            elif item.kind == "for" or (mode := self.mode(item, body)) is None:
                self.fill(item.items, body)
            else:
                body.items += self.scope(item, mode, body)

    def trip(self, trip: Span, outer: _Body) -> list[PlacedItem]:
        """One trip of a loop: a body of its own, in a scope of its own where the layout wants one."""
        mode = self.mode(trip, outer)
        if mode is not None:
            return self.scope(trip, mode, outer)
        return self.body(trip.items, outer.depth, outer.manual)

    def mode(self, span: Span, outer: _Body) -> str | None:
        """The mode of the scope around a span's items, None for no scope."""
        if id(span) in self.layout.kept:
            return span.mode if span.kind == "scope" else None
        return self.layout.scope_mode(span, outer.depth + 1, outer.manual)

    def scope(self, span: Span, mode: str, outer: _Body) -> list[PlacedItem]:
        kept = id(span) in self.layout.kept
        hoist = mode == "manual" and self.layout.hoist and not kept
        mode = "auto" if self.layout.automatic and not kept else mode
        body = _Body(self.layout.batch or hoist, outer.depth + 1, outer.manual or mode == "manual")
        self.fill(span.items, body)
        before = self.outliving(span, body, outer) if self.layout.outlive and span.kind != "scope" else []
        blocks = self.blocks(body.gathered)
        if hoist:
            return [*before, *blocks, PlacedScope(span.path, tuple(body.items), mode, span.mark)]
        return [*before, PlacedScope(span.path, (*blocks, *body.items), mode, span.mark)]

    def outliving(self, span: Span, body: _Body, outer: _Body) -> list[PlacedItem]:
        """Hand tensors that are used after `body` to the body around it; returns their allocs if that does not gather."""
        found = [tensor for tensor in body.created if self.last_use[tensor] > self.ends[id(span)]]
        blocks = [(tensor,) for tensor in found]
        if self.layout.written:
            blocks = self.as_written(body.created, found)
            found = [tensor for block in blocks for tensor in block]
        body.gathered = [tensor for tensor in body.gathered if tensor not in found]
        gone = set(found)  # some of them may have come out of a scope inside already
        body.items = [item for item in body.items if not isinstance(item, PlacedAlloc) or gone.isdisjoint(item.tensors)]
        outer.created += found
        if outer.gathers:
            outer.gathered += found
            return []
        return [PlacedAlloc(block) for block in blocks]

    def as_written(self, created: Sequence[int], found: Sequence[int]) -> list[tuple[int, ...]]:
        """The blocks that hold the tensors `found`: those of a written alloc lie in its one block."""
        blocks = dict.fromkeys(self.written.get(tensor, (tensor,)) for tensor in found)
        order = {tensor: place for place, tensor in enumerate(created)}
        return sorted(blocks, key=lambda block: order[block[0]])

    def blocks(self, tensors: Sequence[int]) -> list[PlacedItem]:
        size = MAX_TENSORS if self.layout.batch else 1
        return [PlacedAlloc(tuple(tensors[at : at + size])) for at in range(0, len(tensors), size)]

    def add_task(self, task: Task, body: _Body) -> None:
        creates = [tensor for tensor in task.creates if tensor not in self.in_arenas] if self.arenas else task.creates
        body.created += creates
        if body.gathers:
            named = {region.tensor for region in task.operands.values()}
            # What the op's workspace rule asks for: no operand names it.
            scratch = [tensor for tensor in creates if tensor not in named] if task.op is not None else []
            body.gathered += [tensor for tensor in creates if tensor not in scratch]
            if body.started:
                body.gathered += scratch
            elif scratch:
                body.items.append(PlacedAlloc(tuple(scratch), name=f"{task.path}.scratch", mark=task.mark))
            body.started = body.started or task.op is not None
        body.items.append(PlacedTask(task.id, edges) if (edges := self.edges.get(task.id)) else task.id)
