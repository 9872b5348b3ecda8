"""G320 tells blocks whose size the runtime cannot express."""

from __future__ import annotations

from runner.lint.rule import Description, Rule
from runner.program.program import Task
from runner.rings.heap import MAX_BLOCK_BYTES


class BlockSize(Rule):
    """One block holds all that one task creates."""

    about = Description(
        "G320", "block above 2 GiB - 1", "The runtime's block size is a signed 32-bit number, and silently wraps beyond."
    )

    def task(self, task: Task) -> None:
        if task.creates and (size_bytes := self.look.block_bytes(task)) > MAX_BLOCK_BYTES:
            message = f"'{task.path}' creates a block of {size_bytes:,} bytes, at most {MAX_BLOCK_BYTES:,} are possible"
            self.tell(message, task.mark)
