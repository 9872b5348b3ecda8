"""This module owns colours: a ring and a scope have the same one in every picture, whatever draws it."""

from __future__ import annotations

import re
from itertools import chain
from zlib import crc32

from runner.program.spans import spans_of
from runner.rings.schedule import Schedule

RING_COLOURS = ("#4e79a7", "#59a14f", "#f28e2b", "#b07aa1")
RING_FILLS = ("#dbe6f1", "#ddf0da", "#fde6cc", "#eddcea")

SCOPE_COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
    "#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#c7c7c7", "#dbdb8d", "#9edae5",
)  # fmt: skip
"""Colours of kinds of scopes."""


def scope_kind(name: str) -> str:
    """A scope's name without the numbers that tell layers and trips apart: copies get one colour."""
    return re.sub(r"\d+", "#", name.rsplit(".", 1)[-1])


def scope_colours(schedule: Schedule) -> dict[str, str]:
    """The colour of every kind of scope: the one that its name leads to, or where an earlier kind has that, the next free one.

    Scopes of the program come first, also those that the plan does without: two plans of one program have the same colours.

    So a kind has the same colour in pictures of other programs, too, unless names lead to one colour.
    """
    found: dict[str, str] = {}
    num = len(SCOPE_COLOURS)
    written = [] if schedule.program is None else spans_of(schedule.program.body)
    own = (span.path for span in written if span.kind == "scope")
    names = chain((schedule.scopes[0].name,), own, (scope.name for scope in schedule.scopes))
    for kind in dict.fromkeys(scope_kind(name) for name in names):
        slots = [(crc32(kind.encode()) + step) % num for step in range(num)]
        taken = {*found.values()} if len(found) < num else set[str]()
        found[kind] = next(SCOPE_COLOURS[slot] for slot in slots if SCOPE_COLOURS[slot] not in taken)
    return found
