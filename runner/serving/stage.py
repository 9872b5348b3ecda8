"""A compiled program of a session, with buffers of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from runner.execution.executor import CompiledSchedule, RunResult
from runner.program.program import Program


class Stage:
    """The program of a phase on its externals, with buffers of its own for inputs and outputs; `logits` names one, if it has any.

    Raises ExecutionError and DeadlockError from `call`.
    """

    def __init__(self, name: str, compiled: CompiledSchedule, externals: Mapping[int, torch.Tensor], logits: str):
        assert compiled.schedule.program is not None
        self.name = name
        self.program: Program = compiled.schedule.program
        self.compiled = compiled
        self.inputs = {name: self.program.tensors[tensor].spec for name, tensor in self.program.inputs.items()}
        self._buffers = {name: externals[tensor] for name, tensor in self.program.inputs.items()}
        self._copied: dict[str, torch.Tensor] = {}
        self.outputs = {name: externals[tensor] for name, tensor in self.program.outputs.items()}
        self.logits = self.outputs.get(logits)

    def call(self, batch: Mapping[str, torch.Tensor], **options) -> RunResult:
        """Runs the program on new inputs; the logits of all tokens are then in `logits`, f32[tokens, vocabulary]."""
        for name, buffer in self._buffers.items():
            value = batch[name]
            if self._copied.get(name) is not value:  # tables that never change are the same object in every call
                buffer.copy_(value)
                self._copied[name] = value
        return self.compiled.run(**options)
