"""`ringgraph placement`: what orchestration code for the device has to say of a graph, in submission order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli import options
from runner.cli.schedule import better
from runner.cli.shared import messages


def register(app: typer.Typer) -> None:
    app.command()(placement)


@options.plans(without={"ring_heap"})
def placement(
    graph: options.GraphName,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write JSON, or text to a .txt file.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Text, whatever the file is called.")] = False,
    card: Annotated[str | None, typer.Option("--card", metavar="SIZE", help="Memory of the card, such as 32GiB.")] = None,
    asked: options.Asked = options.AS_IT_IS,
) -> None:
    """Write where scopes open and close, which tensors are created where and share bytes, and which edges have to be added."""
    import json

    from runner.base.files import check_writable, whole_file
    from runner.driver.device.placement import placement as work_out

    if out is not None:
        check_writable(out)
    found = work_out(asked.setup, asked.request(graph), card, better())
    is_text = text or (out is not None and out.suffix == ".txt") or (out is None)
    content = found.text() if is_text else json.dumps(found.as_json(), indent=1) + "\n"
    if out is None:
        print(content, end="")
    else:
        with whole_file(out) as path:
            path.write_text(content, encoding="utf-8")
        messages().print(f"wrote {out}")
        for limit in found.limits:
            print(limit)
    if not found.is_kept:
        raise typer.Exit(1)
