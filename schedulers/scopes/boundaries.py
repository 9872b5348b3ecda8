"""Where scopes may begin and end: the boundaries between tasks, and what dynamic loops demand of them.

A scope is a run of consecutive tasks that lies inside one trip of a dynamic loop or around the whole loop. Nested scopes are
cuts: a cut of level d at a boundary ends the scopes of depth d and deeper that come before it, and 4 stands for no cut. Every
loop has a level m of its own: 4 when no scope begins or ends inside, else the outermost depth at which scopes lie inside its
trips. Then

    inside a trip                    level >= m
    between two trips                level == m
    at the loop's start and end      level <= m
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.program.program import Span
from schedulers.lifetimes import last_task

NO_CUT = 4


@dataclass
class Boundary:
    """Loops (by number) whose start, end, inner border or inside lies at the boundary before one task."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    borders: list[int] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)


def boundaries(body: Span, num_tasks: int) -> tuple[list[Boundary], list[Span]]:
    """One Boundary per task (the one before it) and one after the last; and the dynamic loops that hold tasks, outermost
    first."""
    found = [Boundary() for _ in range(num_tasks + 1)]
    loops: list[Span] = []

    def walk(span: Span) -> None:
        for item in span.items:
            if isinstance(item, int):
                continue
            tasks = _range(item)
            if item.kind == "dynamic" and tasks is not None:
                number = len(loops)
                loops.append(item)
                _mark(item, number, tasks)
            walk(item)

    def _mark(loop: Span, number: int, tasks: tuple[int, int]) -> None:
        low, high = tasks
        found[low].starts.append(number)
        found[high].ends.append(number)
        trips = [r for trip in loop.items if isinstance(trip, Span) and (r := _range(trip)) is not None]
        borders = {a for a, _ in trips[1:]}
        for at in range(low + 1, high):
            (found[at].borders if at in borders else found[at].inside).append(number)

    walk(body)
    return found, loops


def _range(span: Span) -> tuple[int, int] | None:
    """First task and the one after the last, None when there is none."""
    last = last_task(span)
    if last < 0:
        return None
    return next(span.tasks()), last + 1
