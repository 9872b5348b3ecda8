"""This module owns the copies of tensors that a run takes while their memory still holds them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from runner.execution.engines import Engine
from runner.execution.run import Run


class Capture:
    """Copies tensors when the walk has passed the last submission that touches them."""

    def __init__(self, run: Run, tensors: Iterable[int]):
        self._run = run
        self.copies: dict[int, torch.Tensor] = {}
        wanted = set(tensors)
        program = run.schedule.program
        assert program is not None
        last: dict[int, int] = {}
        for index, submission in enumerate(run.schedule.submissions):
            if submission.task is not None:
                task = program.tasks[submission.task]
                for tensor in wanted.intersection((*task.creates, *task.reads, *task.writes)):
                    last[tensor] = index
        for tensor in wanted:
            if tensor not in last and program.tensors[tensor].is_local:
                last[tensor] = run.binder.home(tensor)[0]
        self._due = sorted(((index, tensor) for tensor, index in last.items()), reverse=True)

    def passed(self, submission: int, engine: Engine) -> None:
        """Everything before `submission` was submitted or skipped."""
        while self._due and self._due[-1][0] < submission:
            engine.drain()
            _, tensor = self._due.pop()
            if self._run.binder.external(tensor) is not None or self._run.places[self._run.binder.home(tensor)[0]] is not None:
                with torch.inference_mode(False):  # a tensor like any other, for whoever gets it
                    self.copies[tensor] = self._run.tensor(tensor).detach().clone()
