"""G320 tells blocks whose size the runtime cannot express."""

from __future__ import annotations

from runner.base.tensor_spec import MAX_BLOCK_BYTES, block_bytes
from runner.lint.rule import Description, Rule
from runner.program.program import Arena, Task
from runner.rings.placement import arena_blocks


class BlockSize(Rule):
    """One block holds all that one task creates; an arena is cut into blocks where no tensor lies across."""

    about = Description(
        "G320", "block above 2 GiB - 1", "The runtime's block size is a signed 32-bit number, and silently wraps beyond."
    )

    def task(self, task: Task) -> None:
        if task.creates and (size_bytes := self.look.block_bytes(task)) > MAX_BLOCK_BYTES:
            message = f"'{task.path}' creates a block of {size_bytes:,} bytes, at most {MAX_BLOCK_BYTES:,} are possible"
            self.tell(message, task.mark)

    def finish(self) -> None:
        for arena in self.look.program.arenas:
            self.arena(arena)

    def arena(self, arena: Arena) -> None:
        known, graphs = self.look.program.tensors, self.look.library.graphs()
        sizes = block_bytes([known[tensor].spec for tensor in arena.tensors])
        block = max(arena_blocks(arena.tensors, arena.offsets, sizes, ""), key=lambda block: block.size_bytes)
        if block.size_bytes > MAX_BLOCK_BYTES:
            names = dict.fromkeys(known[tensor].name for tensor in block.tensors)
            message = f"share: {', '.join(names)} lie across each other in a block of {block.size_bytes:,} bytes"
            largest = known[max(block.tensors, key=lambda tensor: known[tensor].spec.size_bytes)]
            listed = next((g.share[0].mark for g in graphs if arena.mark and g.share and g.file == arena.mark.file), arena.mark)
            hint = f"keep '{largest.name}' apart from them, or take it out of the list"
            where = () if largest.mark is None else (largest.mark,)
            self.tell(f"{message}, at most {MAX_BLOCK_BYTES:,} are possible", listed, hint, where)
