"""G333 tells ops that write where they read, which only an in-out operand may."""

from __future__ import annotations

from itertools import combinations

from runner.language.graph import Op
from runner.lint.look import Look
from runner.lint.rule import Description, Rule
from runner.lint.uses import Uses
from runner.program.program import Span, Task
from runner.program.registered import overlap


class OverlappingOperands(Rule):
    """Each output of a task is compared with its other operands; names that a `use` binds to one tensor are G332's."""

    about = Description(
        "G333",
        "output that overlaps another operand",
        "An op reads and writes in an order of its own, in parallel on a device: what it writes where it reads may be read back. "
        "An operand that is updated in place is an in-out operand of the op's signature.",
    )
    needs_all_operands = True

    def __init__(self, look: Look):
        super().__init__(look)
        self.uses = Uses(look)

    def enter(self, span: Span) -> None:
        self.uses.enter(span)

    def leave(self, span: Span) -> None:
        self.uses.leave(span)

    def task(self, task: Task) -> None:
        regions = task.operands
        if len({region.tensor for region in regions.values()}) == len(regions):
            return
        item = self.look.item(task)
        if not isinstance(item, Op) or item.op.value not in self.look.registry:
            return
        modes = {operand.name: operand.mode for operand in self.look.registry[item.op.value].operands}
        for one, other in combinations(list(self.uses.operand_names(item, task)), 2):
            output, read = (one, other) if modes.get(one[0], "in") != "in" else (other, one)
            is_apart = output[2].tensor != read[2].tensor or not overlap(output[2], read[2])
            if is_apart or modes.get(output[0], "in") == "in" or self.uses.are_bound_apart(output[1], read[1]):
                continue
            name = self.look.program.tensors[output[2].tensor].name
            message = f"op '{item.op}' writes '{output[0]}' in '{name}' where it has '{read[0]}'"
            given = item.inputs.get(read[0]) or item.outputs[read[0]]
            mark = item.outputs[output[0]].mark
            self.tell(message, mark, "write to a tensor of its own", (given.mark,), f"{output[0]} {read[0]}")
