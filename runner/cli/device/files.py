"""The options of `schedule`, `run` and `generate` that write files for tools of the device: one place for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli import options
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

with_side_files = options.grouped(
    "files",
    {"scope_stats": (ScopeStats, None), "deps": (Deps, None), "swimlane": (Swimlane, None), "perfetto": (Perfetto, None)},
    SideFiles,
)
"""A command with an option for each of these files in place of its parameter `files`, which then holds them all."""
