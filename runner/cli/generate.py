"""`ringgraph generate`: prompts in, tokens out, on one rank or on many."""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.base.errors import ConfigError
from runner.cli import options
from runner.cli.shared import console, messages, table, warned
from runner.driver.driver import registry, resolve, ring_sizes, schedule_of, set_threads, usable_device

if TYPE_CHECKING:
    from runner.config.config import Config
    from runner.execution.comm import Comm
    from runner.ranks.gather import RoutingRecorder
    from runner.ranks.join import World
    from runner.serving.generate import Figures, Generation
    from runner.serving.prompts import Prompt
    from runner.serving.session import ModelSession

SHOWN_TOKENS = 16
"""Tokens of a prompt's continuation that the text output shows."""


def register(app: typer.Typer) -> None:
    app.command("generate")(generate_command)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    checkpoint: Path
    prompts: tuple[Prompt, ...]
    max_new_tokens: int
    decode: str
    ignore_eos: bool
    logits: Path | None
    routing: Path | None
    scope_stats: Path | None
    scheduler: str
    rings: tuple[str | None, str | None, str | None]
    unchecked: bool
    workers: int
    device: str


def generate_command(
    context: typer.Context,
    checkpoint: options.Checkpoint,
    prompt_ids: Annotated[
        list[str], typer.Option("--prompt-ids", metavar="1,2,3", help="A prompt as token ids; repeatable.")
    ] = [],  # noqa: B006
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A JSON list of prompts: lists of token ids, or strings.")
    ] = None,
    prompt: Annotated[
        list[str], typer.Option("--prompt", metavar="TEXT", help="A prompt as text, for the checkpoint's tokenizer; repeatable.")
    ] = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=0, metavar="N", help="Tokens to make per prompt.")] = 16,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end-of-sequence token.")] = False,
    deploy: Annotated[
        str, typer.Option("--deploy", metavar="NAME", help="How to decode: decode (8x1) or decode-mtp (4x2).")
    ] = "decode",
    dtype: Annotated[str | None, typer.Option("--dtype", help="f32 or bf16; the checkpoint's own without.")] = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    ep: options.Ep = None,
    device: options.Device = "cpu",
    workers: options.Workers = 1,
    threads: options.Threads = None,
    scheduler: options.Scheduler = "annotated",
    ring_heap: options.RingHeap = None,
    ring_window: options.RingWindow = None,
    ring_pool: options.RingPool = None,
    unchecked: options.Unchecked = False,
    logits: Annotated[
        Path | None, typer.Option("--logits", metavar="FILE", help="safetensors with prompt.N.prefill [S, V], prompt.N.decode.")
    ] = None,
    record_routing: Annotated[
        Path | None, typer.Option("--record-routing", metavar="FILE", help="Write which experts every token chose.")
    ] = None,
    scope_stats: Annotated[
        Path | None,
        typer.Option("--scope-stats", metavar="FILE", help="Write scope stats of the last decode call (needs rings)."),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=1, metavar="S", help="How long a rank waits for another.")
    ] = 120.0,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="Where ranks meet; 0 is a free port.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Generate greedily from prompts: prefill in chunks, decode in ragged batches."""
    from runner.checkpoint.checkpoint import Checkpoint
    from runner.ranks.join import given_world, joined, rank_device
    from runner.ranks.launch import launch, own_command

    folder = Path(checkpoint)
    all_prompts = _prompts(folder, prompt_ids, prompts, prompt)
    world = given_world()
    options_ = [*sets, *([f"dtype={dtype}"] if dtype else [])]
    resolved = _over_ranks(resolve([_config_json(folder), *config], options_, None, ep), world, ep)
    resolved = fitting(resolved, all_prompts, max_new_tokens, deploy)
    _check_writable(logits, record_routing, scope_stats)
    if world is None and resolved["ep"] > 1:
        Checkpoint.open(folder).require(resolved)  # what is wrong with it is said once, and before any rank starts
        launch(own_command(context.obj), resolved["ep"], timeout_s=timeout_s, port=port)
        return
    set_threads(threads, resolved)
    rings = (ring_heap, ring_window, ring_pool)
    wanted = Wanted(
        folder,
        all_prompts,
        max_new_tokens,
        deploy,
        ignore_eos,
        logits,
        record_routing,
        scope_stats,
        scheduler,
        rings,
        unchecked,
        workers,
        usable_device(device if world is None else rank_device(device, world)),
    )
    if world is None:
        _generate(resolved, wanted, None, None, as_json)
        return
    with joined(world, device=wanted.device, timeout_s=timeout_s) as comm:
        _generate(resolved, wanted, comm, world, as_json)


def _check_writable(*files: Path | None) -> None:
    """Raises OSError for a file that could not be written when all is done; makes the folders that it is to lie in."""
    for file in files:
        if file is None:
            continue
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass


def _over_ranks(config: Config, world: World | None, ep: int | None) -> Config:
    """The configuration for the world that this process was started in; one that asks for no number of ranks takes them all."""
    from runner.ranks.join import check_size

    if world is None:
        return config
    if ep is not None or config["ep"] > 1:
        check_size(world, config["ep"])
    return config.with_(ep=world.size)


def _config_json(folder: Path) -> str:
    """The configuration in a checkpoint; raises CheckpointError where there is none."""
    from runner.checkpoint.inspect import require_own_config

    require_own_config(folder)
    return str(folder / "config.json")


def _prompts(folder: Path, ids: Sequence[str], file: Path | None, texts: Sequence[str]) -> tuple[Prompt, ...]:
    from runner.serving.prompts import encode_texts, parse_ids, read_prompts

    found = [parse_ids(text) for text in ids]
    if file is not None:
        found += read_prompts(file, folder)
    if texts:
        found += encode_texts(texts, folder)
    if not found:
        raise typer.BadParameter("no prompt; give --prompt-ids, --prompts or --prompt")
    return tuple(found)


def fitting(config: Config, prompts: Sequence[Prompt], max_new_tokens: int, deploy: str) -> Config:
    """The configuration with room for the longest request and for as many requests as decode takes; raises RinggraphError."""
    from runner.serving.prompts import check_prompts

    check_prompts(prompts, config["vocab_size"])
    longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
    needed = len(prompts[longest]) + max_new_tokens
    if needed > config["max_position_embeddings"]:
        most = config["max_position_embeddings"]
        raise ConfigError(f"prompt {longest} needs {needed:,} positions with its new tokens, the model has {most:,}")
    sets = []
    if needed > config["max_context"]:
        page = config["PAGE"]
        sets.append(f"max_context={min(-(-needed // page) * page, config['max_position_embeddings'])}")
    batch = config.with_(deploy=deploy)["B"]
    if batch > config["REQUESTS"]:
        sets.append(f"REQUESTS={batch}")
    return config.with_(sets=sets) if sets else config


def _generate(config: Config, wanted: Wanted, comm: Comm | None, world: World | None, as_json: bool) -> None:
    from runner.execution.comm import LocalComm
    from runner.models.deepseek_v4.recorded_routing import write_routing
    from runner.ranks.gather import PlacedSession, check_alike, gathered, total_figures
    from runner.ranks.reports import Place, own_folder
    from runner.recorded.scope_stats import write_scope_stats
    from runner.serving.generate import generate
    from runner.serving.prompts import decode_tokens

    comm = comm or LocalComm()
    first = comm.rank == 0
    check_alike(comm, _facts(config, wanted))
    place = Place(own_folder(), comm.rank)
    place.phase("loading weights")
    start = perf_counter()
    session = _open(config, wanted, comm)
    loaded = perf_counter()
    recorder = recorder_of(session, comm, config) if wanted.routing is not None else None
    serving: Any = recorder or session
    if world is not None:
        session.on_task = place.node
        serving = PlacedSession(serving, place)
    if wanted.scope_stats is not None:
        session.scope_stats = []
    mine = wanted.prompts[comm.rank :: comm.size]
    eos = () if wanted.ignore_eos else _eos(config)
    with _progress(sum(map(len, mine)) + len(mine) * wanted.max_new_tokens, first) as progress:
        found, figures = generate(
            serving,
            mine,
            wanted.max_new_tokens,
            eos=eos,
            keep_logits=wanted.logits is not None,
            comm=comm,
            progress=progress,
        )
    generations = gathered(comm, found, wanted.prompts)
    figures = total_figures(comm, figures)
    routing = recorder.table() if recorder is not None else None
    if generations is None:
        return
    if wanted.logits is not None:
        _write_logits(wanted.logits, generations, config["V"])
    if wanted.routing is not None and routing is not None:
        write_routing(wanted.routing, routing)
    if wanted.scope_stats is not None and session.rings is not None and session.scope_stats is not None:
        schedule = session.decode_stage.compiled.schedule
        write_scope_stats(wanted.scope_stats, schedule, session.rings, session.scope_stats, False)
    report = _report(figures, session, loaded - start, perf_counter() - loaded, comm.size)
    texts = decode_tokens([g.tokens for g in generations], wanted.checkpoint)
    if as_json:
        print(json.dumps({"tokens": [g.tokens for g in generations], "texts": texts, **report}))
    else:
        _print(generations, texts, report)


def _facts(config: Config, wanted: Wanted) -> dict[str, Any]:
    """What all ranks must have alike."""
    asked = (wanted.max_new_tokens, wanted.decode, wanted.ignore_eos, wanted.logits is None, wanted.routing is None)
    return {
        "configuration": [dict(config.values), dict(config.dtypes)],
        "list of prompts": wanted.prompts,
        "set of options": asked,
    }


def _open(config: Config, wanted: Wanted, comm: Comm) -> ModelSession:
    from runner.cli.shared import progress_bar
    from runner.serving.session import Placement, open_session

    placement = Placement(
        lambda program: warned(schedule_of(program, wanted.scheduler, unchecked=wanted.unchecked)),
        lambda schedules: ring_sizes(schedules, *wanted.rings, unchecked=wanted.unchecked),
        wanted.workers,
    )
    with progress_bar("loading weights", messages() if comm.rank == 0 else None) as progress:
        session = open_session(
            config,
            wanted.checkpoint,
            registry(),
            placement,
            decode=wanted.decode,
            device=wanted.device,
            comm=comm,
            progress=progress if comm.rank == 0 else None,
        )
    if wanted.scope_stats is not None and session.rings is None:
        raise ConfigError("--scope-stats needs rings", hint="give --ring-heap, as in --ring-heap safe")
    return session


def recorder_of(session: ModelSession, comm: Comm, config: Config) -> RoutingRecorder:
    from runner.ranks.gather import RoutingRecorder

    programs = {stage.name: stage.program for stage in (session.prefill_stage, session.decode_stage)}
    recorder = RoutingRecorder(session, comm, programs, config["E_ALL"], config["TOPK"], session.seq)
    session.capture = recorder.wanted
    session.on_capture = recorder.capture
    return recorder


def _eos(config: Config) -> tuple[int, ...]:
    given = config.fields["eos_token_id"]
    return tuple(given) if isinstance(given, list | tuple) else () if given is None else (given,)


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar over tokens read and made, on standard error, where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    stderr = messages()
    if not shown or not stderr.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tokens"), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task("generating", total=total)
        yield lambda read, made: bar.update(task, completed=read + made)


def _write_logits(path: Path, generations: Sequence[Generation], vocab_size: int) -> None:
    import torch

    from runner.serving.single_run import write_tensors

    tensors = {}
    for n, generation in enumerate(generations):
        nothing = torch.empty(0, vocab_size)
        tensors[f"prompt.{n}.prefill"] = torch.cat([nothing, *generation.prefill_logits])
        tensors[f"prompt.{n}.decode"] = torch.stack(generation.decode_logits) if generation.decode_logits else nothing
    write_tensors(path, tensors)


def _report(figures: Figures, session: ModelSession, load_s: float, elapsed_s: float, num_ranks: int) -> dict[str, Any]:
    """The figures as plain data; bytes are of this rank."""
    return {
        **asdict(figures),
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


def _peak_process_bytes() -> int:
    """The most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _print(generations: Sequence[Generation], texts: Sequence[str] | None, report: dict[str, Any]) -> None:
    from runner.report.dot import human_bytes

    for n, generation in enumerate(generations):
        shown = " ".join(map(str, generation.tokens[:SHOWN_TOKENS]))
        more = f" ... ({len(generation.tokens)} tokens)" if len(generation.tokens) > SHOWN_TOKENS else ""
        print(f"prompt {n} ({len(generation.prompt)} tokens): {shown}{more}")
        if texts is not None:
            print(f"  {texts[n]!r}")
    out = table("figure", "value>", "")
    prefill_s, decode_s = report["prefill_s"], report["decode_s"]
    out.add_row("prompt tokens", f"{report['prompt_tokens']:,}", _rate(report["prompt_tokens"], prefill_s))
    out.add_row("new tokens", f"{report['new_tokens']:,}", _rate(report["new_tokens"], decode_s))
    out.add_row("time to load", f"{report['load_s']:.2f} s")
    out.add_row("time", f"{report['elapsed_s']:.2f} s", f"prefill {prefill_s:.2f} s, decode {decode_s:.2f} s")
    calls = f"{report['prefill_calls']} prefill and {report['decode_calls']} decode calls"
    out.add_row("tasks", f"{report['num_tasks']:,}", calls)
    out.add_row("weights", human_bytes(report["weight_bytes"]), "this rank's" if report["ranks"] > 1 else "")
    out.add_row("state", human_bytes(report["state_bytes"]))
    heaps = report["ring_heap_bytes"]
    where = f"on rings of {human_bytes(sum(heaps))}" if heaps is not None else "each with memory of its own"
    out.add_row("blocks at most", human_bytes(report["peak_block_bytes"]), where)
    console().print(out)


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:,.1f} a second" if seconds > 0 else ""
