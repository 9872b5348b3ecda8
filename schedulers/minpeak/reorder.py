"""Another order of the tasks within their dependencies, in which fewer bytes are alive at once.

Tasks move only within a run of tasks that stand side by side in one body: host reads, loops and stages keep their place. Within
a run the next task is the ready one that leaves the fewest bytes alive; a run whose peak does not fall keeps its order. Besides
edges, any two tasks that touch the same tensor keep their order if one of them writes it, as the runtime does not order a write
after a read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from runner.program.program import Program, Span, Task, Trips
from schedulers.lifetimes import Lives, lives_of


def reordered(program: Program) -> Program:
    """The program in an order with no higher peak of live bytes; tasks are numbered anew, tensors keep their ids."""
    lives = lives_of(program)
    order = list(range(len(program.tasks)))
    for low, high in _runs(program.body):
        order[low:high] = _best_order(program, lives, low, high)
    if order == list(range(len(order))):
        return program
    place = {task: k for k, task in enumerate(order)}
    tasks = tuple(_renumbered(program.tasks[task], k, place) for k, task in enumerate(order))
    return replace(program, tasks=tasks, body=_moved(program.body, place))


def _renumbered(task: Task, number: int, place: dict[int, int]) -> Task:
    waits = tuple(sorted(place[w] for w in task.waits))
    return replace(task, id=number, waits=waits, after=tuple(place[a] for a in task.after))


def _moved(span: Span, place: dict[int, int]) -> Span:
    """The span with its tasks' numbers as they are (they are places) and the waits of its host reads renumbered."""
    items = tuple(_moved(item, place) if isinstance(item, Span) else item for item in span.items)
    trips = span.trips
    if trips is not None:
        trips = Trips(trips.path, trips.reads, tuple(place[w] for w in trips.waits), trips.bound, trips.evaluate, trips.mark)
    return replace(span, items=items, trips=trips)


def _runs(span: Span) -> Iterator[tuple[int, int]]:
    """Ranges of tasks that stand side by side in one body."""
    low = high = -1
    for item in span.items:
        if isinstance(item, int):
            if item != high:
                if high - low > 2:
                    yield low, high
                low = item
            high = item + 1
            continue
        if high - low > 2:
            yield low, high
        low = high = -1
        yield from _runs(item)
    if high - low > 2:
        yield low, high


def _best_order(program: Program, lives: Lives, low: int, high: int) -> list[int]:
    """The tasks `[low, high)` in a better order, or in the old one."""
    tasks = range(low, high)
    touched = {t: lives.touches.row(t) for t in tasks}
    sizes = {k: int(lives.size[k]) for ks in touched.values() for k in ks}
    left = dict.fromkeys(sizes, 0)  # touches in this run that are still to come
    for ks in touched.values():
        for k in ks:
            left[k] += 1
    born = {k for k in sizes if lives.first[k] >= low}
    dying = {k for k in sizes if lives.end[k] <= high}
    before = _constraints(program, tasks)
    blocking: dict[int, list[int]] = {t: [] for t in tasks}
    for task, earlier in before.items():
        for other in earlier:
            blocking[other].append(task)
    missing = {t: len(before[t]) for t in tasks}
    ready = [t for t in tasks if not missing[t]]
    alive: set[int] = set()
    found: list[int] = []
    remaining = dict(left)

    def cost(task: int) -> tuple[int, int, int]:
        grown = sum(sizes[k] for k in touched[task] if k in born and k not in alive)
        freed = sum(sizes[k] for k in touched[task] if k in dying and remaining[k] == 1)
        return (grown - freed, grown, task)

    while ready:
        task = min(ready, key=cost)
        ready.remove(task)
        found.append(task)
        for k in touched[task]:
            alive.add(k)
            remaining[k] -= 1
        for user in blocking[task]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    old = list(tasks)
    return found if _peak(found, touched, sizes, left, born, dying) < _peak(old, touched, sizes, left, born, dying) else old


def _peak(
    order: Sequence[int],
    touched: dict[int, list[int]],
    sizes: dict[int, int],
    left: dict[int, int],
    born: set[int],
    dying: set[int],
) -> int:
    """The most that tensors born or dying in this run take, over an order of it."""
    remaining = dict(left)
    level = sum(sizes[k] for k in sizes if k not in born)
    peak, alive = level, set[int]()
    for task in order:
        level += sum(sizes[k] for k in touched[task] if k in born and k not in alive)
        alive.update(touched[task])
        peak = max(peak, level)
        for k in touched[task]:
            remaining[k] -= 1
            if not remaining[k] and k in dying:
                level -= sizes[k]
    return peak


def _constraints(program: Program, tasks: range) -> dict[int, set[int]]:
    """Per task those of the run that must come before it."""
    before: dict[int, set[int]] = {}
    writers: dict[int, list[int]] = {}
    readers: dict[int, list[int]] = {}
    for number in tasks:
        task = program.tasks[number]
        earlier = {w for w in (*task.waits, *task.after) if w >= tasks.start}
        written = set(task.writes) | set(task.creates)
        for tensor in written:
            earlier.update(writers.get(tensor, ()), readers.get(tensor, ()))
        for tensor in (*task.reads, *task.uses):
            earlier.update(writers.get(tensor, ()))
        for tensor in written:
            writers.setdefault(tensor, []).append(number)
        for tensor in task.reads:
            readers.setdefault(tensor, []).append(number)
        before[number] = earlier
    return before
