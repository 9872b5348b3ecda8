"""Graphs of tests: expanded, and run on externals given by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from op_calls import REGISTRY, rubbish

from runner.config.config import Config
from runner.execution.comm import LocalComm
from runner.execution.executor import execute
from runner.execution.storage import TORCH_DTYPES
from runner.expansion.expander import expand
from runner.language.library import find_graph, load_graph
from runner.program.program import Program
from schedulers.layouts.layouts import annotated


def expand_graph(name: str, config: Config, **params: int) -> Program:
    """A shipped graph, or one at a path, with every dynamic loop at its bound."""
    return expand(load_graph(find_graph(name)), config, REGISTRY, params=params)


def run_program(
    program: Program, given: Mapping[str, torch.Tensor], comm: object = None, workers: int = 1, capture: tuple[str, ...] = ()
) -> dict[str, torch.Tensor]:
    """Runs the program as it is written; gives its outputs, and copies of the tensors named in `capture`.

    `given` has inputs by name, weights and state by source. What is not given: state is zero, scales of weights
    are one; any other gap is an error.
    """
    externals = {t.id: _external(t, given) for t in program.tensors if t.kind != "local"}
    wanted = [t.id for t in program.tensors if t.name in capture]
    result = execute(annotated(program, {}), REGISTRY, externals, comm=comm or LocalComm(), workers=workers, capture=wanted)
    found = {program.tensors[i].name: value for i, value in result.captured.items()}
    return found | {name: externals[i] for name, i in program.outputs.items()}


def _external(tensor, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    shape, dtype = tensor.spec.shape, TORCH_DTYPES[tensor.spec.dtype]
    key = tensor.name if tensor.kind == "input" else tensor.source
    if tensor.kind == "output":
        return rubbish(dtype, *shape)
    if key in given:
        assert given[key].shape == shape, (key, given[key].shape, shape)
        return given[key].to(dtype)
    if tensor.kind == "state":
        return torch.zeros(shape, dtype=dtype)
    assert tensor.kind == "weight" and tensor.name.endswith("_scale"), f"{tensor.kind} '{key}' is not given"
    return torch.ones(shape)
