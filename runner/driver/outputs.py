"""Files that a run leaves beside its result: told before the run where they cannot be written, never instead of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runner.base.errors import ConfigError, RinggraphError
from runner.base.files import check_writable

T = TypeVar("T")


class UnwrittenError(RinggraphError):
    """Files that could not be written when all was done; `.result` is what was to be returned."""

    def __init__(self, problems: Sequence[str], result: Any):
        super().__init__("\n".join(problems))
        self.result = result


def check_outputs(files: Iterable[Path | None]) -> None:
    """Makes the folders that files are to lie in; raises OSError for the first that could not be written."""
    for file in files:
        if file is not None:
            check_writable(file)


def write_each(writers: Iterable[Callable[[], None]]) -> list[str]:
    """Writes every file that can be written; returns what is wrong with the others."""
    problems = []
    for write in writers:
        try:
            write()
        except OSError as error:
            problems.append(f"'{error.filename}': {(error.strerror or str(error)).lower()}")
        except RinggraphError as error:
            problems.append(str(error))
    return problems


def kept(run: Callable[[], T]) -> tuple[T, UnwrittenError | None]:
    """What `run` returns, or was to return when a file could not be written, and that error, to be raised when all is told."""
    try:
        return run(), None
    except UnwrittenError as error:
        return error.result, error


@dataclass(frozen=True, slots=True)
class SideFiles:
    """The files that tools for the device open, each None where it is not asked for; `runner.driver.device.files` writes them.

    scope_stats  what the rings held at each scope's begin and end
    deps         tasks, arguments, edges; a name map lies beside it
    swimlane     what ran when on which core, and when it was submitted
    perfetto     the same as Chrome trace events, with scopes, rings and edges
    """

    scope_stats: Path | None = None
    deps: Path | None = None
    swimlane: Path | None = None
    perfetto: Path | None = None

    @property
    def asked_for(self) -> list[Path]:
        return [path for path in (self.scope_stats, self.deps, self.swimlane, self.perfetto) if path is not None]

    @property
    def need_times(self) -> bool:
        return self.swimlane is not None or self.perfetto is not None

    def require_rings(self, has_rings: bool) -> None:
        """Raises ConfigError for a file that a run without rings cannot leave."""
        for option, path in (("--scope-stats", self.scope_stats), ("--deps", self.deps)):
            if path is not None and not has_rings:
                raise ConfigError(f"{option} needs rings", hint="give --ring-heap, as in --ring-heap safe")


NO_FILES = SideFiles()
