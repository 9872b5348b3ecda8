"""The one traversal of a program that all lint rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner.base.errors import Diagnostic
from runner.lint.look import Look
from runner.lint.rule import Rule
from runner.program.program import Span, Task


def findings_of(look: Look, rules: Sequence[type[Rule]]) -> list[Diagnostic]:
    """What `rules` find in the program of `look`; a rule that lacks what it needs is left out."""
    active = [rule(look) for rule in rules if rule.is_wanted(look)]
    for rule in active:
        rule.start()
    _Walk(look, active).span(look.program.body)
    for rule in active:
        rule.finish()
    return [finding for rule in active for finding in rule.found]


class _Walk:
    """The hooks of all active rules; `look.order` hears of everything first, so that rules can ask it."""

    def __init__(self, look: Look, rules: Sequence[Rule]):
        self.tasks = look.program.tasks
        self.entering: list[Callable[[Span], None]] = [look.order.enter, *(r.enter for r in rules if r.overrides("enter"))]
        self.at_tasks: list[Callable[[Task], None]] = [look.order.task, *(r.task for r in rules if r.overrides("task"))]
        self.leaving: list[Callable[[Span], None]] = [look.order.leave, *(r.leave for r in rules if r.overrides("leave"))]

    def span(self, span: Span) -> None:
        for enter in self.entering:
            enter(span)
        for item in span.items:
            if isinstance(item, Span):
                self.span(item)
            else:
                task = self.tasks[item]
                for look_at in self.at_tasks:
                    look_at(task)
        for leave in self.leaving:
            leave(span)
