"""This module notes when what happened in a run, for its timeline. Plans draw timelines too: no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.execution.storage import Place


@dataclass
class Trace:
    """What one run noted, in nanoseconds of one clock.

    tasks    (submission, thread, start, end) as tasks end
    submits  (submission, start, end) of the submitting thread, waits for room included; a task that it runs itself is not
    scopes   (scope, start, end) as scopes end
    levels   (time, ring, bytes held, live slots) after each submission, with rings
    places   per submission where its block lies, None for one that was not submitted
    """

    tasks: list[tuple[int, int, int, int]] = field(default_factory=list)
    submits: list[tuple[int, int, int]] = field(default_factory=list)
    scopes: list[tuple[int, int, int]] = field(default_factory=list)
    levels: list[tuple[int, int, int, int]] = field(default_factory=list)
    places: list[Place | None] = field(default_factory=list)
