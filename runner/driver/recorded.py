"""Recorded programs wherever a command takes a graph: opened, planned with the times and capacities that they tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import ConfigError, Diagnostic
from runner.program.program import Program
from runner.recorded.captures.capture import require_edges
from runner.recorded.opening import is_recorded as is_recorded
from runner.recorded.opening import read_recording
from runner.recorded.program import program_of_recording
from runner.recorded.recording import Recording
from runner.rings.defaults import DEVICE
from runner.rings.devices.devices import device
from runner.rings.devices.durations import measured_us
from runner.rings.schedule import Schedule
from runner.rings.timed import Timing, parse_cores
from runner.verify.verify import races
from schedulers import get_scheduler

if TYPE_CHECKING:
    from runner.driver.driver import Setup

TASK_US = 20.0
"""How long a task takes whose recording tells no duration of any."""

WAITED = 8.0
"""A submission that took so many times the usual waited for room: records do not tell the two apart."""


@dataclass(frozen=True)
class Recorded:
    """A recorded program: what it says, as a program, and as the device ran it (strategy `annotated`)."""

    recording: Recording
    program: Program
    schedule: Schedule

    @property
    def warnings(self) -> list[Diagnostic]:
        """Tasks that the recording itself leaves without an order; a plan may do so too."""
        pairs = sorted(self.program.races)
        if not pairs:
            return []
        first, second = pairs[-1]
        names = self.program.tasks
        told = f"'{names[first].path}' and '{names[second].path}'" if first >= 0 else f"'{names[second].path}'"
        text = (
            f"{len(pairs):,} uses of the same bytes are in no order in the recording itself, such as by {told}; plans keep that"
        )
        return [Diagnostic("V6", text, None)]

    def timing(
        self,
        schedule: Schedule,
        submit_us: float | None = None,
        task_us: float | None = None,
        cores: str | None = None,
        profile: Path | None = None,
        on: str = DEVICE,
    ) -> Timing:
        """Durations, submission costs and cores as recorded, but for what is given; raises ConfigError."""
        facts, device_on = self.recording.facts, device(on)
        counted = facts.get("cores") or {}
        told = (counted["aic"], counted["aiv"]) if counted and all(counted.values()) else (device_on.aic, device_on.aiv)
        workers = told if cores is None else parse_cores(cores)
        usual = device_on.submit_us if facts.get("submit_us") is None else facts["submit_us"]
        block_us = self.durations(schedule, task_us) if profile is None else measured_us(schedule, profile)
        each_us = self.costs(schedule, usual) if submit_us is None else None
        return Timing(usual if submit_us is None else submit_us, block_us, *workers, device_on, each_us)

    def costs(self, schedule: Schedule, usual: float) -> Callable[[int], float]:
        """What submitting each costs, as recorded; the usual where a plan adds it, or where the record holds a wait for room."""
        submissions = self.recording.submissions

        def cost_us(submission: int) -> float:
            task = schedule.submissions[submission].task
            cost = None if task is None else submissions[task].submit_us
            return usual if cost is None or cost > WAITED * usual else cost

        return cost_us

    def durations(self, schedule: Schedule, task_us: float | None) -> Callable[[int], float]:
        """How long one block of a submission's task takes; a dummy takes no time, and what was not measured the mean."""
        submissions = self.recording.submissions
        known = [s.block_us if s.block_us is not None else s.duration_us for s in submissions]
        told = [time for time in known if time is not None]
        usual = sum(told) / len(told) if told else TASK_US

        def block_us(submission: int) -> float:
            task = schedule.submissions[submission].task
            if task is None or submissions[task].kind == "dummy":
                return 0.0
            if task_us is not None:
                return task_us
            time = known[task]
            return usual if time is None else time

        return block_us


def open_recorded(setup: Setup, path: str | Path, routing: str | None = None) -> Recorded:
    """A recorded program for a command; raises ConfigError for options that only a graph can have, ScheduleError."""
    given = {
        "--config": bool(setup.configs),
        "--set": bool(setup.sets),
        "--deploy": setup.deploy is not None,
        "--ep": setup.ep is not None,
        "--routing": routing is not None,
        "--ops": bool(setup.op_files),
    }
    for option, is_given in given.items():
        if is_given:
            raise ConfigError(
                f"{option} has no meaning for '{path}', a recorded program: it has one configuration and the ops of its run",
                hint=f"leave {option} out",
            )
    recording = read_recording(Path(path))
    require_edges(recording)
    program = program_of_recording(recording)
    schedule = get_scheduler("annotated")(program, {})
    program = replace(program, races=races(schedule))
    return Recorded(recording, program, replace(schedule, program=program))
