"""How long a task takes on a device, for the `timed` progress model: estimated from its op's cost, or measured.

An estimate is a roofline per core: the larger of arithmetic and traffic, at the nominal rates of `Rates`, split over the SPMD
blocks of the task. It ranks schedules; it is no promise about a device, for which there is `ringgraph run --profile`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import ScheduleError
from runner.program import Program, Region, Task
from runner.registry import Call, OpDef
from runner.schedule import Schedule
from runner.signature import Signature
from runner.spec import TensorSpec


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
    signatures: dict[str, Signature] = {}
    known: dict[object, float] = {}

    def block_us(submission: int) -> float:
        index = schedule.submissions[submission].task
        assert index is not None
        task = program.tasks[index]
        if task.op is None or task.op not in ops:
            return rates.task_us
        specs = {name: _spec(program, region) for name, region in task.operands.items()}
        key = (task.op, *specs.values(), repr(task.attrs))
        if key not in known:
            if task.op not in signatures:
                signatures[task.op] = Signature(ops[task.op], dtypes)
            dims = signatures[task.op].match(specs).dims
            known[key] = _roofline(ops[task.op], Call(specs, dims, task.attrs), task, rates)
        return known[key]

    return block_us


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
