"""G334 tells submissions with more tensors than the runtime takes."""

from __future__ import annotations

from runner.lint.rule import Description, Rule
from runner.program.program import Task
from runner.rings.schedule import MAX_TENSORS


class Arguments(Rule):
    """Every operand is a tensor argument, and so is all else that a task creates: scratch, and each tensor of an alloc."""

    about = Description(
        "G334",
        "too many tensors in a submission",
        "A submission takes up to 32 tensors, those that it creates and those that it uses together; the runtime refuses more "
        "(INVALID_ARGS).",
    )

    def task(self, task: Task) -> None:
        number = task.num_arguments
        if number > MAX_TENSORS:
            hint = "split it into several allocs" if task.op is None else "split the op, or let it take one tensor for several"
            self.tell(f"'{task.path}' has {number} tensors, at most {MAX_TENSORS} are possible", task.mark, hint)
