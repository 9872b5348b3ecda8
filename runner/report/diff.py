"""This module compares two schedules ring by ring and scope by scope. Sizes in bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import RinggraphError
from runner.base.reading import parse_json
from runner.rings.capacity import least_heap, ring_loads, robust_heap, safe_heap
from runner.rings.schedule import NUM_RINGS, Begin, Schedule, Submission, Submit
from runner.rings.steps import StepWalk

RING_FIGURES = ("safe_bytes", "robust_bytes", "least_bytes", "num_blocks", "num_tasks")
SCOPE_FIGURES = ("count", "bytes", "total_bytes", "num_blocks", "num_tasks")

_TRIP = re.compile(r"^([A-Za-z]|\w*_)\d+$")


@dataclass(slots=True)
class ScopeRow:
    """All scopes of one ring whose names differ in trip numbers only.

    bytes          what the largest of them allocates directly, without the scopes inside it
    total_bytes    what all of them allocate
    num_blocks     blocks with bytes, of all of them
    num_tasks      tasks with a kernel, of all of them
    """

    ring: int
    name: str
    count: int = 0
    bytes: int = 0
    total_bytes: int = 0
    num_blocks: int = 0
    num_tasks: int = 0


def scope_rows(schedule: Schedule) -> list[ScopeRow]:
    """The scopes of a schedule in the order in which they first open; trips of a loop and layers share a row."""
    rows: dict[tuple[int, str], ScopeRow] = {}
    row_of: dict[int, ScopeRow] = {}
    members: list[list[Submission]] = [[] for _ in schedule.scopes]
    walk = StepWalk(schedule)
    scopes, submissions = walk.scopes, schedule.submissions
    for step in walk:
        if isinstance(step, Submit):
            members[scopes[-1]].append(submissions[step.submission])
        elif isinstance(step, Begin):
            info = schedule.scopes[step.scope]
            name = any_trip(info.name)
            row_of[step.scope] = rows.setdefault((info.ring, name), ScopeRow(info.ring, name))
    for scope, row in row_of.items():
        own_bytes = sum([item.size_bytes for item in members[scope]])
        row.count += 1
        row.bytes = max(row.bytes, own_bytes)
        row.total_bytes += own_bytes
        row.num_blocks += sum([item.size_bytes > 0 for item in members[scope]])
        row.num_tasks += sum([item.core is not None for item in members[scope]])
    return list(rows.values())


def any_trip(name: str) -> str:
    """`layer_7.moe.e3` as `layer_*.moe.e*`."""
    return ".".join(_TRIP.sub(r"\1*", part) for part in name.split("."))


# --- sides ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """What is compared of one schedule: figures per ring, and per (ring, scope name)."""

    name: str
    rings: Mapping[int, Mapping[str, int]]
    scopes: Mapping[tuple[int, str], Mapping[str, int]]


def side_of(schedule: Schedule, name: str) -> Side:
    """The side of a schedule that was just made."""
    rings = {}
    tasks = [0] * NUM_RINGS
    rows = scope_rows(schedule)
    for row in rows:
        tasks[row.ring] += row.num_tasks
    for ring, load in enumerate(ring_loads(schedule)):
        figures = (safe_heap(load), robust_heap(load), least_heap(load), load.num_blocks, tasks[ring])
        rings[ring] = dict(zip(RING_FIGURES, figures, strict=True))
    return Side(name, rings, _by_key(asdict(row) for row in rows))


def read_side(path: Path) -> Side:
    """The side that `ringgraph schedule --json` wrote; raises RinggraphError."""
    try:
        found = parse_json(path.read_text("utf-8"))
        rings = {int(ring["ring"]): {name: int(ring[name]) for name in RING_FIGURES} for ring in found["rings"]}
        return Side(str(path), rings, _by_key(found["scopes"]))
    except (ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).lower()
        raise RinggraphError(
            f"'{path}' is not a schedule: {reason}", hint="write it with 'ringgraph schedule GRAPH --json > FILE'"
        ) from None


def _by_key(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[int, str], dict[str, int]]:
    return {(int(row["ring"]), str(row["name"])): {name: int(row[name]) for name in SCOPE_FIGURES} for row in rows}


# --- comparison -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScopeDifference:
    """A scope of either side; None where a side has none of that ring and name."""

    ring: int
    name: str
    left: Mapping[str, int] | None
    right: Mapping[str, int] | None

    @property
    def is_same(self) -> bool:
        return self.left == self.right


def scope_differences(left: Side, right: Side) -> list[ScopeDifference]:
    """Every scope of both sides, by ring and then in the order of the left side."""
    keys = sorted({**left.scopes, **right.scopes}, key=lambda key: key[0])
    return [ScopeDifference(*key, left.scopes.get(key), right.scopes.get(key)) for key in keys]


def diff_json(left: Side, right: Side, differences: Sequence[ScopeDifference]) -> dict[str, Any]:
    """The object of `ringgraph schedule-diff --json`; pairs are `[left, right]`, and `scopes` holds those that differ."""
    rings = [
        {"ring": ring} | {name: [left.rings[ring][name], right.rings[ring][name]] for name in RING_FIGURES}
        for ring in sorted(left.rings.keys() & right.rings.keys())
    ]
    totals = [sum(ring["safe_bytes"] for ring in side.rings.values()) for side in (left, right)]
    changed = [difference for difference in differences if not difference.is_same]
    return {
        "left": left.name,
        "right": right.name,
        "rings": rings,
        "safe_total_bytes": totals,
        "scopes": [asdict(difference) for difference in changed],
        "num_same_scopes": len(differences) - len(changed),
    }
