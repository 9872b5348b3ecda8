"""`ringgraph generate`: prompts in, tokens out, on one rank or on many."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli import options
from runner.cli.device.files import with_side_files
from runner.cli.shared import console, messages, placement, progress_bar, table
from runner.driver import completion
from runner.driver.outputs import NO_FILES, SideFiles

if TYPE_CHECKING:
    from runner.driver.driver import Setup
    from runner.driver.outputs import UnwrittenError
    from runner.driver.serve import Request, Served
    from runner.serving.prompts import Prompt
    from runner.serving.session import Placement

SHOWN_TOKENS = 16
"""Tokens of a prompt's continuation that the text output shows."""

PromptIds = Annotated[list[str], typer.Option("--prompt-ids", metavar="1,2,3", help="A prompt as token ids; repeatable.")]
Prompts = Annotated[
    Path | None, typer.Option("--prompts", metavar="FILE", help="A JSON list of prompts: lists of token ids, or strings.")
]
PromptTexts = Annotated[
    list[str], typer.Option("--prompt", metavar="TEXT", help="A prompt as text, for the checkpoint's tokenizer; repeatable.")
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=0, metavar="N", help="Tokens to make per prompt.")]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end-of-sequence token.")]
Decode = Annotated[
    str | None,
    typer.Option(
        "--deploy",
        metavar="NAME",
        autocompletion=completion.deployments,
        help="The deployment that decodes; the model's usual one without.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", autocompletion=completion.one_of("f32", "bf16"), help="f32 or bf16; the checkpoint's own without."),
]
PrefillGraph = Annotated[
    str | None,
    typer.Option("--prefill-graph", metavar="GRAPH", autocompletion=completion.graphs, help="In place of the model's own."),
]
DecodeGraph = Annotated[
    str | None,
    typer.Option("--decode-graph", metavar="GRAPH", autocompletion=completion.graphs, help="In place of the model's own."),
]
Logits = Annotated[
    Path | None, typer.Option("--logits", metavar="FILE", help="safetensors with prompt.N.prefill [S, V], prompt.N.decode.")
]
RecordRouting = Annotated[
    Path | None, typer.Option("--record-routing", metavar="FILE", help="Write which experts every token chose.")
]
Timeout = Annotated[float, typer.Option("--timeout-s", min=1, metavar="S", help="How long a rank waits for another.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="Where ranks meet; 0 is a free port.")]


def register(app: typer.Typer) -> None:
    app.command("generate")(generate_command)


@with_side_files
def generate_command(
    context: typer.Context,
    checkpoint: options.Checkpoint = None,
    prompt_ids: PromptIds = [],  # noqa: B006
    prompts: Prompts = None,
    prompt: PromptTexts = [],  # noqa: B006
    max_new_tokens: MaxNewTokens = 16,
    ignore_eos: IgnoreEos = False,
    deploy: Decode = None,
    dtype: Dtype = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    ep: options.Ep = None,
    ops: options.OpFiles = [],  # noqa: B006
    device: options.Device = "cpu",
    workers: options.Workers = 1,
    threads: options.Threads = None,
    fast: options.Fast = False,
    prefill_graph: PrefillGraph = None,
    decode_graph: DecodeGraph = None,
    scheduler: options.Scheduler = "annotated",
    ring_heap: options.RingHeap = None,
    ring_window: options.RingWindow = None,
    ring_pool: options.RingPool = None,
    unchecked: options.Unchecked = False,
    logits: Logits = None,
    record_routing: RecordRouting = None,
    timeout_s: Timeout = 120.0,
    port: Port = 0,
    as_json: options.Json = False,
    files: SideFiles = NO_FILES,
) -> None:
    """Generate greedily from prompts: prefill in chunks, decode in ragged batches."""
    from runner.driver.driver import Setup
    from runner.driver.serve import Request, own_layers

    folder = None if checkpoint is None else Path(checkpoint)
    given = _prompts(folder, prompt_ids, prompts, prompt)
    graphs = {phase: graph for phase, graph in (("prefill", prefill_graph), ("decode", decode_graph)) if graph is not None}
    request = Request(folder, given, max_new_tokens, deploy, ignore_eos, device, graphs, logits, record_routing, files)
    placed = placement(scheduler, (ring_heap, ring_window, ring_pool), workers, unchecked, fast)
    setup = Setup(own_layers(folder, config), [*sets, *([f"dtype={dtype}"] if dtype else [])], None, ep, ops)
    served, unwritten = _served(context.obj, request, setup, placed, threads, timeout_s, port)
    if served is not None:
        _print(served, as_json)
    if unwritten is not None:
        raise unwritten


def _prompts(checkpoint: Path | None, ids: Sequence[str], file: Path | None, texts: Sequence[str]) -> tuple[Prompt, ...]:
    from runner.driver.serve import prompts_of

    found = prompts_of(checkpoint, ids, file, texts)
    if not found:
        raise typer.BadParameter("no prompt; give --prompt-ids, --prompts or --prompt")
    return found


def _served(
    command: list[str],
    request: Request,
    setup: Setup,
    placed: Placement,
    threads: int | None,
    timeout_s: float,
    port: int,
) -> tuple[Served | None, UnwrittenError | None]:
    """What was generated in this process; None where ranks of its own did it, or where another rank tells of it.

    A file that could not be written comes beside it: the tokens are told first, and other ranks end as they do when all is well.
    """
    from runner.checkpoint.checkpoint import Checkpoint
    from runner.driver.driver import set_threads, usable_device
    from runner.driver.outputs import kept
    from runner.driver.serve import num_ranks, over_ranks, prepared, serve, silent
    from runner.ranks.join import given_world, joined, rank_device
    from runner.ranks.launch import launch, own_command

    world = given_world()
    config, registry = prepared(over_ranks(setup.config(), world, setup.ep), request), setup.registry
    if world is None and num_ranks(config) > 1:
        if request.checkpoint is not None:  # what is wrong with it is said once, and before any rank starts
            Checkpoint.open(request.checkpoint).require(config)
        launch(own_command(command), num_ranks(config), timeout_s=timeout_s, port=port)
        return None, None
    set_threads(threads, config)
    if world is None:
        usable_device(request.device)
        return kept(lambda: serve(config, request, registry, placed, progress=_bar))
    request = replace(request, device=usable_device(rank_device(request.device, world)))
    with joined(world, device=request.device, timeout_s=timeout_s) as comm:
        shown = _bar if comm.rank == 0 else silent
        return kept(lambda: serve(config, request, registry, placed, comm=comm, progress=shown))


def _bar(part: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """A bar over bytes that are loaded, then one over tokens read and made."""
    from runner.driver.serve import LOADING

    return progress_bar(part, messages(), "bytes" if part == LOADING else "tokens")


def _print(served: Served, as_json: bool) -> None:
    if as_json:
        print(json.dumps(served.as_json()))
        return
    for n, generation in enumerate(served.generations):
        shown = " ".join(map(str, generation.tokens[:SHOWN_TOKENS]))
        more = f" ... ({len(generation.tokens)} tokens)" if len(generation.tokens) > SHOWN_TOKENS else ""
        print(f"prompt {n} ({len(generation.prompt)} tokens): {shown}{more}")
        if served.texts is not None:
            print(f"  {served.texts[n]!r}")
    _print_figures(served.figures)


def _print_figures(report: dict[str, Any]) -> None:
    from runner.base.units import human_bytes

    out = table("figure", "value>", "")
    prefill_s, decode_s = report["prefill_s"], report["decode_s"]
    out.add_row("prompt tokens", f"{report['prompt_tokens']:,}", _rate(report["prompt_tokens"], prefill_s))
    out.add_row("new tokens", f"{report['new_tokens']:,}", _rate(report["new_tokens"], decode_s))
    out.add_row("time to load", f"{report['load_s']:.2f} s")
    out.add_row("time", f"{report['elapsed_s']:.2f} s", f"prefill {prefill_s:.2f} s, decode {decode_s:.2f} s")
    if report["acceptance_rate"] is not None:
        accepted = f"accepted {report['drafts_accepted']:,} of {report['drafts_fed']:,}"
        steps = f"{report['tokens_per_step']:.2f} tokens a step of a request"
        out.add_row("drafts", f"{report['acceptance_rate']:.1%}", f"{accepted}, {steps}")
    calls = f"{report['prefill_calls']} prefill and {report['decode_calls']} decode calls"
    out.add_row("tasks", f"{report['num_tasks']:,}", calls)
    if report["flavour"] is not None:
        out.add_row("checkpoint", report["flavour"], f"by {report['flavour_source']}; runs as {report['runs_as']}")
    out.add_row("weights", human_bytes(report["weight_bytes"]), "this rank's" if report["ranks"] > 1 else "")
    out.add_row("state", human_bytes(report["state_bytes"]))
    heaps = report["ring_heap_bytes"]
    where = f"on rings of {human_bytes(sum(heaps))}" if heaps is not None else "each with memory of its own"
    out.add_row("blocks at most", human_bytes(report["peak_block_bytes"]), where)
    console().print(out)
    for note in report["notes"]:
        print(f"note: {note}")


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:,.1f} a second" if seconds > 0 else ""
