"""G318 tells tasks that do not wait for what they need, because a manual scope lies between."""

from __future__ import annotations

from runner.lint.missing_edge import EdgeRule
from runner.lint.rule import Description
from runner.program.program import Task


class MissingInManual(EdgeRule):
    """The rule looks at tasks in manual scopes, and at those outside that use what such a task made."""

    about = Description(
        "G318",
        "missing edge around a manual scope",
        "In a manual scope nothing is inferred: only `after:` orders its tasks, and nobody outside waits for what they write. "
        "This task may run before what it needs is done.",
    )

    def task(self, task: Task) -> None:
        order, tasks = self.look.order, self.look.program.tasks
        if not order.manual:
            return
        needs = {*task.waits, *(order.creator[tensor] for tensor in task.uses)}
        if task.id not in order.manual:
            needs &= order.manual
        needs = {other for other in needs if tasks[other].op is not None}  # an alloc completes when it is submitted
        for other in sorted(order.unordered(task.id, needs)):
            tensor = _shared(task, tasks[other])
            name = self.look.program.tensors[tensor].name
            message = f"'{task.path}' needs '{name}' from '{tasks[other].path}', but in a manual scope only 'after' orders tasks"
            self.tell_missing(message, task, tasks[other], tensor)


def _shared(task: Task, other: Task) -> int:
    """A tensor because of which `task` needs `other`."""
    made = {*other.writes, *other.creates}
    return next(tensor for tensor in (*task.reads, *task.writes, *task.uses) if tensor in made)
