"""What commands share of the screen: consoles, tables, JSON, warnings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from runner.base.errors import Diagnostic
    from runner.rings.schedule import Schedule

MIB = 2**20
FILE_COLUMNS = 160


def console() -> Console:
    """Where results go: standard output, as wide as the terminal; in a file or pipe wide enough not to fold names."""
    folds = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, soft_wrap=True, width=None if folds else FILE_COLUMNS)


def messages() -> Console:
    """Where everything else goes: standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def warned(found: tuple[Schedule, Iterable[Diagnostic]]) -> Schedule:
    """The schedule of `driver.schedule_of`, with its warnings told."""
    schedule, warnings = found
    for warning in warnings:
        messages().print(f"warning: {warning}", markup=False)
    return schedule


def print_json(value: Any) -> None:
    """One JSON object on standard output, with no markup."""
    print(json.dumps(value, indent=2, default=str))


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; columns that end in `>` are right-aligned."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return made


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with bytes done and bytes in all; silent where standard error is not a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
