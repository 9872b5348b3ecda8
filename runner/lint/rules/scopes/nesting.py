"""G316 tells scopes that the runtime refuses because of the scope around them."""

from __future__ import annotations

from runner.lint.look import Look
from runner.lint.rule import Description, Rule
from runner.program.program import Span


class Nesting(Rule):
    """The rule keeps the mode of each open span; what is no scope has the mode of what is around it."""

    about = Description(
        "G316",
        "scopes that may not nest",
        "The runtime refuses an auto scope in a manual one. A manual scope in a manual one is as good as none.",
    )

    def __init__(self, look: Look):
        super().__init__(look)
        self.modes = ["auto"]

    def enter(self, span: Span) -> None:
        outer = self.modes[-1]
        if span.kind == "scope" and span.mode == "auto" and outer == "manual":
            hint = "make the scope around it auto, or this one manual"
            self.tell(f"scope '{span.path}' is auto, but lies in a manual scope", span.mark, hint)
        self.modes.append(span.mode if span.kind == "scope" and outer == "auto" else outer)

    def leave(self, span: Span) -> None:
        self.modes.pop()
