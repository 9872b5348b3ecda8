"""G314 tells what nothing reads: tensors that the program creates, and names that the graph's text never mentions."""

from __future__ import annotations

from runner.base.errors import Mark
from runner.language.graph import Op, Seen
from runner.language.walk import all_items, mentioned
from runner.lint.look import Look
from runner.lint.rule import Description, Rule
from runner.program.program import Span, Task


class NeverRead(Rule):
    """A tensor counts as read when any layer or trip reads it; what an op's own list calls its scratch need not be."""

    about = Description(
        "G314", "never read", "Memory and time are spent on something that nothing uses, under this configuration.", "warning"
    )
    needs_all_operands = True

    def __init__(self, look: Look):
        super().__init__(look)
        self.read: set[int] = set()
        self.made: dict[tuple[Mark, Mark | None], list[int]] = {}

    def enter(self, span: Span) -> None:
        if span.trips is not None:
            self.read.update(span.trips.reads)

    def task(self, task: Task) -> None:
        self.read.update(task.reads)
        if not task.creates or not (task.op is None or isinstance(self.look.item(task), Op)):
            return
        scratch = self.look.registry[task.op].scratch if task.op is not None and task.op in self.look.registry else ()
        own = {region.tensor: name for name, region in task.operands.items()}
        for tensor in task.creates:
            mark = self.look.program.tensors[tensor].mark
            if mark is None or (task.op is not None and tensor not in own) or own.get(tensor) in scratch:
                continue  # a workspace, or scratch
            self.made.setdefault((mark, mark.via), []).append(tensor)

    def finish(self) -> None:
        for (mark, _), tensors in self.made.items():
            if self.read.isdisjoint(tensors):
                self.tell(f"tensor '{self.look.program.tensors[tensors[-1]].name}' is never read", mark)
        self._names()

    def _names(self) -> None:
        """Inputs, weights, state and params that the graph's text never names."""
        graph = self.look.graph
        named = mentioned(graph, self.look.library)
        sections = {"input": graph.inputs, "weight": graph.weights, "state": graph.state}
        for kind, declarations in sections.items():
            for name, declared in declarations.items():
                if name not in named and f"{name}_scale" not in named:
                    self.tell(f"{kind} '{name}' is never read", declared.mark)
        for item in all_items(graph.body):
            if isinstance(item, Seen) and item.name not in named:
                self.tell(f"view '{item.name}' is never used", item.mark)
        for name, text in graph.params.items():
            if name not in named:
                self.tell(f"param '{name}' is never used", text.mark)
