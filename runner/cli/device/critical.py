"""`ringgraph critical-path`: what a captured run's length came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import options
from runner.cli.shared import console, print_json, table

if TYPE_CHECKING:
    from runner.report.device.critical_path import CriticalPath


def register(app: typer.Typer) -> None:
    app.command("critical-path")(critical_path)


def critical_path(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A capture's folder, of a device or written by us.")],
    as_json: options.Json = False,
) -> None:
    """Show the longest chain of a captured run, and the chain that it waited for, with what each gap waited for."""
    from runner.driver.device.critical import critical_path_of

    found = critical_path_of(path)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)


def _print(found: CriticalPath) -> None:
    run = found.run
    print(f"{len(run.start_us):,} tasks, makespan {found.makespan_us:,.2f} us")
    if not run.submits:
        print("no orchestrator records (level 4): what waited for its submission is not known")
    print(f"static, with cores without number: {found.static_us:,.2f} us, {len(found.static):,} tasks")
    waits = ", ".join(f"{kind} {us:,.2f}" for kind, us in found.waited_us.items())
    print(f"observed: {len(found.observed):,} tasks, kernels {found.kernels_us:,.2f} us; waited for {waits}")
    on_static = set(found.static)
    title = "\nthe observed chain; * is in the static chain too"
    out = table("task", "name", "start us>", "us>", "gap us>", "waited for", "behind", title=title)
    for task in found.observed:
        gate = found.gates[task]
        behind = "" if gate.behind is None else f"{gate.behind} {run.names[gate.behind]}"
        mark = "*" if task in on_static else ""
        times = (f"{run.start_us[task]:,.2f}", f"{run.end_us[task] - run.start_us[task]:,.2f}", f"{gate.us:,.2f}")
        out.add_row(f"{task}{mark}", run.names[task], *times, gate.kind, behind)
    console().print(out)
