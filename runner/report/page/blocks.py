"""This module tells of every block of a schedule how long it lives and what pins it: in submissions, and in a timed run.

A block can be reclaimed when its scope has closed and the last task that uses it has completed; it *is* reclaimed when all older
blocks of its ring are, as a ring frees in order. What keeps it longest is what pins it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from runner.report.device.timeline import Timeline
from runner.rings.schedule import NUM_RINGS, Begin, End, Schedule, Submit
from runner.rings.steps import StepWalk
from runner.rings.timed import Timing

Ints = NDArray[np.int64]
Numbers = TypeVar("Numbers", Ints, NDArray[np.float64])


@dataclass(frozen=True)
class Blocks:
    """Per submission; places in the order of submission count from 0, and an end is the number of submissions made by then.

    scope      the scope that it belongs to
    first_use  the first submission that uses the block: itself, if it has a task
    last_use   the last submission that uses it
    end        when it can be reclaimed
    pin        what ends it: the last user, or -1 for its scope
    gone       when it is reclaimed; `behind` is the older block that it waits for, -1 for none
    closes     per scope the number of submissions made when it closes; `opens` likewise
    """

    scope: Ints
    first_use: Ints
    last_use: Ints
    end: Ints
    pin: Ints
    gone: Ints
    behind: Ints
    opens: Ints
    closes: Ints


def blocks_of(schedule: Schedule) -> Blocks:
    """The lives of all blocks of a schedule as tasks complete when they are submitted."""
    num, num_scopes = len(schedule.submissions), len(schedule.scopes)
    own = np.arange(num)
    scope, opens, closes = np.zeros(num, np.int64), np.zeros(num_scopes, np.int64), np.full(num_scopes, num, np.int64)
    first, last = np.full(num, num, np.int64), own.copy()
    submitted = 0
    walk = StepWalk(schedule)
    for step in walk:
        if isinstance(step, Submit):
            scope[step.submission] = walk.scopes[-1]
            submitted += 1
        elif isinstance(step, End):
            closes[step.scope] = submitted
        elif isinstance(step, Begin):
            opens[step.scope] = submitted
    for i, item in enumerate(schedule.submissions):
        for held in item.holds:
            last[held] = i
            first[held] = min(first[held], i)
    has_task = np.array([item.core is not None for item in schedule.submissions], bool)
    first = np.where(has_task | (first == num), own, first)
    end = np.maximum(last + 1, closes[scope])
    pin = np.where(last + 1 > closes[scope], last, -1)
    gone, behind = in_order(schedule, scope, end)
    return Blocks(scope, first, last, end, pin, gone, behind, opens, closes)


def in_order(schedule: Schedule, scope: Ints, end: Numbers) -> tuple[Numbers, Ints]:
    """When blocks are reclaimed on rings that free in order, and the older block that each waits for (-1: none)."""
    rings = np.array([info.ring for info in schedule.scopes])[scope] if len(scope) else scope
    gone, behind = end.copy(), np.full(len(end), -1, np.int64)
    for ring in range(NUM_RINGS):
        at = np.flatnonzero(rings == ring)
        if len(at):
            most = np.maximum.accumulate(end[at])
            is_new = np.append(True, end[at][1:] > most[:-1])
            holder = at[np.maximum.accumulate(np.where(is_new, np.arange(len(at)), 0))]
            gone[at] = most
            behind[at] = np.where(most > end[at], holder, -1)
    return gone, behind


@dataclass(frozen=True)
class Times:
    """Of a timed run, in units of 0.1 us. Per submission: when it was made, when its task began and ended, when its block went.

    `opens` and `closes` are per scope. `stalls` are waits of the submitting thread: begin, end, the submission it came to next,
    and whether it waited for room (else for a value).
    """

    submit: Ints
    start: Ints
    finish: Ints
    gone: Ints
    opens: Ints
    closes: Ints
    stalls: Sequence[tuple[int, int, int, bool]]


def times_of(schedule: Schedule, blocks: Blocks, timing: Timing, timeline: Timeline) -> Times:
    """The times of a timed replay that ran to its end."""
    num = len(schedule.submissions)
    start, finish, submit = np.full(num, np.inf), np.zeros(num), np.zeros(num)
    for run in timeline.runs:
        at, end = run.submission, run.end_us
        if run.start_us < start[at]:
            start[at] = run.start_us
        if end > finish[at]:
            finish[at] = end
    stalls, before = [], 0.0
    for made in timeline.submits:
        submit[made.submission] = made.end_us
        if made.start_us > before + 1e-6:
            stalls.append((before, made.start_us, made.submission, False))
        cost = timing.cost_us(made.submission)
        if made.end_us - made.start_us > cost + 1e-6:
            stalls.append((made.start_us, made.end_us - cost, made.submission, True))
        before = made.end_us
    start = np.where(np.isinf(start), submit, start)
    finish = np.asarray(np.maximum(finish, submit), np.float64)
    opens, closes = np.zeros(len(schedule.scopes)), np.zeros(len(schedule.scopes))
    for scope in timeline.scopes:
        opens[scope.scope], closes[scope.scope] = scope.start_us, scope.end_us
    end = np.asarray(np.maximum(finish, closes[blocks.scope]), np.float64)
    for i, item in enumerate(schedule.submissions):
        for held in item.holds:
            if finish[i] > end[held]:
                end[held] = finish[i]
    gone, _ = in_order(schedule, blocks.scope, end)
    rows = [(round(10 * a), round(10 * b), at, for_room) for a, b, at, for_room in stalls]
    return Times(_ticks(submit), _ticks(start), _ticks(finish), _ticks(gone), _ticks(opens), _ticks(closes), rows)


def _ticks(times_us: NDArray[np.float64]) -> Ints:
    return np.round(10 * times_us).astype(np.int64)
