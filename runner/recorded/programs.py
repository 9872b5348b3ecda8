"""This module turns recorded programs into schedules, and what a replay saw into the format of their recordings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.base.errors import Mark, ScheduleError
from runner.base.reading import read_json
from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.recorded.recording import Recording
from runner.rings.parts.records import ScopeRecord
from runner.rings.replay import Replay, eager, in_steps
from runner.rings.schedule import NUM_RINGS, Begin, End, Schedule, ScopeInfo, Step, Submission, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import submission_rings


@dataclass
class Builder:
    """Collects submissions, scopes and steps; whoever uses it opens and closes scopes in order."""

    submissions: list[Submission] = field(default_factory=list)
    scopes: list[ScopeInfo] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    open: list[int] = field(default_factory=list)

    def begin(self, name: str, mode: str = "auto", mark: Mark | None = None) -> None:
        scope = len(self.scopes)
        self.scopes.append(ScopeInfo(name, len(self.open), mode, mark))
        self.open.append(scope)
        self.steps.append(Begin(scope))

    def end(self) -> None:
        self.steps.append(End(self.open.pop()))

    def submit(self, submission: Submission) -> int:
        self.submissions.append(submission)
        self.steps.append(Submit(len(self.submissions) - 1))
        return len(self.submissions) - 1

    def schedule(self, name: str, strategy: str) -> Schedule:
        return Schedule(name, tuple(self.submissions), tuple(self.scopes), tuple(self.steps), strategy)


def schedule_from_recorded(data: Any, file: str = "program") -> tuple[Schedule, RingSizes]:
    """The schedule and capacities of a recorded program (a parsed JSON object); raises ScheduleError."""
    recording = read_conformance(data, file)
    return schedule_of(recording), recording.sizes


def replay_recording(recording: Recording) -> Replay:
    """A replay under the progress that the recording names: eager, or by its events."""
    schedule = schedule_of(recording)
    if recording.progress == "steps":
        return in_steps(schedule, recording.sizes, recording.completions)
    return eager(schedule, recording.sizes)


def recorded_from_replay(replay: Replay, with_pool: bool = False) -> dict[str, Any]:
    """`outcome`, `records` and `blocks` of a replay in the conformance format.

    `with_pool`: records have pool and tensormap too, as those of programs that say their progress have.
    """
    deadlock = replay.deadlock
    outcome: dict[str, Any] = {"ok": True, "code": 0, "name": "none"}
    if deadlock is not None:
        outcome = {"ok": False, "code": deadlock.code, "name": deadlock.name, "how": deadlock.how, "ring": deadlock.ring}
        if not deadlock.how:  # refused for what it is, before anything waited
            del outcome["how"], outcome["ring"]
    scopes = replay.schedule.scopes
    records = [
        {
            "phase": r.phase,
            "depth": scopes[r.scope].depth,
            "ring": scopes[r.scope].ring,
            "task_window_start": r.slots_tail,
            "task_window_end": r.slots_head,
            "heap_start": r.heap_tail,
            "heap_end": r.heap_head,
        }
        | (_pool_record(r) if with_pool else {})
        for r in replay.records
    ]
    return {"outcome": outcome, "records": records, "blocks": list(_blocks(replay))}


def _pool_record(record: ScopeRecord) -> dict[str, int]:
    """The runtime's pool counters begin at 1."""
    return {"dep_pool_start": record.pool_tail + 1, "dep_pool_end": record.pool_head + 1, "tensormap": record.tensormap}


def _blocks(replay: Replay) -> Iterable[dict[str, Any]]:
    schedule = replay.schedule
    num_tasks = [0] * NUM_RINGS
    for submission, ring in submission_rings(schedule):
        offset = replay.offsets[submission]
        if offset < 0:
            return
        for slot in schedule.submissions[submission].slots:
            yield {
                "name": slot.name,
                "ring": ring,
                "task": num_tasks[ring],
                "offset": offset + slot.offset,
                "bytes": slot.size_bytes,
            }
        num_tasks[ring] += 1


def load_json(path: Path) -> Any:
    """The parsed file; raises ScheduleError naming file, line and column."""
    return read_json(path, ScheduleError)
