"""A lint rule is a code with its meaning, and a check that is told about the parts of a program that it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.base.errors import Diagnostic, Mark
from runner.lint.look import Look
from runner.program.program import Span, Task


@dataclass(frozen=True, slots=True)
class Description:
    """A code in words; `severity` is error or warning."""

    code: str
    title: str
    why: str
    severity: str = "error"

    @property
    def stage(self) -> int:
        """1 (YAML), 2 (schema) or 3 (meaning): the code's first digit says it."""
        return int(self.code[1])


class Rule:
    """One check of one program. A subclass says its `about`, and overrides the hooks of what it looks at.

    hook     is called
    start    once, before the program is walked
    enter    for each span, before what is inside
    task     for each task, in the order of submission
    leave    for each span, after what is inside
    finish   once, at the end

    Hooks that a rule does not override cost nothing. A rule lives for one program, so it keeps what it gathers in itself.
    """

    about: ClassVar[Description]
    needs_all_operands: ClassVar[bool] = False
    """The rule waits until the graph expands: who reads what, and what orders whom, cannot be said while operands are missing."""

    def __init__(self, look: Look):
        self.look = look
        self.found: list[Diagnostic] = []

    def tell(
        self, message: str, mark: Mark | None, hint: str | None = None, related: tuple[Mark, ...] = (), about: str = ""
    ) -> None:
        """Notes a finding of this rule; `about` tells apart what the rule finds in one place."""
        rule = self.about
        self.found.append(Diagnostic(rule.code, message, mark, rule.severity, hint, related=related, about=about))

    @classmethod
    def is_wanted(cls, look: Look) -> bool:
        """Is there what the rule needs to say anything?"""
        return look.has_all_operands or not cls.needs_all_operands

    def start(self) -> None: ...
    def enter(self, span: Span) -> None: ...
    def task(self, task: Task) -> None: ...
    def leave(self, span: Span) -> None: ...
    def finish(self) -> None: ...

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Does the rule have a hook of its own of that name?"""
        return getattr(cls, hook) is not getattr(Rule, hook)
