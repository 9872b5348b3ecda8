"""This module owns the structure that a program's tasks were written in, a tree of spans, and the one walk over it.

Whoever looks at tasks and spans in the order of submission iterates a `SpanWalk`, or one of the short forms below it. Only what
makes another tree of a tree of spans (a placement, say) is written as a recursion of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runner.base.errors import Mark


@dataclass(frozen=True, slots=True)
class Trips:
    """How often a dynamic `for` (or `if`: 0 or 1) body runs; known only when its tensors were written.

    `evaluate` takes a function that returns one element of a tensor (tensor id, index) and gives the trip count.
    `waits` are the tasks that write those tensors: the submitting thread blocks on them (rule 9).
    """

    path: str
    reads: tuple[int, ...]
    waits: tuple[int, ...]
    bound: int
    evaluate: Callable[[Callable[[int, tuple[int, ...]], int]], int]
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A body of items in submission order; an item is a task's id or another Span.

    kind       meaning
    root       the whole program
    scope      a scope as written; `mode` is auto or manual
    use        a graph spliced in
    for        a static loop, its children are `iteration` spans
    iteration  one trip of a loop
    if         the branch that was chosen
    dynamic    a dynamic loop or `if`: `trips` says how many of its `iteration` children run
    read       no items: the submitting thread blocks on `trips.waits` (a value read on the host)
    """

    kind: str
    path: str
    items: tuple[int | Span, ...] = ()
    mode: str = "auto"
    trips: Trips | None = None
    mark: Mark | None = None

    def tasks(self) -> Iterator[int]:
        """Ids of all tasks inside, in submission order."""
        return (item for item in SpanWalk(self) if isinstance(item, int))


class SpanWalk:
    """A span and all that is inside it in submission order, every span before what it holds; iterate it once.

    around   the spans around the present item, outermost first: a list that changes as the walk goes on

    `leave` is called with every span after the last of its items; `around` then holds the spans around that span.
    """

    def __init__(self, body: Span, leave: Callable[[Span], None] | None = None) -> None:
        self.around: list[Span] = []
        self._body = body
        self._leave = leave

    def __iter__(self) -> Iterator[int | Span]:
        around = self.around
        behind: list[Iterator[int | Span]] = []  # of each span in `around`, what comes after it beside it
        items: Iterator[int | Span] = iter((self._body,))
        while True:
            for item in items:
                yield item
                if isinstance(item, Span):
                    around.append(item)
                    behind.append(items)
                    items = iter(item.items)
                    break
            else:
                if not around:
                    return
                items, span = behind.pop(), around.pop()
                if self._leave is not None:
                    self._leave(span)


def spans_of(body: Span) -> Iterator[Span]:
    """The span itself and every span inside it."""
    return (item for item in SpanWalk(body) if isinstance(item, Span))


def host_reads(body: Span) -> list[tuple[int, Trips]]:
    """Every `Trips` that the submitting thread evaluates, with the id of the task submitted next."""
    found: list[tuple[int, Trips]] = []
    last = -1  # task so far

    def walk(span: Span) -> None:
        nonlocal last
        if span.trips is not None:
            found.append((last + 1, span.trips))
        for item in span.items:
            if isinstance(item, int):
                last = item
            else:
                walk(item)

    walk(body)
    return found


def read_waits(body: Span) -> dict[int, list[int]]:
    """Per task before which the submitting thread reads trip counts, the tasks that write them."""
    found: dict[int, list[int]] = {}
    for next_task, trips in host_reads(body):
        found.setdefault(next_task, []).extend(trips.waits)
    return found


def last_task(span: Span) -> int:
    """The largest task id inside, -1 when there is none; found from the end, without a walk over all that is inside."""
    for item in reversed(span.items):
        last = item if isinstance(item, int) else last_task(item)
        if last >= 0:
            return last
    return -1


def chain_to(body: Span, target: int | Span) -> list[Span]:
    """The spans around a task or a span, `body` first; empty when it is not inside."""
    walk = SpanWalk(body)
    for item in walk:
        if item is target or (isinstance(item, int) and item == target):
            return list(walk.around)
    return []


Around = tuple[tuple[int, int], ...]
"""The loops and choices around something that are decided at run time, outermost first, and the trip of each."""


def implied(inner: Around, outer: Around) -> bool:
    """Whether what lies in trips `inner` runs whenever what lies in `outer` does: they are the same, or come before."""
    around = dict(outer)
    return all(loop in around and trip <= around[loop] for loop, trip in inner)
