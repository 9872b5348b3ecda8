"""How long a task takes on a device, for the `timed` progress model: estimated from its op's cost, or measured.

An estimate is a roofline per core: the larger of arithmetic and traffic, at the nominal rates of `Rates`, split over the SPMD
blocks of the task. It ranks schedules; it is no promise about a device, for which there is `ringgraph run --profile`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.base.errors import ScheduleError
from runner.base.tensor_spec import TensorSpec
from runner.program.ops import Call, OpDef
from runner.program.program import Program, Region, Task
from runner.program.signature import Signature
from runner.rings.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Rates:
    """Nominal rates of one core of an a2a3 device, and what every task costs beside its work."""

    aic_flops_per_us: float = 6_500_000.0  # about 160 teraflops of half precision over 24 cores
    aiv_flops_per_us: float = 200_000.0  # about 10 teraflops over 48 cores
    bytes_per_us: float = 33_000.0  # 1.6 terabytes a second over 48 cores
    task_us: float = 2.0


def estimated_us(schedule: Schedule, ops: Mapping[str, OpDef], dtypes: Mapping[str, str], rates: Rates) -> Callable[[int], float]:
    """Duration of one block of a submission's task, in microseconds, from the cost that its op declares."""
    program = schedule.program
    assert program is not None
    tensors = program.tensors
    signatures: dict[str, Signature] = {}
    known: dict[object, _Known] = {}

    def cost_of(task: Task, definition: OpDef, attrs: Mapping[str, object]) -> float:
        specs = {name: _spec(program, region) for name, region in task.operands.items()}
        if definition.name not in signatures:
            signatures[definition.name] = Signature(definition, dtypes)
        return _roofline(definition, Call(specs, signatures[definition.name].match(specs).dims, attrs), task, rates)

    def block_us(submission: int) -> float:
        index = schedule.submissions[submission].task
        assert index is not None
        task = program.tasks[index]
        if task.op is None or task.op not in ops:
            return rates.task_us
        shapes = [
            (id(tensors[r.tensor].spec), r.dropped, r.box and tuple([hi - lo for lo, hi in r.box]))
            for r in task.operands.values()
        ]
        key = (task.op, task.num_blocks, *task.operands, *shapes)
        found = known.setdefault(key, _Known())
        values = repr([task.attrs.get(name) for name in found.attrs])
        if values not in found.cost_us:
            noted = _Noted(task.attrs)
            cost_us = cost_of(task, ops[task.op], noted)
            if noted.names - found.attrs.keys():
                found = known[key] = _Known(dict.fromkeys(sorted({*found.attrs, *noted.names})))
                values = repr([task.attrs.get(name) for name in found.attrs])
            found.cost_us[values] = cost_us
        return found.cost_us[values]

    return block_us


@dataclass(slots=True)
class _Known:
    """Costs of calls with the same op and shapes, by the values of the attributes that the op's cost has looked at (a tile's
    number, say, matters to few)."""

    attrs: dict[str, None] = field(default_factory=dict)
    cost_us: dict[str, float] = field(default_factory=dict)


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


def _spec(program: Program, region: Region) -> TensorSpec:
    spec = program.tensors[region.tensor].spec
    if region.box is None:
        return spec
    shape = tuple(hi - lo for axis, (lo, hi) in enumerate(region.box) if axis not in region.dropped)
    return TensorSpec(spec.dtype, shape)


def measured_us(schedule: Schedule, path: Path) -> Callable[[int], float]:
    """Durations from a file of `ringgraph run --profile`: a task's own by its path, else its op's mean; raises ScheduleError.

    A measured task ran as a whole, so one of its blocks takes as long as all of them side by side.
    """
    tasks, ops = _read_profile(path)
    missing = sorted({s.op for s in schedule.submissions if s.op is not None and s.name not in tasks and s.op not in ops})
    if missing:
        raise ScheduleError(f"{path} has no times of {_listed(missing)}", hint="profile a run of the same graph")

    def block_us(submission: int) -> float:
        item = schedule.submissions[submission]
        return tasks[item.name] if item.name in tasks else ops[item.op or ""]

    return block_us


def _read_profile(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        tasks = {str(item["path"]): float(item["us"]) for item in data["tasks"]}
        ops = {str(op): float(item["mean_us"]) for op, item in data["ops"].items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScheduleError(f"cannot read the profile {path}: {error!r}", hint="'ringgraph run --profile' writes one") from None
    return tasks, ops


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return f"{shown} and {len(names) - 5} more ops" if len(names) > 5 else f"op{'s' * (len(names) > 1)} {shown}"
