"""This module writes `deps.json` and its name map: a schedule's tasks, arguments and edges as the device runtime says them.

In an auto scope an edge has the reason that the runtime has for it:

    creator      the block of a tensor that the task uses, once a pair of tasks     waits and keeps the block
    tensormap    an earlier writer of a tensor that the task touches                waits
    explicit     all others: `after`, and the edges that sharing of bytes needs     waits, and keeps if the schedule keeps

In a manual scope all edges are explicit. A block in which tensors take turns is one tensor of bytes, of which they are
parts.

Source: the public `simpler` runtime's dependency replay and its viewers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import Any

from runner.base.tensor_spec import DTYPE_BYTES, round_up
from runner.program.program import Program, Region, Task
from runner.report.device.timeline import kernel_of
from runner.rings.schedule import Schedule, Submission, Submit
from runner.rings.steps import StepWalk

DTYPES = {
    "bool": "BOOL",
    "i8": "INT8",
    "u8": "UINT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f8e4m3": "FP8E4M3FN",
    "f8e8m0": "FP8E8M0",
    "f16": "FLOAT16",
    "bf16": "BFLOAT16",
    "f32": "FLOAT32",
    "f64": "UINT64",  # the runtime has no type of its own for it
}
"""The runtime's names of our dtypes."""

HEAP_BASE = 0x1000_0000_0000
"""Where the first ring's heap lies in the files; the others follow. Any address would do."""

OUTSIDE_BASE = 0x2000_0000_0000
"""Where tensors from outside of the heaps lie."""


def name_map_json(schedule: Schedule) -> dict[str, Any]:
    """The object of `name_map_*.json`: which kernel has which number."""
    names = {str(number): name for name, number in kernel_numbers(schedule).items()}
    return {"level": 2, "orchestrator_name": schedule.name, "callable_id_to_name": names}


def kernel_numbers(schedule: Schedule) -> dict[str, int]:
    """Kernels by name, numbered in the order in which they come first."""
    found: dict[str, int] = {}
    for index, item in enumerate(schedule.submissions):
        if item.core is not None:
            found.setdefault(kernel_of(schedule, index), len(found))
    return found


def deps_json(schedule: Schedule, ids: Sequence[int | None], offsets: Sequence[int], heap: Sequence[int]) -> dict[str, Any]:
    """The object of `deps.json`: what was submitted (`ids`, see `task_ids`), in blocks at `offsets` of rings of `heap` bytes."""
    return _Writer(schedule, ids, offsets, heap).deps()


@dataclass(frozen=True, slots=True)
class _Use:
    """One argument: its kind in the runtime's words and, but for an OUTPUT, the region of the tensor that it touches."""

    kind: str
    region: Region


@dataclass
class _Writer:
    schedule: Schedule
    ids: Sequence[int | None]
    offsets: Sequence[int]
    heap: Sequence[int]
    owner: dict[int, int] = field(default_factory=dict)  # tensor -> submission in whose block it lies
    address: dict[int, int] = field(default_factory=dict)
    part_of: dict[int, tuple[int, int]] = field(default_factory=dict)  # tensor in an arena -> (its submission, offset in it)
    writes: dict[int, dict[int, Region]] = field(default_factory=dict)  # tensor -> writing submission -> where
    named: dict[str, dict[str, Any]] = field(default_factory=dict)  # what the table of tensors must have, by id
    behind: dict[int, set[int]] = field(default_factory=dict)  # of what was left out: what it waits for

    def __post_init__(self) -> None:
        assert self.schedule.program is not None, "only a schedule of a program knows what its tasks touch"
        self.program: Program = self.schedule.program
        bases = [*accumulate(self.heap, initial=HEAP_BASE)]
        for index, item in enumerate(self.schedule.submissions):
            task_id = self.ids[index]
            for slot in item.slots:
                self.owner[slot.tensor] = index
                if item.num_tensors == 1 < len(item.slots):
                    self.part_of[slot.tensor] = index, slot.offset
                if task_id is not None:
                    self.address[slot.tensor] = bases[task_id >> 32] + self.offsets[index] + slot.offset
        at = OUTSIDE_BASE
        for tensor in self.program.tensors:
            if not tensor.is_local:
                self.address[tensor.id] = at
                at += round_up(tensor.spec.size_bytes)

    def deps(self) -> dict[str, Any]:
        kernels = kernel_numbers(self.schedule)
        tasks: list[dict[str, Any]] = []
        edges: list[dict[str, Any]] = []
        walk = StepWalk(self.schedule)
        for step in walk:
            if not isinstance(step, Submit):
                continue
            index, item = step.submission, self.schedule.submissions[step.submission]
            if self.ids[index] is None:
                self.leave_out(index)
            elif item.core is not None:
                mode = self.schedule.scopes[walk.scopes[-1]].mode
                uses = list(self.uses(item))
                tasks.append(self.task(index, mode, kernels[kernel_of(self.schedule, index)], uses))
                edges += self.edges(index, mode, uses)
                for use in uses:
                    if mode == "auto" and use.kind in ("INOUT", "OUTPUT_EXISTING"):
                        self.writes.setdefault(use.region.tensor, {})[index] = use.region
        return {"tasks": tasks, "tensors": [*self.named.values()], "edges": edges}

    def leave_out(self, index: int) -> None:
        """Notes what stands for a submission of a trip that did not run."""
        self.behind[index] = self.present(self.schedule.submissions[index].waits)

    def present(self, waits: Sequence[int]) -> set[int]:
        """What was submitted of `waits`, and what those wait for that were not."""
        found = {wait for wait in waits if self.ids[wait] is not None}
        return found.union(*(self.behind.get(wait, ()) for wait in waits if self.ids[wait] is None))

    # --- tasks --------------------------------------------------------------------------------------------------------

    def uses(self, item: Submission) -> Iterator[_Use]:
        """The arguments of a task: its operands, then what it touches or creates beside them."""
        assert item.task is not None
        task = self.program.tasks[item.task]
        own = {slot.tensor for slot in item.slots}
        seen: set[int] = set()
        for region in task.operands.values():
            if region.tensor not in own or region.tensor not in seen:
                yield _Use(_kind(task, region.tensor, own), region)
            seen.add(region.tensor)
        for tensor in (*task.uses, *task.creates):
            if tensor not in seen:
                is_untold = bool(task.operands) and tensor not in task.creates
                yield _Use("UNKNOWN" if is_untold else _kind(task, tensor, own), Region(tensor))

    def task(self, index: int, mode: str, kernel: int, uses: Sequence[_Use]) -> dict[str, Any]:
        item = self.schedule.submissions[index]
        kernels = {"AIC": [kernel, -1, -1], "AIV": [-1, kernel, -1], "MIX": [kernel, kernel, kernel]}
        return {
            "task_id": str(self.ids[index]),
            "scope": mode,
            "early_dispatch": False,
            "kernel_ids": kernels[item.core or "AIV"],
            "block_num": item.num_blocks,
            "args": [self.argument(number, use) for number, use in enumerate(uses)],
        }

    def argument(self, number: int, use: _Use) -> dict[str, Any]:
        head = {"idx": number, "type": use.kind}
        if use.kind == "OUTPUT" or use.region.tensor not in self.address:
            return head
        row = self.row(use.region.tensor)
        self.named.setdefault(row["tensor_id"], row)
        dtype = DTYPES[use.region.shown(self.program.tensors[use.region.tensor].spec).dtype]
        return head | {"tensor_id": row["tensor_id"], "dtype": dtype} | self.geometry(use.region)

    def geometry(self, region: Region) -> dict[str, Any]:
        """Shape, first element and strides of a region, in elements."""
        spec = self.program.tensors[region.tensor].spec
        if region.seen is not None:
            seen, (_, inner) = region.seen, self.part_of.get(region.tensor, (0, 0))
            start = inner // DTYPE_BYTES[seen.dtype] + seen.offset
            return {"shape": [*seen.shape] or [1], "start_offset": str(start), "strides": [*seen.strides] or [1]}
        shape, (_, inner) = spec.shape, self.part_of.get(region.tensor, (0, 0))
        strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
        box = region.box if region.box is not None else tuple((0, size) for size in shape)
        start = inner // DTYPE_BYTES[spec.dtype] + sum(low * stride for (low, _), stride in zip(box, strides, strict=True))
        if not box:  # a scalar has one element
            return {"shape": [1], "start_offset": str(start), "strides": [1]}
        return {"shape": [high - low for low, high in box], "start_offset": str(start), "strides": strides}

    def row(self, tensor: int) -> dict[str, Any]:
        """What the table says of a tensor; of one in an arena what it says of the arena."""
        known = self.program.tensors[tensor]
        arena, inner = self.part_of.get(tensor, (None, 0))
        size_bytes = known.spec.size_bytes
        if arena is not None:
            size_bytes = self.schedule.submissions[arena].size_bytes
        elif known.is_local:  # as the runtime has it
            size_bytes = round_up(size_bytes)
        dtype = known.spec.dtype if arena is None else "u8"
        return {
            "tensor_id": str(tensor + 1 if arena is None else len(self.program.tensors) + arena + 1),  # 0 is no tensor
            "buffer_addr": str(self.address[tensor] - inner),
            "version": 0,
            "dtype": DTYPES[dtype],
            "buffer_numel": str(size_bytes // DTYPE_BYTES[dtype]),
        }

    # --- edges --------------------------------------------------------------------------------------------------------

    def edges(self, index: int, mode: str, uses: Sequence[_Use]) -> Iterator[dict[str, Any]]:
        item = self.schedule.submissions[index]
        waits, holds = self.present(item.waits), self.present(item.holds)
        told: set[int] = set()
        if mode == "auto":
            for first, number in self.creators(index, uses).items():
                if first in holds:
                    told.add(first)
                    consumer = self.consumer(uses[number].region)
                    yield self.edge(first, index, number, "creator", ["wait", "retain"]) | consumer
            for first, number, region in self.writers(uses, waits - set(item.explicit)):
                told.add(first)
                flags = {"overlap": "covered" if region == uses[number].region else "other"}
                producer = {f"producer_{name}": value for name, value in self.geometry(region).items()}
                edge = self.edge(first, index, number, "tensormap", ["wait"])
                yield edge | flags | self.consumer(uses[number].region) | producer
        for first in sorted(waits - told):
            yield self.edge(first, index, -1, "explicit", ["wait", "retain"] if first in holds else ["wait"])

    def creators(self, index: int, uses: Sequence[_Use]) -> dict[int, int]:
        """Submissions in whose blocks arguments lie, each with the first such argument."""
        found: dict[int, int] = {}
        for number, use in enumerate(uses):
            owner = self.owner.get(use.region.tensor, index)
            if owner != index and use.kind != "OUTPUT":
                found.setdefault(owner, number)
        return found

    def writers(self, uses: Sequence[_Use], waits: set[int]) -> Iterator[tuple[int, int, Region]]:
        """Those of `waits` that wrote what an argument reads, each with its first such argument and what it wrote."""
        told: set[int] = set()
        for number, use in enumerate(uses):
            if use.kind in ("INPUT", "INOUT"):
                written = self.writes.get(use.region.tensor, {})
                for first in sorted(waits.intersection(written) - told):
                    told.add(first)
                    yield first, number, written[first]

    def edge(self, first: int, second: int, number: int, source: str, flags: list[str]) -> dict[str, Any]:
        return {"pred": str(self.ids[first]), "succ": str(self.ids[second]), "arg": number, "source": source, "flags": flags}

    def consumer(self, region: Region) -> dict[str, Any]:
        dtype = DTYPES[self.program.tensors[region.tensor].spec.dtype]
        geometry = {f"consumer_{name}": value for name, value in self.geometry(region).items()}
        return {"tensor_id": self.row(region.tensor)["tensor_id"], "consumer_dtype": dtype} | geometry


def _kind(task: Task, tensor: int, own: set[int]) -> str:
    """How a task takes a tensor, in the runtime's words; `own` are those that lie in its own block."""
    if tensor in own:
        return "OUTPUT"
    if tensor in task.writes:
        return "INOUT" if tensor in task.reads else "OUTPUT_EXISTING"
    return "INPUT"
