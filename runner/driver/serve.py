"""What `ringgraph generate` does, without a screen: a model over the ranks of a group, prompts in, tokens and figures out.

config = prepared(config, request)                                     # with room for the prompts
served = serve(config, request, registry, placement, comm=comm)        # on every rank; None but on rank 0
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from runner.base.errors import ConfigError, RinggraphError
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.own_config import require_own_config
from runner.config.config import Config
from runner.driver.device.files import measured_run, writers
from runner.driver.outputs import NO_FILES, SideFiles, UnwrittenError, check_outputs, write_each
from runner.execution.comm import Comm, LocalComm
from runner.execution.tracing import Trace
from runner.models.protocols import Recording, RoutedExperts, RoutingRecorder
from runner.program.ops import OpRegistry
from runner.ranks.gather import check_alike, gather_bytes, gathered, total_figures
from runner.ranks.join import World, check_size
from runner.ranks.reports import Place, own_folder
from runner.serving.generate import Figures, Generation, generate
from runner.serving.prompts import Prompt, check_prompts, decode_tokens, encode_texts, parse_ids, read_prompts
from runner.serving.session import ModelSession, Placement, open_session
from runner.serving.single_run import write_tensors

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opened for each part of the work by its name (`LOADING`, `GENERATING`); then told what is done and what there is in all."""

LOADING, GENERATING = "loading weights", "generating"
"""Counted in bytes, and in tokens read and made."""


def silent(part: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Progress that nobody watches."""
    return nullcontext(lambda done, total: None)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be generated, and the files that rank 0 leaves.

    checkpoint   the model's folder; None where graphs read no weights
    decode       the deployment that decodes, the family's usual one without
    graphs       by phase, a graph in place of the family's own
    logits       safetensors of every prompt's logits
    routing      which experts every token chose
    files        what tools for the device open, of the last decode call
    """

    checkpoint: Path | None
    prompts: tuple[Prompt, ...]
    max_new_tokens: int = 16
    decode: str | None = None
    ignore_eos: bool = False
    device: str = "cpu"
    graphs: Mapping[str, str] = field(default_factory=dict)
    logits: Path | None = None
    routing: Path | None = None
    files: SideFiles = NO_FILES


@dataclass(frozen=True, slots=True)
class Served:
    """What all ranks made, in the order of the prompts; `texts` where the checkpoint has a tokenizer; bytes are of rank 0."""

    generations: list[Generation]
    texts: list[str] | None
    figures: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"tokens": [g.tokens for g in self.generations], "texts": self.texts, **self.figures}


# --- before any rank starts -----------------------------------------------------------------------------------------


def prompts_of(checkpoint: Path | None, ids: Sequence[str], file: Path | None, texts: Sequence[str]) -> tuple[Prompt, ...]:
    """Prompts in all the ways that a user gives them; raises RinggraphError or OSError."""
    found = [parse_ids(text) for text in ids]
    if file is not None:
        found += read_prompts(file, checkpoint)
    if texts:
        found += encode_texts(texts, checkpoint)
    return tuple(found)


def own_layers(checkpoint: Path | None, layers: Sequence[str | Path]) -> list[str | Path]:
    """The configuration in a checkpoint under `layers`; raises CheckpointError or ConfigError where there is none at all."""
    if checkpoint is None and not layers:
        hint = "give --checkpoint DIR, or for a model without weights its layer with --config"
        raise ConfigError("nothing says which model is to generate", hint=hint)
    if checkpoint is None or (not (checkpoint / "config.json").is_file() and layers):
        return [*layers]
    if not layers:
        require_own_config(checkpoint)
    return [checkpoint / "config.json", *layers]


def num_ranks(config: Config) -> int:
    """The ranks that a configuration is for; a family without a field `ep` runs on one."""
    return config.values.get("ep", 1)


def over_ranks(config: Config, world: World | None, ep: int | None) -> Config:
    """The configuration for the world that this process was started in; one that asks for no number of ranks takes them all."""
    if world is None:
        return config
    if ep is not None or num_ranks(config) > 1:
        check_size(world, num_ranks(config))
    return config.with_(ep=world.size)


def prepared(config: Config, request: Request) -> Config:
    """The configuration with room for the prompts, when all else can be done too.

    Raises RinggraphError for prompts and options that the model cannot serve, OSError for a file that could not be written when
    all is done; makes the folders that files are to lie in.
    """
    check_prompts(request.prompts, config.family.vocabulary(config).size)
    lengths = [len(prompt) for prompt in request.prompts]
    config = config.family.fitting(config, lengths, request.max_new_tokens, request.decode)
    if request.routing is not None:
        experts_of(config, "--record-routing")
    check_outputs((request.logits, request.routing, *request.files.asked_for))
    return config


def experts_of(config: Config, wanted_by: str) -> RoutedExperts:
    """What the model's family knows of routed experts; raises ConfigError that names the option for a family without any."""
    found = config.family.routed_experts
    if found is None:
        raise ConfigError(f"{wanted_by} needs a model whose tokens choose experts, and family '{config.family.name}' has none")
    return found


# --- on every rank --------------------------------------------------------------------------------------------------


def serve(
    config: Config,
    request: Request,
    registry: OpRegistry,
    placement: Placement,
    *,
    comm: Comm | None = None,
    progress: Progress = silent,
) -> Served | None:
    """Generates from all prompts over the ranks of `comm` (alone without), and writes the files that are asked for.

    Returns what was made on rank 0, None elsewhere. Raises RinggraphError or OSError; UnwrittenError, which holds what was made,
    where only a file is missing.
    """
    group = comm or LocalComm()
    check_alike(group, _facts(config, request))
    place = Place(own_folder(), group.rank)
    place.phase(LOADING)
    start = perf_counter()
    checkpoint = None if request.checkpoint is None else Checkpoint.open(request.checkpoint).of(config)
    session = _open(config, checkpoint, request, registry, placement, group, progress)
    loaded = perf_counter()
    recorder = _watch(session, request, group)
    if comm is not None:
        session.on_call, session.on_task = place.call, place.node
    found, figures = _generate(session, request, group, progress)
    generations = gathered(group, found, request.prompts)
    figures = total_figures(group, figures)
    packed = gather_bytes(group, recorder.packed()) if recorder is not None else []
    if generations is None:
        return None
    recording = recorder.recording(packed) if recorder is not None else None
    problems = write_each(_writers(request, session, generations, recording))
    texts = decode_tokens([g.tokens for g in generations], request.checkpoint)
    measured = _figures(figures, session, loaded - start, perf_counter() - loaded, group.size)
    served = Served(generations, texts, measured | _told(checkpoint, config, session.serving.undrafted))
    if problems:
        raise UnwrittenError(problems, served)
    return served


def _facts(config: Config, request: Request) -> dict[str, Any]:
    """What all ranks must have alike."""
    asked = (
        request.max_new_tokens,
        request.decode,
        dict(request.graphs),
        request.ignore_eos,
        request.logits is None,
        request.routing is None,
    )
    return {
        "configuration": [dict(config.values), dict(config.dtypes)],
        "list of prompts": request.prompts,
        "set of options": asked,
    }


def _open(
    config: Config,
    checkpoint: Checkpoint | None,
    request: Request,
    registry: OpRegistry,
    placement: Placement,
    comm: Comm,
    progress: Progress,
) -> ModelSession:
    with progress(LOADING) as loading:
        session = open_session(
            config,
            checkpoint,
            registry,
            placement,
            decode=request.decode,
            graphs=request.graphs,
            device=request.device,
            comm=comm,
            progress=loading,
        )
    request.files.require_rings(session.rings is not None)
    return session


def _watch(session: ModelSession, request: Request, comm: Comm) -> RoutingRecorder | None:
    """The recorder of routing, if it is asked for; the session keeps what device files need if they are."""
    if request.files.asked_for:
        session.scope_stats, session.trace = [], Trace()
    if request.routing is None:
        return None
    experts = experts_of(session.config, "--record-routing")
    session.recorder = recorder = experts.recorder(session.serving, session.programs, comm.rank, comm.size)
    return recorder


def _generate(session: ModelSession, request: Request, comm: Comm, progress: Progress) -> tuple[list[Generation], Figures]:
    """This rank's prompts: rank r has prompts r, r + size, ..."""
    mine = request.prompts[comm.rank :: comm.size]
    total = sum(map(len, mine)) + len(mine) * request.max_new_tokens
    with progress(GENERATING) as made:
        return generate(
            session,
            mine,
            request.max_new_tokens,
            eos=() if request.ignore_eos else session.vocabulary.end,
            keep_logits=request.logits is not None,
            comm=comm,
            progress=lambda prompt_tokens, new_tokens: made(prompt_tokens + new_tokens, total),
        )


# --- on rank 0, when all is done ------------------------------------------------------------------------------------


def _writers(
    request: Request, session: ModelSession, generations: Sequence[Generation], recording: Recording | None
) -> Iterator[Callable[[], None]]:
    """What writes each file that is asked for."""
    if request.logits is not None:
        yield partial(_write_logits, request.logits, generations, session.vocabulary.size)
    if request.routing is not None and recording is not None:
        yield partial(recording.write, request.routing)
    if session.trace is not None and session.scope_stats is not None:
        schedule = session.decode_stage.compiled.schedule
        if len(session.trace.places) < len(schedule.submissions):
            yield partial(_refuse_device_files, request.files)
            return
        yield from writers(request.files, measured_run(schedule, session.rings, session.scope_stats, session.trace))


def _refuse_device_files(files: SideFiles) -> None:
    names = " and ".join(f"'{path}'" for path in files.asked_for)
    raise RinggraphError(f"{names}: not written, as no decode call ran", hint="ask for two new tokens or more")


def _write_logits(path: Path, generations: Sequence[Generation], num_tokens: int) -> None:
    tensors = {}
    for n, generation in enumerate(generations):
        nothing = torch.empty(0, num_tokens)
        tensors[f"prompt.{n}.prefill"] = torch.cat([nothing, *generation.prefill_logits])
        tensors[f"prompt.{n}.decode"] = torch.stack(generation.decode_logits) if generation.decode_logits else nothing
    write_tensors(path, tensors)


def _figures(figures: Figures, session: ModelSession, load_s: float, elapsed_s: float, num_ranks: int) -> dict[str, Any]:
    """The figures as plain data; bytes are of this rank."""
    return {
        **asdict(figures),
        "acceptance_rate": figures.acceptance_rate,
        "tokens_per_step": figures.tokens_per_step,
        "load_s": load_s,
        "elapsed_s": elapsed_s,
        "ranks": num_ranks,
        "weight_bytes": session.weight_bytes,
        "state_bytes": session.state_bytes,
        "peak_block_bytes": session.peak_bytes,
        "ring_heap_bytes": list(session.rings.heap) if session.rings is not None else None,
        "ring_peak_bytes": list(session.ring_peaks) if session.rings is not None else None,
        "peak_process_bytes": _peak_process_bytes(),
    }


def _told(checkpoint: Checkpoint | None, config: Config, undrafted: str) -> dict[str, Any]:
    """How the checkpoint is stored and what says so, what it is computed in, and what of it is left out, as plain data."""
    if checkpoint is None:
        return {"flavour": None, "flavour_source": None, "runs_as": None, "notes": _undrafted(undrafted)}
    return {
        "flavour": checkpoint.flavour,
        "flavour_source": checkpoint.flavour_source,
        "runs_as": config.family.layout.flavour(config.values),
        "notes": [*checkpoint.notes(config), *_undrafted(undrafted)],
    }


def _undrafted(why: str) -> list[str]:
    return [f"no tokens are drafted: {why}"] if why else []


def _peak_process_bytes() -> int:
    """The most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# --- only for the routing -------------------------------------------------------------------------------------------


def record_routing(config: Config, request: Request, registry: OpRegistry, placement: Placement) -> Recording:
    """Runs the prompts on one rank and keeps which experts every token chose; raises RinggraphError."""
    session = open_session(
        prepared(config, request), request.checkpoint, registry, placement, decode=request.decode, graphs=request.graphs
    )
    experts = experts_of(session.config, "routing")
    session.recorder = recorder = experts.recorder(session.serving, session.programs, 0, 1)
    generate(session, request.prompts, request.max_new_tokens)
    return recorder.recording([recorder.packed()])
