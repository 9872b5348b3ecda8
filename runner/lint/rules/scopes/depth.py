"""G317 tells scopes that lie deeper than there are rings."""

from __future__ import annotations

from runner.lint.look import Look
from runner.lint.rule import Description, Rule
from runner.program.program import Span
from runner.rings.schedule import NUM_RINGS


class Depth(Rule):
    """A scope at depth d allocates from ring d, and from the last ring where there is none of that number."""

    about = Description(
        "G317",
        "deeper than the rings",
        "There are four rings. Deeper scopes share the last, so that they cannot be released apart.",
        "warning",
    )

    def __init__(self, look: Look):
        super().__init__(look)
        self.depth = 0

    def enter(self, span: Span) -> None:
        if span.kind != "scope":
            return
        self.depth += 1
        if self.depth == NUM_RINGS:
            message = f"scope '{span.path}' has depth {self.depth}, but there are {NUM_RINGS} rings: it shares the last one"
            self.tell(message, span.mark)

    def leave(self, span: Span) -> None:
        self.depth -= span.kind == "scope"
