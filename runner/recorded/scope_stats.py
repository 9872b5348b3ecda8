"""This module works out scope stats from a replay's records, and reads and writes `scope_stats.jsonl` (schema 6).

figure              formula               reads as
scope_high_water    end.head - begin.tail pressure, backlog and wrap gaps included; can exceed the ring
real_occupancy      end.head - end.tail   still held when the scope closes
scope_alloc         end.head - begin.head what the scope allocated

Source: the public format of the device runtime's scope stats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from runner.base.errors import ScheduleError
from runner.base.files import write_text
from runner.rings.heap import ScopeRecord
from runner.rings.replay import Replay
from runner.rings.schedule import NUM_RINGS, Schedule
from runner.rings.sizes import RingSizes

VERSION = 6
FIELDS = ("task_window_start", "task_window_end", "heap_start", "heap_end", "dep_pool_start", "dep_pool_end")


@dataclass(frozen=True, slots=True)
class ScopeFigures:
    """One closed scope: its index in the schedule and the three figures in bytes, and slots at its high-water."""

    scope: int
    high_water_bytes: int
    occupancy_bytes: int
    alloc_bytes: int
    high_water_slots: int


@dataclass(frozen=True, slots=True)
class RingStats:
    """Worst figures of one ring; `peak_scope` is the scope that set the high-water, None where no scope closed."""

    ring: int
    high_water_bytes: int
    occupancy_bytes: int
    alloc_bytes: int
    high_water_slots: int
    peak_scope: int | None


def scope_figures(records: Sequence[ScopeRecord]) -> list[ScopeFigures]:
    """Figures of every closed scope, in the order in which scopes close."""
    found, begun = [], []
    for record in records:
        if record.phase == "begin":
            begun.append(record)
            continue
        begin = begun.pop()
        found.append(
            ScopeFigures(
                record.scope,
                record.heap_head - begin.heap_tail,
                record.heap_head - record.heap_tail,
                record.heap_head - begin.heap_head,
                record.slots_head - begin.slots_tail,
            )
        )
    return found


def ring_stats(replay: Replay) -> list[RingStats]:
    """The worst figures of each ring over all closed scopes of a replay."""
    scopes = replay.schedule.scopes
    per_ring: list[list[ScopeFigures]] = [[] for _ in range(NUM_RINGS)]
    for figures in scope_figures(replay.records):
        per_ring[scopes[figures.scope].ring].append(figures)
    return [
        RingStats(
            ring,
            max((f.high_water_bytes for f in found), default=0),
            max((f.occupancy_bytes for f in found), default=0),
            max((f.alloc_bytes for f in found), default=0),
            max((f.high_water_slots for f in found), default=0),
            max(found, key=lambda f: f.high_water_bytes).scope if found else None,
        )
        for ring, found in enumerate(per_ring)
    ]


# --- the file ---------------------------------------------------------------------------------------------------------


def site(schedule: Schedule, scope: int) -> str:
    """`graph.yaml:LINE` of a scope, which tools show and pair records by."""
    mark = schedule.scopes[scope].mark
    return f"{Path(mark.file).name}:{mark.line}" if mark else f"{schedule.scopes[scope].name}:0"


def _meta(sizes: RingSizes, num_records: int, fatal: bool) -> dict[str, Any]:
    return {
        "version": VERSION,
        "fatal": fatal,
        "dropped": 0,
        "total": num_records,
        "task_window_max": list(sizes.window),
        "heap_max": list(sizes.heap),
        "dep_pool_max": list(sizes.pool),
        "tensormap_max": 0,
    }


def _line(schedule: Schedule, record: ScopeRecord) -> dict[str, Any]:
    scope = schedule.scopes[record.scope]
    head = {"site": site(schedule, record.scope), "phase": record.phase, "depth": scope.depth, "ring": scope.ring}
    return head | dict(zip(FIELDS, record[2:], strict=True)) | {"tensormap": 0}


def write_scope_stats(path: Path, schedule: Schedule, sizes: RingSizes, records: Sequence[ScopeRecord], fatal: bool) -> None:
    """Write records as `scope_stats.jsonl`, schema 6, whole or not at all; raises OSError."""
    lines = [_meta(sizes, len(records), fatal), *(_line(schedule, record) for record in records)]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


@dataclass(frozen=True, slots=True)
class ClosedScope:
    """One scope of a file, from its two records: bytes, and slots at the high-water."""

    ring: int
    site: str
    high_water_bytes: int
    occupancy_bytes: int
    alloc_bytes: int
    high_water_slots: int


@dataclass(frozen=True, slots=True)
class StatsFile:
    """A parsed `scope_stats.jsonl`: capacities per ring, whether the run failed, records lost, scopes in closing order."""

    name: str
    heap_max: tuple[int, ...]
    window_max: tuple[int, ...]
    fatal: bool
    dropped: int
    scopes: tuple[ClosedScope, ...]
    num_unclosed: int

    def on_ring(self, ring: int) -> list[ClosedScope]:
        return [scope for scope in self.scopes if scope.ring == ring]


def read_scope_stats(path: Path) -> StatsFile:
    """Read a file recorded on a device or written by us; raises ScheduleError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"cannot read {path}: {error}") from None
    parsed = [_parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not parsed:
        raise ScheduleError(f"{path}: empty, expected a line of capacities and one line per record")
    if parsed[0].get("version") != VERSION:
        raise ScheduleError(f"{path}:1: schema version {parsed[0].get('version')!r}, expected {VERSION}")
    try:
        return _stats(str(path), parsed[0], parsed[1:])
    except (KeyError, TypeError, ValueError) as error:
        raise ScheduleError(f"{path}: not scope stats of schema {VERSION}: {error!r}") from None


def stats_of_replay(replay: Replay) -> StatsFile:
    """What `write_scope_stats` would write, parsed."""
    lines = [_line(replay.schedule, record) for record in replay.records]
    meta = _meta(replay.sizes, len(lines), replay.deadlock is not None)
    return _stats(f"{replay.schedule.name} ({replay.model})", meta, lines)


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ScheduleError(f"{path}:{number}: not JSON: {error.msg}") from None
    if not isinstance(value, dict):
        raise ScheduleError(f"{path}:{number}: got {type(value).__name__}, expected an object")
    return value


def _stats(name: str, meta: dict[str, Any], records: Iterable[dict[str, Any]]) -> StatsFile:
    """Pair begin and end records last-in first-out per (ring, site)."""
    begun: dict[tuple[int, str], list[dict[str, Any]]] = {}
    scopes: list[ClosedScope] = []
    for record in records:
        ring, where = int(record["ring"]), str(record["site"])
        open_here = begun.setdefault((ring, where), [])
        if record["phase"] == "begin":
            open_here.append(record)
            continue
        if not open_here:
            raise ValueError(f"the end of {where} on ring {ring} has no begin")
        begin = open_here.pop()
        scopes.append(
            ClosedScope(
                ring,
                where,
                record["heap_end"] - begin["heap_start"],
                record["heap_end"] - record["heap_start"],
                record["heap_end"] - begin["heap_end"],
                record["task_window_end"] - begin["task_window_start"],
            )
        )
    heap_max = tuple(int(value) for value in meta["heap_max"])
    window_max = tuple(int(value) for value in meta["task_window_max"])
    unclosed = sum(map(len, begun.values()))
    return StatsFile(name, heap_max, window_max, bool(meta["fatal"]), int(meta["dropped"]), tuple(scopes), unclosed)


# --- comparison -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parting:
    """The first scope of a ring, by number of closed scopes before it, where two files allocate differently."""

    ring: int
    number: int
    left: ClosedScope | None
    right: ClosedScope | None


def partings(left: StatsFile, right: StatsFile) -> list[Parting]:
    """Per ring where the two part: what a scope allocates depends on the program alone, never on progress."""
    found = []
    for ring in range(NUM_RINGS):
        pairs = enumerate(zip_longest(left.on_ring(ring), right.on_ring(ring)))
        found += [Parting(ring, n, a, b) for n, (a, b) in pairs if a is None or b is None or a.alloc_bytes != b.alloc_bytes][:1]
    return found
