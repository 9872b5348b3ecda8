"""This module writes `chip_swimlane_records.json`, level 4: when tasks ran on which core, and when they were submitted.

The clock of the file has a tick a nanosecond. Source: the public `simpler` runtime's swimlane export and its converters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.report.device.timeline import Timeline

CLOCK_HZ = 1_000_000_000
ORIGIN_TICKS = 1000
"""When the run begins: the converters take a time of 0 for none."""

LEVEL = 4


def swimlane_json(ids: Sequence[int | None], timeline: Timeline) -> dict[str, Any]:
    """The object of `chip_swimlane_records.json`; `ids` are those of `task_ids`."""
    dispatched = [0] * len(timeline.cores)
    cores, control = [], []
    for run in timeline.runs:
        start, end = ticks(run.start_us), ticks(run.end_us)
        for core in run.cores:
            cores.append([core, ids[run.submission], dispatched[core], start, end, 0])
            control.append([core, dispatched[core], start, end])
            dispatched[core] += 1
    phases = [
        {"submit_idx": number, "task_id": ids[s.submission], "start_cycles": ticks(s.start_us), "end_cycles": ticks(s.end_us)}
        for number, s in enumerate(timeline.submits)
    ]
    return {
        "chip_swimlane_level": LEVEL,
        "metadata": {
            "clock_freq_hz": CLOCK_HZ,
            "num_cores": len(timeline.cores),
            "core_types": [*timeline.cores],
            "core_to_thread": [0] * len(timeline.cores),
        },
        "aicore_tasks": cores,
        "aicpu_tasks": control,
        "aicpu_scheduler_phases": [[]],
        "aicpu_orchestrator_phases": [phases],
    }


def ticks(time_us: float) -> int:
    """A time of a timeline on the file's clock."""
    return ORIGIN_TICKS + round(time_us * (CLOCK_HZ / 1e6))
