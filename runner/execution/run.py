"""This module owns what engines share of one run of a schedule: where blocks lie, calls of tasks, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import get_ident
from time import perf_counter_ns
from typing import Any

import torch

from runner.base.errors import ExecutionError, RinggraphError
from runner.execution.binding import Binder, view_at
from runner.execution.fusions import Unit
from runner.execution.storage import Place, Storage
from runner.execution.tracing import Trace
from runner.program.layouts import contiguous_strides
from runner.rings.schedule import Schedule, Submission

_FEW_ELEMENTS = 4096
"""Elements of a tensor of which all are fetched when one is read."""


@dataclass(frozen=True, slots=True)
class TaskTime:
    """One measured task: what `timed` takes instead of estimated costs."""

    path: str
    op: str
    elapsed_ns: int


class Run:
    """What one run of a schedule holds: bindings, storage, places, and where measurements go."""

    def __init__(
        self,
        schedule: Schedule,
        binder: Binder,
        storage: Storage,
        profile: list[TaskTime] | None,
        on_task: Callable[[str], None] | None,
        trace: Trace | None = None,
    ):
        self.schedule = schedule
        self.binder = binder
        self.storage = storage
        self.profile = profile
        self.on_task = on_task
        self.trace = trace
        self.is_timed = profile is not None or trace is not None
        self.places: list[Place | None] = [None] * len(schedule.submissions)
        self.num_tasks = 0
        self.num_submissions = 0
        self.is_in_order = False
        """Whether nothing runs beside the thread that reads elements."""
        self._values: dict[int, Any] = {}

    def call(self, index: int) -> None:
        """Runs a submission's op; raises ExecutionError that names node and operands."""
        binding = self.binder.binding(index)
        arguments = binding.arguments(self.places, self.storage)
        if self.on_task is not None:
            self.on_task(self.schedule.submissions[index].name)
        is_timed = self.is_timed
        start = perf_counter_ns() if is_timed else 0
        if self._values:
            self._values.clear()
        try:
            binding.run(**arguments)
        except Exception as error:
            raise _failure(self.schedule.submissions[index], arguments, error) from error
        if is_timed:
            _synchronize(arguments)
            self._note(index, start, perf_counter_ns())

    def call_units(self, units: Mapping[int, Unit], submissions: Sequence[int]) -> None:
        """Runs submissions that follow each other, units of one fusion: whole ones in one call, what is left one by one."""
        ends = [place for place, submission in enumerate(submissions) if submission == units[submission].submissions[-1]]
        whole = [units[submissions[place]] for place in ends]
        num_whole = ends[-1] + 1 if ends else 0
        if num_whole:
            if self.on_task is not None:
                for submission in submissions[:num_whole]:
                    self.on_task(self.schedule.submissions[submission].name)
            calls = [unit.call(self.binder, self.places, self.storage) for unit in whole]
            self._values.clear()
            try:
                whole[0].fusion.run(units=calls)
            except Exception:
                num_whole = 0  # one by one, which finds the one that fails
        for submission in submissions[num_whole:]:
            self.call(submission)

    def _note(self, index: int, start_ns: int, end_ns: int) -> None:
        if self.profile is not None:
            submission = self.schedule.submissions[index]
            self.profile.append(TaskTime(submission.name, submission.op or "", end_ns - start_ns))
        if self.trace is not None:
            self.trace.tasks.append((index, get_ident(), start_ns, end_ns))

    def element(self, tensor: int, index: tuple[int, ...]) -> int:
        """One element of a tensor, for trip counts; of a small one all are fetched until another task runs."""
        values: Any = self._values.get(tensor)
        if values is None:
            whole = self.tensor(tensor)
            if not self.is_in_order or whole.numel() > _FEW_ELEMENTS:
                return int(whole[index].item())
            values = self._values[tensor] = whole.tolist()
        for place in index:
            values = values[place]
        return int(values)

    def tensor(self, tensor: int) -> torch.Tensor:
        """A whole tensor, where it lies now; raises ExecutionError if the trip that creates it did not run."""
        external = self.binder.external(tensor)
        if external is not None:
            return external
        owner, start = self.binder.home(tensor)
        place = self.places[owner]
        program = self.schedule.program
        assert program is not None
        known = program.tensors[tensor]
        if place is None:
            raise ExecutionError(f"tensor '{known.name}' is read, but the trip that creates it did not run")
        buffer, offset = place
        shape = known.spec.shape
        return view_at(self.storage, (buffer, offset + start), known.spec.dtype, 0, shape, contiguous_strides(shape))


def _failure(submission: Submission, arguments: Mapping[str, Any], error: Exception) -> ExecutionError:
    where = f"{submission.mark}: " if submission.mark else ""
    text = f"{where}node '{submission.name}' (op '{submission.op}') failed: {_reason(error)}"
    tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    for name, value in tensors.items():
        text += f"\n  {name}: {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return ExecutionError(text, hint=error.hint if isinstance(error, RinggraphError) else None)


def _reason(error: Exception) -> str:
    if isinstance(error, RinggraphError):
        return error.message
    return f"{type(error).__name__}: {error}"


def _synchronize(arguments: Mapping[str, Any]) -> None:
    """Waits for the accelerator, so that a measured time is the task's own."""
    for value in arguments.values():
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            torch.accelerator.synchronize(value.device)
            return
