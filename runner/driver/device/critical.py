"""This module collects what a capture tells of a run's course, for `ringgraph critical-path`."""

from __future__ import annotations

from heapq import heapify, heappop
from pathlib import Path
from statistics import median

from runner.base.errors import ScheduleError
from runner.recorded.captures.capture import require_edges
from runner.recorded.edges import schedule_of
from runner.recorded.opening import read_recording
from runner.recorded.recording import Recording
from runner.report.device.critical_path import CriticalPath, Observed, critical_path
from runner.rings.parts.records import Deadlock
from runner.rings.replay import Driver


def critical_path_of(path: Path) -> CriticalPath:
    """The chains of a captured run; raises ScheduleError for a recording without times or edges."""
    recording = read_recording(path)
    require_edges(recording)
    if not recording.facts.get("start_us"):
        raise ScheduleError(
            f"'{path}' tells no times of any task, so nothing says what a run of it waited for",
            hint="give a capture's folder with chip_swimlane_records.json; 'ringgraph schedule --swimlane' writes one",
        )
    return critical_path(observed(recording))


def observed(recording: Recording) -> Observed:
    """A recording's run as its capture tells it."""
    facts, submissions = recording.facts, recording.submissions
    start_us = facts["start_us"]
    waits: dict[int, tuple[int, ...]] = {}
    behind: dict[int, frozenset[int]] = {}  # of what has no times: the tasks that it waits for
    for index, submission in enumerate(schedule_of(recording).submissions):
        found = frozenset().union(*(frozenset((wait,)) if wait in start_us else behind[wait] for wait in submission.waits))
        if index in start_us:
            waits[index] = tuple(sorted(found))
        else:
            behind[index] = found
    begun = facts["submit_start_us"]
    submits = [(k, begun[k], begun[k] + (submissions[k].submit_us or 0.0)) for k in sorted(begun)]
    names = {task: submissions[task].name for task in start_us}
    return Observed(names, start_us, facts["end_us"], waits, facts["slices"], submits, waited_for_room(recording, submits))


def waited_for_room(recording: Recording, submits: list[tuple[int, float, float]]) -> dict[int, int | None]:
    """Submissions that found a ring full and took longer than usual, each with the task whose end made room."""
    if not submits:
        return {}
    usual_us = median(end - start for _, start, end in submits)
    run = _Filling(recording, {submission: start for submission, start, _ in submits})
    run.run()
    return {k: run.waited[k] for k, start, end in submits if k in run.waited and end - start > usual_us}


class _Filling(Driver):
    """A replay in which tasks complete at their recorded times, and submissions come at theirs."""

    model = "as recorded"

    def __init__(self, recording: Recording, begun_us: dict[int, float]) -> None:
        super().__init__(schedule_of(recording), recording.sizes)
        self.begun_us = begun_us
        self.ends = [(end, task) for task, end in recording.facts["end_us"].items()]
        heapify(self.ends)
        self.timeless = {k for k, s in enumerate(recording.submissions) if not s.is_alloc} - set(recording.facts["end_us"])
        self.waited: dict[int, int | None] = {}

    def submit(self, submission: int) -> Deadlock | None:
        while self.ends and self.ends[0][0] <= self.begun_us.get(submission, 0.0):
            self.complete_next()
        return super().submit(submission)

    def submitted(self, submission: int) -> None:
        if submission in self.timeless:  # a dummy, or a task whose row was lost
            self.heap.complete(submission)

    def wait(self, submission: int) -> Deadlock | None:
        if not self.ends:
            return self.heap.stuck(submission)
        self.waited[submission] = self.complete_next()
        return None

    def complete_next(self) -> int:
        _, task = heappop(self.ends)
        self.heap.complete(task)
        return task

    def read(self, waits: tuple[int, ...]) -> None:
        pass
