"""The best scopes of a small program, by a search that ends with a proof.

The cuts follow from the depths (`schedulers.scopes.scoping`), so what is searched is a depth for every tensor, task by task. A
*label* is one way to come to a task: what the open scope of each depth holds, and the most that any scope of each depth has
held. Of labels with the same future, which is how deep the living tensors keep scopes open, and until when, only those count
that no other one matches or beats in every number; and only those that can still beat what is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.program.lifetimes import Ints
from schedulers.scopes.scoping import NUM_DEPTHS, Four, Goal, Lifetimes, Scoping

MAX_LABELS = 30_000
"""Labels at one task with which the search gives up: a few seconds, and some tens of megabytes."""

Future = tuple[int, ...]
"""Per task still to come the depth of the deepest tensor that lives on there, 0 (as for the root) if there is none."""


@dataclass(frozen=True, slots=True)
class _Label:
    """Units that the open scopes hold, the most so far, and the depths of the tensors so far, in order of their first task."""

    current: Four
    peak: Four
    depths: tuple[int, ...]


def prove(
    lives: Lifetimes, goal: Goal, known: Scoping, bound: int = 0, stop: Callable[[], bool] = lambda: False
) -> tuple[Scoping, bool]:
    """The best scoping, which is `known` if none is better, and whether that is proved; for programs without dynamic loops.

    No value is below `bound`. What is to be beaten rises from there in steps that double: the fewer values are allowed, the
    fewer labels there are.
    """
    if lives.loops:
        return known, False
    order = np.lexsort((-lives.size, lives.first))
    most, step = goal.value(known.need), 1
    while bound < most:
        limit = min(most, bound + step)
        labels = _walk(lives, order, goal, limit, stop)
        if labels is None:
            return known, False
        if labels:
            depth = np.zeros(len(order), np.int64)
            depth[order] = min(labels, key=lambda label: goal.value(label.peak)).depths
            return Scoping.of(lives, depth), True
        bound, step = limit, 2 * step
    return known, True


def _walk(lives: Lifetimes, order: Ints, goal: Goal, limit: int, stop: Callable[[], bool]) -> list[_Label] | None:
    """What is left after the last task of ways to values below `limit`, None if the search gave up; depths are in `order`."""
    born: list[list[tuple[int, int]]] = [[] for _ in range(lives.num_tasks)]
    for first, end, size in zip(*(a[order].tolist() for a in (lives.first, lives.end, lives.size)), strict=True):
        born[first].append((end, size))
    zero = (0, 0, 0, 0)
    states: dict[Future, list[_Label]] = {(0,) * lives.num_tasks: [_Label(zero, zero, ())]}
    for task, tensors in enumerate(born):
        states = _cut(states)
        for end, size in tensors:
            states = _born(states, end - task - 1, size, goal, limit)
        if stop() or sum(map(len, states.values())) > MAX_LABELS:
            return None
    return [label for group in states.values() for label in group]


def _cut(states: dict[Future, list[_Label]]) -> dict[Future, list[_Label]]:
    """The cut before the next task: scopes deeper than any tensor that lives on end."""
    found: dict[Future, list[_Label]] = {}
    for (deepest, *later), labels in states.items():
        kept = deepest + 1
        ended = (0,) * (NUM_DEPTHS - kept)
        group = [_Label((*label.current[:kept], *ended), label.peak, label.depths) for label in labels]  # type: ignore[arg-type]
        found.setdefault(tuple(later), []).extend(group)
    return {future: _unbeaten(labels) for future, labels in found.items()}


def _born(states: dict[Future, list[_Label]], num_later: int, size: int, goal: Goal, limit: int) -> dict[Future, list[_Label]]:
    """A tensor that is alive in `num_later` tasks after this one gets every depth with which the limit can still be beaten."""
    found: dict[Future, list[_Label]] = {}
    for future, labels in states.items():
        for depth in range(NUM_DEPTHS):
            after = (*(max(depth, other) for other in future[:num_later]), *future[num_later:])
            for label in labels:
                current, peak = list(label.current), list(label.peak)
                current[depth] += size
                peak[depth] = max(peak[depth], current[depth])
                if goal.value(tuple(peak)) < limit:  # type: ignore[arg-type]
                    new = _Label(tuple(current), tuple(peak), (*label.depths, depth))  # type: ignore[arg-type]
                    found.setdefault(after, []).append(new)
    return {future: _unbeaten(labels) for future, labels in found.items()}


def _unbeaten(labels: list[_Label]) -> list[_Label]:
    """Labels that no other one matches or beats in every number."""
    if len(labels) < 2:
        return labels
    numbers = np.array([(*label.peak, *label.current) for label in labels])
    order = np.lexsort((*numbers.T, numbers.sum(1)))  # what beats another comes before it
    kept = np.empty_like(numbers)
    found: list[_Label] = []
    for k in order.tolist():
        if not (kept[: len(found)] <= numbers[k]).all(1).any():
            kept[len(found)] = numbers[k]
            found.append(labels[k])
    return found
