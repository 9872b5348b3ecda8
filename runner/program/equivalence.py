"""This module tells whether two programs do the same work: scopes may differ, and so may the task that creates a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.base.errors import Mark, ScheduleError
from runner.program.program import Program, Region, Task, Trips
from runner.program.spans import host_reads


class OtherWorkError(ScheduleError):
    """The first thing that is not in one program as it is in the other; `mark` is its place in the second."""

    def __init__(self, reason: str, mark: Mark | None = None) -> None:
        super().__init__(f"{mark}: {reason}" if mark else reason)
        self.reason, self.mark = reason, mark


def refuse_other_work(before: Program, after: Program) -> None:
    """Raises OtherWorkError at the first task that does not do in `after` what it does in `before`."""
    _Comparison(before, after).run()


@dataclass
class _Comparison:
    before: Program
    after: Program
    tensors: dict[int, int] = field(default_factory=dict)
    tasks: dict[int, int] = field(default_factory=dict)

    def run(self) -> None:
        ours, theirs = ([task for task in program.tasks if task.op is not None] for program in (self.before, self.after))
        for one, other in zip(ours, theirs, strict=False):
            if not self.same_task(one, other):
                raise OtherWorkError(f"'{other.path}' would not do what '{one.path}' does", other.mark)
            self.tasks[one.id] = other.id
        if len(ours) != len(theirs):
            raise OtherWorkError(f"the graph would have {len(theirs)} tasks, not {len(ours)}")
        loops, others = ([trips for _, trips in host_reads(program.body)] for program in (self.before, self.after))
        if len(loops) != len(others):
            raise OtherWorkError(f"the graph would read {len(others)} values on the host, not {len(loops)}")
        for one, other in zip(loops, others, strict=True):
            if not self.same_reads(one, other) or self.known(one.waits) != self.ops_of(other.waits):
                raise OtherWorkError(f"'{other.path}' would not read what it reads now", other.mark)

    def same_task(self, one: Task, other: Task) -> bool:
        return (
            (one.op, one.core, one.attrs, one.num_blocks) == (other.op, other.core, other.attrs, other.num_blocks)
            and self.same_operands(one.operands, other.operands)
            and one.modes == other.modes
            and self.known(one.after) == self.ops_of(other.after)
            and self.known(one.wait_only) == self.ops_of(other.wait_only)
            and self.known(one.waits) == self.ops_of(other.waits)
        )

    def same_operands(self, one: Mapping[str, Region], other: Mapping[str, Region]) -> bool:
        if one.keys() != other.keys():
            return False
        for name, region in one.items():
            found = other[name]
            if (region.box, region.dropped, region.part, region.seen) != (found.box, found.dropped, found.part, found.seen):
                return False
            if not self.same_tensor(region.tensor, found.tensor):
                return False
        return True

    def same_reads(self, one: Trips, other: Trips) -> bool:
        return len(one.reads) == len(other.reads) and all(map(self.same_tensor, one.reads, other.reads))

    def same_tensor(self, one: int, other: int) -> bool:
        ours, theirs = self.before.tensors[one], self.after.tensors[other]
        if self.tensors.setdefault(one, other) != other:
            return False
        return (ours.spec, ours.kind, ours.source) == (theirs.spec, theirs.kind, theirs.source)

    def known(self, tasks: tuple[int, ...]) -> set[int]:
        """The tasks of `after` that stand for these; allocs have none."""
        return {self.tasks[task] for task in tasks if task in self.tasks}

    def ops_of(self, tasks: tuple[int, ...]) -> set[int]:
        return {task for task in tasks if self.after.tasks[task].op is not None}
