"""This module owns where something is wrong, and how it is told.

Everything that a user can cause ends as a `RinggraphError`, which carries one or more `Diagnostic`s and never
reaches the terminal as a traceback. Invariants of our own are `assert`s.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import nlargest
from itertools import islice
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file the user wrote; line and column count from 1.

    `via` is the place of the YAML alias through which what stands here is used. It is no part of the place: marks that differ
    in it alone are equal.
    """

    file: str
    line: int
    column: int = 1
    via: Mark | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def moved(self, columns: int) -> Mark:
        """The place so many columns further right."""
        return Mark(self.file, self.line, self.column + columns, self.via)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: `FILE:LINE:COL: SEVERITY CODE: MESSAGE`, the source line with a caret, and at most one hint.

    `about` names what the finding concerns where one place may have several of a code, as the missing inputs of one `use`.
    """

    code: str
    message: str
    mark: Mark | None = None
    severity: str = "error"
    hint: str | None = None
    source_line: str | None = None
    related: tuple[Mark, ...] = field(default=())
    about: str = ""

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells findings apart: the same mistake seen from another layer, trip or graph has the same one."""
        via = self.mark.via if self.mark else None
        return self.code, self.mark, via, self.related, self.about

    def __str__(self) -> str:
        where = f"{self.mark}: " if self.mark else ""
        text = f"{where}{self.severity} {self.code}: {self.message}"
        if self.source_line is not None and self.mark is not None:
            line, column = excerpt(self.source_line.rstrip(), self.mark.column - 1)
            text += f"\n{line}\n{' ' * column}^"
        if self.hint:
            text += f"\nhint: {self.hint}"
        return text


MOST_OF_A_LINE = 160
"""Characters of a source line that a message shows: a file of one line is not printed whole."""


def excerpt(line: str, column: int) -> tuple[str, int]:
    """The part of a line around a column from 0, and the column in that part."""
    if len(line) <= MOST_OF_A_LINE:
        return line, column
    first = max(0, min(column - MOST_OF_A_LINE // 2, len(line) - MOST_OF_A_LINE))
    before, after = "... " if first else "", " ..." if first + MOST_OF_A_LINE < len(line) else ""
    return before + line[first : first + MOST_OF_A_LINE] + after, column - first + len(before)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A remedy: `new` stands where `old` does, at the finding's place; with `of_key`, in the key whose value stands there."""

    old: str
    new: str
    of_key: bool = False


@dataclass(frozen=True, slots=True)
class Edge:
    """A remedy: the item at `item` names `entry` under `after`."""

    item: Mark
    entry: str


class Hint(str):
    """A hint that says exactly what to write; `remedies` are the same as data, of which one is to be chosen."""

    remedies: tuple[Rewrite | Edge, ...]

    def __new__(cls, text: str, *remedies: Rewrite | Edge) -> Hint:
        made = super().__new__(cls, text)
        made.remedies = remedies
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), *self.remedies


_MOST_COMPARED, _MOST_MATCHED, _LONGEST = 1_000, 40, 80


def did_you_mean(name: str, known: Iterable[str], of_key: bool = False) -> Hint | None:
    """A hint with the known name that is nearest to `name`, if any is near; of very many or long names not all are looked at.

    `of_key`: the name is a key, and is told at the place of its value.
    """
    if len(name) > _LONGEST:
        return None
    letters, near = _letters(name), list[tuple[float, str]]()
    for other in islice(known, _MOST_COMPARED):
        missing, needless = (letters & ~(found := _letters(other))).bit_count(), (found & ~letters).bit_count()
        most_alike = min(len(name) - missing, len(other) - needless)
        if other != name and len(other) <= _LONGEST and 2 * most_alike >= _CUTOFF * (len(name) + len(other)):
            near.append((most_alike / (len(name) + len(other)), other))
    nearest = [other for _, other in nlargest(_MOST_MATCHED, near)]
    found = difflib.get_close_matches(name, nearest, n=1, cutoff=_CUTOFF)
    return Hint(f"did you mean '{found[0]}'?", Rewrite(name, found[0], of_key)) if found else None


_CUTOFF = 0.6


@lru_cache(maxsize=4096)
def _letters(name: str) -> int:
    """The characters of a name as bits; different ones may share a bit."""
    bits = 0
    for letter in name[:_LONGEST]:
        bits |= 1 << (ord(letter) & 127)
    return bits


MOST_SHOWN = 20
"""Findings of one error that the terminal shows: the first is not to scroll away behind what follows from it."""


class RinggraphError(Exception):
    """A problem that the user can cause and mend; `str()` is all of it: `message`, and `hint` if there is one."""

    all_told_by: ClassVar[str | None] = None
    """The command that lists every finding."""

    def __init__(self, message: str | Diagnostic | list[Diagnostic], *, hint: str | None = None):
        if isinstance(message, str):
            self.diagnostics: tuple[Diagnostic, ...] = ()
            self.message = message
        else:
            found = [message] if isinstance(message, Diagnostic) else message
            self.diagnostics = tuple(found)
            self.message = "\n".join(str(d) for d in found)
        self.hint = hint
        super().__init__(self.message if hint is None else f"{self.message}\nhint: {hint}")

    @property
    def shown(self) -> str:
        """What the terminal shows: of many findings the first, and how many there are besides."""
        left = len(self.diagnostics) - MOST_SHOWN
        if left <= 0:
            return str(self)
        told_by = f"; '{self.all_told_by}' lists all" if self.all_told_by else ""
        return "\n".join([*map(str, self.diagnostics[:MOST_SHOWN]), f"and {left:,} more{told_by}"])


class GraphError(RinggraphError):
    """A graph file that cannot be loaded, checked or expanded."""

    all_told_by = "ringgraph lint"


class ConfigError(RinggraphError):
    """A configuration with an unknown key, a bad value or an impossible combination."""


class CheckpointError(RinggraphError):
    """A checkpoint that is missing, truncated, mislabelled or does not fit the configuration."""

    all_told_by = "ringgraph checkpoint inspect"


class ScheduleError(RinggraphError):
    """A placement that breaks a rule of the memory model."""


class DeadlockError(RinggraphError):
    """A submission that can never be placed; `.deadlock` holds the facts (see `runner.rings.parts.records.Deadlock`)."""

    def __init__(self, message: str, deadlock: object):
        super().__init__(message)
        self.deadlock = deadlock


class StateError(RinggraphError):
    """A request that does not fit, or a call that does not go on where the request stands."""


class ExecutionError(RinggraphError):
    """A task that failed while running."""
