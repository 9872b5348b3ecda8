"""Scope stats: figures of a replay's records, and `scope_stats.jsonl` (schema 6) written and read.

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
from pathlib import Path
from typing import Any

from runner.errors import ScheduleError
from runner.progress import Replay
from runner.ring_heap import ScopeRecord
from runner.ring_sizes import RingSizes
from runner.schedule import NUM_RINGS, Schedule

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


def write_scope_stats(path: Path, schedule: Schedule, sizes: RingSizes, records: Sequence[ScopeRecord], fatal: bool) -> None:
    """Write records as `scope_stats.jsonl`, schema 6; raises ScheduleError when the file cannot be written."""
    meta = {
        "version": VERSION,
        "fatal": fatal,
        "dropped": 0,
        "total": len(records),
        "task_window_max": sizes.window,
        "heap_max": sizes.heap,
        "dep_pool_max": sizes.pool,
        "tensormap_max": 0,
    }
    lines = [meta, *(_line(schedule, record) for record in records)]
    try:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise ScheduleError(f"cannot write {path}: {error.strerror}") from None


def _line(schedule: Schedule, record: ScopeRecord) -> dict[str, Any]:
    scope = schedule.scopes[record.scope]
    head = {"site": site(schedule, record.scope), "phase": record.phase, "depth": scope.depth, "ring": scope.ring}
    return head | dict(zip(FIELDS, record[2:], strict=True)) | {"tensormap": 0}


@dataclass(frozen=True, slots=True)
class StatsRow:
    """Scopes of one ring and site in a file: how often they closed, and their worst figures in bytes and slots."""

    ring: int
    site: str
    count: int
    high_water_bytes: int
    occupancy_bytes: int
    alloc_bytes: int
    high_water_slots: int


@dataclass(frozen=True, slots=True)
class StatsFile:
    """A parsed `scope_stats.jsonl`: capacities per ring, whether the run failed, records lost, and rows by (ring, site)."""

    path: str
    heap_max: tuple[int, ...]
    window_max: tuple[int, ...]
    fatal: bool
    dropped: int
    rows: tuple[StatsRow, ...]
    unclosed: int

    def worst(self, ring: int) -> StatsRow | None:
        return max((r for r in self.rows if r.ring == ring), key=lambda r: r.high_water_bytes, default=None)


def read_scope_stats(path: Path) -> StatsFile:
    """Read a file recorded on a device or written by us; raises ScheduleError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"cannot read {path}: {error}") from None
    parsed = [_parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not parsed:
        raise ScheduleError(f"{path}: empty, expected a line of capacities and one line per record")
    meta, records = parsed[0], parsed[1:]
    if meta.get("version") != VERSION:
        raise ScheduleError(f"{path}:1: schema version {meta.get('version')!r}, expected {VERSION}")
    try:
        rows, unclosed = _rows(records)
        heap_max = tuple(int(v) for v in meta["heap_max"])
        window_max = tuple(int(v) for v in meta["task_window_max"])
        return StatsFile(str(path), heap_max, window_max, bool(meta["fatal"]), int(meta["dropped"]), rows, unclosed)
    except (KeyError, TypeError, ValueError) as error:
        raise ScheduleError(f"{path}: not scope stats of schema {VERSION}: {error!r}") from None


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ScheduleError(f"{path}:{number}: not JSON: {error.msg}") from None
    if not isinstance(value, dict):
        raise ScheduleError(f"{path}:{number}: got {type(value).__name__}, expected an object")
    return value


def _rows(records: Iterable[dict[str, Any]]) -> tuple[tuple[StatsRow, ...], int]:
    """Pair begin and end records last-in first-out per (ring, site); rows in order of first close."""
    begun: dict[tuple[int, str], list[dict[str, Any]]] = {}
    rows: dict[tuple[int, str], StatsRow] = {}
    for record in records:
        key = (int(record["ring"]), str(record["site"]))
        if record["phase"] == "begin":
            begun.setdefault(key, []).append(record)
        elif begun.get(key):
            begin = begun[key].pop()
            old = rows.get(key, StatsRow(*key, 0, 0, 0, 0, 0))
            rows[key] = StatsRow(
                *key,
                old.count + 1,
                max(old.high_water_bytes, record["heap_end"] - begin["heap_start"]),
                max(old.occupancy_bytes, record["heap_end"] - record["heap_start"]),
                max(old.alloc_bytes, record["heap_end"] - begin["heap_end"]),
                max(old.high_water_slots, record["task_window_end"] - begin["task_window_start"]),
            )
        else:
            raise ValueError(f"the end of {key[1]} on ring {key[0]} has no begin")
    return tuple(rows.values()), sum(map(len, begun.values()))
