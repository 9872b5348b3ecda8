"""`ringgraph dot | rings`: pictures of a graph and of its rings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli import options
from runner.cli.schedule import better
from runner.cli.shared import messages, print_notes
from runner.driver import completion

LEVEL = completion.one_of("layer", "stage", "task")


def register(app: typer.Typer) -> None:
    app.command()(dot)
    app.command()(rings)


@options.plans(only={*options.SETUP, "scheduler"})
def dot(
    graph: options.GraphName,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write here, not to standard output.")] = None,
    level: Annotated[str, typer.Option(autocompletion=LEVEL, help="What a node is: layer, stage or task.")] = "stage",
    layer: Annotated[int | None, typer.Option(metavar="N", help="Draw this layer only.")] = None,
    unfold: Annotated[bool, typer.Option("--unfold", help="Draw every layer by itself, those that are alike too.")] = False,
    svg: Annotated[bool, typer.Option("--svg", help="Render with Graphviz; needs --out.")] = False,
    asked: options.Asked = options.AS_IT_IS,
) -> None:
    """Draw a graph as DOT: scopes are clusters, a ring has one colour, edges carry bytes, equal layers are drawn once."""
    from runner.base.files import check_writable, write_text
    from runner.report.dot.dot import render_svg

    if svg and out is None:
        raise typer.BadParameter("--svg needs --out FILE")
    if out is not None:
        check_writable(out)
    text = asked.driver.draw(graph, level=level, layer=layer, scheduler=asked["scheduler"], unfold=unfold)
    if svg and out is not None:
        render_svg(text, out)
    elif out is not None:
        write_text(out, text)
    else:
        print(text, end="")
        return
    messages().print(f"wrote {out}")


@options.plans()
def rings(
    graph: options.GraphName,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The picture: .svg, .png or .pdf.")],
    asked: options.Asked = options.AS_IT_IS,
) -> None:
    """Draw the rings: submissions to the right, offsets upwards, each rectangle a block from its submission to its release."""
    from runner.driver.planning import plan
    from runner.report.plotting import check_picture
    from runner.report.rings import draw_rings

    check_picture(out)
    found = plan(asked.setup, asked.request(graph, progress="eager").in_safe_rings(), better())
    print_notes([*(missing.message for missing in found.warnings), *found.routing_notes])
    if found.deadlock is not None:
        raise found.deadlock
    draw_rings(found.replay, out)
    messages().print(f"wrote {out}")
