"""This module finds the layers of a program that are alike, so that a picture shows one of them and says how many there are.

Trips of a loop are alike when the same tasks lie in the same spans of them, on the same rings, and wait for each other in the
same way; what they take from outside of the trip, such as another layer's weights, may differ. Loops of tasks alone (row tiles,
experts) are *plain*: they have no layers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from runner.program.program import Program, Span, Task
from runner.program.spans import SpanWalk, last_task, spans_of
from runner.rings.schedule import Schedule, Submit
from runner.rings.steps import StepWalk

LOOPS = ("for", "dynamic")


def is_plain(span: Span) -> bool:
    """Whether a loop holds nothing but tasks and plain loops."""
    return all(inner is span or inner.kind in ("for", "dynamic", "iteration", "read", "if") for inner in spans_of(span))


def layers(program: Program) -> list[Span]:
    """The trips of the outermost loop that holds scopes or stages: the model's layers."""
    for item in program.body.items:
        if isinstance(item, Span) and item.kind == "for" and not is_plain(item):
            return trips_of(item)
    return []


def trips_of(loop: Span) -> list[Span]:
    return [trip for trip in loop.items if isinstance(trip, Span)]


@dataclass(frozen=True)
class TaskScopes:
    """Which scopes are around each task of a schedule, and which tasks are in each scope.

    around   per task the scopes around it, outermost first, without the root
    extents  per scope its first task and the one after its last
    """

    schedule: Schedule
    around: Mapping[int, tuple[int, ...]]
    extents: Mapping[int, tuple[int, int]]


def task_scopes(schedule: Schedule) -> TaskScopes:
    """The scopes of a schedule's tasks."""
    around: dict[int, tuple[int, ...]] = {}
    extents: dict[int, tuple[int, int]] = {}
    chains: dict[tuple[int, ...], tuple[int, ...]] = {}  # one object for all tasks of a scope
    walk = StepWalk(schedule)
    for step in walk:
        if isinstance(step, Submit):
            task = schedule.submissions[step.submission].task
            if task is not None:
                chain = tuple(walk.scopes[1:])
                around[task] = chains.setdefault(chain, chain)
                for scope in chain:
                    low, high = extents.get(scope, (task, task + 1))
                    extents[scope] = min(low, task), max(high, task + 1)
    return TaskScopes(schedule, around, extents)


class Likeness:
    """Sorts trips into classes of those that are alike; with `scopes`, as the schedule places them.

    A trip some scope of which reaches into other trips, but not over the whole loop, is like no other.
    """

    def __init__(self, program: Program, scopes: TaskScopes | None = None) -> None:
        self.program, self.scopes = program, scopes
        self._numbers: dict[object, int] = {}

    def classes(self, loop: Span) -> list[list[Span]]:
        """The trips of a loop in classes, in the order in which their first ones run."""
        found: dict[object, list[Span]] = {}
        tasks = [task for trip in trips_of(loop) for task in (next(trip.tasks(), -1), last_task(trip)) if task >= 0]
        whole = range(min(tasks, default=0), max(tasks, default=-1) + 1)
        for number, trip in enumerate(trips_of(loop)):
            key = self.key(trip, whole)
            found.setdefault(number if key is None else key, []).append(trip)
        return list(found.values())

    def key(self, trip: Span, loop: range) -> bytes | None:
        """What trips that are alike have in common; None of one that is like no other."""
        first, end = next(trip.tasks(), 0), last_task(trip) + 1
        found = array("q")
        for item in SpanWalk(trip):
            if isinstance(item, int):
                task = self.program.tasks[item]
                chain = self.chain(item, first, end, loop)
                if chain is None:
                    return None
                found.append(self.number((self.task(task, trip.path), chain)))
                found.extend([wait - first for wait in task.waits if wait >= first])
            elif item is not trip:
                bound = item.trips and item.trips.bound
                found.append(self.number((item.kind, item.path.removeprefix(trip.path), item.mode, len(item.items), bound)))
        return found.tobytes()

    def number(self, value: object) -> int:
        """A number of its own for each value; negative, so that none is taken for an edge."""
        return self._numbers.setdefault(value, -1 - len(self._numbers))

    def task(self, task: Task, path: str) -> tuple[object, ...]:
        specs = tuple((self.program.tensors[t].spec.dtype, self.program.tensors[t].spec.shape) for t in task.creates)
        return task.path.removeprefix(path), task.op, task.core, task.num_blocks, specs

    def chain(self, task: int, first: int, end: int, loop: range) -> tuple[object, ...] | None:
        """The scopes around a task by ring, mode and place in the trip; None where one lies across the trip's end."""
        if self.scopes is None or task not in self.scopes.around:
            return ()
        found: list[object] = []
        for scope in self.scopes.around[task]:
            low, high = self.scopes.extents[scope]
            info = self.scopes.schedule.scopes[scope]
            if low >= first and high <= end:
                found.append((info.ring, info.mode, low - first, high - first))
            elif low <= loop.start and high >= loop.stop:
                found.append((info.ring, info.mode, scope))
            else:
                return None
        return tuple(found)


def named(names: Sequence[str]) -> str:
    """Names of trips in short: `layer_3, layer_5 ... layer_41`."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} ... {names[-1]}"


def loops_with_layers(body: Span) -> Iterator[Span]:
    """Every loop inside that is not plain, outer ones first."""
    return (span for span in spans_of(body) if span.kind in LOOPS and not is_plain(span))
