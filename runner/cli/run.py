"""`ringgraph run`: one graph, once, on given or random inputs; named tensors saved and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.base.errors import RinggraphError
from runner.cli import options
from runner.cli.shared import console, table, warned
from runner.driver.driver import program_of, registry, resolve, ring_sizes, schedule_of, set_threads, usable_device

if TYPE_CHECKING:
    from runner.execution.executor import RunResult
    from runner.program.program import Program
    from runner.rings.sizes import RingSizes
    from runner.serving.single_run import Comparison


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    graph: options.GraphName,
    inputs: Annotated[
        list[Path],
        typer.Option("--inputs", metavar="FILE", help="safetensors with inputs, weights and states by name; repeatable."),
    ] = [],  # noqa: B006
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", metavar="DIR", help="Where weights come from.")] = None,
    seed: Annotated[int, typer.Option(help="For everything that is not given.")] = 0,
    dump: Annotated[
        list[str], typer.Option("--dump", metavar="NAMES", help="Tensors to save: names or globs, with commas; outputs without.")
    ] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="safetensors to save tensors in.")] = None,
    golden: Annotated[
        Path | None, typer.Option("--golden", metavar="DIR", help="Compare with the tensors in this folder's safetensors.")
    ] = None,
    rtol: Annotated[float, typer.Option(help="Tolerance relative to the golden element.")] = 1e-4,
    atol: Annotated[float, typer.Option(help="Absolute tolerance.")] = 1e-5,
    profile: Annotated[Path | None, typer.Option("--profile", metavar="FILE", help="Write measured durations as JSON.")] = None,
    scope_stats: Annotated[
        Path | None, typer.Option("--scope-stats", metavar="FILE", help="Write scope stats (needs rings).")
    ] = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    scheduler: options.Scheduler = "annotated",
    ring_heap: options.RingHeap = None,
    ring_window: options.RingWindow = None,
    ring_pool: options.RingPool = None,
    unchecked: options.Unchecked = False,
    workers: options.Workers = 1,
    threads: options.Threads = None,
    device: options.Device = "cpu",
) -> None:
    """Run one graph once, on given or random inputs; save named tensors and compare them with golden ones.

    Without --inputs, a graph of the model reads random first tokens of new requests, and other inputs are normal; without
    --checkpoint, weights are those that 'checkpoint init' would write.
    """
    from runner.execution.comm import LocalComm
    from runner.execution.executor import execute
    from runner.execution.run import TaskTime
    from runner.recorded.scope_stats import write_scope_stats
    from runner.rings.heap import ScopeRecord
    from runner.serving.single_run import read_tensors, select, tensor_names, write_tensors

    if dump and out is None:
        raise typer.BadParameter("--dump needs --out FILE")
    resolved = resolve([*([checkpoint] if checkpoint else []), *config], sets, deploy, None, graph)
    set_threads(threads, resolved)
    usable_device(device)
    program = program_of(graph, resolved)
    names = tensor_names(program)
    wanted = select(names, [part.strip() for item in dump for part in item.split(",")] if dump else program.outputs)
    expected = read_tensors(golden) if golden else {}
    compared = {name: names[name] for name in expected if name in names}
    schedule = warned(schedule_of(program, scheduler, unchecked=unchecked))
    rings = ring_sizes([schedule], ring_heap, ring_window, ring_pool, unchecked=unchecked)
    if scope_stats is not None and rings is None:
        raise typer.BadParameter("--scope-stats needs rings: give --ring-heap")
    externals = _externals(program, resolved, inputs, checkpoint, seed, device)
    times: list[TaskTime] | None = [] if profile is not None else None
    records: list[ScopeRecord] = []
    capture = {*wanted.values(), *compared.values()}
    result = execute(
        schedule,
        registry(),
        externals,
        rings=rings,
        workers=workers,
        comm=LocalComm(),
        device=device,
        scope_stats=records,
        profile=times,
        capture=capture,
    )
    if scope_stats is not None and rings is not None:
        write_scope_stats(scope_stats, schedule, rings, records, False)
    if profile is not None and times is not None:
        _write_profile(profile, graph, resolved.name, resolved.deploy, times)
    if out is not None:
        write_tensors(out, {name: result.captured[tensor] for name, tensor in wanted.items() if tensor in result.captured})
    _print_figures(program, result, rings)
    if golden is not None:
        _compare_all(expected, compared, result, rtol, atol)


def _externals(program: Program, config, inputs: list[Path], checkpoint: str | None, seed: int, device: str):
    import torch

    from runner.checkpoint.checkpoint import Checkpoint
    from runner.checkpoint.weights import load_weights
    from runner.serving.single_run import RandomExternals, external_tensors, first_call, read_tensors

    given = first_call(program, config, seed)
    for path in inputs:
        given |= read_tensors(path)
    weights = load_weights(program, Checkpoint.open(checkpoint), config, device) if checkpoint else None
    return external_tensors(program, given, weights, RandomExternals(config, seed), torch.device(device))


def _write_profile(path: Path, graph: str, config: str, deploy: str, times) -> None:
    from runner.serving.single_run import profile_report

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(profile_report(graph, config, deploy, times), indent=1) + "\n", encoding="utf-8")


def _print_figures(program: Program, result: RunResult, rings: RingSizes | None) -> None:
    from runner.report.dot import human_bytes

    bytes_by_kind: dict[str, int] = {}
    for tensor in program.tensors:
        bytes_by_kind[tensor.kind] = bytes_by_kind.get(tensor.kind, 0) + tensor.spec.size_bytes
    out = table("figure", "value>")
    out.add_row("tasks", f"{result.num_tasks:,}")
    out.add_row("time", f"{result.elapsed_s * 1000:,.1f} ms")
    for kind in ("input", "weight", "state"):
        out.add_row(f"{kind} bytes", human_bytes(bytes_by_kind.get(kind, 0)))
    out.add_row("most block bytes at once", human_bytes(result.peak_bytes))
    if rings is not None:
        out.add_row("ring heaps", human_bytes(sum(rings.heap)))
    console().print(out)


def _compare_all(expected, compared, result: RunResult, rtol: float, atol: float) -> None:
    """Prints one line per golden tensor; raises RinggraphError when any disagrees."""
    from runner.serving.single_run import Comparison, compare

    found: list[Comparison] = []
    for name, value in expected.items():
        if name not in compared:
            found.append(Comparison(name, problem="the graph has no tensor of this name"))
        elif compared[name] not in result.captured:
            found.append(Comparison(name, problem="the trip that creates it did not run"))
        else:
            found.append(compare(name, result.captured[compared[name]], value, rtol, atol))
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
    return f"\\[{', '.join(map(str, index))}]: {got:.6g}, golden {golden:.6g} ({comparison.num_wrong:,} wrong)"
