"""`ringgraph dot | rings`: pictures of a graph and of its rings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli import options
from runner.driver import completion
from runner.rings import defaults

LEVEL = completion.one_of("layer", "stage", "task")


def register(app: typer.Typer) -> None:
    app.command()(dot)
    app.command()(rings)


def dot(
    graph: options.GraphName,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write here, not to standard output.")] = None,
    level: Annotated[str, typer.Option(autocompletion=LEVEL, help="What a node is: layer, stage or task.")] = "stage",
    layer: Annotated[int | None, typer.Option(metavar="N", help="Draw this layer only.")] = None,
    unfold: Annotated[bool, typer.Option("--unfold", help="Draw every layer by itself, those that are alike too.")] = False,
    svg: Annotated[bool, typer.Option("--svg", help="Render with Graphviz; needs --out.")] = False,
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    ep: options.Ep = None,
    ops: options.OpFiles = [],  # noqa: B006
    scheduler: options.Scheduler = "annotated",
) -> None:
    """Draw a graph as DOT: scopes are clusters, a ring has one colour, edges carry bytes, equal layers are drawn once."""
    from runner.base.files import check_writable, write_text
    from runner.driver.face import Driver
    from runner.report.dot.dot import render_svg

    if svg and out is None:
        raise typer.BadParameter("--svg needs --out FILE")
    if out is not None:
        check_writable(out)
    text = Driver(config, sets, deploy, ep, ops).draw(graph, level=level, layer=layer, scheduler=scheduler, unfold=unfold)
    if svg and out is not None:
        render_svg(text, out)
    elif out is not None:
        write_text(out, text)
    else:
        print(text, end="")


def rings(
    graph: options.GraphName,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The picture: .svg, .png or .pdf.")],
    config: options.Configs = [],  # noqa: B006
    sets: options.Sets = [],  # noqa: B006
    deploy: options.Deploy = None,
    ep: options.Ep = None,
    ops: options.OpFiles = [],  # noqa: B006
    scheduler: options.Scheduler = "annotated",
    routing: options.Routing = defaults.ROUTING,
    ring_heap: options.RingHeap = None,
) -> None:
    """Draw the rings: submissions to the right, offsets upwards, each rectangle a block from its submission to its release."""
    from runner.driver.face import Driver
    from runner.driver.recorded import is_recorded
    from runner.report.plotting import check_picture
    from runner.report.rings import draw_rings

    check_picture(out)
    heap = ring_heap or (None if is_recorded(graph) else "safe")
    found = Driver(config, sets, deploy, ep, ops).plan(graph, scheduler, ring_heap=heap, routing=routing, progress="eager")
    if found.deadlock is not None:
        raise found.deadlock
    draw_rings(found.replay, out)
