"""This module lays weights out for the kernels that read them, once, when they are loaded.

A kernel may say of operands that it takes them laid out: its attribute `laid_out` has them by name, each with None, or with a
function of the shapes of the call's operands that gives the rows and columns at which the kernel cuts the matrix itself; its
attribute `lay_out` makes a layout of a matrix, `rows`, `columns` and `is_fast`. A weight that tasks read in parts is cut at
them, so that one layout serves all programs that share the weight. Nothing is laid out but weights, and nothing is kept twice,
but where some task reads a weight otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import torch

from runner.base.tensor_spec import TensorSpec
from runner.program.ops import OpRegistry
from runner.program.program import Program, Region, Task, Tensor
from runner.program.spans import host_reads


class Layout(Protocol):
    """A matrix as a kernel takes it."""

    @property
    def nbytes(self) -> int: ...

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Any:
        """Rows and columns `[lo, hi)`, cuts of the layout."""
        ...


@dataclass(frozen=True, slots=True)
class LaidWeight:
    """A weight [..., N, K], laid out for each leading index; `plain` is the weight itself where some task reads it so."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    matrices: tuple[Layout, ...]
    plain: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices)

    def of(self, region: Region) -> Any:
        """What a kernel takes for a region that is a matrix."""
        number, rows, columns = _place(region, self.shape)
        return self.matrices[number].part(rows, columns)


Weight = torch.Tensor | LaidWeight


@dataclass
class _Uses:
    """How tasks read one weight."""

    lay_out: Any = None
    rows: set[int] = field(default_factory=set)
    columns: set[int] = field(default_factory=set)
    is_plain: bool = False


class Layouts:
    """What is to be laid out of the weights that `programs` share, by what each is called outside and its declared spec."""

    def __init__(self, programs: Iterable[Program], registry: OpRegistry, *, is_fast: bool = False):
        self._is_fast = is_fast
        self._uses: dict[tuple[str, TensorSpec], _Uses] = {}
        for program in programs:
            for task in program.tasks:
                if task.op is not None:
                    self._note(program, task, laid_operands(registry[task.op].run))
            for _, trips in host_reads(program.body):
                for tensor in trips.reads:
                    self._of(program.tensors[tensor]).is_plain = True

    def _of(self, tensor: Tensor) -> _Uses:
        return self._uses.setdefault((tensor.source, tensor.spec), _Uses())

    def _note(self, program: Program, task: Task, laid: Mapping[str, Any]) -> None:
        for operand, region in task.operands.items():
            tensor = program.tensors[region.tensor]
            if tensor.kind != "weight":
                continue
            uses = self._of(tensor)
            if operand not in laid or not is_matrix(region, tensor.spec.shape) or region.tensor in task.writes:
                uses.is_plain = True
                continue
            cuts, uses.lay_out = laid[operand]
            _, rows, columns = _place(region, tensor.spec.shape)
            own_rows, own_columns = cuts(_shapes(program, task)) if cuts is not None else ((), ())
            uses.rows.update(rows, (rows[0] + cut for cut in own_rows))
            uses.columns.update(columns, (columns[0] + cut for cut in own_columns))

    def replaces(self, tensor: Tensor) -> bool:
        """Whether `keep` keeps a layout of a weight alone."""
        uses = self._uses.get((tensor.source, tensor.spec))
        return uses is not None and uses.lay_out is not None and not uses.is_plain

    def keep(self, tensor: Tensor, value: torch.Tensor) -> Weight:
        """What is kept of a weight's value: a layout, or the value itself."""
        uses = self._uses.get((tensor.source, tensor.spec))
        if uses is None or uses.lay_out is None or not value.numel():
            return value
        matrices = value.reshape(-1, *value.shape[-2:])
        cuts = sorted(uses.rows), sorted(uses.columns)
        laid = tuple(uses.lay_out(matrix, *cuts, is_fast=self._is_fast) for matrix in matrices)
        return LaidWeight(tuple(value.shape), value.dtype, laid, value if uses.is_plain else None)


def laid_operands(kernel: Any) -> dict[str, tuple[Any, Any]]:
    """Operands that a kernel takes laid out: its cuts, and what lays out a matrix."""
    return {name: (cuts, kernel.lay_out) for name, cuts in getattr(kernel, "laid_out", {}).items()}


def is_matrix(region: Region, shape: tuple[int, ...]) -> bool:
    """Whether a region is two last dimensions of one leading index, and no view."""
    if len(shape) < 2 or region.seen is not None:
        return False
    leading = tuple(range(len(shape) - 2))
    return region.box is not None and region.dropped == leading if leading else region.dropped == ()


def _place(region: Region, shape: tuple[int, ...]) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """A matrix's number among those of all leading indices, its rows and its columns."""
    if region.box is None:
        return 0, (0, shape[-2]), (0, shape[-1])
    number = sum(lo * prod(shape[axis + 1 : -2]) for axis, (lo, _) in enumerate(region.box[:-2]))
    return number, region.box[-2], region.box[-1]


def _shapes(program: Program, task: Task) -> dict[str, tuple[int, ...]]:
    """Shapes of a task's operands."""
    return {name: region.shown(program.tensors[region.tensor].spec).shape for name, region in task.operands.items()}
