"""`ringgraph placement`: what orchestration code for the device has to say of a graph, in submission order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli import options
from runner.cli.schedule import better
from runner.driver.driver import Setup
from runner.rings import defaults


def register(app: typer.Typer) -> None:
    app.command()(placement)


def placement(
    graph: options.GraphName,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write JSON, or text to a .txt file.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Text, whatever the file is called.")] = False,
    card: Annotated[str | None, typer.Option("--card", metavar="SIZE", help="Memory of the card, such as 32GiB.")] = None,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    ep: options.Ep = None,
    ops: options.OpFiles = [],  # noqa: B006
    scheduler: options.Scheduler = "annotated",
    routing: options.Routing = defaults.ROUTING,
    ring_window: options.RingWindow = None,
    ring_pool: options.RingPool = None,
    objective: options.Objective = None,
    budget: options.Budget = None,
    slack: options.Slack = None,
    no_share: options.NoShare = False,
) -> None:
    """Write where scopes open and close, which tensors are created where and share bytes, and which edges have to be added."""
    import json

    from runner.base.files import check_writable, whole_file
    from runner.driver.device.placement import placement as work_out
    from runner.driver.planning import MinpeakOptions, PlanRequest

    if out is not None:
        check_writable(out)
    minpeak = MinpeakOptions(objective, budget, no_share, slack=slack)
    request = PlanRequest(graph, scheduler, routing=routing, rings=(None, ring_window, ring_pool), minpeak=minpeak)
    found = work_out(Setup(config, sets, deploy, ep, ops), request, card, better())
    is_text = text or (out is not None and out.suffix == ".txt") or (out is None)
    content = found.text() if is_text else json.dumps(found.as_json(), indent=1) + "\n"
    if out is None:
        print(content, end="")
    else:
        with whole_file(out) as path:
            path.write_text(content, encoding="utf-8")
        for limit in found.limits:
            print(limit)
    if not found.is_kept:
        raise typer.Exit(1)
