"""This module tells which edges the shared bytes of a program need, beside those that it has.

Whoever first touches a tensor waits for the last who touched what lay in its bytes before. All touches of the one then come after
all of the other, however often loops run: a chain through a trip that does not run counts as an edge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.lifetimes import Ints, Lives, lives_of
from runner.program.order import Order, maximal, predecessors, pruned
from runner.program.program import Program, Span
from runner.program.spans import SpanWalk


def places(program: Program, lives: Lives) -> tuple[Ints, Ints]:
    """The locals that lie in arenas, as indices into `lives.locals`, and the offset of every local in units of 1,024 bytes, one
    arena behind the other; 0 for those in none."""
    offsets = np.zeros(len(lives.locals), np.int64)
    bases = accumulate((arena.size_bytes for arena in program.arenas), initial=0)
    tensors = np.array([tensor for arena in program.arenas for tensor in arena.tensors], np.int64)
    places = [base + offset for base, arena in zip(bases, program.arenas, strict=False) for offset in arena.offsets]
    shared = np.searchsorted(lives.locals, tensors)
    offsets[shared] = np.array(places, np.int64) // BLOCK_ALIGN
    return shared, offsets


class Labels:
    """Names of a program's tensors: behind the path of the task that makes it where others are called alike."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.makers = {tensor: task.path for task in program.tasks for tensor in task.creates}
        self.num_called = Counter(tensor.name for tensor in program.tensors)

    def __getitem__(self, tensor: int) -> str:
        name = self.program.tensors[tensor].name
        return name if self.num_called[name] == 1 or tensor not in self.makers else f"{self.makers[tensor]}.{name}"


def certain_waits(program: Program, *, automatic: bool = False, explicit: bool = False) -> list[tuple[int, ...]]:
    """Per task the tasks that the runtime surely makes it wait for.

    In manual scopes nothing is inferred, and nobody waits for what was written there; `automatic` takes no scope for manual,
    `explicit` every one.
    """
    unseen = set() if automatic else set(range(len(program.tasks))) if explicit else _unseen(program.body)
    return [
        task.after
        + (() if task.id in unseen else tuple(wait for wait in task.waits if wait not in unseen) if unseen else task.waits)
        for task in program.tasks
    ]


def _unseen(body: Span) -> set[int]:
    """Tasks in manual scopes."""
    found, walk = set[int](), SpanWalk(body)
    for item in walk:
        if isinstance(item, int) and any(span.mode == "manual" for span in walk.around):
            found.add(item)
    return found


def former_tenants(program: Program, lives: Lives) -> dict[int, list[int]]:
    """For each local whose bytes had tenants before it: those that had any of them last; both as indices into `lives.locals`."""
    shared, offsets = places(program, lives)
    touched = np.zeros(len(lives.locals), bool)
    touched[lives.touches.values] = True
    return predecessors(shared[touched[shared]], lives.first, offsets, lives.size)


def reuse_edges(program: Program, waits: Sequence[Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """Per task, if there are any, the tasks that it has to wait for because bytes are shared; `waits` are its other edges."""
    if not program.arenas:
        return {}
    lives = lives_of(program, allocs_touch=False)
    before = former_tenants(program, lives)
    order, found = Order(), dict[int, tuple[int, ...]]()
    touchers: dict[int, list[int]] = {old: [] for olds in before.values() for old in olds}
    lasts: dict[int, list[int]] = {}
    firsts: dict[int, list[int]] = {}  # local with tenants before it -> its first touches so far
    for task, natural in enumerate(waits):
        known, wanted = order.ancestors(natural), set[int]()
        for tensor in lives.touches.row(task):
            if tensor in touchers:
                touchers[tensor].append(task)
            if tensor not in before or any(order.has(known, earlier, task) for earlier in firsts.get(tensor, ())):
                continue
            firsts.setdefault(tensor, []).append(task)
            for old in before[tensor]:
                if old not in lasts:
                    lasts[old] = maximal(touchers[old], order)
                wanted.update(lasts[old])
        added = pruned(wanted - {task}, known, task, order)
        if added:
            found[task] = tuple(added)
        order.append(known | order.ancestors(added) if added else known)
    return found
