"""The options of `schedule`, `run` and `generate` that write files for tools of the device: one place for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.driver.outputs import SideFiles

ScopeStats = Annotated[
    Path | None,
    typer.Option("--scope-stats", metavar="FILE", help="Write scope_stats.jsonl; of a run it needs rings."),
]
Deps = Annotated[
    Path | None,
    typer.Option("--deps", metavar="FILE", help="Write tasks and edges (deps.json), a name map beside it; needs rings."),
]
Swimlane = Annotated[
    Path | None,
    typer.Option("--swimlane", metavar="FILE", help="Write what ran when and where (chip_swimlane_records.json)."),
]
Perfetto = Annotated[Path | None, typer.Option("--perfetto", metavar="FILE", help="Write a trace that Perfetto opens (JSON).")]

OPTIONS = {"scope_stats": ScopeStats, "deps": Deps, "swimlane": Swimlane, "perfetto": Perfetto}


def with_side_files(command: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each of these files in place of its parameter `files`, which then holds them all."""

    @wraps(command)
    def gathered(**given: Any) -> None:
        files = SideFiles(**{name: given.pop(name) for name in OPTIONS})
        command(**given, files=files)

    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "files"]
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=a) for name, a in OPTIONS.items()]
    parameters = [*own, *extra]
    gathered.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    gathered.__annotations__ = {p.name: p.annotation for p in parameters}
    return gathered
