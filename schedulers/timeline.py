"""When tasks would run with memory for everything and a worker for every block: what sharing is to disturb as little as
possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schedulers.lifetimes import Floats, Lives, Rows, host_reads


@dataclass(frozen=True)
class Timeline:
    """Start and finish of every task, in microseconds."""

    start: Floats
    finish: Floats

    def spans(self, lives: Lives) -> tuple[Floats, Floats]:
        """Per local the start of its first and the finish of its last touch."""
        at = lives.touches.owners()
        begin = np.full(len(lives.locals), np.inf)
        finish = np.full(len(lives.locals), -np.inf)
        np.minimum.at(begin, lives.touches.values, self.start[at])
        np.maximum.at(finish, lives.touches.values, self.finish[at])
        return begin, finish


def timeline(lives: Lives, waits: Rows, task_us: Sequence[float], submit_us: float) -> Timeline:
    """The earliest times under the program's own edges, one submission after the other, host reads blocking."""
    reads: dict[int, list[int]] = {}
    for next_task, trips in host_reads(lives.program.body):
        reads.setdefault(next_task, []).extend(trips.waits)
    starts, values = waits.starts.tolist(), waits.values.tolist()
    start, finish = [0.0] * len(waits), [0.0] * len(waits)
    clock = 0.0
    for task in range(len(waits)):
        if task in reads:
            clock = max(clock, max((finish[w] for w in reads[task]), default=0.0))
        clock += submit_us
        begin = clock
        for wait in values[starts[task] : starts[task + 1]]:
            if finish[wait] > begin:
                begin = finish[wait]
        start[task] = begin
        finish[task] = begin + task_us[task]
    return Timeline(np.array(start), np.array(finish))
