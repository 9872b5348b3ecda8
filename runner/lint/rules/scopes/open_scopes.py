"""G335 tells scopes that lie deeper than the runtime can count."""

from __future__ import annotations

from runner.lint.look import Look
from runner.lint.rule import Description, Rule
from runner.program.program import Span
from runner.rings.schedule import MAX_SCOPES


class OpenScopes(Rule):
    """The rule counts the scopes that are open, the root among them."""

    about = Description(
        "G335",
        "too many open scopes",
        "At most 64 scopes may be open at a time, the root included; the runtime does not check.",
    )

    def __init__(self, look: Look):
        super().__init__(look)
        self.num_open = 1

    def enter(self, span: Span) -> None:
        if span.kind == "scope":
            self.num_open += 1
            if self.num_open == MAX_SCOPES + 1:
                self.tell(f"this scope is open beside {MAX_SCOPES} others, the most that may be open at a time", span.mark)

    def leave(self, span: Span) -> None:
        self.num_open -= span.kind == "scope"
