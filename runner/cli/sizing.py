"""`ringgraph size | frontier`: ring sizes for graphs that share a device, and what more bytes buy in time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.base.units import human_bytes, human_us
from runner.cli import options
from runner.cli.results.replayed import Kept, NoCache
from runner.cli.schedule import better
from runner.cli.shared import console, memory_text, messages, print_json, table
from runner.driver import completion

if TYPE_CHECKING:
    from runner.driver.sizing import SizeResult
    from runner.report.frontier import Frontier, Point

Graphs = Annotated[
    list[str],
    typer.Argument(
        metavar="GRAPH...",
        autocompletion=completion.graphs,
        help="Graph files or names of shipped graphs; GRAPH@DEPLOY says for which.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(size)
    app.command()(frontier)


@options.plans(only={*options.SETUP, "scheduler", *options.TIMED, "objective", "budget", "slack", "no_share"})
def size(
    graphs: Graphs,
    asked: options.Asked = options.AS_IT_IS,
    as_json: options.Json = False,
    no_cache: NoCache = False,
) -> None:
    """The smallest ring sizes known to be safe for all the graphs together, ready to paste."""
    given = dict(locals())
    plain = [graph.rpartition("@")[0] if "@" in graph else graph for graph in graphs]
    kept = Kept(asked.setup, plain, given, is_wanted=not no_cache, files=asked.files)
    if kept.print_again():
        return
    from runner.driver.sizing import size as work_out

    request = asked.request()
    found = work_out(asked.setup, graphs, asked["scheduler"], request.minpeak, better(), request.timed)
    with kept.printing():
        for warning in found.warnings:
            messages().print(f"warning: {warning}")
        if as_json:
            print_json(found.as_json())
        else:
            _print_sizes(found)


def _print_sizes(result: SizeResult) -> None:
    from runner.rings.tensormap import CAPACITY as TENSORMAP_ENTRIES

    found = result.found
    out = table("ring", *(f"{name}>" for name in result.names), "heap>", "heap bytes>", "window>", "pool>")
    for ring in range(len(found.sizes.heap)):
        alone = [human_bytes(need.safe_bytes, 2) for need in found.needs if need.ring == ring]
        heap = found.sizes.heap[ring]
        counts = (found.sizes.window[ring], found.sizes.pool[ring])
        out.add_row(str(ring), *alone, human_bytes(heap, 2), f"{heap:,}", *(f"{count:,}" for count in counts))
    console().print(out)
    print(f"\ntotal {human_bytes(found.total_bytes)}, scheduler {result.scheduler}, routing {result.routing}", end="")
    if timing := result.timing:
        how = [timing.told(True)] * (result.num_recorded > 0) + [str(timing)] * (result.num_recorded < len(result.names))
        print(f"; timed: {'; '.join(how)}")
    else:
        print()
    uniform = f"four rings of the largest size ({human_bytes(found.uniform_bytes)})"
    print(f"saved against {uniform}: {human_bytes(found.saved_against_uniform_bytes)}")
    print(f"saved against 4 x 1 GiB: {human_bytes(found.saved_against_gib_bytes)}\n")
    entries = f"{found.tensormap_bound:,} of {TENSORMAP_ENTRIES:,}"
    saved = human_bytes(found.window_saving_bytes)
    print(f"memory per rank: {memory_text(found.sizes)}; the windows save {saved} against the default")
    print(f"tensormap: at most {entries} entries in use\n")
    print("\n".join(found.environment()))
    print(f"\n# heaps of a RunConfig are powers of two: {human_bytes(sum(found.power_heap))} in all\n{found.run_config()}")


@options.plans(only={*options.SETUP, "routing", *options.TIMED})
def frontier(
    graph: options.GraphName,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Draw to a .svg, .png or .pdf file.")] = None,
    num_points: Annotated[int, typer.Option("--points", min=1, max=1000, metavar="N", help="Budgets between the ends.")] = 6,
    asked: options.Asked = options.AS_IT_IS,
    as_json: options.Json = False,
    no_cache: NoCache = False,
) -> None:
    """What more bytes buy in time: minpeak within budgets, beside the other strategies and two lower bounds."""
    given = dict(locals())
    kept = Kept(asked.setup, [graph], given, is_wanted=not no_cache and out is None, files=asked.files)
    if kept.print_again():
        return
    from runner.base.stopping import ended_as_interrupted
    from runner.driver.recorded import is_recorded
    from runner.report.frontier import StoppedFrontier
    from runner.report.plotting import check_picture

    if out is not None:
        check_picture(out)
    timing = asked.request().timed
    try:
        with ended_as_interrupted():
            found = asked.driver.frontier(graph, num_points, routing=asked["routing"], timed=timing, say=_say, shown=_shown)
    except StoppedFrontier as error:  # what there is by now
        found = error.found
    with kept.printing():
        _tell(found, timing.told(is_recorded(graph)), out, as_json)


def _tell(found: Frontier, timing: str, out: Path | None, as_json: bool) -> None:
    """Print and draw a frontier; raises Exit for one that was stopped."""
    from runner.report.frontier import draw_frontier

    for warning in found.warnings:
        messages().print(f"warning: {warning}")
    for note in found.routing_notes:
        messages().print(f"note: {note}")
    if as_json:
        print_json(found.as_json())
    else:
        print(f"{found.name}; timed: {timing}")
        _print_frontier(found)
    if out is not None:
        draw_frontier(found, out)
        if not as_json:
            print(f"\ndrawn to {out}")
    if not found.is_whole:
        raise typer.Exit(130)


def _say(text: str) -> None:
    print(f"planning: {text}", file=sys.stderr, flush=True)


def _shown(point: Point) -> None:
    print(
        f"found: {point.label}: {human_bytes(point.total_bytes)}, {human_us(point.makespan_us)}",
        file=sys.stderr,
        flush=True,
    )


def _print_frontier(found: Frontier) -> None:
    """The points as a table."""
    out = table("placement", "safe>", "makespan>")
    for point in dict.fromkeys((*found.points, *found.others)):  # the balanced one may be among both
        out.add_row(point.label, human_bytes(point.total_bytes), human_us(point.makespan_us))
    path = "-" if found.critical_path_us is None else human_us(found.critical_path_us)
    out.add_row("lower bounds: peak live, critical path", human_bytes(found.peak_live_bytes), path)
    console().print(out)
