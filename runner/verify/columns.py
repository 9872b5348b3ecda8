"""This module lays what the verifier looks at out as arrays, so that it need not look at half a million submissions one by one.

Rows of submissions are in order; a pair of numbers (owner, value) is looked up as the key `owner * num + value`. Numbers of
submissions and tensors take 4 bytes where there are millions, keys 8: `num` in a key is an `np.int64`, which makes it one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runner.program.lifetimes import Ints, Rows, TaskColumns, task_columns
from runner.rings.lowering.arrays import holds_of, slot_arrays, waits_of
from runner.rings.schedule import Begin, End, Repeat, Schedule, Step, Submit

Bools = NDArray[np.bool_]

TOGETHER = 1 << 12
"""Rows that are looked at together: enough to be fast, and so few that what they are made of stays in the processor's cache."""


class Pairs:
    """A set of pairs of numbers from 0 on, the second ones below `num`."""

    def __init__(self, keys: Ints, num: int) -> None:
        """Pairs by their keys, in any order, which is lost."""
        self.num = np.int64(num)
        keys.sort()
        is_first = keys[1:] != keys[:-1]
        self.keys = keys if is_first.all() else keys[np.append(True, is_first)]

    @classmethod
    def of(cls, owners: Ints, values: Ints, num: int) -> Pairs:
        """Each of the owners with the value at its place."""
        keys = owners.astype(np.int64)
        keys *= np.int64(num)
        keys += values
        return cls(keys, num)

    def rows(self, num_owners: int) -> Rows:
        """Per owner its values, ascending."""
        starts = np.searchsorted(self.keys, np.arange(num_owners + 1) * self.num)
        values = np.remainder(self.keys, max(1, self.num), out=np.zeros(len(self.keys), np.int32), casting="unsafe")
        return Rows(starts, values)

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
    return ranges(rows.starts[picked], rows.starts[picked + 1])


def ranges(starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """The numbers from each start to before its end, one range behind the other, and of each the range that it is of."""
    lengths = ends - starts
    which = np.repeat(np.arange(len(starts), dtype=np.int32), lengths)
    at = np.repeat((ends - np.cumsum(lengths)).astype(np.int32), lengths)
    at += np.arange(len(which), dtype=np.int32)
    return at, which


@dataclass(frozen=True)
class OpenScopes:
    """The innermost scope of each submission, by number, and how many submissions come before each scope's end.

    `repeats` are the dynamic loops, with the number of submissions before each and the scopes around it.
    """

    of: Ints
    closed_at: Ints
    repeats: list[tuple[int, Repeat, frozenset[int]]]


class Columns:
    """A schedule as arrays. `waits` and `holds` are rows of submissions.

    Of all slots in order, `tensor` is what each is of, `offset` and `size` its bytes, `block` the submission whose it is.
    """

    def __init__(self, schedule: Schedule) -> None:
        submissions = schedule.submissions
        self.schedule, self.num = schedule, len(submissions)
        self.waits, self.holds = waits_of(schedule), holds_of(schedule)
        blocks = [item.slots for item in submissions]
        self.tensor, self.offset, self.size = slot_arrays(blocks)
        self.block = np.repeat(np.arange(self.num, dtype=np.int32), np.fromiter(map(len, blocks), np.int64, self.num))

    @cached_property
    def edges(self) -> Pairs:
        """Submissions with those that they wait for."""
        return Pairs.of(self.waits.owners(), self.waits.values, self.num)

    @cached_property
    def kept(self) -> Pairs:
        """Submissions with the blocks that they hold."""
        return Pairs.of(self.holds.owners(), self.holds.values, self.num)

    @cached_property
    def _task(self) -> Ints:
        """The task of each submission, -1 of others."""
        tasks = [item.task for item in self.schedule.submissions]
        return np.fromiter((-1 if task is None else task for task in tasks), np.int32, self.num)

    @cached_property
    def submitted(self) -> Ints:
        """The submissions of tasks."""
        return np.flatnonzero(self._task >= 0).astype(np.int32)

    @cached_property
    def tasks(self) -> Ints:
        """The tasks of these submissions."""
        return self._task[self.submitted]

    @cached_property
    def others(self) -> list[tuple[int, int, Step]]:
        """The steps that submit nothing: the index of each, how many submissions come before it, and the step."""
        steps = ((at, step) for at, step in enumerate(self.schedule.steps) if not isinstance(step, Submit))
        return [(at, at - number, step) for number, (at, step) in enumerate(steps)]

    @cached_property
    def program(self) -> TaskColumns:
        """What the program's tasks touch."""
        assert self.schedule.program is not None
        return task_columns(self.schedule.program)

    def per_submission(self, rows: Rows) -> tuple[Ints, Ints]:
        """Where in `rows.values` those of tasks that are submitted are, in order, and the submission of each."""
        at, which = places(rows, self.tasks)
        return at, self.submitted[which]

    @cached_property
    def users(self) -> Rows:
        """Per tensor the submissions that touch it, in order."""
        program = self.schedule.program
        assert program is not None
        touched = self.program.tensors(lambda task: () if task.op is None else {*task.reads, *task.writes, *task.creates})
        at, by = self.per_submission(touched)
        return Pairs.of(touched.values[at], by, self.num).rows(len(program.tensors))

    @cached_property
    def scopes(self) -> OpenScopes:
        """The scopes of a schedule whose structure is sound."""
        of, closed_at = np.zeros(self.num, np.int32), np.zeros(len(self.schedule.scopes), np.int64)
        around: list[int] = []
        repeats: list[tuple[int, Repeat, frozenset[int]]] = []
        done = 0
        for _, submitted, step in self.others:
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
