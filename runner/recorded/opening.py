"""This module tells recorded programs by their paths, and opens any of them: captures, the conformance format, traces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import ScheduleError
from runner.base.reading import read_json
from runner.recorded.captures.folder import DEPS, STATS, SWIMLANE, is_capture

if TYPE_CHECKING:
    from runner.recorded.recording import Recording

TRACES = (".jsonl", ".jsonl.xz")


def is_recorded(graph: str | Path) -> bool:
    """Whether a command's argument is a recorded program and no graph: a folder, a JSON file, or a file of JSON lines."""
    path = Path(graph)
    return path.is_dir() or str(path).endswith((".json", *TRACES))


def read_recording(path: Path) -> Recording:
    """The recording of a capture folder, a program in the conformance format, or a trace; raises ScheduleError, ConfigError."""
    from runner.recorded.captures.capture import recording_of_capture
    from runner.recorded.conformance import read_conformance
    from runner.recorded.traces import recording_of_trace

    if path.name in (DEPS, STATS, SWIMLANE) and is_capture(path.parent):
        raise ScheduleError(f"'{path}' is one file of a capture", hint=f"give the folder: {path.parent}")
    if path.is_dir():
        if not is_capture(path):
            raise ScheduleError(f"'{path}' is no capture: it has none of {DEPS}, {STATS} and {SWIMLANE}")
        return recording_of_capture(path)
    if str(path).endswith(TRACES):
        return recording_of_trace(path)
    data = read_json(path, ScheduleError)
    if isinstance(data, dict) and "program" not in data and "rings" in data and "scheduler" in data:
        raise ScheduleError(f"'{path}' is a plan that 'ringgraph schedule --json' wrote, not a recorded program")
    return read_conformance(data, str(path))
