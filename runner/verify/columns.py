"""This module lays what the verifier looks at out as arrays, so that it need not look at half a million submissions one by one.

Rows of submissions are in order; a pair of numbers (owner, value) is looked up as the key `owner * num + value`. Numbers of
submissions and tensors take 4 bytes where there are millions, keys 8: `num` in a key is an `np.int64`, which makes it one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from runner.program.lifetimes import Ints, Rows
from runner.program.program import Program, Task
from runner.rings.schedule import Begin, End, Repeat, Schedule, Slot, Submit

Bools = NDArray[np.bool_]

TOGETHER = 1 << 12
"""Rows that are looked at together: enough to be fast, and so few that what they are made of stays in the processor's cache."""


class Pairs:
    """A set of pairs of numbers from 0 on, the second ones below `num`."""

    def __init__(self, rows: Rows, num: int) -> None:
        """Every row's number with each of its values."""
        self.num = np.int64(num)
        self.keys = rows.owners().astype(np.int64, copy=False)
        self.keys *= self.num
        self.keys += rows.values
        self.keys.sort()

    def find(self, owners: Ints, values: Ints) -> Ints:
        """The number of each of these pairs in the set, -1 for those that are not there."""
        if not len(self.keys):
            return np.full(len(owners), -1, np.int64)
        wanted = owners * self.num + values
        at = np.searchsorted(self.keys, wanted)
        np.minimum(at, len(self.keys) - 1, out=at)
        return np.where(self.keys[at] == wanted, at, -1)

    def have(self, owners: Ints, values: Ints) -> Bools:
        """Which of these pairs are in the set."""
        return self.find(owners, values) >= 0


def places(rows: Rows, picked: Ints) -> tuple[Ints, Ints]:
    """Where in `rows.values` those of the rows `picked` are, one row behind the other, and for each the index in `picked`."""
    lengths = rows.starts[picked + 1] - rows.starts[picked]
    which = np.repeat(np.arange(len(picked)), lengths)
    return np.arange(len(which)) + (rows.starts[picked + 1] - np.cumsum(lengths))[which], which


@dataclass(frozen=True)
class OpenScopes:
    """The innermost scope of each submission, by number, and how many submissions come before each scope's end.

    `repeats` are the dynamic loops, with the number of submissions before each and the scopes around it.
    """

    of: Ints
    closed_at: Ints
    repeats: list[tuple[int, Repeat, frozenset[int]]]


class Columns:
    """A schedule as arrays. `waits` and `holds` are rows of submissions, `slots` all slots in order, `block` whose each is."""

    def __init__(self, schedule: Schedule) -> None:
        submissions = schedule.submissions
        self.schedule, self.num = schedule, len(submissions)
        self.waits = Rows.of([item.waits for item in submissions], np.int32)
        self.holds = Rows.of([item.holds for item in submissions], np.int32)
        self.slots: list[Slot] = list(chain.from_iterable([item.slots for item in submissions]))
        num_slots = np.fromiter((len(item.slots) for item in submissions), np.int64, self.num)
        self.block = np.repeat(np.arange(self.num, dtype=np.int32), num_slots)

    @cached_property
    def tensor(self) -> Ints:
        """The tensor of each slot."""
        return np.fromiter((slot.tensor for slot in self.slots), np.int32, len(self.slots))

    @cached_property
    def offset(self) -> Ints:
        return np.fromiter((slot.offset for slot in self.slots), np.int64, len(self.slots))

    @cached_property
    def size(self) -> Ints:
        """Bytes of each slot."""
        return np.fromiter((slot.size_bytes for slot in self.slots), np.int64, len(self.slots))

    @cached_property
    def edges(self) -> Pairs:
        """Submissions with those that they wait for."""
        return Pairs(self.waits, self.num)

    @cached_property
    def kept(self) -> Pairs:
        """Submissions with the blocks that they hold."""
        return Pairs(self.holds, self.num)

    @cached_property
    def submitted(self) -> Ints:
        """The submissions of tasks."""
        return np.flatnonzero([item.task is not None for item in self.schedule.submissions]).astype(np.int32)

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks of these submissions."""
        program = self.schedule.program
        assert program is not None
        return [program.tasks[item.task] for item in self.schedule.submissions if item.task is not None]

    @cached_property
    def users(self) -> Rows:
        """Per tensor the submissions that touch it, in order."""
        program = self.schedule.program
        assert program is not None
        pairs: list[Ints] = []  # tensors with their users, as keys
        num = np.int64(self.num)
        for part in in_turn(np.arange(len(self.tasks))):
            tasks = [task for task in self.tasks[part[0] : part[-1] + 1] if task.op is not None]
            by = self.submitted[part][[task.op is not None for task in self.tasks[part[0] : part[-1] + 1]]]
            created, written = [task.creates for task in tasks], [task.writes for task in tasks]
            left = [() if one == other else one for one, other in zip(created, written, strict=True)]
            for touched in ([task.reads for task in tasks], written, left):
                rows = Rows.of(touched)
                pairs.append(rows.values * num + np.repeat(by, np.diff(rows.starts)))
        keys = np.concatenate([*pairs, np.zeros(0, np.int64)])
        pairs.clear()
        keys.sort()
        keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
        starts = np.searchsorted(keys, np.arange(len(program.tensors) + 1) * num)
        keys %= max(1, self.num)
        return Rows(starts, keys.astype(np.int32))

    @cached_property
    def scopes(self) -> OpenScopes:
        """The scopes of a schedule whose structure is sound."""
        of, closed_at = np.zeros(self.num, np.int32), np.zeros(len(self.schedule.scopes), np.int64)
        around: list[int] = []
        repeats: list[tuple[int, Repeat, frozenset[int]]] = []
        others = ((at, step) for at, step in enumerate(self.schedule.steps) if not isinstance(step, Submit))
        done = 0
        for number, (at, step) in enumerate(others):
            submitted = at - number
            if submitted > done:
                of[done:submitted] = around[-1]
                done = submitted
            if isinstance(step, Begin):
                around.append(step.scope)
            elif isinstance(step, End):
                closed_at[around.pop()] = submitted
            elif isinstance(step, Repeat):
                repeats.append((submitted, step, frozenset(around)))
        return OpenScopes(of, closed_at, repeats)

    @cached_property
    def _places(self) -> Ints:
        return np.sort(self.tensor * np.int64(self.num) + self.block)

    def blocks_of(self, tensors: Ints, at: Ints) -> Ints:
        """The submission in whose block each tensor lies when submission `at` is there, -1 where it lies in none yet."""
        if not len(self._places):
            return np.full(len(tensors), -1, np.int64)
        found = np.searchsorted(self._places, tensors * np.int64(self.num) + at, "right") - 1
        known = self._places[found]
        return np.where((found >= 0) & (known // self.num == tensors), known % self.num, -1)


def in_turn(values: Ints) -> Iterator[Ints]:
    """The values, `TOGETHER` at a time."""
    return (values[start : start + TOGETHER] for start in range(0, len(values), TOGETHER))


def least_bytes(program: Program) -> Ints:
    """Bytes of each tensor; many tensors share a spec."""
    specs = [tensor.spec for tensor in program.tensors]
    known = {id(spec): spec for spec in specs}
    size = {key: spec.size_bytes for key, spec in known.items()}
    return np.fromiter((size[id(spec)] for spec in specs), np.int64, len(specs))
