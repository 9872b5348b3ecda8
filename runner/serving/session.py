"""A model in memory that serves requests: weights, state, and one compiled schedule each for prefill and for decode.

    session = open_session(config, checkpoint, registry, schedule=annotated)
    handle = session.admit(400, len(tokens))
    logits = session.prefill(Row(handle, tokens, 0))
    [logits] = session.step([Row(handle, (token,), len(tokens))])

Both programs read the same weights and state. A decode deployment of S tokens a request takes up to S tokens of each request at
a time, as many as are known; what is left of it is idle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from runner.base.errors import ConfigError
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.weights import Loaded, load_weights
from runner.config.config import Config
from runner.execution.comm import Comm, LocalComm
from runner.execution.executor import CompiledSchedule, RunResult
from runner.execution.run import TaskTime
from runner.execution.storage import TORCH_DTYPES
from runner.expansion.expander import expand
from runner.language.library import GraphLibrary, find_graph
from runner.models.deepseek_v4.request_state import StateStore
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.rings.heap import ScopeRecord
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.serving.generate import Row

PREFILL_GRAPH, DECODE_GRAPH = "prefill_fwd", "decode_fwd"
LOGITS = "logits"

Capture = Callable[[str, Program, Mapping[int, torch.Tensor]], None]
"""Told the stage's name, its program, and copies of the captured tensors after a call."""


class Stage:
    """One program on its externals, with buffers of its own for inputs and outputs.

    Raises ExecutionError and DeadlockError from `call`.
    """

    def __init__(self, name: str, compiled: CompiledSchedule, externals: Mapping[int, torch.Tensor]):
        assert compiled.schedule.program is not None
        self.name = name
        self.program: Program = compiled.schedule.program
        self.compiled = compiled
        self.inputs = {name: self.program.tensors[tensor].spec for name, tensor in self.program.inputs.items()}
        self._buffers = {name: externals[tensor] for name, tensor in self.program.inputs.items()}
        self._copied: dict[str, torch.Tensor] = {}
        self.logits = externals[self.program.outputs[LOGITS]]

    def call(self, batch: Mapping[str, torch.Tensor], **options) -> RunResult:
        """Runs the program on new inputs; the logits of all tokens are then in `logits`, f32[T, V]."""
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
    """See the module docstring, and `generate.Session` for the protocol."""

    config: Config
    prefill_stage: Stage
    decode_stage: Stage
    store: StateStore
    rings: RingSizes | None
    weight_bytes: int
    batch: int
    seq: int
    prefill_tokens: int
    num_tasks: int = 0
    peak_bytes: int = 0
    ring_peaks: tuple[int, ...] = ()
    capture: Mapping[str, Sequence[int]] = field(default_factory=dict)
    on_capture: Capture | None = None
    scope_stats: list[ScopeRecord] | None = None
    profile: list[TaskTime] | None = None
    on_task: Callable[[str], None] | None = None

    @property
    def state_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.store.tensors.values())

    def admit(self, num_tokens: int, prompt_len: int) -> int:
        """State for a request of at most `num_tokens` positions, the prompt's `prompt_len` among them; raises StateError."""
        return self.store.admit(num_tokens, prompt_len)

    def release(self, handle: int) -> None:
        self.store.release(handle)

    def prefill(self, row: Row | None) -> torch.Tensor:
        """Up to `prefill_tokens` tokens of one request: f32[len(row.tokens), V]. Without a row the call is idle."""
        rows = [] if row is None else [row]
        logits = self._call(self.prefill_stage, rows)
        return logits[: len(row.tokens)].clone() if row is not None else logits[:0].clone()

    def step(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Up to `seq` tokens of each of up to `batch` requests: f32[len(row.tokens), V] for each row."""
        logits = self._call(self.decode_stage, rows).clone()
        return [logits[i * self.seq : i * self.seq + len(row.tokens)] for i, row in enumerate(rows)]

    def _call(self, stage: Stage, rows: Sequence[Row]) -> torch.Tensor:
        batch = self.store.batch_inputs([(row.handle, row.tokens, row.start) for row in rows], stage.inputs)
        wanted = self.capture.get(stage.name, ())
        stats = self.scope_stats if stage is self.decode_stage else None
        if stats is not None:
            stats.clear()
        result = stage.call(batch, scope_stats=stats, profile=self.profile, on_task=self.on_task, capture=wanted)
        self.num_tasks += result.num_tasks
        self.peak_bytes = max(self.peak_bytes, result.peak_bytes)
        self.ring_peaks = tuple(map(max, zip(self.ring_peaks or result.ring_peaks, result.ring_peaks, strict=True)))
        if self.on_capture is not None:
            self.on_capture(stage.name, stage.program, result.captured)
        return stage.logits


def program_for(config: Config, registry: OpRegistry, graph: str) -> Program:
    """A graph, by path or shipped name, expanded."""
    library = GraphLibrary()
    return expand(library.load(find_graph(graph)), config, registry, library=library)


def open_session(
    config: Config,
    checkpoint: Checkpoint | Path | str,
    registry: OpRegistry,
    placement: Placement,
    *,
    decode: str = "decode",
    device: torch.device | str = "cpu",
    comm: Comm | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelSession:
    """Loads a model; `decode` names the deployment that decodes.

    Raises ConfigError, GraphError, CheckpointError or ScheduleError.
    """
    comm = comm or LocalComm()
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    checkpoint.require(config)
    configs = {"prefill": config.with_(deploy="prefill"), "decode": config.with_(deploy=decode)}
    requests = max(made["REQUESTS"] for made in configs.values())  # one store serves both
    configs = {name: made.with_(sets=[f"REQUESTS={requests}"]) for name, made in configs.items()}
    config = config.with_(sets=[f"REQUESTS={requests}"])
    graphs = {"prefill": PREFILL_GRAPH, "decode": DECODE_GRAPH}
    programs = {name: program_for(configs[name], registry, graphs[name]) for name in configs}
    if configs["prefill"]["B"] != 1:
        raise ConfigError(
            f"prefill takes one request at a time, got batch {configs['prefill']['B']}", hint="leave prefill.batch at 1"
        )
    schedules = {name: placement.schedule(program) for name, program in programs.items()}
    rings = placement.rings(tuple(schedules.values()))
    store = StateStore(config, _shared_states(programs.values()), device)
    loaded: dict[object, Loaded] = {}
    weight_bytes: dict[int, int] = {}
    stages: dict[str, Stage] = {}
    for name, program in programs.items():
        weights = load_weights(
            program, checkpoint, config, device, rank=comm.rank, size=comm.size, progress=progress, loaded=loaded
        )
        weight_bytes |= {weight.data_ptr(): weight.nbytes for weight in weights.values()}
        externals = {**weights, **_buffers(program, store, torch.device(device))}
        compiled = CompiledSchedule(
            schedules[name], registry, externals, rings=rings, workers=placement.workers, comm=comm, device=device
        )
        stages[name] = Stage(name, compiled, externals)
    return ModelSession(
        config,
        stages["prefill"],
        stages["decode"],
        store,
        rings,
        sum(weight_bytes.values()),
        configs["decode"]["B"],
        configs["decode"]["S"],
        configs["prefill"]["S"],
    )


def _shared_states(programs) -> dict[str, TensorSpec]:
    """States that every program which has them declares alike; scratch sized by a program's own tokens is not among them."""
    found: dict[str, set[TensorSpec]] = {}
    for program in programs:
        for tensor in program.tensors:
            if tensor.kind == "state":
                found.setdefault(tensor.source, set()).add(tensor.spec)
    return {source: next(iter(specs)) for source, specs in found.items() if len(specs) == 1}


def _buffers(program: Program, store: StateStore, device: torch.device) -> dict[int, torch.Tensor]:
    """Inputs, outputs and state of a program: shared state from the store, everything else new and zero."""
    found: dict[int, torch.Tensor] = {}
    for tensor in program.tensors:
        if tensor.kind == "state" and tensor.source in store.tensors:
            found[tensor.id] = store.tensors[tensor.source]
        elif tensor.kind in ("state", "input", "output"):
            found[tensor.id] = torch.zeros(tensor.spec.shape, dtype=TORCH_DTYPES[tensor.spec.dtype], device=device)
    return found
