"""When tensors are in use if memory holds nothing up: what sharing is to disturb as little as possible.

These are estimates, by which packings are ranked; nothing that is proved rests on them.
"""

from __future__ import annotations

import numpy as np

from runner.program.lifetimes import Floats, Lives, Rows
from runner.program.spans import host_reads
from schedulers.minpeak.folding import Fold

SUBMIT = 0.025
"""Cost of a submission in task lengths, where nothing better is known: 0.5 against 20 microseconds, what the reference states."""


def in_task_lengths(fold: Fold, lives: Lives, waits: Rows) -> tuple[Floats, Floats]:
    """Per local of the kept tasks the begin and finish of its use if every task took one unit of time and workers abound."""
    start, finish = _run(fold, lives, waits, np.ones(len(waits)), np.full(len(waits), SUBMIT))
    return _spans(lives, start, finish)


def _run(fold: Fold, lives: Lives, waits: Rows, lengths: Floats, costs: Floats) -> tuple[Floats, Floats]:
    """Start and finish of every kept task in an unhindered run, inf and -inf for the others; `costs` are those of submissions."""
    reads: dict[int, list[int]] = {}
    for next_task, trips in host_reads(lives.program.body):
        reads.setdefault(next_task, []).extend(trips.waits)
    starts, length_of, cost_of = waits.starts.tolist(), lengths.tolist(), costs.tolist()
    start, finish, clock = [np.inf] * len(waits), [-np.inf] * len(waits), 0.0
    for task in fold.kept.tolist():
        item = lives.program.tasks[task]
        if task in reads:
            clock = max(clock, max((finish[int(fold.stands_in[w])] for w in reads[task]), default=0.0))
        clock += cost_of[task]
        row = fold.stands_in[waits.values[starts[task] : starts[task + 1]]].tolist()
        start[task] = max(clock, max((finish[w] for w in row), default=0.0))
        finish[task] = start[task] + length_of[task] * (item.op is not None)
    return np.array(start), np.array(finish)


def _spans(lives: Lives, start: Floats, finish: Floats) -> tuple[Floats, Floats]:
    """Per local the start of its first and the finish of its last touch."""
    begin, last = np.full(len(lives.locals), np.inf), np.full(len(lives.locals), -np.inf)
    np.minimum.at(begin, lives.touches.values, start[lives.touches.owners()])
    np.maximum.at(last, lives.touches.values, finish[lives.touches.owners()])
    return begin, last
