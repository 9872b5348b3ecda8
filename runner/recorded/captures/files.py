"""This module reads the files of a capture, what the device runtime leaves after a run with its records on, as plain data.

deps.json                     tasks, arguments and edges, by the runtime's own replay of its dependency records
scope_stats.jsonl             capacities, and every scope's begin and end (schema 6)
chip_swimlane_records.json    cores, and at level 4 one orchestrator record per submission
name_map_*.json               callable ids to names

What is not there is None or empty; whoever rebuilds the program says what that costs. Docs: docs/recorded.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.base.errors import ScheduleError
from runner.base.reading import read_json
from runner.recorded.captures.folder import DEPS, STATS, SWIMLANE
from runner.recorded.scope_stats import read_records
from runner.rings.schedule import NUM_RINGS
from runner.rings.sizes import RingSizes

CREATES = "OUTPUT"
KINDS = ("INPUT", "INOUT", CREATES, "OUTPUT_EXISTING", "NO_DEP", "UNKNOWN")

_BITS = re.compile(r"\d+")


def ring_of_id(task_id: int) -> int:
    """The ring that a task was submitted to."""
    return task_id >> 32


def number_of_id(task_id: int) -> int:
    """The task's number on its ring."""
    return task_id & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Operand:
    """One argument of a task. Of an OUTPUT, which the task itself creates, only `kind` is known.

    `kind` is the runtime's word: INPUT, INOUT, OUTPUT_EXISTING, OUTPUT, or UNKNOWN for one without dependencies. It touches bytes
    `[begin, end)` of the tensor at `address`; `dense` says whether it touches all of them. `buffer_bytes` is the tensor's size as
    the table of tensors has it: right for whoever is the first to use this `tensor_id`, as only the first is noted.
    """

    index: int
    kind: str
    tensor_id: int = 0
    address: int = 0
    begin: int = 0
    end: int = 0
    dense: bool = True
    buffer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CapturedTask:
    """A kernel or dummy task; `core` is aic, aiv, mix or dummy."""

    id: int
    name: str
    core: str
    manual: bool
    num_blocks: int
    operands: tuple[Operand, ...]

    @property
    def num_outputs(self) -> int:
        return sum(operand.kind == CREATES for operand in self.operands)


@dataclass(frozen=True, slots=True)
class CapturedEdge:
    """`operand` is the argument that caused it, -1 for an explicit one."""

    first: int
    second: int
    operand: int
    source: str
    waits: bool
    retains: bool


@dataclass(frozen=True, slots=True)
class ScopeMark:
    """A scope's begin or end: where its ring's counters stood. `where` is file and line."""

    where: str
    site: str
    begins: bool
    depth: int
    ring: int
    num_tasks: int
    heap_head: int


@dataclass(frozen=True, slots=True)
class Times:
    """What a swimlane file tells, in microseconds: per task its run and the mean of its rows (blocks), per submission its cost.

    `start_us`, `end_us` and `submit_start_us` count from the first record; `cores` are counts by type, `core_of` is the core of a
    task's first row, `slices` are all rows as (core, task, start, end).
    """

    level: int
    order: tuple[int, ...] = ()
    start_us: Mapping[int, float] = field(default_factory=dict)
    end_us: Mapping[int, float] = field(default_factory=dict)
    run_us: Mapping[int, float] = field(default_factory=dict)
    block_us: Mapping[int, float] = field(default_factory=dict)
    submit_us: Mapping[int, float] = field(default_factory=dict)
    core_of: Mapping[int, int] = field(default_factory=dict)
    cores: Mapping[str, int] = field(default_factory=dict)
    submit_start_us: Mapping[int, float] = field(default_factory=dict)
    slices: tuple[tuple[int, int, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Capture:
    """A capture folder. `tasks` is None without deps.json, `times` without a swimlane."""

    folder: Path
    name: str
    sizes: RingSizes
    marks: tuple[ScopeMark, ...]
    fatal: bool
    tasks: tuple[CapturedTask, ...] | None
    edges: tuple[CapturedEdge, ...]
    times: Times | None


def read_capture(folder: Path) -> Capture:
    """The files of a capture; raises ScheduleError for what is no capture, or cannot be."""
    stats = folder / STATS
    if not stats.is_file():
        raise ScheduleError(
            f"'{folder}' has no {STATS}, which alone says where scopes begin and end and how large the rings are",
            hint="record again with scope stats on",
        )
    meta, records = read_records(stats)
    if meta["dropped"]:
        raise ScheduleError(
            f"{stats}:1: {meta['dropped']:,} records were dropped, so scopes cannot be told from each other",
            hint="record again with a larger buffer; 'ringgraph scope-stats show' reads what is there",
        )
    sizes = RingSizes.from_lists(meta["heap_max"], meta["task_window_max"], meta["dep_pool_max"])
    marks = tuple(_mark(where, record) for where, record in records)
    names = _names(folder)
    deps, swimlane = folder / DEPS, folder / SWIMLANE
    tasks, edges = _deps(deps, names) if deps.is_file() else (None, ())
    times = _times(swimlane) if swimlane.is_file() else None
    name = folder.resolve().name
    return Capture(folder, name, sizes, marks, meta["fatal"], tasks, edges, times)


def _mark(where: str, record: Mapping[str, Any]) -> ScopeMark:
    depth = record.get("depth")
    if type(depth) is not int or depth < 0:
        raise ScheduleError(f"{where}: 'depth' is {depth!r}, expected an integer from 0 up")
    site, begins = record["site"], record["phase"] == "begin"
    return ScopeMark(where, site, begins, depth, record["ring"], record["task_window_end"], record["heap_end"])


def _names(folder: Path) -> dict[int, str]:
    """Callable ids to names, of all name maps in the folder."""
    found: dict[int, str] = {}
    for path in sorted(folder.glob("name_map_*.json")):
        data = read_json(path, ScheduleError)
        table = data.get("callable_id_to_name") if isinstance(data, dict) else None
        if not isinstance(table, dict):
            raise ScheduleError(f"{path}: expected an object with 'callable_id_to_name'")
        for key, name in table.items():
            if not key.isdecimal() or not isinstance(name, str):
                raise ScheduleError(f"{path}: callable_id_to_name: got {key!r}: {name!r}, expected a number's text and a name")
            found[int(key)] = name
    return found


# --- deps.json --------------------------------------------------------------------------------------------------------


def _deps(path: Path, names: Mapping[int, str]) -> tuple[tuple[CapturedTask, ...], tuple[CapturedEdge, ...]]:
    data = _object(read_json(path, ScheduleError), str(path))
    tensors = {
        _integer(item, "tensor_id", where): (
            _integer(item, "buffer_addr", where),
            _bytes(_integer(item, "buffer_numel", where), item.get("dtype"), where),
        )
        for where, item in _objects(data, "tensors", path)
    }
    tasks = tuple(_task(item, where, names, tensors) for where, item in _objects(data, "tasks", path))
    by_id = {task.id: task for task in tasks}
    if len(by_id) < len(tasks):
        raise ScheduleError(f"{path}: tasks: an id comes twice")
    return tasks, tuple(_edge(item, where, by_id) for where, item in _objects(data, "edges", path))


def _task(item: Mapping[str, Any], where: str, names: Mapping[int, str], tensors: Mapping[int, tuple[int, int]]) -> CapturedTask:
    task_id = _integer(item, "task_id", where)
    if not 0 <= ring_of_id(task_id) < NUM_RINGS:
        raise ScheduleError(f"{where}.task_id: got {task_id}, of ring {ring_of_id(task_id)}, expected one of {NUM_RINGS} rings")
    kernels = item.get("kernel_ids")
    if not isinstance(kernels, list) or len(kernels) != 3 or not all(type(kernel) is int for kernel in kernels):
        raise ScheduleError(f"{where}.kernel_ids: got {kernels!r}, expected three integers")
    active = [kernel for kernel in kernels if kernel >= 0]
    core = "dummy" if not active else "mix" if len(active) > 1 else "aic" if kernels[0] >= 0 else "aiv"
    name = names.get(active[0], f"kernel_{active[0]}") if active else "dummy"
    operands = tuple(_operand(arg, place, tensors) for place, arg in _objects(item, "args", where, "."))
    if len({operand.index for operand in operands}) < len(operands):
        raise ScheduleError(f"{where}.args: an idx comes twice")
    num_blocks = _integer(item, "block_num", where) if "block_num" in item else 1
    return CapturedTask(task_id, name, core, item.get("scope") == "manual", max(1, num_blocks), operands)


def _operand(item: Mapping[str, Any], where: str, tensors: Mapping[int, tuple[int, int]]) -> Operand:
    index, kind = _integer(item, "idx", where), item.get("type")
    if kind not in KINDS:
        raise ScheduleError(f"{where}.type: got {repr(kind)[:60]}, expected one of {', '.join(KINDS)}")
    if kind == CREATES or "tensor_id" not in item:
        return Operand(index, kind)
    tensor_id = _integer(item, "tensor_id", where)
    if tensor_id not in tensors:
        raise ScheduleError(f"{where}.tensor_id: no tensor has the id {tensor_id}")
    address, buffer_bytes = tensors[tensor_id]
    shape, strides = item.get("shape", []), item.get("strides", [])
    if not _counts(shape) or not _counts(strides) or len(shape) != len(strides):
        raise ScheduleError(f"{where}: shape {shape!r} and strides {strides!r}: expected two lists of as many counts")
    start = _integer(item, "start_offset", where) if "start_offset" in item else 0
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1 if all(shape) else 0
    begin, end = (_bytes(count, item.get("dtype"), where) for count in (start, start + reach))
    return Operand(index, kind, tensor_id, address, begin, end, _dense(shape, strides), buffer_bytes)


def _dense(shape: list[int], strides: list[int]) -> bool:
    """Whether a view touches every element between its first and its last."""
    step = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride > step:
            return False
        step = max(step, stride * size)
    return True


def _bytes(count: int, dtype: Any, where: str) -> int:
    bits = 8 if dtype == "BOOL" else int(found[0]) if isinstance(dtype, str) and (found := _BITS.search(dtype)) else 0
    if not bits:
        raise ScheduleError(f"{where}.dtype: got {dtype!r}, expected a type that names its bits, such as 'FLOAT16'")
    return -(-count * bits // 8)


def _edge(item: Mapping[str, Any], where: str, tasks: Mapping[int, CapturedTask]) -> CapturedEdge:
    first, second = (_integer(item, name, where) for name in ("pred", "succ"))
    if not 0 <= ring_of_id(first) < NUM_RINGS:
        raise ScheduleError(f"{where}.pred: got {first}, of ring {ring_of_id(first)}, expected one of {NUM_RINGS} rings")
    if second not in tasks:
        raise ScheduleError(f"{where}.succ: no task has the id {second}")
    flags = item.get("flags", ["wait"] if item.get("source") == "tensormap" else ["wait", "retain"])
    if not isinstance(flags, list):
        raise ScheduleError(f"{where}.flags: got {flags!r}, expected a list")
    operand = _integer(item, "arg", where) if "arg" in item else -1
    if operand >= 0 and not any(known.index == operand and known.tensor_id for known in tasks[second].operands):
        raise ScheduleError(f"{where}.arg: task {second} has no argument {operand} with a tensor")
    return CapturedEdge(first, second, operand, str(item.get("source")), "wait" in flags, "retain" in flags)


# --- chip_swimlane_records.json ---------------------------------------------------------------------------------------


def _times(path: Path) -> Times:
    """The times of a swimlane; a file of a lower level has no orchestrator records, and no order."""
    data = _object(read_json(path, ScheduleError), str(path))
    metadata = _object(data.get("metadata"), f"{path}: metadata")
    clock_mhz = _positive(metadata.get("clock_freq_hz"), f"{path}: metadata.clock_freq_hz") / 1e6
    rows = [_row(row, f"{path}: aicore_tasks[{k}]") for k, row in enumerate(_listed(data.get("aicore_tasks", []), path))]
    phases = [
        tuple(_integer(item, name, where) for name in ("submit_idx", "task_id", "start_cycles", "end_cycles"))
        for thread in _listed(data.get("aicpu_orchestrator_phases", []), path)
        for where, item in _objects({"phases": thread}, "phases", path)
        if isinstance(item, dict) and "submit_idx" in item
    ]
    phases.sort()
    zero = min([start for _, _, start, _ in rows] + [start for _, _, start, _ in phases], default=0)
    each: dict[int, list[tuple[int, int]]] = {}
    for _, task, start, end in rows:
        each.setdefault(task, []).append((start, end))
    begun = {task: min(start for start, _ in runs) for task, runs in each.items()}
    ended = {task: max(end for _, end in runs) for task, runs in each.items()}
    types = metadata.get("core_types", [])
    return Times(
        data.get("chip_swimlane_level", 0),
        tuple(task for _, task, _, _ in phases),
        {task: (start - zero) / clock_mhz for task, start in begun.items()},
        {task: (end - zero) / clock_mhz for task, end in ended.items()},
        {task: (end - begun[task]) / clock_mhz for task, end in ended.items()},
        {task: sum(end - start for start, end in runs) / len(runs) / clock_mhz for task, runs in each.items()},
        {task: (end - start) / clock_mhz for _, task, start, end in phases},
        {task: core for core, task, _, _ in reversed(rows)},
        {kind: types.count(kind) for kind in ("aic", "aiv")} if isinstance(types, list) else {},
        {task: (start - zero) / clock_mhz for _, task, start, _ in phases},
        tuple((core, task, (start - zero) / clock_mhz, (end - zero) / clock_mhz) for core, task, start, end in rows),
    )


def _row(row: Any, where: str) -> tuple[int, int, int, int]:
    """Core, task, start and end of one row; the sixth column, if there is one, is not needed."""
    if not isinstance(row, list) or len(row) not in (5, 6) or not all(type(value) is int for value in row):
        raise ScheduleError(f"{where}: got {row!r}, expected five or six integers")
    core, task, _, start, end = row[:5]
    if end < start:
        raise ScheduleError(f"{where}: ends at {end}, before it starts at {start}")
    return core, task, start, end


# --- values -----------------------------------------------------------------------------------------------------------


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ScheduleError(f"{where}: got {repr(value)[:60]}, expected an object")
    return value


def _objects(holder: Mapping[str, Any], name: str, where: Any, join: str = ": ") -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The objects of a list, each behind its place."""
    items = holder.get(name)
    if not isinstance(items, list):
        raise ScheduleError(f"{where}{join}{name}: got {repr(items)[:60]}, expected a list")
    return [(f"{where}{join}{name}[{k}]", _object(item, f"{where}{join}{name}[{k}]")) for k, item in enumerate(items)]


def _listed(value: Any, where: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ScheduleError(f"{where}: got {repr(value)[:60]}, expected a list")
    return value


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _integer(holder: Mapping[str, Any], name: str, where: str) -> int:
    """An integer, as such or as text: ids of 64 bits are written as text."""
    value = holder.get(name)
    if isinstance(value, str) and len(value) <= 20 and re.fullmatch(r"-?\d+", value):
        return int(value)
    if type(value) is not int:
        raise ScheduleError(f"{where}.{name}: got {'nothing' if value is None else repr(value)[:60]}, expected an integer")
    return value


def _positive(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ScheduleError(f"{where}: got {value!r}, expected a number above 0")
    return value
