"""What `ringgraph run` does, without a screen: one graph, once, on given or random tensors; some saved, some compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from runner.base.files import write_text
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.weights import load_weights
from runner.config.config import Config
from runner.driver.device.files import measured_run, writers
from runner.driver.outputs import NO_FILES, SideFiles, UnwrittenError, check_outputs, write_each
from runner.execution.comm import LocalComm
from runner.execution.executor import RunResult, execute
from runner.execution.run import TaskTime
from runner.execution.tracing import Trace
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.rings.heap import ScopeRecord
from runner.rings.sizes import RingSizes
from runner.serving.session import Placement
from runner.serving.single_run import (
    Comparison,
    RandomExternals,
    compare,
    external_tensors,
    profile_report,
    read_tensors,
    select,
    tensor_names,
    write_tensors,
)


@dataclass(frozen=True, slots=True)
class Request:
    """One run.

    graph        how the user calls it, for the profile
    inputs       safetensors with inputs, weights and states by name; later files win
    given        the same as tensors, which win over files
    checkpoint   where other weights come from; without, everything that is not given is random by `seed`
    dump         names or globs of the tensors to save in `out`; the outputs without
    golden       a folder with tensors to compare with, elementwise within `atol + rtol * |golden|`
    profile      measured durations
    files        what tools for the device open
    """

    graph: str
    inputs: tuple[Path, ...] = ()
    checkpoint: str | None = None
    seed: int = 0
    dump: tuple[str, ...] = ()
    out: Path | None = None
    golden: Path | None = None
    rtol: float = 1e-4
    atol: float = 1e-5
    profile: Path | None = None
    files: SideFiles = NO_FILES
    device: str = "cpu"
    given: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of it: the tensors of `dump` by name, and one comparison for each golden tensor, None without any asked for."""

    program: Program
    result: RunResult
    rings: RingSizes | None
    comparisons: list[Comparison] | None
    tensors: Mapping[str, torch.Tensor]


def run(config: Config, program: Program, request: Request, registry: OpRegistry, placement: Placement) -> Ran:
    """Runs `program` once and writes the files that are asked for; raises RinggraphError or OSError.

    Files that could not be written are told before; UnwrittenError, which holds what was made, where one fails in the end.
    """
    check_outputs((request.out, request.profile, *request.files.asked_for))
    names = tensor_names(program)
    wanted = select(names, request.dump or program.outputs)
    expected = read_tensors(request.golden) if request.golden is not None else {}
    compared = {name: names[name] for name in expected if name in names}
    schedule = placement.schedule(program)
    rings = placement.rings([schedule])
    request.files.require_rings(rings is not None)
    times: list[TaskTime] | None = [] if request.profile is not None else None
    records: list[ScopeRecord] = []
    trace = Trace() if request.files.asked_for else None
    result = execute(
        schedule,
        registry,
        _externals(program, config, request),
        rings=rings,
        workers=placement.workers,
        comm=LocalComm(),
        device=request.device,
        scope_stats=records,
        profile=times,
        capture={*wanted.values(), *compared.values()},
        trace=trace,
    )
    tensors = {name: result.captured[at] for name, at in wanted.items() if at in result.captured}
    comparisons = _compared(expected, compared, result, request) if request.golden is not None else None
    ran = Ran(program, result, rings, comparisons, tensors)
    wanted_files = [*_profile_writers(config, request, times)]
    if trace is not None:
        wanted_files += writers(request.files, measured_run(schedule, rings, records, trace))
    if request.out is not None:
        wanted_files.append(partial(write_tensors, request.out, tensors))
    if problems := write_each(wanted_files):
        raise UnwrittenError(problems, ran)
    return ran


def _externals(program: Program, config: Config, request: Request) -> dict[int, torch.Tensor]:
    """Every external tensor: as given, of the checkpoint, of a first call of new requests, or random."""
    inputs = {name: program.tensors[tensor].spec for name, tensor in program.inputs.items()}
    given = config.family.first_call(inputs, config, request.seed)
    for path in request.inputs:
        given |= read_tensors(path)
    given |= request.given
    weights = None
    if request.checkpoint is not None:
        weights = load_weights(program, Checkpoint.open(request.checkpoint), config, request.device)
    random = RandomExternals(config, request.seed)
    return external_tensors(program, given, weights, random, torch.device(request.device))


def _profile_writers(config: Config, request: Request, times: Sequence[TaskTime] | None) -> Iterator[Callable[[], None]]:
    """What writes the durations if they are asked for."""
    if request.profile is not None and times is not None:
        report = profile_report(request.graph, config.name, config.deploy, times)
        yield partial(write_text, request.profile, json.dumps(report, indent=1) + "\n")


def _compared(
    expected: Mapping[str, torch.Tensor], compared: Mapping[str, int], result: RunResult, request: Request
) -> list[Comparison]:
    found = []
    for name, golden in expected.items():
        if name not in compared:
            found.append(Comparison(name, problem="the graph has no tensor of this name"))
        elif compared[name] not in result.captured:
            found.append(Comparison(name, problem="the trip that creates it did not run"))
        else:
            found.append(compare(name, result.captured[compared[name]], golden, request.rtol, request.atol))
    return found
