"""The one walk over a schedule's steps, against a recursion over the random programs that the schedules are built from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_schedules import build, programs

from runner.recorded.programs import Builder
from runner.rings.schedule import Begin, End, Repeat, Schedule, ScopeInfo, Submission, Submit
from runner.rings.steps import StepWalk, submission_rings


class Recursion:
    """What a walk should find: per step its kind, number, open scopes and open loops with their trips; and what is left out.

    Scopes, submissions and loops are numbered in the order in which they are written, whether they run or not. `keep` gives, by
    the number of a loop, how many of its trips run.
    """

    def __init__(self, items, keep=lambda number, trips: trips):
        self.keep = keep
        self.found = []
        self.counts = {"scope": 0, "submit": 0, "repeat": 0}
        self.scope(items, (), (), True)

    def number(self, kind):
        self.counts[kind] += 1
        return self.counts[kind] - 1

    def scope(self, items, scopes, loops, runs):
        scopes = (*scopes, self.number("scope"))
        self.note("begin", scopes[-1], scopes, loops, runs)
        self.body(items, scopes, loops, runs)
        self.note("end", scopes[-1], scopes, loops, runs)

    def body(self, items, scopes, loops, runs):
        for kind, *rest in items:
            if kind in ("alloc", "task"):
                self.note("submit", self.number("submit"), scopes, loops, runs)
            elif kind == "scope":
                self.scope(rest[0], scopes, loops, runs)
            elif kind == "loop":
                for _ in range(rest[0]):
                    self.body(rest[1], scopes, loops, runs)
            else:
                self.repeat(*rest, scopes, loops, runs)

    def repeat(self, trips, items, scopes, loops, runs):
        number = self.number("repeat")
        self.note("repeat", number, scopes, loops, runs)
        keep = self.keep(number, trips)
        for trip in range(keep):
            self.body(items, scopes, (*loops, (number, trip)), runs)
        first = self.counts["submit"]
        for trip in range(keep, trips):
            self.body(items, scopes, (*loops, (number, trip)), False)
        if runs and self.counts["submit"] > first:
            self.found.append(("left out", first, self.counts["submit"]))

    def note(self, kind, number, scopes, loops, runs):
        if runs:
            self.found.append((kind, number, scopes, loops))


def walked(schedule, keep=None):
    """The same from a `StepWalk`."""
    number_of = {}  # of a loop, by the index of its step
    for at, step in enumerate(schedule.steps):
        if isinstance(step, Repeat):
            number_of[at] = len(number_of)
    by_repeat = {id(schedule.steps[at]): number for at, number in number_of.items()}

    def num_trips(repeat):
        return keep(by_repeat[id(repeat)], len(repeat.starts))

    found = []
    walk = StepWalk(schedule, num_trips if keep else None, lambda first, end: found.append(("left out", first, end)))
    for step in walk:
        if isinstance(step, Begin | End):
            kind, number = type(step).__name__.lower(), step.scope
        elif isinstance(step, Submit):
            kind, number = "submit", step.submission
        else:
            kind, number = "repeat", by_repeat[id(step)]
        assert walk.rings == [min(depth, 3) for depth in range(len(walk.scopes))]
        found.append((kind, number, tuple(walk.scopes), tuple((number_of[loop.at], loop.trip) for loop in walk.loops)))
    assert not walk.scopes and not walk.rings and not walk.loops
    return found


@given(programs(dynamic=True))
def test_every_trip(items):
    schedule = build(items)
    assert walked(schedule) == Recursion(items).found
    assert [number for kind, number, *_ in walked(schedule) if kind == "submit"] == list(range(len(schedule.submissions)))


def in_detail(walk, steps):
    """Each step, a range of submissions one by one, and what is open around it; loops by the order in which they were opened."""
    found, opened = [], []
    for step in steps:
        opened += [loop for loop in walk.loops if not any(loop is known for known in opened)]
        loops = [(next(k for k, known in enumerate(opened) if known is loop), loop.trip, loop.num_trips) for loop in walk.loops]
        whats = map(Submit, step) if isinstance(step, range) else [("repeat", step.waits) if isinstance(step, Repeat) else step]
        found += [(what, tuple(walk.scopes), tuple(walk.rings), loops) for what in whats]
    return found


@settings(max_examples=30)
@given(programs(dynamic=True))
def test_runs_of_submissions(items):
    schedule = build(items)
    walk, other = StepWalk(schedule), StepWalk(schedule)
    assert in_detail(walk, walk.runs()) == in_detail(other, other)
    runs = list(StepWalk(schedule).runs())
    ends = {at for step in schedule.steps if isinstance(step, Repeat) for at in (*step.starts, step.end)}
    numbers = {at: step.submission for at, step in enumerate(schedule.steps) if isinstance(step, Submit)}
    cut = {number for at, number in numbers.items() if at - 1 not in numbers or at in ends}
    assert {run.start for run in runs if isinstance(run, range)} == cut  # as long as they can be


@given(programs(dynamic=True), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_some_trips(items, picks):
    def keep(number, trips):
        return picks[number % len(picks)] % (trips + 1)

    assert walked(build(items), keep) == Recursion(items, keep).found


@given(programs(dynamic=True))
def test_rings_of_submissions(items):
    expected = [(number, min(len(scopes), 4) - 1) for kind, number, scopes, *_ in Recursion(items).found if kind == "submit"]
    assert list(submission_rings(build(items))) == expected


def test_trips_are_chosen_after_the_caller_has_seen_the_loop():
    build = Builder()
    build.begin("root")
    build.steps.append(Repeat((), None, (2, 3), 4))
    build.submit(Submission("first"))
    build.submit(Submission("second"))
    build.end()
    told = []
    walk = StepWalk(build.schedule("s", ""), lambda repeat: told.append("asked") or 1, lambda *out: told.append(out))
    for step in walk:
        told.append(type(step).__name__)
    assert told == ["Begin", "Repeat", "asked", "Submit", (1, 2), "End"]


@pytest.mark.parametrize("steps", [(End(0),), (Submit(0),), (Begin(0), End(0), End(0)), (Begin(0),)])
def test_wrong_scopes_do_not_stop_the_walk(steps):
    schedule = Schedule("wrong", (Submission("s"),), (ScopeInfo("root", 0),), steps)
    assert tuple(StepWalk(schedule)) == steps
