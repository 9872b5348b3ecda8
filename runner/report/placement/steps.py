"""A schedule in submission order, as who writes orchestration code for the device needs it: scopes, tensors, edges to add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from runner.program.order import predecessors
from runner.program.program import Program, Task
from runner.program.sharing import Labels
from runner.report.placement.handing import handing
from runner.rings.schedule import Begin, End, Read, Repeat, Schedule, Submission, Submit

Step = dict[str, Any]
"""A line of the placement, as the JSON Schema `graphs/schema/placement.schema.json` describes it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: in the block of a submission, from `low` to `high` in bytes."""

    block: int
    low: int
    high: int

    def meets(self, other: Place) -> bool:
        return self.block == other.block and self.low < other.high and other.low < self.high


HANDED_ON = "inferred from data, and handed on where a trip does not run"
"""Why an edge is told that the runtime infers."""


def steps_of(schedule: Schedule) -> Iterator[Step]:
    """The steps of a schedule; it must have a program."""
    assert schedule.program is not None, "a placement says what a program's tasks are"
    yield from _Steps(schedule, schedule.program).all()


def _called(submissions: Sequence[Submission]) -> list[str]:
    """A name for each: allocs that a strategy adds are called alike, and have numbers here."""
    found, used = list[str](), {made.name for made in submissions}
    num: dict[str, int] = {}
    for made in submissions:
        name = made.name
        while made.name in num and name in used:
            num[made.name] += 1
            name = f"{made.name}_{num[made.name]}"
        num.setdefault(made.name, 1)
        used.add(name)
        found.append(name)
    return found


class _Steps:
    def __init__(self, schedule: Schedule, program: Program) -> None:
        self.schedule, self.program = schedule, program
        self.sub_of = {s.task: k for k, s in enumerate(schedule.submissions) if s.task is not None}
        self.places = {
            slot.tensor: Place(k, slot.offset, slot.offset + slot.size_bytes)
            for k, s in enumerate(schedule.submissions)
            for slot in s.slots
        }
        self.called = _called(schedule.submissions)
        self.before = self._former_tenants()
        self.labels = Labels(program)
        self.handing = handing(schedule)
        self.maker = {tensor: task for task in program.tasks if task.op is not None for tensor in task.creates}
        self.unseen: set[int] = set()  # tasks in manual scopes

    def all(self) -> Iterator[Step]:
        schedule = self.schedule
        scopes: list[int] = []
        trips: dict[int, list[tuple[str, int | None]]] = {}  # per step what begins or ends before it
        for at, step in enumerate(schedule.steps):
            for path, trip in trips.pop(at, ()):
                yield {"do": "end loop", "loop": path} if trip is None else {"do": "trip", "loop": path, "trip": trip}
            match step:
                case Begin():
                    scope = schedule.scopes[step.scope]
                    scopes.append(step.scope)
                    yield {
                        "do": "open",
                        "scope": scope.name,
                        "ring": scope.ring,
                        "mode": scope.mode,
                        "place": str(scope.mark or ""),
                    }
                case End():
                    scopes.pop()
                    yield {"do": "close", "scope": schedule.scopes[step.scope].name}
                case Submit():
                    in_manual = any(schedule.scopes[scope].mode == "manual" for scope in scopes)
                    yield self.submission(step.submission, schedule.scopes[scopes[-1]].ring, in_manual)
                case Read():
                    yield {"do": "read", "after": self.names(step.waits)}
                case Repeat():
                    path = step.trips.path if step.trips is not None else ""
                    bound = step.trips.bound if step.trips is not None else len(step.starts)
                    yield {"do": "loop", "loop": path, "at_most": bound, "after": self.names(step.waits)}
                    for number, start in enumerate(step.starts):
                        trips.setdefault(start, []).append((path, number))
                    trips.setdefault(step.end, []).insert(0, (path, None))

    def names(self, submissions: Sequence[int]) -> list[str]:
        return [self.called[k] for k in submissions]

    def submission(self, index: int, ring: int, in_manual: bool) -> Step:
        made = self.schedule.submissions[index]
        task = self.program.tasks[made.task] if made.task is not None else None
        found: Step = {"do": "submit" if made.core is not None else "alloc", "name": self.called[index], "ring": ring}
        found["place"] = str(made.mark or "")
        if made.core is not None:
            found |= {"op": made.op, "core": made.core, "blocks": made.num_blocks}
        if made.size_bytes or made.slots:
            found["bytes"] = made.size_bytes
            found["tensors"] = [self.tensor(slot.tensor, slot.offset, self.called[index]) for slot in made.slots]
        if in_manual and made.task is not None:
            self.unseen.add(made.task)
        if task is not None and (added := list(self.added(index, task, in_manual))):
            found["deps"] = added
        return found

    def tensor(self, number: int, offset: int, made: str) -> Step:
        """A tensor in the block of the submission `made`."""
        tensor = self.program.tensors[number]
        found: Step = {"name": tensor.name, "dtype": tensor.spec.dtype, "shape": list(tensor.spec.shape), "offset": offset}
        found["bytes"] = tensor.spec.size_bytes
        if (maker := self.labels.makers.get(number, made)) != made:
            found["task"] = maker
        olds = self.before.get(number)
        return found | ({"replaces": [self.labels[old] for old in olds]} if olds else {})

    def added(self, index: int, task: Task, in_manual: bool) -> Iterator[Step]:
        """The edges that the runtime does not infer, or that trips hand on, and why each is needed."""
        made, moved = self.schedule.submissions[index], self.moved(task)
        seen = (
            set[int]()
            if in_manual
            else {self.sub_of[wait] for wait in task.waits if wait in self.sub_of and wait not in self.unseen}
        )
        known = seen if in_manual else seen | (set(made.holds) - set(made.explicit))
        said = {self.sub_of[other]: other for other in task.after if other in self.sub_of}
        for wait in made.waits:
            edge: Step = {"after": self.called[wait]}
            if wait in known and wait not in said and wait in moved:
                yield edge | {"why": f"'{moved[wait]}' is made there, in another block", "keeps_block": False}
                continue
            if wait in known and wait not in said:
                is_needed = index in self.handing.tasks or (index, wait) in self.handing.edges
                if is_needed and self.schedule.submissions[wait].core is not None:
                    yield edge | {"why": HANDED_ON, "keeps_block": False}
                continue
            if wait in said:
                kind = "after_wait_only" if said[wait] in task.wait_only else "after"
                yield edge | {"why": f"the graph says '{kind}'", "keeps_block": kind == "after"}
                continue
            pairs = list(self.shared(task, self.schedule.submissions[wait]))
            why = [f"'{new}' takes bytes of '{old}'" for new, old in pairs]
            yield edge | {"why": "; ".join(why) or "their order is left open otherwise", "keeps_block": False}

    def moved(self, task: Task) -> dict[int, str]:
        """Submissions that make, in the block of another, what `task` takes by an operand that waits only for creators; and what.

        The creator that the runtime knows is the submission that has the block.
        """
        found: dict[int, str] = {}
        shown = {
            region.tensor: name for name, region in task.operands.items() if task.modes.get(name) not in ("existing", "no_dep")
        }
        for tensor in task.uses:
            maker, place = self.maker.get(tensor), self.places.get(tensor)
            if maker is None or place is None or place.block == (made := self.sub_of[maker.id]):
                continue
            if tensor not in shown or "manual_dep" in maker.modes.values():
                found[made] = self.labels[tensor]
        return found

    def shared(self, task: Task, wait: Submission) -> Iterator[tuple[str, str]]:
        """Names of tensors of a task and of one before it that lie in the same bytes."""
        if wait.task is None:
            return
        other = self.program.tasks[wait.task]
        for new in dict.fromkeys((*task.creates, *task.uses)):
            for old in dict.fromkeys((*other.creates, *other.uses)):
                if new != old and old in self.places and new in self.places and self.places[new].meets(self.places[old]):
                    yield self.labels[new], self.labels[old]

    def _former_tenants(self) -> Mapping[int, list[int]]:
        """For each tensor whose bytes had tenants before it, those that had any of them last."""
        shared = [place.block for place in self.places.values()]
        blocks = {block for block in shared if self._overlaps(block)}
        tensors = [tensor for tensor, place in self.places.items() if place.block in blocks]
        if not tensors:
            return {}
        first = dict.fromkeys(tensors, len(self.program.tasks))
        for task in self.program.tasks:
            for tensor in (*task.creates, *task.uses) if task.op is not None else ():
                if tensor in first:
                    first[tensor] = min(first[tensor], task.id)
        used = [tensor for tensor in tensors if first[tensor] < len(self.program.tasks)]
        base, at = {}, 0
        for block in sorted(blocks):
            base[block], at = at, at + self.schedule.submissions[block].size_bytes
        low = np.array([base[self.places[t].block] + self.places[t].low for t in used], np.int64)
        size = np.array([self.places[t].high - self.places[t].low for t in used], np.int64)
        found = predecessors(np.arange(len(used)), np.array([first[t] for t in used], np.int64), low, size)
        return {used[new]: [used[old] for old in olds] for new, olds in found.items()}

    def _overlaps(self, block: int) -> bool:
        slots = sorted((slot.offset, slot.offset + slot.size_bytes) for slot in self.schedule.submissions[block].slots)
        return any(one[1] > other[0] for one, other in pairwise(slots))
