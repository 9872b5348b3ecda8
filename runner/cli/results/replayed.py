"""What a command printed is kept, and printed again when the same is asked for: the result's text, not the way to it."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.base.errors import RinggraphError

if TYPE_CHECKING:
    from runner.driver.driver import Setup

NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Work it out anew: neither take an earlier result from the cache folder nor keep this one."),
]


def told_of(error: RinggraphError) -> str:
    """What the command line says of a problem."""
    return f"error: {error}" if not error.diagnostics else error.shown


class Kept:
    """The result of one command line, kept under what it follows from.

    `is_wanted` is False where the result is not only text, or says what only this run can know. What keeps a key from being
    worked out is told by the command itself, which meets the same problem.
    """

    def __init__(self, setup: Setup, graphs: Sequence[str], options: Any, *, is_wanted: bool, files: Sequence[Path | None] = ()):
        self._cache, self._key_now = None, lambda: None
        self._key: str | None = None
        if not is_wanted:
            return
        from runner.base.result_cache import ResultCache, cache_folder

        screen = [(stream.isatty(), stream.encoding) for stream in (sys.stdout, sys.stderr)]
        given = (options, screen, shutil.get_terminal_size(), [os.environ.get(name) for name in _LOOKS])
        self._key_now = partial(_key, setup, graphs, given, [path for path in files if path is not None])
        self._key = self._key_now()
        self._cache = ResultCache(cache_folder())

    def print_again(self) -> bool:
        """Prints the kept result, if there is one."""
        found = None if self._cache is None or self._key is None else self._cache.get(self._key)
        if found is None:
            return False
        try:
            kept = json.loads(found)
            out, err, status = str(kept["out"]), str(kept["err"]), int(kept["status"])
        except (ValueError, LookupError, TypeError):  # somebody else wrote it
            return False
        sys.stderr.write(err)
        sys.stdout.write(out)
        if status:
            raise typer.Exit(status)
        return True

    @contextmanager
    def printing(self) -> Iterator[None]:
        """Keeps what the body prints, if it ends well or with the refusal of what it found.

        What was read may have been saved anew meanwhile: the result is that of the key only if the key still is what it was.
        """
        cache, key = self._cache, self._key
        if cache is None or key is None:
            yield
            return
        streams = sys.stdout, sys.stderr
        out, err = sys.stdout, sys.stderr = _Copying(streams[0]), _Copying(streams[1])

        def keep(status: int, told: str = "") -> None:
            kept = {"out": out.copy.getvalue(), "err": err.copy.getvalue() + told, "status": status}
            if self._key_now() == key:
                cache.put(key, json.dumps(kept))

        try:
            yield
        except RinggraphError as error:
            keep(1, f"{told_of(error)}\n")
            raise
        except typer.Exit as ended:
            if ended.exit_code == 1:  # a refusal that is told; 130 is a result that was stopped
                keep(1)
            raise
        else:
            keep(0)
        finally:
            sys.stdout, sys.stderr = streams


def _key(setup: Setup, graphs: Sequence[str], given: Any, files: Sequence[Path]) -> str | None:
    """The key of what is there now; None where it cannot be told."""
    from runner.driver.cache.keys import result_key

    try:
        return result_key(setup, graphs, given, files)
    except (RinggraphError, OSError):
        return None


_LOOKS = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM")


class _Copying:
    """A stream that keeps a copy of what goes through it."""

    def __init__(self, stream: Any):
        self._stream, self.copy = stream, io.StringIO()

    def write(self, text: str) -> int:
        self.copy.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
