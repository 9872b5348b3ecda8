"""`ringgraph run`: one graph, once, on given or random inputs; named tensors saved and compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.base.errors import ConfigError, RinggraphError
from runner.cli import options
from runner.cli.device.files import with_side_files
from runner.cli.shared import console, placement, table
from runner.driver.driver import Setup
from runner.driver.outputs import NO_FILES, SideFiles, kept

if TYPE_CHECKING:
    from runner.driver.outputs import UnwrittenError
    from runner.driver.single import Ran, Request
    from runner.rings.schedule import Schedule
    from runner.rings.sizes import RingSizes
    from runner.serving.session import Placement
    from runner.serving.single_run import Comparison
    from runner.serving.state.turns import Turn

Inputs = Annotated[
    list[Path], typer.Option("--inputs", metavar="FILE", help="safetensors with inputs, weights and states by name; repeatable.")
]
Weights = Annotated[str | None, typer.Option("--checkpoint", metavar="PATH", help="Where weights come from: a folder or a file.")]
Tokens = Annotated[
    list[str],
    typer.Option(
        metavar="[REQUEST[@START]:]IDS",
        help="Token ids of a request, with commas: of a new one, or of one that --inputs has, by number; repeatable.",
    ),
]
PromptLen = Annotated[
    int | None,
    typer.Option("--prompt-len", metavar="N", min=1, help="Tokens of a new request's prompt; --tokens has a part."),
]
Seed = Annotated[int, typer.Option(help="For everything that is not given.")]
Dump = Annotated[
    list[str], typer.Option("--dump", metavar="NAMES", help="Tensors to save: names or globs, with commas; outputs without.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="safetensors to save tensors in.")]
Golden = Annotated[
    Path | None, typer.Option("--golden", metavar="DIR", help="Compare with the tensors in this folder's safetensors.")
]
Rtol = Annotated[float, typer.Option(help="Tolerance relative to the golden element.")]
Atol = Annotated[float, typer.Option(help="Absolute tolerance.")]
Profile = Annotated[Path | None, typer.Option("--profile", metavar="FILE", help="Write measured durations as JSON.")]


_TURN = re.compile(r"(?:([0-9]{1,18})(?:@([0-9]{1,18}))?:)?([0-9]{1,18}(?:,[0-9]{1,18})*)")


def register(app: typer.Typer) -> None:
    app.command()(run)


@with_side_files
def run(
    graph: options.GraphName,
    inputs: Inputs = [],  # noqa: B006
    tokens: Tokens = [],  # noqa: B006
    prompt_len: PromptLen = None,
    checkpoint: Weights = None,
    seed: Seed = 0,
    dump: Dump = [],  # noqa: B006
    out: Out = None,
    golden: Golden = None,
    rtol: Rtol = 1e-4,
    atol: Atol = 1e-5,
    profile: Profile = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    ops: options.OpFiles = [],  # noqa: B006
    scheduler: options.Scheduler = "annotated",
    ring_heap: options.RingHeap = None,
    ring_window: options.RingWindow = None,
    ring_pool: options.RingPool = None,
    unchecked: options.Unchecked = False,
    workers: options.Workers = 1,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    files: SideFiles = NO_FILES,
) -> None:
    """Run one graph once, on given or random inputs; save named tensors and compare them with golden ones.

    What is not given is random, weights without --checkpoint as 'checkpoint init' would write them. '--dump states,outputs' saves
    what the next run takes by --inputs.
    """
    from runner.driver.single import Request

    what = (tuple(inputs), checkpoint, seed, _wanted(dump, out), out, golden, rtol, atol, profile, files, device)
    request = Request(graph, *what, turns=_turns(tokens, prompt_len))
    placed = placement(scheduler, (ring_heap, ring_window, ring_pool), workers, unchecked)
    setup = Setup([*_described(checkpoint), *config], sets, deploy, ops=ops)
    _tell(request, *kept(lambda: _ran(request, setup, placed, threads)))


def _wanted(dump: Sequence[str], out: Path | None) -> tuple[str, ...]:
    """Names and globs of tensors to save; raises BadParameter where nobody says where."""
    if dump and out is None:
        raise typer.BadParameter("--dump needs --out FILE")
    return tuple(part.strip() for item in dump for part in item.split(","))


def _tell(request: Request, ran: Ran, unwritten: UnwrittenError | None) -> None:
    """Prints what came of it; raises RinggraphError where tensors differ or a file is missing."""
    _print_figures(ran)
    try:
        if ran.comparisons is not None:
            _print_comparisons(ran.comparisons, request.rtol, request.atol)
    finally:
        if unwritten is not None:
            raise unwritten


def _described(checkpoint: str | None) -> list[str]:
    """The checkpoint as a layer, if it says which model it is: a file of tensors does not, nor a folder of nothing else."""
    path = Path(checkpoint or "")
    bare = path.is_file() or (path.is_dir() and not (path / "config.json").is_file())
    return [] if checkpoint is None or bare else [checkpoint]


def _turns(texts: Sequence[str], prompt_len: int | None) -> tuple[Turn, ...]:
    """`3,14,15` of a new request, `0:9` of request 0 where it stands, `0@5:9` from position 5 on; raises BadParameter."""
    from runner.serving.state.turns import Turn

    turns = []
    for text in texts:
        found = _TURN.fullmatch(text.replace(" ", ""))
        if found is None:
            raise typer.BadParameter(f"--tokens {text}: expected ids with commas, as in 3,14,15, or of request 0 as in 0:3,14,15")
        request, start, ids = found.groups()
        known, first = (int(part) if part else None for part in (request, start))
        turns.append(Turn(tuple(map(int, ids.split(","))), known, first, prompt_len if request is None else None))
    if prompt_len is not None and all(turn.request is not None for turn in turns):
        raise typer.BadParameter("--prompt-len needs --tokens of a new request")
    return tuple(turns)


def _ran(request: Request, setup: Setup, placed: Placement, threads: int | None) -> Ran:
    from runner.driver import single
    from runner.driver.driver import program_of, set_threads, usable_device
    from runner.language.library import GraphLibrary

    library = GraphLibrary()  # the file is read once
    config = setup.config(request.graph, library)
    set_threads(threads, config)
    usable_device(request.device)
    placed = _on_rings(placed, request.files)
    return single.run(
        config, program_of(request.graph, config, library=library, ops=setup.registry), request, setup.registry, placed
    )


def _on_rings(placed: Placement, files: SideFiles) -> Placement:
    """The same, where to run without the rings that a file needs is wrong usage."""

    def rings(schedules: Sequence[Schedule]) -> RingSizes | None:
        found = placed.rings(schedules)
        try:
            files.require_rings(found is not None)
        except ConfigError as error:
            raise typer.BadParameter(f"{error.message}: give --ring-heap") from None
        return found

    return replace(placed, rings=rings)


def _print_figures(ran: Ran) -> None:
    from runner.base.units import human_bytes

    bytes_by_kind: dict[str, int] = {}
    for tensor in ran.program.tensors:
        bytes_by_kind[tensor.kind] = bytes_by_kind.get(tensor.kind, 0) + tensor.spec.size_bytes
    out = table("figure", "value>")
    out.add_row("tasks", f"{ran.result.num_tasks:,}")
    out.add_row("time", f"{ran.result.elapsed_s * 1000:,.1f} ms")
    for kind in ("input", "weight", "state"):
        out.add_row(f"{kind} bytes", human_bytes(bytes_by_kind.get(kind, 0)))
    out.add_row("most block bytes at once", human_bytes(ran.result.peak_bytes))
    if ran.rings is not None:
        out.add_row("ring heaps", human_bytes(sum(ran.rings.heap)))
    for handle, length in sorted(ran.lengths.items()):
        out.add_row(f"tokens of request {handle}", f"{length:,}")
    console().print(out)


def _print_comparisons(found: Sequence[Comparison], rtol: float, atol: float) -> None:
    """Prints one line per golden tensor; raises RinggraphError when any disagrees."""
    out = table("tensor", "verdict", "max abs>", "max rel>", "relative>", "first mismatch")
    for each in found:
        verdict = "equal" if each.agrees and each.max_abs == 0 else "close" if each.agrees else "differs"
        out.add_row(each.name, verdict, f"{each.max_abs:.3g}", f"{each.max_rel:.3g}", f"{each.relative:.3g}", _first(each))
    console().print(out)
    wrong = sum(not each.agrees for each in found)
    if wrong:
        raise RinggraphError(f"{wrong} of {len(found)} tensors differ from the golden ones (rtol {rtol:g}, atol {atol:g})")


def _first(comparison: Comparison) -> str:
    if comparison.problem is not None or comparison.first is None:
        return comparison.problem or ""
    index, got, golden = comparison.first
    return f"[{', '.join(map(str, index))}]: {got:.6g}, golden {golden:.6g} ({comparison.num_wrong:,} wrong)"
