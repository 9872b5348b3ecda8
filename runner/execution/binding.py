"""This module makes a call of a submission: the op's implementation with every operand as a view into the memory that it has.

What can be known without knowing where blocks lie (views of externals, parameters, shapes and strides of local operands) is
worked out once per submission. The views themselves depend on the places of the blocks alone and are kept for the places last
seen: a schedule that runs again, as in decoding, meets the same places nearly always.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from runner.base.errors import ExecutionError
from runner.base.tensor_spec import DTYPE_BYTES
from runner.execution.layouts import LaidWeight, Weight, is_matrix, laid_operands
from runner.execution.storage import TORCH_DTYPES, Place, Storage
from runner.program.ops import Fusion, OpRegistry
from runner.program.program import Program, Region, Task
from runner.rings.schedule import Schedule

_MAX_BINDINGS = 4
"""Sets of views kept per submission; dynamic loops move the blocks behind them, so the number of places is unbounded."""


@dataclass(frozen=True, slots=True)
class _Local:
    """A view into a block: everything but the block's place. `offset` and `strides` are in elements of `dtype`."""

    operand: str
    owner: int
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(slots=True)
class Binding:
    """One submission's call, ready but for the places of the blocks in `owners`."""

    run: Callable[..., None]
    fixed: dict[str, Any]
    locals: tuple[_Local, ...]
    owners: tuple[int, ...]
    uses_comm: bool
    calls: dict[tuple[Place, ...], dict[str, Any]] = field(default_factory=dict)
    last: tuple[tuple[Place, ...], dict[str, Any]] | None = None

    def arguments(self, places: Sequence[Place | None], storage: Storage) -> dict[str, Any]:
        """The keyword arguments of the call when the blocks lie at `places` (by submission)."""
        key = tuple([places[owner] for owner in self.owners])
        if self.last is not None and self.last[0] == key:  # mostly of the very same objects, which are not hashed
            return self.last[1]
        known = self.calls.get(key)  # type: ignore[arg-type]
        if known is not None:
            self.last = key, known  # type: ignore[assignment]
            return known
        arguments = dict(self.fixed)
        for local in self.locals:
            place = places[local.owner]
            assert place is not None, f"operand {local.operand!r} lies in a block that was never taken"
            arguments[local.operand] = view_at(storage, place, local.dtype, local.offset, local.shape, local.strides)
        if len(self.calls) >= _MAX_BINDINGS:
            self.calls.clear()
        self.calls[key] = arguments  # type: ignore[index]
        self.last = key, arguments  # type: ignore[assignment]
        return arguments


def view_at(
    storage: Storage, place: Place, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> torch.Tensor:
    """The view at `offset` elements behind a place; an empty tensor has no bytes and needs no buffer."""
    if 0 in shape:
        return torch.empty(shape, dtype=TORCH_DTYPES[dtype], device=storage.device)
    buffer, start = place
    return storage.flat(buffer, dtype).as_strided(shape, strides, start // DTYPE_BYTES[dtype] + offset)


class Binder:
    """Makes the bindings of a schedule, each when it is first needed.

    `externals` maps tensor ids of the program (inputs, weights, state, outputs) to torch tensors of exactly the declared shape
    and dtype; a weight may be laid out.
    """

    def __init__(
        self,
        schedule: Schedule,
        registry: OpRegistry,
        externals: Mapping[int, Weight],
        comm: object,
    ):
        if schedule.program is None:
            raise ExecutionError(f"schedule '{schedule.name}' cannot run: it was recorded, not made from a graph")
        self._schedule = schedule
        self._program: Program = schedule.program
        self._registry = registry
        self._externals = externals
        self._comm = comm
        self._home: dict[int, tuple[int, int]] = {}
        for index, submission in enumerate(schedule.submissions):
            for slot in submission.slots:
                self._home[slot.tensor] = (index, slot.offset)
        self._bindings: list[Binding | None] = [None] * len(schedule.submissions)
        self.has_op = [submission.op is not None for submission in schedule.submissions]
        check_externals(self._program, externals)

    def home(self, tensor: int) -> tuple[int, int]:
        """The submission whose block holds a local tensor, and the byte offset there."""
        return self._home[tensor]

    def external(self, tensor: int) -> torch.Tensor | None:
        """What stands for a tensor that is not local; None for a local one."""
        found = self._externals.get(tensor)
        return found.plain if isinstance(found, LaidWeight) else found

    def binding(self, submission: int) -> Binding:
        """The call of a submission that has an op."""
        known = self._bindings[submission]
        if known is None:
            task = self._schedule.submissions[submission].task
            assert task is not None
            known = self._bindings[submission] = self._bind(self._program.tasks[task])
        return known

    def unit_binding(
        self, fusion: Fusion, submissions: Sequence[int], regions: Mapping[str, Region], values: Mapping[str, object]
    ) -> Binding:
        """The call of a unit of tasks; an inner tensor is told by its spec."""
        laid: set[str] = set()
        for op, names in fusion.parts:
            laid.update(names.get(operand, operand) for operand in laid_operands(self._registry[op].run))
        fixed: dict[str, Any] = {name: self._program.tensors[regions[name].tensor].spec for name in fusion.inner}
        uses_comm = any("comm" in self._registry[op].needs for op, _ in fusion.parts)
        if uses_comm:
            fixed["comm"] = self._comm
        outer = {name: region for name, region in regions.items() if name not in fusion.inner}
        return self._binding(fusion.run, {**values, **fixed}, outer, laid, uses_comm)

    def _bind(self, task: Task) -> Binding:
        assert task.op is not None
        definition = self._registry[task.op]
        fixed: dict[str, Any] = {o.name: None for o in definition.operands if o.optional and o.name not in task.operands}
        fixed.update(task.attrs)
        if "comm" in definition.needs:
            fixed["comm"] = self._comm
        run = definition.run
        return self._binding(run, fixed, task.operands, laid_operands(run), "comm" in definition.needs)

    def _binding(
        self, run: Any, fixed: dict[str, Any], operands: Mapping[str, Region], laid: Collection[str], uses_comm: bool
    ) -> Binding:
        local: list[_Local] = []
        for operand, region in operands.items():
            tensor = self._program.tensors[region.tensor]
            if region.tensor in self._home:
                owner, start = self._home[region.tensor]
                seen = region.layout(tensor.spec)
                assert start % DTYPE_BYTES[seen.dtype] == 0, "tensors begin where any dtype may"
                offset = seen.offset + start // DTYPE_BYTES[seen.dtype]
                local.append(_Local(operand, owner, seen.dtype, offset, seen.shape, seen.strides))
            else:
                fixed[operand] = _given(self._externals[region.tensor], region, operand in laid)
        return Binding(run, fixed, tuple(local), tuple(sorted({view.owner for view in local})), uses_comm)


def _given(value: Weight, region: Region, is_laid: bool) -> Any:
    """An operand from outside: laid out where the kernel takes it so and there is a layout."""
    if not isinstance(value, LaidWeight):
        return _part(value, region)
    if is_laid and is_matrix(region, value.shape):
        return value.of(region)
    assert value.plain is not None, "a weight is kept as it is where some task reads it so"
    return _part(value.plain, region)


def _part(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    """What a region shows of a tensor from outside; raises ExecutionError for a view of what does not lie in one piece."""
    if region.seen is not None:
        if not tensor.is_contiguous():
            raise ExecutionError("a tensor from outside is seen under another shape, but does not lie in one piece")
        flat = tensor.reshape(-1).view(TORCH_DTYPES[region.seen.dtype])
        return flat.as_strided(region.seen.shape, region.seen.strides, flat.storage_offset() + region.seen.offset)
    if region.box is None:
        return tensor
    return tensor[tuple(lo if i in region.dropped else slice(lo, hi) for i, (lo, hi) in enumerate(region.box))]


def check_externals(program: Program, externals: Mapping[int, Weight]) -> None:
    """Raises ExecutionError with everything that is missing, misshapen or of another dtype, of what tasks touch."""
    problems = []
    touched = {tensor for task in program.tasks for tensor in (*task.reads, *task.writes)}
    for tensor in program.tensors:
        if tensor.is_local or tensor.id not in touched:
            continue
        given = externals.get(tensor.id)
        if given is None:
            problems.append(f"{tensor.kind} '{tensor.name}' ({tensor.spec}) is not given")
        elif tuple(given.shape) != tensor.spec.shape or given.dtype != TORCH_DTYPES[tensor.spec.dtype]:
            got = f"{str(given.dtype).removeprefix('torch.')}{list(given.shape)}"
            problems.append(f"{tensor.kind} '{tensor.name}' is {got}, expected {tensor.spec}")
    if problems:
        raise ExecutionError("\n".join(f"program '{program.name}': {problem}" for problem in problems))
