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
from typing import cast

import torch

from runner.base.errors import ConfigError
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.weights import load_weights, weights_read
from runner.config.config import Config
from runner.execution.comm import Comm, LocalComm
from runner.execution.executor import CompiledSchedule, RunResult
from runner.execution.layouts import Layouts
from runner.execution.run import TaskTime
from runner.execution.storage import TORCH_DTYPES
from runner.execution.tracing import Trace
from runner.expansion.expander import expand
from runner.language.library import GraphLibrary, find_graph
from runner.models.protocols import PHASES, Drafting, DraftState, Recorder, RequestState, Serving, Vocabulary
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.rings.parts.records import ScopeRecord
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.serving.drafts import FOLLOWING, Drafts, drafts_of
from runner.serving.generate import Row
from runner.serving.stage import Stage


@dataclass(frozen=True, slots=True)
class Placement:
    """How programs become schedules, and the rings that they run on.

    Where `is_fast`, products may be rounded once more and need not be the same bits whatever rows there are.
    """

    schedule: Callable[[Program], Schedule]
    rings: Callable[[Sequence[Schedule]], RingSizes | None] = lambda schedules: None
    workers: int = 1
    is_fast: bool = False


@dataclass
class ModelSession:
    """See the module docstring, and `generate.Session` for the protocol.

    `drafts` are there where a decode call takes tokens that the model proposed.
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
    drafts: Drafts | None = None
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
        handed = () if self.drafts is None else self.drafts.sources.values()
        result = self._call(self.prefill_stage, rows, self.state.batch_inputs(rows, self.prefill_stage.inputs), handed)
        if self.drafts is not None:
            self.drafts.keep(result.captured)
        self._told(self.prefill_stage, rows, result)
        logits = self._logits(self.prefill_stage)
        return logits[: len(row.tokens)].clone() if row is not None else logits[:0].clone()

    def follow(self, row: Row | None) -> None:
        """After each prefill call, on every rank: the tokens behind those that it read, at their places; proposes the next one.

        Without a row the call is idle. Does nothing where no tokens are drafted.
        """
        if self.drafts is not None:
            rows = [] if row is None else [row]
            stage, state = self.drafts.stage, cast(DraftState, self.state)
            self._call(stage, rows, state.further_inputs(rows, stage.inputs) | self.drafts.handed)

    def step(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Up to `seq` tokens of each of up to `batch` requests: f32[len(row.tokens), vocabulary] for each row."""
        stage = self.decode_stage
        batch = self.state.batch_inputs(rows, stage.inputs)
        if self.drafts is not None:  # every row counts, and no draft takes the place of one
            generations = self.drafts.drafting.generations
            batch[generations] = torch.full_like(batch[generations], -1)
        self._told(stage, rows, self._call(stage, rows, batch))
        return self._rows(rows, [len(row.tokens) for row in rows])

    def advance(self, rows: Sequence[Row], wanted: Sequence[int]) -> list[torch.Tensor]:
        """`step` of one token of each request, and of a draft behind it where more than one token is `wanted` of the request.

        f32[n, vocabulary] for each row: of its token, then of the draft if that is the likeliest token behind it, else n is 1.
        A draft that is not leaves no trace.
        """
        if self.drafts is None:
            return self.step(rows)
        stage, state = self.decode_stage, cast(DraftState, self.state)
        fed = self.drafts.with_drafts(rows, wanted)
        before = state.before(fed, stage.inputs)
        result = self._call(stage, fed, state.batch_inputs(fed, stage.inputs))
        kept = stage.outputs[self.drafts.drafting.kept].tolist()[: len(rows)]
        before.take_back(kept)
        self.drafts.count(fed, kept)
        self._told(stage, [(handle, tokens[:n], start) for (handle, tokens, start), n in zip(fed, kept, strict=True)], result)
        return self._rows(rows, kept)

    def _rows(self, rows: Sequence[Row], counts: Sequence[int]) -> list[torch.Tensor]:
        """The logits of the first tokens of each row of a decode call."""
        logits = self._logits(self.decode_stage).clone()
        return [logits[i * self.seq : i * self.seq + count] for i, count in zip(range(len(rows)), counts, strict=True)]

    def _logits(self, stage: Stage) -> torch.Tensor:
        assert stage.logits is not None
        return stage.logits

    def _call(
        self, stage: Stage, rows: Sequence[tuple], batch: Mapping[str, torch.Tensor], wanted: Iterable[int] = ()
    ) -> RunResult:
        if self.on_call is not None:
            self.on_call(stage.name)
        recorded = self.recorder.tensors.get(stage.name, ()) if self.recorder is not None else ()
        stats = self.scope_stats if stage is self.decode_stage else None
        if stats is not None:
            stats.clear()
        trace = self.trace if stage is self.decode_stage else None
        noted = {"scope_stats": stats, "trace": trace, "profile": self.profile, "on_task": self.on_task}
        result = stage.call(batch, capture={*recorded, *wanted}, **noted)
        self.num_tasks += result.num_tasks
        self.peak_bytes = max(self.peak_bytes, result.peak_bytes)
        self.ring_peaks = tuple(map(max, zip(self.ring_peaks or result.ring_peaks, result.ring_peaks, strict=True)))
        return result

    def _told(self, stage: Stage, rows: Sequence[tuple], result: RunResult) -> None:
        """The recorder sees the tokens of a call that count."""
        if self.recorder is not None:
            wanted = self.recorder.tensors.get(stage.name, ())
            self.recorder.called(stage.name, rows, {tensor: v for tensor, v in result.captured.items() if tensor in wanted})


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
    serving = _drafting(_with_graphs(config.family.serving(config, decode), graphs or {}), checkpoint, bool(graphs))
    config = serving.config
    programs = _programs(serving, registry, has_weights=checkpoint is not None)
    schedules = {phase: placement.schedule(program) for phase, program in programs.items()}
    rings = placement.rings(tuple(schedules.values()))
    state = config.family.request_state(config, _shared_states(config, programs.values()), device)
    _require_inputs(state, programs.values(), serving.drafting)
    layouts = Layouts(programs.values(), registry, is_fast=placement.is_fast)
    held = {"rank": comm.rank, "size": comm.size, "progress": progress, "loaded": {}}
    held |= {"keep": layouts.keep, "is_laid_out": layouts.replaces}
    stages, weight_bytes = dict[str, Stage](), dict[int, int]()
    for phase, program in programs.items():
        weights = {} if checkpoint is None else load_weights(program, checkpoint, config, device, **held)
        weight_bytes |= {id(weight): weight.nbytes for weight in weights.values()}
        buffers = _buffers(program, state, torch.device(device))
        placed = {"rings": rings, "workers": placement.workers, "comm": comm, "device": device}
        compiled = CompiledSchedule(schedules[phase], registry, {**weights, **buffers}, **placed)
        stages[phase] = Stage(phase, compiled, buffers, serving.logits)
    drafts, size = drafts_of(serving, stages), sum(weight_bytes.values())
    return ModelSession(config, serving, stages["prefill"], stages["decode"], state, rings, size, drafts)


def _opened(checkpoint: Checkpoint | Path | str | None, config: Config) -> Checkpoint | None:
    """A checkpoint of the model of a configuration; raises CheckpointError."""
    if checkpoint is None:
        return None
    found = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    found.require(config)
    return found


def _drafting(serving: Serving[Config], checkpoint: Checkpoint | None, other_graphs: bool) -> Serving[Config]:
    """The same without drafts where there cannot be any, and why."""
    if serving.drafting is None:
        return serving
    if other_graphs:
        return replace(serving, drafting=None, undrafted="other graphs serve than the model's own")
    if checkpoint is not None and checkpoint.values_of(serving.config) != serving.config.values:
        part, is_there = checkpoint.names.unused, any(map(checkpoint.names.is_unused, checkpoint.on_disk))
        why = f"{part} is left out with the layers before it" if is_there else f"the checkpoint is without {part}"
        return replace(serving, drafting=None, undrafted=why)
    return serving


def _programs(serving: Serving[Config], registry: OpRegistry, *, has_weights: bool) -> dict[str, Program]:
    """The programs by phase, and the one that follows prefill where tokens are drafted; raises ConfigError without weights."""
    graphs, configs = dict(serving.graphs), dict(serving.configs)
    if serving.drafting is not None:
        graphs |= {"decode": serving.drafting.graphs["decode"], FOLLOWING: serving.drafting.graphs["prefill"]}
        configs[FOLLOWING] = configs["prefill"]
    programs = {phase: program_for(configs[phase], registry, graphs[phase]) for phase in configs}
    if not has_weights:
        _refuse_weights(programs.values())
    return programs


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


def _require_inputs(state: RequestState, programs: Iterable[Program], drafting: Drafting | None = None) -> None:
    """Raises ConfigError for an input that no call will be told, before weights are loaded."""
    handed = {} if drafting is None else drafting.handed
    for program in programs:
        inputs = {name: program.tensors[tensor].spec for name, tensor in program.inputs.items()}
        for name in inputs.keys() - state.batch_inputs([], inputs).keys() - handed.keys():
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
