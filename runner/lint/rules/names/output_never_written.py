"""G328 tells outputs that the graph declares and no task writes."""

from __future__ import annotations

from runner.lint.look import Look
from runner.lint.rule import Description, Rule
from runner.program.program import Task


class OutputNeverWritten(Rule):
    """An output counts as written when any task writes a part of it."""

    about = Description(
        "G328", "output never written", "The graph declares the output but no task writes it, under this configuration."
    )
    needs_all_operands = True

    def __init__(self, look: Look):
        super().__init__(look)
        self.written: set[int] = set()

    def task(self, task: Task) -> None:
        self.written.update(task.writes)

    def finish(self) -> None:
        for name, tensor in self.look.program.outputs.items():
            if tensor not in self.written:
                self.tell(f"output '{name}' is never written", self.look.program.tensors[tensor].mark)
