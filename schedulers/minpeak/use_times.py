"""When tensors are in use if memory holds nothing up: what sharing is to disturb as little as possible.

These are estimates, by which packings are ranked; nothing that is proved rests on them.
"""

from __future__ import annotations

import numpy as np

from runner.program.lifetimes import Floats, Lives, Rows
from runner.program.spans import read_waits
from schedulers.minpeak.folding import Fold

SUBMIT = 0.025
"""Cost of a submission in task lengths, where nothing better is known: 0.5 against 20 microseconds, what the reference states."""


def in_task_lengths(fold: Fold, lives: Lives, waits: Rows) -> tuple[Floats, Floats]:
    """Per local of the kept tasks the begin and finish of its use if every task took one unit of time and workers abound: the
    start of its first and the finish of its last touch in an unhindered run."""
    reads, starts, clock = read_waits(lives.program.body), waits.starts.tolist(), 0.0
    start, finish = [np.inf] * len(waits), [-np.inf] * len(waits)
    for task in fold.kept.tolist():
        if task in reads:
            clock = max(clock, max((finish[int(fold.stands_in[w])] for w in reads[task]), default=0.0))
        clock += SUBMIT
        row = fold.stands_in[waits.values[starts[task] : starts[task + 1]]].tolist()
        start[task] = max(clock, max(map(finish.__getitem__, row), default=0.0))
        finish[task] = start[task] + (lives.program.tasks[task].op is not None)
    begin, last = np.full(len(lives.locals), np.inf), np.full(len(lives.locals), -np.inf)
    owners = lives.touches.owners()
    np.minimum.at(begin, lives.touches.values, np.array(start)[owners])
    np.maximum.at(last, lives.touches.values, np.array(finish)[owners])
    return begin, last
