"""This module tells of every tensor in a schedule's blocks where it lies, and who uses it first and last.

A block holds one tensor or several; those of an arena take each other's bytes in turn. So a picture of blocks alone does not say
whose bytes they are when.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runner.program.lifetimes import Ints, lives_of
from runner.program.program import Program
from runner.program.spans import Span, SpanWalk
from runner.rings.lowering.arrays import slot_arrays
from runner.rings.schedule import Schedule


@dataclass(frozen=True)
class Tensors:
    """Per tensor in a block, in the order of submissions and of places in them.

    tensor  its number in the program
    block   the submission whose block holds it
    offset  bytes from the begin of that block to it; `size` its bytes
    first   the first submission whose task touches it, the block's own where none does; `last` the last one
    scope   the scope that the graph creates it in, a number of `scopes`, which are names (the root's is the program's)
    at, by  who touches what: tensor (a place in these arrays) and submission
    """

    tensor: Ints
    block: Ints
    offset: Ints
    size: Ints
    first: Ints
    last: Ints
    scope: Ints
    scopes: tuple[str, ...]
    at: Ints
    by: Ints

    def until(self, finish: Ints) -> Ints:
        """When the last task that touches it has ended; `finish` says that of submissions."""
        found = finish[self.last] if len(self.last) else self.last.copy()
        np.maximum.at(found, self.at, finish[self.by])
        return found

    def count(self, num: int) -> Ints:
        """How many lie in the block of each of `num` submissions."""
        return np.bincount(self.block, minlength=num)


def tensors_of(schedule: Schedule) -> Tensors:
    """The tensors of all blocks; none for a schedule without a program."""
    program, items = schedule.program, schedule.submissions
    tensor, offset, size = slot_arrays([item.slots for item in items])
    if program is None or not len(tensor):
        none = np.zeros(0, np.int64)
        return Tensors(none, none, none, none, none, none, none, (schedule.name,), none, none)
    block = np.repeat(np.arange(len(items)), [len(item.slots) for item in items])
    of_task = np.full(len(program.tasks), -1, np.int64)
    for i, item in enumerate(items):
        if item.task is not None:
            of_task[item.task] = i
    known = np.maximum.accumulate(np.where(of_task >= 0, np.arange(len(of_task)), 0))
    lives = lives_of(program, allocs_touch=False)
    place = np.searchsorted(lives.locals, tensor)
    owners = lives.touches.owners()
    is_touched = np.zeros(len(lives.locals), bool)
    is_touched[lives.touches.values] = True
    used = is_touched[place]
    first = np.where(used, of_task[known[np.minimum(lives.first[place], len(known) - 1)]], block)
    last = np.where(used, of_task[known[lives.end[place] - 1]], block)
    of_local = np.full(len(lives.locals), -1, np.int64)
    of_local[place] = np.arange(len(place))
    at, by = of_local[lives.touches.values], of_task[owners]
    kept = (at >= 0) & (by >= 0)
    scope, scopes = _scopes(program)
    return Tensors(tensor, block, offset, size, first, last, scope[tensor], scopes, at[kept], by[kept])


def _scopes(program: Program) -> tuple[Ints, tuple[str, ...]]:
    """Per tensor the innermost scope around the task that creates it, and the names of scopes."""
    numbers: dict[str, int] = {program.name: 0}
    found = np.zeros(len(program.tensors), np.int64)
    walk = SpanWalk(program.body)
    for item in walk:
        if isinstance(item, Span):
            continue
        creates = program.tasks[item].creates
        if creates:
            span = next((span for span in reversed(walk.around) if span.kind == "scope"), None)
            number = 0 if span is None else numbers.setdefault(span.path, len(numbers))
            for tensor in creates:
                found[tensor] = number
    return found, tuple(numbers)
