"""All lint rules share one traversal of a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner.base.errors import Diagnostic
from runner.base.stopping import stop_if_needless
from runner.lint.look import Look
from runner.lint.rule import Rule
from runner.program.program import Span, Task
from runner.program.spans import SpanWalk


def findings_of(look: Look, rules: Sequence[type[Rule]]) -> list[Diagnostic]:
    """What `rules` find in the program of `look`; a rule that lacks what it needs is left out."""
    active = [rule(look) for rule in rules if rule.is_wanted(look)]
    for rule in active:
        rule.start()
    _walk(look, active)
    for rule in active:
        rule.finish()
    return [finding for rule in active for finding in rule.found]


def _walk(look: Look, rules: Sequence[Rule]) -> None:
    """Calls the hooks of all rules; `look.order` hears of everything first, so that rules can ask it."""
    entering: list[Callable[[Span], None]] = [look.order.enter, *(r.enter for r in rules if r.overrides("enter"))]
    at_tasks: list[Callable[[Task], None]] = [look.order.task, *(r.task for r in rules if r.overrides("task"))]
    leaving: list[Callable[[Span], None]] = [look.order.leave, *(r.leave for r in rules if r.overrides("leave"))]

    def leave(span: Span) -> None:
        for hook in leaving:
            hook(span)

    for item in SpanWalk(look.program.body, leave):
        if isinstance(item, Span):
            stop_if_needless()
            for enter in entering:
                enter(item)
        else:
            task = look.program.tasks[item]
            for look_at in at_tasks:
                look_at(task)
