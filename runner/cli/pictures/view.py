"""`ringgraph view`: a page to look at a plan with, or at two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli import options
from runner.driver import completion


def register(app: typer.Typer) -> None:
    app.command()(view)


_Given = Annotated[
    list[str],
    typer.Argument(
        metavar="A [B]",
        autocompletion=completion.graphs,
        help="GRAPH, GRAPH:STRATEGY, a recorded program, or a file of 'schedule --json'; a second is shown beside it.",
    ),
]


@options.plans(of_sides=True)
def view(
    given: _Given,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page, an .html file.")],
    asked: options.Asked = options.AS_IT_IS,
) -> None:
    """Write a page that shows a plan: rings, scopes, a timeline, the graph, what is needed; with B both and what differs.

    The page opens without a network. Without --ring-heap the rings are as large as is safe, or as they were recorded.
    """
    from runner.base.files import check_writable
    from runner.base.units import human_bytes
    from runner.cli.schedule import better
    from runner.cli.shared import print_notes
    from runner.driver.view.view import view

    if len(given) > 2:
        raise typer.BadParameter(f"got {len(given)}, expected one or two", param_hint="A [B]")
    check_writable(out)
    size, notes = view(asked.setup, given, asked.request(), out, better())
    print_notes(notes)
    print(f"{out}: {human_bytes(size)}, opens in a browser")
