"""This module finds units of tasks that may run as one call (`runner.program.ops.Fusion`), and makes their calls.

Graphs, schedules and what is accounted stay as they are: every task is submitted and takes its block. Only the call waits for
more of its kind, until something else is to run, or is waited for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.execution.binding import Binder, Binding
from runner.execution.storage import Place, Storage
from runner.program.ops import Fusion, OpRegistry
from runner.program.program import Region, Task
from runner.rings.schedule import Schedule


@dataclass(slots=True)
class Unit:
    """Submissions that are one unit of a fusion, and its call."""

    fusion: Fusion
    submissions: tuple[int, ...]
    regions: dict[str, Region]
    values: dict[str, object]
    binding: Binding | None = None

    def call(self, binder: Binder, places: Sequence[Place | None], storage: Storage) -> dict[str, Any]:
        """What the unit's names stand for."""
        if self.binding is None:
            self.binding = binder.unit_binding(self.fusion, self.submissions, self.regions, self.values)
        return self.binding.arguments(places, storage)


class Fusions:
    """The units of a schedule, by each of their submissions; `inner` are the tensors that their calls leave out.

    None of them exchanges anything between ranks: an exchange of a call that fails could not be made once more by its tasks.
    """

    def __init__(self, schedule: Schedule, registry: OpRegistry, comm: Any = None):
        self.units: dict[int, Unit] = {}
        self.inner: set[int] = set()
        self._schedule = schedule
        self._registry = registry
        self._is_alone = getattr(comm, "size", None) == 1
        program = schedule.program
        fusions = getattr(registry, "fusions", ())
        if program is None or not fusions:
            return
        self._program = program
        first: dict[str, list[Fusion]] = {}
        for fusion in fusions:
            first.setdefault(fusion.parts[0][0], []).append(fusion)
        ops = {op for fusion in fusions for op, _ in fusion.parts}
        submitted = [i for i, submission in enumerate(schedule.submissions) if submission.op is not None]
        if not any(schedule.submissions[i].op in ops for i in submitted):
            return
        self._touching = self._tasks_touching(ops)
        self._find(submitted, first)

    def _find(self, submitted: Sequence[int], first: Mapping[str, Sequence[Fusion]]) -> None:
        """Units one after the other; one that reads what those before it write is none, so that they do not wait for it."""
        at, before, written = 0, None, set[int]()
        while at < len(submitted):
            units = (
                self._unit(fusion, submitted[at : at + len(fusion.parts)]) for fusion in first.get(self._op(submitted[at]), ())
            )
            unit = next((unit for unit in units if unit is not None), None)
            tasks = [self._task(submission) for submission in unit.submissions] if unit is not None else []
            if unit is None or unit.fusion is not before:
                written.clear()
            if unit is None or written.intersection(read for task in tasks for read in task.reads if read not in task.writes):
                before = None
                at += 1
                continue
            before = unit.fusion
            written.update(tensor for task in tasks for tensor in task.writes)
            self.units.update(dict.fromkeys(unit.submissions, unit))
            self.inner.update(unit.regions[name].tensor for name in unit.fusion.inner)
            at += len(unit.submissions)

    def _task(self, submission: int) -> Task:
        return self._program.tasks[self._schedule.submissions[submission].task or 0]

    def _op(self, submission: int) -> str:
        return self._schedule.submissions[submission].op or ""

    def _tasks_touching(self, ops: Collection[str]) -> dict[int, set[int]]:
        """Tasks that touch each tensor which a task of one of `ops` makes; an alloc that creates it does not count."""
        made = {tensor for task in self._program.tasks if task.op is not None and task.op in ops for tensor in task.writes}
        found: dict[int, set[int]] = {tensor: set() for tensor in made}
        for task in self._program.tasks:
            if task.op is not None:
                for tensor in made.intersection((*task.reads, *task.writes)):
                    found[tensor].add(task.id)
        return found

    def _unit(self, fusion: Fusion, submissions: Sequence[int]) -> Unit | None:
        """A unit of these submissions, if that is what they are."""
        if [self._op(submission) for submission in submissions] != [op for op, _ in fusion.parts]:
            return None
        tasks = [self._task(submission) for submission in submissions]
        own = {task.id for task in tasks}
        regions: dict[str, Region] = {}
        values: dict[str, object] = {}
        for task, (op, names) in zip(tasks, fusion.parts, strict=True):
            definition = self._registry[op]
            of_turns = {o.name for o in definition.operands if o.mode == "inout"}.union(definition.needs)
            if definition.needs and not self._is_alone:
                return None
            if not {names.get(name, name) for name in of_turns} <= fusion.in_turn:
                return None
            for operand, region in task.operands.items():
                if regions.setdefault(names.get(operand, operand), region) != region:
                    return None
            left_out = {o.name: None for o in definition.operands if o.name not in task.operands}
            for attr, value in {**left_out, **task.attrs}.items():
                if values.setdefault(names.get(attr, attr), value) != value:
                    return None
        if values.keys() & regions.keys():  # given to one task, and left out by another
            return None
        inner = {regions[name].tensor for name in fusion.inner}
        is_whole = all(regions[name].box is None and regions[name].seen is None for name in fusion.inner)
        if not is_whole or not all(self._touching.get(tensor, {-1}) <= own for tensor in inner):
            return None
        return Unit(fusion, tuple(submissions), regions, values)
