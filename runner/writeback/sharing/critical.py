"""What a run with shared bytes waits for: which tensors begin late because others lay in their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from runner.rings.devices.timed_lives import Times, Work

Pairs = dict[tuple[int, int], float]
"""By two locals, the earlier first, how much the later waited for the bytes of the earlier."""

_EPSILON = 1e-6


def waits_for_bytes(work: Work, before: Sequence[Sequence[int]], run: Times) -> tuple[Pairs, Pairs]:
    """Two measures of waiting in a run, `before` being per local those that lay in its bytes.

    The first are microseconds by which tasks on one longest chain might have begun sooner for all that they depend on; the
    second the same of all tasks, times their work: cores that have nothing to do for a while are missed later, though no task
    on the longest chain waited itself.
    """
    if not len(run.ends) or not np.isfinite(run.makespan_us):
        return {}, {}
    waits = _Waits(work, before, run)
    return waits.on_longest_chain(int(run.ends.argmax())), waits.of_all()


class _Waits:
    def __init__(self, work: Work, before: Sequence[Sequence[int]], run: Times) -> None:
        self.work, self.before = work, before
        self.starts, self.ends = run.starts.tolist(), run.ends.tolist()
        self.submitted = list(accumulate(work.costs_us))
        self.last: dict[int, int] = {}  # who touched a local last
        for task, tensors in enumerate(work.touches):
            for tensor in tensors:
                if tensor not in self.last or self.ends[task] >= self.ends[self.last[tensor]]:
                    self.last[tensor] = task

    def data(self, task: int) -> tuple[float, int]:
        """When a task has its data, and from whom it came last."""
        return max(((self.ends[wait], wait) for wait in self.work.waits[task]), default=(0.0, -1))

    def memory(self, task: int) -> tuple[float, int, tuple[int, int]]:
        """When a task has its bytes, who had them last, and the two tensors."""
        pairs = [(old, new) for new in self.work.touches[task] for old in self.before[new] if old in self.last]
        known = [(self.ends[self.last[pair[0]]], self.last[pair[0]], pair) for pair in pairs]
        return max((one for one in known if one[1] != task), default=(0.0, -1, (-1, -1)))

    def of_all(self) -> Pairs:
        """Of every task what it waited for, times its work."""
        found: Pairs = {}
        for task, core in enumerate(self.work.core):
            ready = max(self.data(task)[0], self.submitted[task])
            got, _, pair = self.memory(task)
            if core is not None and got > ready + _EPSILON:
                found[pair] = found.get(pair, 0.0) + (got - ready) * self.work.task_us[task] * self.work.blocks[task]
        return found

    def on_longest_chain(self, task: int) -> Pairs:
        """What waited from a task backwards, until one that began with the run."""
        order = np.argsort(self.ends, kind="stable")
        ends, found = np.array(self.ends)[order], Pairs()
        for _ in self.ends:
            if task < 0 or self.starts[task] <= 0:
                break
            start, data, memory = self.starts[task], self.data(task), self.memory(task)
            if memory[0] >= start - _EPSILON and memory[0] > data[0] + _EPSILON:
                found[memory[2]] = found.get(memory[2], 0.0) + start - max(data[0], self.submitted[task])
                task = memory[1]
            elif data[0] >= start - _EPSILON:
                task = data[1]
            else:
                low, high = np.searchsorted(ends, (start - _EPSILON, start + _EPSILON))
                task = self._worker(order[low:high].tolist(), start, task)
        return found

    def _worker(self, ended: Sequence[int], start: float, task: int) -> int:
        """Who gave its worker to a task; else whom the submitting thread waited for last before it came to the task."""
        for other in ended:
            if self.work.core[other] is not None and self.starts[other] < start - _EPSILON:
                return other
        while task >= 0 and task not in self.work.reads:
            task -= 1
        return max(self.work.reads[task], key=self.ends.__getitem__, default=-1) if task >= 0 else -1
