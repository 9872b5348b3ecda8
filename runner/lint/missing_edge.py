"""Rules about a missing edge say how to write it: by the `after` entry with which one task can name another."""

from __future__ import annotations

from runner.base.errors import Edge, Hint, Mark
from runner.expansion.names import ids
from runner.language.graph import For, Scope, Switch
from runner.language.walk import all_items
from runner.lint.look import Look
from runner.lint.rule import Rule
from runner.program.program import Span, Task


class EdgeRule(Rule):
    """A rule that finds tasks which do not wait for what they need."""

    needs_all_operands = True

    def tell_missing(self, message: str, task: Task, other: Task, tensor: int) -> None:
        """Notes that `task` has to wait for `other` because of `tensor`; the finding stands where `task` names the tensor."""
        hint = after_hint(self.look, task.id, other.id)
        self.tell(message, self.look.operand_mark(task, tensor), hint, (other.mark,) if other.mark else ())


def after_hint(look: Look, task: int, other: int) -> str:
    """A hint that makes `task` wait for `other`."""
    program = look.program
    around, beside = _chain(program.body, task), _chain(program.body, other)
    common = 0
    while common < min(len(around), len(beside)) and around[common] is beside[common]:
        common += 1
    name = program.tasks[task].path.rpartition(".")[2]
    if any(span.kind == "use" for span in around[common:]):
        what = program.tasks[other].path
        return f"'{name}' lies in a used graph and cannot name '{what}': let it read what is made after that, or write elsewhere"
    steps: list[str] = []
    for span in beside[common:]:
        item = look.item_at(span.mark)
        if span.kind in ("iteration", "if") or (span.kind == "dynamic" and not isinstance(item, For)):
            continue
        steps.append(span.path.rpartition(".")[2])
        if span.kind == "use":
            break
    else:
        steps.append(program.tasks[other].path.rpartition(".")[2])
    entry, mark = ".".join(steps), program.tasks[task].mark
    if _is_taken(look, entry, mark, around[common:], beside[common:]):
        what = program.tasks[other].path
        return f"'{entry}' means an item nearer to '{name}': give '{what}' an id of its own, and name that in 'after'"
    text = f"add 'after: [{entry}]' to '{name}'"
    return Hint(text, Edge(mark, entry)) if mark else text


def _is_taken(look: Look, entry: str, mark: Mark | None, around: list[Span], beside: list[Span]) -> bool:
    """Whether `entry` means something else at `mark`, since one of the bodies `around` it has an item of that id."""
    if around and beside and around[0].kind == "iteration" and around[0].mark == beside[0].mark:
        around = around[1:]  # another trip of one loop: an id of its body means that of the trip before
    for span in around:
        item = look.item_at(span.mark) if span.kind in ("scope", "iteration") else None
        bodies = item.cases.values() if isinstance(item, Switch) else [item.body] if isinstance(item, Scope | For) else []
        if any(entry in ids(body) and any(each.mark == mark for each in all_items(body)) for body in bodies):
            return True
    return False


def _chain(body: Span, task: int) -> list[Span]:
    """The spans around a task, from the root inwards."""
    chain = [body]
    while True:
        for item in reversed(chain[-1].items):
            if item == task:
                return chain
            if isinstance(item, Span) and (first := next(item.tasks(), None)) is not None and first <= task:
                chain.append(item)
                break
        else:
            raise AssertionError(f"task {task} is in no span")
