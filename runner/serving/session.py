"""A model in memory that serves requests: weights, state, and one compiled schedule each for prefill and for decode.

    session = open_session(config, checkpoint, registry, Placement(annotated))
    handle = session.admit(400, len(tokens))
    logits = session.prefill(Row(handle, tokens, 0))
    [logits] = session.step([Row(handle, (token,), len(tokens))])

What the two programs are, and how requests keep state, the model's family says. Both read the same weights and state. A decode
call takes up to `seq` tokens of each request at a time, as many as are known; what is left of it is idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from runner.base.errors import ConfigError
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.weights import Loaded, load_weights, weights_read
from runner.config.config import Config
from runner.execution.comm import Comm, LocalComm
from runner.execution.executor import CompiledSchedule, RunResult
from runner.execution.run import TaskTime
from runner.execution.storage import TORCH_DTYPES
from runner.execution.tracing import Trace
from runner.expansion.expander import expand
from runner.language.library import GraphLibrary, find_graph
from runner.models.protocols import PHASES, Recorder, RequestState, Serving, Vocabulary
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.rings.heap import ScopeRecord
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.serving.generate import Row


class Stage:
    """The program of a phase on its externals, with buffers of its own for inputs and outputs; `logits` names an output.

    Raises ExecutionError and DeadlockError from `call`.
    """

    def __init__(self, name: str, compiled: CompiledSchedule, externals: Mapping[int, torch.Tensor], logits: str):
        assert compiled.schedule.program is not None
        self.name = name
        self.program: Program = compiled.schedule.program
        self.compiled = compiled
        self.inputs = {name: self.program.tensors[tensor].spec for name, tensor in self.program.inputs.items()}
        self._buffers = {name: externals[tensor] for name, tensor in self.program.inputs.items()}
        self._copied: dict[str, torch.Tensor] = {}
        self.logits = externals[self.program.outputs[logits]]

    def call(self, batch: Mapping[str, torch.Tensor], **options) -> RunResult:
        """Runs the program on new inputs; the logits of all tokens are then in `logits`, f32[tokens, vocabulary]."""
        for name, buffer in self._buffers.items():
            value = batch[name]
            if self._copied.get(name) is not value:  # tables that never change are the same object in every call
                buffer.copy_(value)
                self._copied[name] = value
        return self.compiled.run(**options)


@dataclass(frozen=True, slots=True)
class Placement:
    """How programs become schedules, and the rings that they run on."""

    schedule: Callable[[Program], Schedule]
    rings: Callable[[Sequence[Schedule]], RingSizes | None] = lambda schedules: None
    workers: int = 1


@dataclass
class ModelSession:
    """See the module docstring, and `generate.Session` for the protocol.

    `on_call` is told the phase of a call before it, `on_task` the path of a task, `recorder` what became of the call. Of the
    last decode call are `scope_stats` and `trace`.
    """

    config: Config
    serving: Serving[Config]
    prefill_stage: Stage
    decode_stage: Stage
    state: RequestState
    rings: RingSizes | None
    weight_bytes: int
    num_tasks: int = 0
    peak_bytes: int = 0
    ring_peaks: tuple[int, ...] = ()
    recorder: Recorder | None = None
    scope_stats: list[ScopeRecord] | None = None
    trace: Trace | None = None
    profile: list[TaskTime] | None = None
    on_call: Callable[[str], None] | None = None
    on_task: Callable[[str], None] | None = None

    @property
    def prefill_tokens(self) -> int:
        return self.serving.prefill_tokens

    @property
    def batch(self) -> int:
        return self.serving.batch

    @property
    def seq(self) -> int:
        """Tokens of each request of a decode call."""
        return self.serving.seq

    @property
    def vocabulary(self) -> Vocabulary:
        return self.config.family.vocabulary(self.config)

    @property
    def programs(self) -> dict[str, Program]:
        """By phase."""
        return {stage.name: stage.program for stage in (self.prefill_stage, self.decode_stage)}

    @property
    def state_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.state.tensors.values())

    def admit(self, num_tokens: int, prompt_len: int) -> int:
        """State for a request of at most `num_tokens` positions, the prompt's `prompt_len` among them; raises StateError."""
        handle = self.state.admit(num_tokens, prompt_len)
        if self.recorder is not None:
            self.recorder.admitted(handle)
        return handle

    def release(self, handle: int) -> None:
        self.state.release(handle)

    def prefill(self, row: Row | None) -> torch.Tensor:
        """Up to `prefill_tokens` tokens of one request: f32[len(row.tokens), vocabulary]. Without a row the call is idle."""
        rows = [] if row is None else [row]
        logits = self._call(self.prefill_stage, rows)
        return logits[: len(row.tokens)].clone() if row is not None else logits[:0].clone()

    def step(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Up to `seq` tokens of each of up to `batch` requests: f32[len(row.tokens), vocabulary] for each row."""
        logits = self._call(self.decode_stage, rows).clone()
        return [logits[i * self.seq : i * self.seq + len(row.tokens)] for i, row in enumerate(rows)]

    def _call(self, stage: Stage, rows: Sequence[Row]) -> torch.Tensor:
        if self.on_call is not None:
            self.on_call(stage.name)
        batch = self.state.batch_inputs(rows, stage.inputs)
        wanted = self.recorder.tensors.get(stage.name, ()) if self.recorder is not None else ()
        stats = self.scope_stats if stage is self.decode_stage else None
        if stats is not None:
            stats.clear()
        trace = self.trace if stage is self.decode_stage else None
        noted = {"scope_stats": stats, "trace": trace, "profile": self.profile, "on_task": self.on_task}
        result = stage.call(batch, capture=wanted, **noted)
        self.num_tasks += result.num_tasks
        self.peak_bytes = max(self.peak_bytes, result.peak_bytes)
        self.ring_peaks = tuple(map(max, zip(self.ring_peaks or result.ring_peaks, result.ring_peaks, strict=True)))
        if self.recorder is not None:
            self.recorder.called(stage.name, rows, result.captured)
        return stage.logits


def program_for(config: Config, registry: OpRegistry, graph: str) -> Program:
    """A graph, by path or shipped name, expanded."""
    library = GraphLibrary()
    return expand(library.load(find_graph(graph)), config, registry, library=library)


def open_session(
    config: Config,
    checkpoint: Checkpoint | Path | str | None,
    registry: OpRegistry,
    placement: Placement,
    *,
    decode: str | None = None,
    graphs: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
    comm: Comm | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelSession:
    """Loads a model, from no checkpoint if it has no weights; `decode` names the deployment that decodes, `graphs` the graphs by
    phase, the family's usual ones without.

    Raises ConfigError, GraphError, CheckpointError or ScheduleError.
    """
    comm = comm or LocalComm()
    checkpoint = _opened(checkpoint, config)
    serving = _with_graphs(config.family.serving(config, decode), graphs or {})
    config = serving.config
    programs = {phase: program_for(serving.configs[phase], registry, serving.graphs[phase]) for phase in PHASES}
    if checkpoint is None:
        _refuse_weights(programs.values())
    schedules = {phase: placement.schedule(program) for phase, program in programs.items()}
    rings = placement.rings(tuple(schedules.values()))
    state = config.family.request_state(config, _shared_states(config, programs.values()), device)
    _require_inputs(state, programs.values())
    loaded: dict[object, Loaded] = {}
    weight_bytes: dict[int, int] = {}
    stages: dict[str, Stage] = {}
    for phase, program in programs.items():
        held = {"rank": comm.rank, "size": comm.size, "progress": progress, "loaded": loaded}
        weights = {} if checkpoint is None else load_weights(program, checkpoint, config, device, **held)
        weight_bytes |= {weight.data_ptr(): weight.nbytes for weight in weights.values()}
        externals = {**weights, **_buffers(program, state, torch.device(device))}
        placed = {"rings": rings, "workers": placement.workers, "comm": comm, "device": device}
        compiled = CompiledSchedule(schedules[phase], registry, externals, **placed)
        stages[phase] = Stage(phase, compiled, externals, serving.logits)
    return ModelSession(config, serving, stages["prefill"], stages["decode"], state, rings, sum(weight_bytes.values()))


def _opened(checkpoint: Checkpoint | Path | str | None, config: Config) -> Checkpoint | None:
    """A checkpoint of the model of a configuration; raises CheckpointError."""
    if checkpoint is None:
        return None
    found = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    found.require(config)
    return found


def _refuse_weights(programs: Iterable[Program]) -> None:
    """Raises ConfigError where a program reads weights, of which there are none."""
    for program in programs:
        if weights := [tensor.name for tensor in weights_read(program)]:
            more = f" and {len(weights) - 1:,} more" if len(weights) > 1 else ""
            message = f"graph '{program.name}' reads weights ('{weights[0]}'{more}), and no checkpoint is given"
            raise ConfigError(message, hint="give --checkpoint DIR")


def _with_graphs(serving: Serving[Config], graphs: Mapping[str, str]) -> Serving[Config]:
    """The same with other graphs; raises ConfigError where a phase has none."""
    serving = replace(serving, graphs={**serving.graphs, **graphs})
    for phase in PHASES:
        if phase not in serving.graphs:
            hint = f"give --{phase}-graph, or 'graphs' in the section 'serving' of a layer"
            raise ConfigError(f"configuration '{serving.config.name}' names no graph for {phase}", hint=hint)
    return serving


def _shared_states(config: Config, programs: Iterable[Program]) -> dict[str, TensorSpec]:
    """States that programs leave to each other, which is no scratch; raises ConfigError where they do not declare one alike.

    Where the configuration declares no state, those that are declared alike are no scratch: a family's own store takes them.
    """
    found: dict[str, dict[str, TensorSpec]] = {}
    for program in programs:
        for tensor in program.tensors:
            if tensor.kind == "state" and not config.state.is_scratch(tensor.source):
                found.setdefault(tensor.source, {})[program.name] = tensor.spec
    unlike = {source: specs for source, specs in found.items() if len(set(specs.values())) > 1}
    if unlike and not config.state.is_empty:
        source, specs = next(iter(unlike.items()))
        shown = " and ".join(f"{spec} in '{name}'" for name, spec in specs.items())
        raise ConfigError(
            f"state '{source}' is {shown}",
            hint="declare it alike, or among 'scratch' of 'state:' if no call reads it later",
        )
    return {source: next(iter(specs.values())) for source, specs in found.items() if source not in unlike}


def _require_inputs(state: RequestState, programs: Iterable[Program]) -> None:
    """Raises ConfigError for an input that no call will be told, before weights are loaded."""
    for program in programs:
        inputs = {name: program.tensors[tensor].spec for name, tensor in program.inputs.items()}
        for name in inputs.keys() - state.batch_inputs([], inputs).keys():
            raise ConfigError(
                f"nothing tells a call of graph '{program.name}' its input '{name}' ({inputs[name]})",
                hint="give it a role among 'inputs', or a function among 'constants', of the configuration's 'state:'",
            )


def _buffers(program: Program, state: RequestState, device: torch.device) -> dict[int, torch.Tensor]:
    """Inputs, outputs and state of a program: shared state as requests keep it, everything else new and zero."""
    found: dict[int, torch.Tensor] = {}
    for tensor in program.tensors:
        if tensor.kind == "state" and tensor.source in state.tensors:
            found[tensor.id] = state.tensors[tensor.source]
        elif tensor.kind in ("state", "input", "output"):
            found[tensor.id] = torch.zeros(tensor.spec.shape, dtype=TORCH_DTYPES[tensor.spec.dtype], device=device)
    return found
