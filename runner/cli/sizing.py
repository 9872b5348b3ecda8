"""`ringgraph size`: ring sizes for a device that runs a set of graphs on the same rings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from runner.cli import minpeak, options
from runner.cli.shared import console, print_json, table, warned
from runner.driver.driver import program_of, resolve, schedule_of

MIB = 2**20


def register(app: typer.Typer) -> None:
    app.command()(size)


Graphs = Annotated[
    list[str], typer.Argument(metavar="GRAPH...", help="Graph files or names of shipped graphs; GRAPH@DEPLOY says for which.")
]


def size(
    graphs: Graphs,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    ep: options.Ep = None,
    scheduler: options.Scheduler = "annotated",
    objective: minpeak.Objective = None,
    no_share: minpeak.NoShare = False,
    as_json: options.Json = False,
) -> None:
    """The smallest ring sizes known to be safe for all the graphs together, ready to paste."""
    from runner.rings.device_sizes import device_sizes

    wanted = minpeak.MinpeakOptions(objective, no_share=no_share, show_progress=sys.stderr.isatty())
    schedules, names = [], []
    for graph, chosen in deployments(graphs, deploy):
        resolved = resolve(config, sets, chosen, ep, graph)
        schedules.append(warned(schedule_of(program_of(graph, resolved), scheduler, given=wanted.mapping())))
        names.append(f"{Path(graph).stem}@{resolved.deploy}")
    found = device_sizes(schedules, names)
    if as_json:
        print_json({"scheduler": scheduler} | found.as_json())
        return
    out = table("ring", *(f"{name} MiB>" for name in names), "heap MiB>", "heap bytes>", "window>", "pool>")
    for ring in range(len(found.sizes.heap)):
        alone = [f"{need.safe_bytes / MIB:,.2f}" for need in found.needs if need.ring == ring]
        heap = found.sizes.heap[ring]
        counts = (found.sizes.window[ring], found.sizes.pool[ring])
        out.add_row(str(ring), *alone, f"{heap / MIB:,.2f}", f"{heap:,}", *(f"{count:,}" for count in counts))
    console().print(out)
    print(f"\ntotal {_mib(found.total_bytes)}, scheduler {scheduler}")
    uniform = f"four rings of the largest size ({_mib(found.uniform_bytes)})"
    print(f"saved against {uniform}: {_mib(found.saved_against_uniform_bytes)}")
    print(f"saved against 4 x 1 GiB: {_mib(found.saved_against_gib_bytes)}\n")
    print("\n".join(found.environment()))
    print(f"\n# heaps of a RunConfig are powers of two: {_mib(sum(found.power_heap))} in all\n{found.run_config()}")


def deployments(graphs: list[str], deploy: str | None) -> list[tuple[str, str | None]]:
    """Each graph and the deployment to give it.

    `GRAPH@DEPLOY` has its own. Among graphs of both kinds `deploy` is that of those whose name does not begin with `prefill`:
    sizes for a prefill that were worked out for a decode step would be far too small.
    """
    named = [graph.rpartition("@") if "@" in graph else (graph, "", "") for graph in graphs]
    prefills = [Path(graph).stem.startswith("prefill") for graph, _, _ in named]
    mixed = any(prefills) and not all(prefills)
    return [
        (graph, own or (None if mixed and is_prefill else deploy))
        for (graph, _, own), is_prefill in zip(named, prefills, strict=True)
    ]


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.2f} MiB"
