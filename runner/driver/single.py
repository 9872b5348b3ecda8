"""What `ringgraph run` does, without a screen: one graph, once, on given or random tensors; some saved, some compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from runner.base.errors import ConfigError
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
from runner.program.program import Program, Tensor
from runner.rings.parts.records import ScopeRecord
from runner.rings.sizes import RingSizes
from runner.serving.session import Placement
from runner.serving.single_run import (
    Comparison,
    RandomExternals,
    compare,
    external_tensors,
    profile_report,
    read_given,
    read_tensors,
    select,
    tensor_names,
    write_tensors,
)
from runner.serving.state.store import DeclaredState
from runner.serving.state.turns import PREFIX, Turn, next_call, requests_left


@dataclass(frozen=True, slots=True)
class Request:
    """One run.

    graph        how the user calls it, for the profile
    inputs       safetensors with inputs, weights, states and requests by name; later files win
    given        the same as tensors, which win over files
    checkpoint   where other weights come from; without, everything that is not given is random by `seed`
    turns        tokens of requests, whose state the configuration declares; without, they are random
    dump         names or globs of the tensors to save in `out`, `states` for all states and `outputs`; the outputs without
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
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of it: the tensors of `dump` by name, and one comparison for each golden tensor, None without any asked for.

    With a state among `tensors` there are those of requests too. `lengths` are the positions seen of each request by handle.
    """

    program: Program
    result: RunResult
    rings: RingSizes | None
    comparisons: list[Comparison] | None
    tensors: Mapping[str, torch.Tensor]
    lengths: Mapping[int, int] = field(default_factory=dict)


def run(config: Config, program: Program, request: Request, registry: OpRegistry, placement: Placement) -> Ran:
    """Runs `program` once and writes the files that are asked for; raises RinggraphError or OSError.

    Files that could not be written are told before; UnwrittenError, which holds what was made, where one fails in the end.
    """
    check_outputs((request.out, request.profile, *request.files.asked_for))
    names = tensor_names(program)
    wanted = _wanted(program, config, names, request.dump)
    expected = _expected(request)
    compared = {name: names[name] for name in expected if name in names}
    schedule = placement.schedule(program)
    rings = placement.rings([schedule])
    request.files.require_rings(rings is not None)
    times: list[TaskTime] | None = [] if request.profile is not None else None
    records, trace = list[ScopeRecord](), Trace() if request.files.asked_for else None
    externals, store = _externals(program, config, request)
    result = execute(
        schedule,
        registry,
        externals,
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
    made = [name for name in tensors if not _is_taken_back(program.tensors[names[name]], config)]
    if store is not None and any(program.tensors[names[name]].kind == "state" for name in tensors.keys() - made):
        tensors |= requests_left(store)
    ran = Ran(program, result, rings, comparisons, tensors, store.lengths if store is not None else {})
    measured = writers(request.files, measured_run(schedule, rings, records, trace)) if trace is not None else []
    dumped = [partial(write_tensors, request.out, tensors, made)] if request.out is not None else []
    if problems := write_each([*_profile_writers(config, request, times), *measured, *dumped]):
        raise UnwrittenError(problems, ran)
    return ran


def _wanted(program: Program, config: Config, names: Mapping[str, int], dump: Sequence[str]) -> dict[str, int]:
    """The tensors to save by name: what `dump` selects, `outputs` and `states` standing for all of them."""
    states = [
        name
        for name, at in names.items()
        if program.tensors[at].kind == "state" and not config.state.is_scratch(program.tensors[at].source)
    ]
    groups = {"outputs": tuple(program.outputs), "states": tuple(states)}
    return select(names, [part for name in dump for part in groups.get(name, (name,))] if dump else program.outputs)


def _is_taken_back(tensor: Tensor, config: Config) -> bool:
    """Whether a run takes a dumped tensor of another: weights, states, and inputs that tell nothing of one call."""
    if tensor.kind == "input":
        return tensor.name not in (*config.state.inputs, *config.state.constants)
    return tensor.kind == "weight" or (tensor.kind == "state" and not config.state.is_scratch(tensor.source))


def _externals(program: Program, config: Config, request: Request) -> tuple[dict[int, torch.Tensor], DeclaredState | None]:
    """Every external tensor: as given, of the checkpoint, of a call of requests, or random; and who knows the requests."""
    inputs = {name: program.tensors[tensor].spec for name, tensor in program.inputs.items()}
    given: dict[str, torch.Tensor] = {}
    for path in request.inputs:
        given |= read_given(path)
    given |= request.given
    left = {name: given.pop(name) for name in list(given) if name.startswith(PREFIX)}
    if config.state.is_empty:
        if request.turns or left:
            what = "tokens are given" if request.turns else f"'{next(iter(left))}' is given"
            raise ConfigError(f"{what}, but the configuration declares no state of requests", hint="docs/state.md says how")
        told, store = config.family.first_call(inputs, config, request.seed), None
    else:
        told, store = next_call(config.state, inputs, config, request.seed, request.turns, left)
    given = {**told, **given}
    weights = None
    if request.checkpoint is not None:
        loaded = load_weights(program, Checkpoint.open(request.checkpoint), config, request.device)
        weights = {tensor: value for tensor, value in loaded.items() if isinstance(value, torch.Tensor)}  # none is laid out
    random = RandomExternals(config, request.seed)
    return external_tensors(program, given, weights, random, torch.device(request.device)), store


def _profile_writers(config: Config, request: Request, times: Sequence[TaskTime] | None) -> Iterator[Callable[[], None]]:
    """What writes the durations if they are asked for."""
    if request.profile is not None and times is not None:
        report = profile_report(request.graph, config.name, config.deploy, times)
        yield partial(write_text, request.profile, json.dumps(report, indent=1) + "\n")


def _expected(request: Request) -> dict[str, torch.Tensor]:
    """The golden tensors; what a dump says of requests is not compared."""
    found = read_tensors(request.golden) if request.golden is not None else {}
    return {name: value for name, value in found.items() if not name.startswith(PREFIX)}


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
