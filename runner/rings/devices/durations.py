"""This module tells how long a task takes on a device, for the `timed` progress model: estimated from its op's cost, or measured.

An estimate is a roofline per core: the larger of arithmetic and traffic, at the nominal rates of `Rates`, split over the SPMD
blocks of the task. It ranks schedules; it is no promise about a device, for which there is `ringgraph run --profile`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import ref

from runner.base.errors import ScheduleError
from runner.base.reading import read_json
from runner.language.given import describe
from runner.program.ops import Call, OpDef
from runner.program.program import Program, Task
from runner.program.signature import Signature
from runner.rings.defaults import MOST_US
from runner.rings.devices.devices import Rates
from runner.rings.schedule import Schedule

_known: tuple[ref[Program], tuple[object, ...], array[float]] | None = None
"""Times of the tasks of the program that was asked for last: one command times many schedules of it."""


def estimated_us(schedule: Schedule, ops: Mapping[str, OpDef], dtypes: Mapping[str, str], rates: Rates) -> Callable[[int], float]:
    """Duration of one block of a submission's task, in microseconds, from the cost that its op declares; 0 for an alloc of no
    task."""
    global _known
    program, given = schedule.program, (ops, dtypes, rates)
    assert program is not None
    if _known is None or _known[0]() is not program or _known[1] != given:
        costs = _Costs(program, ops, dtypes, rates)
        _known = ref(program), given, costs.of_tasks()
    times = _known[2]
    tasks = [submission.task for submission in schedule.submissions]
    return array("d", [0.0 if task is None else times[task] for task in tasks]).__getitem__


class _Costs:
    """Costs of the tasks of a program; an op's cost rule runs once for calls that it cannot tell apart."""

    def __init__(self, program: Program, ops: Mapping[str, OpDef], dtypes: Mapping[str, str], rates: Rates) -> None:
        self.program, self.ops, self.dtypes, self.rates = program, ops, dtypes, rates
        self.signatures: dict[str, Signature] = {}
        self.known: dict[object, _Known] = {}
        self.alike: dict[int, _Known] = {}  # by the identity of `Task.like`

    def of_tasks(self) -> array[float]:
        """Of one block of each task. Where a rule looks at no attributes, one task costs as much as all that are like it."""
        steady: dict[int, float] = {}
        times = array("d")
        for task in self.program.tasks:
            like = id(task.like)
            if (cost_us := steady.get(like)) is None:
                cost_us = self.block_us(task)
                if like in self.alike and not self.alike[like].attrs:
                    steady[like] = cost_us
            times.append(cost_us)
        return times

    def block_us(self, task: Task) -> float:
        found = self.alike.get(id(task.like))
        if found is None:
            if task.op is None or task.op not in self.ops:
                return self.rates.task_us
            found = self.alike[id(task.like)] = self.known.setdefault(self.shapes(task), _Known())
        values = found.values(task) if found.attrs else ""
        if values not in found.cost_us:
            assert task.op is not None, "an alloc costs nothing by itself"
            noted = _Noted(task.attrs)
            cost_us = self.cost_us(task, self.ops[task.op], noted)
            if noted.names - found.attrs.keys():  # the rule looked at more than before: what is known is too coarse
                found.attrs, found.cost_us = dict.fromkeys(sorted({*found.attrs, *noted.names})), {}
                values = found.values(task)
            found.cost_us[values] = cost_us
        return found.cost_us[values]

    def shapes(self, task: Task) -> object:
        """What a call is known by beside its attributes; tensors share specs, so the identity of one stands for its shape."""
        tensors = self.program.tensors
        shapes = [
            id(tensors[r.tensor].spec)
            if r.box is None and r.seen is None
            else (id(tensors[r.tensor].spec), r.dropped, r.box and tuple([hi - lo for lo, hi in r.box]), r.seen and r.seen.spec)
            for r in task.regions
        ]
        return (task.op, task.num_blocks, *task.names, *shapes)

    def cost_us(self, task: Task, definition: OpDef, attrs: Mapping[str, object]) -> float:
        specs = {name: region.shown(self.program.tensors[region.tensor].spec) for name, region in task.operands.items()}
        if definition.name not in self.signatures:
            self.signatures[definition.name] = Signature(definition, self.dtypes)
        dims = self.signatures[definition.name].match(specs).dims
        return _roofline(definition, Call(specs, dims, attrs), task, self.rates)


@dataclass(slots=True)
class _Known:
    """Costs of calls with the same op and shapes, by the values of the attributes that the op's cost has looked at (a tile's
    number, say, matters to few)."""

    attrs: dict[str, None] = field(default_factory=dict)
    cost_us: dict[str, float] = field(default_factory=dict)

    def values(self, task: Task) -> str:
        return repr([task.attrs.get(name) for name in self.attrs])


class _Noted(Mapping[str, object]):
    """Attributes that note which of them were looked at."""

    def __init__(self, attrs: Mapping[str, object]) -> None:
        self._attrs = attrs
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> object:
        self.names.add(name)
        return self._attrs[name]

    def __iter__(self) -> Iterator[str]:
        self.names.update(self._attrs)
        return iter(self._attrs)

    def __len__(self) -> int:
        return len(self._attrs)


def _roofline(definition: OpDef, call: Call, task: Task, rates: Rates) -> float:
    cost = definition.cost(call)
    rate = rates.aiv_flops_per_us if task.core == "AIV" else rates.aic_flops_per_us
    return rates.task_us + max(cost.flops / rate, cost.bytes / rates.bytes_per_us) / task.num_blocks


def measured_us(schedule: Schedule, path: Path) -> Callable[[int], float]:
    """Durations from a file of `ringgraph run --profile`: a task's own by its path, else its op's mean; raises ScheduleError.

    A measured task ran as a whole, so one of its blocks takes as long as all of them side by side.
    """
    tasks, ops = read_profile(path)
    missing = sorted({s.op for s in schedule.submissions if s.op is not None and s.name not in tasks and s.op not in ops})
    if missing:
        raise ScheduleError(f"{path} has no times of {_listed(missing)}", hint="profile a run of the same graph")

    def block_us(submission: int) -> float:
        item = schedule.submissions[submission]
        return tasks[item.name] if item.name in tasks else ops[item.op or ""]

    return block_us


def read_profile(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds of tasks by path, and the means of ops, as `ringgraph run --profile` writes them; raises ScheduleError."""
    data: Any = read_json(path, ScheduleError)

    tasks, ops = (_entry(path, data, "the file", key, kind) for key, kind in (("tasks", list), ("ops", dict)))
    items = [(item, f"tasks[{place}]") for place, item in enumerate(tasks)]
    of_tasks = {_entry(path, item, where, "path", str): _entry(path, item, where, "us", float) for item, where in items}
    return of_tasks, {op: _entry(path, item, f"op '{op}'", "mean_us", float) for op, item in ops.items()}


_EXPECTED = {list: "a list", dict: "an object", str: "text", float: f"a number from 0 to {MOST_US:g}"}


def _entry(path: Path, of: Any, where: str, key: str, kind: type) -> Any:
    """The value of a key in a part of a profile; raises ScheduleError if it is not of the kind, or the part is no object."""
    told, value = f"'{key}' of {where}", of.get(key) if isinstance(of, dict) else None
    if not isinstance(of, dict):
        told, value, kind = where, of, dict
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_US:
        return float(value)
    elif kind is not float and isinstance(value, kind):
        return value
    message = f"cannot read the profile {path}: {told} is {describe(value)}, expected {_EXPECTED[kind]}"
    raise ScheduleError(message, hint="'ringgraph run --profile' writes one")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return f"{shown} and {len(names) - 5} more ops" if len(names) > 5 else f"op{'s' * (len(names) > 1)} {shown}"
