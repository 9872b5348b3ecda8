"""G337 tells tasks that touch the same bytes in an order that an operand's mode leaves open."""

from __future__ import annotations

from runner.lint.missing_edge import EdgeRule
from runner.lint.rule import Description
from runner.program.program import Task


class LeftOpen(EdgeRule):
    """The rule looks at what tasks would wait for if no operand had a mode."""

    about = Description(
        "G337",
        "order left open by a mode",
        "An `existing` operand does not wait for earlier writers. A `no_dep` one, and a whole `manual_dep` tensor, waits for "
        "nobody, and nobody waits for what is written. `after:` has to order such tasks: these may race.",
    )

    def task(self, task: Task) -> None:
        order, tasks = self.look.order, self.look.program.tasks
        for other in sorted(order.unordered(task.id, task.unordered)):
            made = {*tasks[other].writes}
            tensor = next(tensor for tensor in (*task.reads, *task.writes) if tensor in made)
            name = self.look.program.tensors[tensor].name
            message = f"'{task.path}' touches '{name}' after '{tasks[other].path}' wrote it, but a mode leaves their order open"
            self.tell_missing(message, task, tasks[other], tensor)
