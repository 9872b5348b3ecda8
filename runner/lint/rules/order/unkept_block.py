"""G341 tells uses in manual scopes of blocks that nothing keeps until they are done."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.lint.look import Look
from runner.lint.missing_edge import EdgeRule
from runner.lint.rule import Description
from runner.program.program import Span, Task
from runner.program.spans import implied


@dataclass
class _Scope:
    """An open scope: who uses a block of its and does not hold it, and who holds which block, by the task that made it."""

    unsure: list[tuple[Task, int, int]] = field(default_factory=list)  # user, maker, tensor
    holders: dict[int, list[int]] = field(default_factory=dict)


class UnkeptBlock(EdgeRule):
    """The rule looks at tasks in manual scopes: there a use keeps no block.

    Who is submitted when the block's scope has closed may come too late to hold it. Blocks of the graph's own scope stay as long
    as anybody could get their bytes; of arenas (`share:`) planning tells.
    """

    about = Description(
        "G341",
        "block that nothing keeps",
        "In a manual scope a use of a tensor keeps nothing: its block may be given to others as soon as its scope has closed, "
        "while this task still runs. An `after:` that names its maker keeps it, here or in a task behind this one in that scope.",
    )

    def __init__(self, look: Look):
        super().__init__(look)
        self.scopes: list[_Scope] = []
        self.makers: dict[int, tuple[int, _Scope | None]] = {}
        self.of_task: dict[int, _Scope | None] = {}
        self.in_arenas = look.in_arenas

    def enter(self, span: Span) -> None:
        if span.kind == "scope":
            self.scopes.append(_Scope())

    def leave(self, span: Span) -> None:
        if span.kind == "scope":
            self._close(self.scopes.pop())

    def task(self, task: Task) -> None:
        here = self.scopes[-1] if self.scopes else None
        self.of_task[task.id] = here
        self.makers.update((tensor, (task.id, here)) for tensor in task.creates if tensor not in self.in_arenas)
        held = set(task.after) - set(task.wait_only)
        used = {tensor: self.makers[tensor] for tensor in task.uses if tensor in self.makers}
        if task.id not in self.look.order.manual:
            held |= {maker for maker, _ in used.values()}
        for maker in held:
            if (scope := self.of_task.get(maker)) is not None:
                scope.holders.setdefault(maker, []).append(task.id)
        for tensor, (maker, scope) in used.items():
            if scope is not None and maker not in held and maker != task.id:
                scope.unsure.append((task, maker, tensor))

    def _close(self, scope: _Scope) -> None:
        tasks, tensors, order = self.look.program.tasks, self.look.program.tensors, self.look.order
        for user, maker, tensor in scope.unsure:
            if tasks[maker].op is not None and order.unordered(user.id, {maker}):
                continue  # G318 tells it, and what mends that keeps the block
            later = [holder for holder in scope.holders.get(maker, ()) if holder > user.id]
            later = [holder for holder in later if implied(order.trips[holder], order.trips[user.id])]
            if all(order.unordered(holder, {user.id}) for holder in later):
                message = f"nothing keeps the block of '{tensors[tensor].name}' until '{user.path}' has completed"
                self.tell_missing(message, user, tasks[maker], tensor)
