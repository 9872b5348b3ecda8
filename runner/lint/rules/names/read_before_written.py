"""G313 tells reads of what nobody has written yet."""

from __future__ import annotations

from runner.lint.rule import Description, Rule


class ReadBeforeWritten(Rule):
    """Expansion knows the last writer of every element and notes reads that have none; this rule puts them into words."""

    about = Description(
        "G313",
        "read before written",
        "Nothing has been written there yet, so the task reads whatever the ring's memory held before.",
    )

    def finish(self) -> None:
        for (mark, _, name), (_, path) in self.look.expanded.unwritten.items():
            self.tell(f"'{path}' reads '{name}' before anything is written there", mark, about=name)
