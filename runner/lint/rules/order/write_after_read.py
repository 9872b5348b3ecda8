"""G312 tells writers that may run before an earlier reader of the same bytes is done."""

from __future__ import annotations

from runner.lint.look import Look
from runner.lint.missing_edge import EdgeRule
from runner.lint.order import covers
from runner.lint.rule import Description
from runner.program.program import Region, Task
from runner.program.registered import overlap


class WriteAfterRead(EdgeRule):
    """For each tensor, the rule keeps the readers that no later write covers; each write has to wait for those it touches."""

    about = Description(
        "G312",
        "write-after-read hazard",
        "The runtime orders reads after writes and writes after writes by itself, but not a write after a read: the writer may "
        "overwrite what the reader has not read yet. An `after:` mends it, and costs nothing where the order holds anyway.",
    )

    def __init__(self, look: Look):
        super().__init__(look)
        self.last_write: dict[int, int] = {}
        self.readers: dict[int, list[tuple[Region, int]]] = {}
        self.modes: dict[str, dict[str, str]] = {}

    def start(self) -> None:
        """A reader that nobody overwrites need not be kept, so the last writer of each tensor has to be known."""
        self.last_write = {tensor: task.id for task in self.look.program.tasks for tensor in task.writes}

    def task(self, task: Task) -> None:
        modes = self._modes(task.op or "")
        for name, region in task.operands.items():
            if region.tensor in self.readers and modes.get(name, "in") != "in":
                self._overwrite(region, task)
        for name, region in task.operands.items():
            if self.last_write.get(region.tensor, -1) > task.id and modes.get(name, "in") != "out":
                self.readers.setdefault(region.tensor, []).append((region, task.id))

    def _modes(self, op: str) -> dict[str, str]:
        """The mode of each operand of an op."""
        if op not in self.modes:
            definition = self.look.registry.get(op)
            self.modes[op] = {operand.name: operand.mode for operand in definition.operands} if definition else {}
        return self.modes[op]

    def _overwrite(self, region: Region, writer: Task) -> None:
        """Tells the hazards of one write; readers that it covers are done with, since later writers wait for this one."""
        entries = self.readers[region.tensor]
        touched = {reader for other, reader in entries if reader != writer.id and overlap(region, other)}
        name = self.look.program.tensors[region.tensor].name
        for reader in sorted(self.look.order.unordered(writer.id, touched)):
            other = self.look.program.tasks[reader]
            message = f"'{writer.path}' writes '{name}' while '{other.path}' may still read it"
            self.tell_missing(message, writer, other, region.tensor)
        self.readers[region.tensor] = [(other, reader) for other, reader in entries if not covers(region, other)]
