"""`ringgraph new graph | op | family NAME`: a commented start in the present folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.driver import completion

KIND = completion.one_of("graph", "op", "family")
NEXT = {
    "graph": "ringgraph lint {name}.yaml",
    "op": "ringgraph ops show {name} --ops {name}.py",
    "family": "cd {name} && ringgraph lint {name}_prefill.yaml {name}_decode.yaml --config family.yaml",
}
"""What to do with a start first."""


def register(app: typer.Typer) -> None:
    app.command()(new)


def new(
    kind: Annotated[str, typer.Argument(metavar="graph|op|family", autocompletion=KIND, help="What to begin.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
) -> None:
    """Write a commented start that is right as it is: NAME.yaml (a graph), NAME.py (an op) or the folder NAME (a family)."""
    from runner.driver.starts.starts import STARTS, write_start

    if kind not in STARTS:
        raise typer.BadParameter(f"'{kind}' has no start; expected one of {', '.join(STARTS)}", param_hint="graph|op|family")
    for path in write_start(kind, name, Path()):
        print(f"wrote {path}")
    print(f"next: {NEXT[kind].format(name=name)}")
