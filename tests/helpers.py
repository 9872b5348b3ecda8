"""Runs an expanded program task by task, in submission order, on memory of its own, without schedule or executor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from runner.execution.storage import TORCH_DTYPES
from runner.program.ops import OpRegistry
from runner.program.program import Program, Region, Span


def run_program(
    program: Program, registry: OpRegistry, externals: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Every tensor of the program by name (the last one of a name), after all tasks ran.

    `externals` are found by a tensor's source or name; outputs that it lacks are made. `values` are the configuration's. New
    tensors are full of NaN (77 for integers), so that what is read before it is written shows.
    """
    memory: list[torch.Tensor] = []
    for tensor in program.tensors:
        given = externals.get(tensor.source, externals.get(tensor.name)) if not tensor.is_local else None
        dtype = TORCH_DTYPES[tensor.spec.dtype]
        assert given is not None or tensor.kind in ("local", "output"), f"no tensor for {tensor.kind} '{tensor.name}'"
        if given is None:
            given = torch.full(tensor.spec.shape, float("nan") if dtype.is_floating_point else 77, dtype=dtype)
        assert (given.dtype, tuple(given.shape)) == (dtype, tensor.spec.shape), (
            tensor.name,
            given.dtype,
            given.shape,
            tensor.spec,
        )
        memory.append(given)
    _run(program, program.body, registry, memory, values)
    return {tensor.name: memory[tensor.id] for tensor in program.tensors}


def _run(program: Program, span: Span, registry: OpRegistry, memory: list[torch.Tensor], values: Mapping[str, Any]) -> None:
    trips = None
    if span.kind == "dynamic" and span.trips is not None:
        trips = span.trips.evaluate(lambda tensor, index: int(memory[tensor][index]))
    for item in span.items[:trips]:
        if isinstance(item, Span):
            _run(program, item, registry, memory, values)
        elif (task := program.tasks[item]).op is not None:
            definition = registry[task.op]
            arguments: dict[str, Any] = {o.name: None for o in definition.operands if o.optional}
            params = {n: values[v] if isinstance(v, str) and v in values else v for n, v in definition.params.items()}
            arguments |= params | dict(task.attrs)
            arguments |= {name: _view(memory[region.tensor], region) for name, region in task.operands.items()}
            definition.run(**arguments)


def _view(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    if region.box is None:
        return tensor
    index = tuple(lo if axis in region.dropped else slice(lo, hi) for axis, (lo, hi) in enumerate(region.box))
    return tensor[index]
