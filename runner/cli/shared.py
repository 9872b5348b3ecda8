"""What commands share of the screen: consoles, tables, JSON, warnings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table

from runner.base.units import human_bytes

if TYPE_CHECKING:
    from runner.base.errors import Diagnostic
    from runner.rings.schedule import Schedule
    from runner.rings.sizes import RingSizes
    from runner.serving.session import Placement

ABOVE_100 = "% above 100: high-water is head at a scope's end less tail at its begin; what was given back meanwhile counts"
FILE_COLUMNS = 160


def console() -> Console:
    """Where results go: standard output, as wide as the terminal; in a file or pipe wide enough not to fold names."""
    folds = sys.stdout.isatty() or "COLUMNS" in os.environ
    return _plain_console(width=None if folds else FILE_COLUMNS)


def messages() -> Console:
    """Where everything else goes: standard error."""
    return _plain_console(stderr=True)


def _plain_console(**given: Any) -> Console:
    """A console that shows text as it is: names come from files, and `[/a]` or `:warning:` in one is no markup."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False, **given)


def warned(found: tuple[Schedule, Iterable[Diagnostic]]) -> Schedule:
    """The schedule of `driver.schedule_of`, with its warnings told."""
    schedule, warnings = found
    for warning in warnings:
        messages().print(f"warning: {warning}")
    return schedule


def told(sizes: RingSizes | None) -> RingSizes | None:
    """`sizes`, after saying what their user should know of them."""
    for warning in sizes.warnings() if sizes is not None else ():
        messages().print(f"warning: {warning}")
    return sizes


def print_notes(notes: Iterable[str]) -> None:
    """What a result leaves open, on standard error."""
    for note in notes:
        messages().print(f"note: {note}")


def placement(
    scheduler: str,
    rings: tuple[str | None, str | None, str | None],
    workers: int = 1,
    unchecked: bool = False,
    is_fast: bool = False,
) -> Placement:
    """How a command's options place programs that run: heap, window and pool of `rings` are texts of the options."""
    from runner.driver.driver import ring_sizes, schedule_of
    from runner.serving.session import Placement

    return Placement(
        lambda program: warned(schedule_of(program, scheduler, unchecked=unchecked)),
        lambda schedules: told(ring_sizes(schedules, *rings, unchecked=unchecked)),
        workers,
        is_fast,
    )


def print_json(value: Any) -> None:
    """One JSON object on standard output, with no markup."""
    print(json.dumps(value, indent=2, default=str))


def memory_text(sizes: RingSizes) -> str:
    """Device memory of the rings: `heaps 1.0 GiB, windows 310.5 MiB, pools 1.5 MiB: 1.3 GiB in all`."""
    found = {name.removesuffix("_bytes"): human_bytes(size, 2) for name, size in sizes.memory().items()}
    return f"heaps {found['heap']}, windows {found['window']}, pools {found['pool']}: {found['total']} in all"


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; columns that end in `>` are right-aligned."""
    made = _LongTable(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return made


class _LongTable(Table):
    """A table whose very many rows are set in columns at once: rich takes half a millisecond for each."""

    MOST_ROWS = 1_000

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.row_count <= self.MOST_ROWS:
            yield from super().__rich_console__(console, options)
            return
        columns = [[str(column.header), *map(str, column.cells)] for column in self.columns]
        widths = [max(map(cell_len, column)) for column in columns]
        to_right = [column.justify == "right" for column in self.columns]
        if self.title:
            yield Segment(f"{self.title}\n")
        for row in zip(*columns, strict=True):
            cells = []
            for cell, width, right in zip(row, widths, to_right, strict=True):
                space = " " * (width - cell_len(cell))
                cells.append(space + cell if right else cell + space)
            yield Segment("  ".join(cells) + "\n")


@contextmanager
def progress_bar(title: str, console: Console | None = None, unit: str = "bytes") -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with what is done and what there is in all; silent where standard error is not a terminal."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counts = (DownloadColumn(binary_units=True),) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
