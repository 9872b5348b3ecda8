"""This module works out scope stats from a replay's records, and reads and writes `scope_stats.jsonl` (schema 6).

figure              formula               reads as
scope_high_water    end.head - begin.tail pressure, backlog and wrap gaps included; can exceed the ring
real_occupancy      end.head - end.tail   still held when the scope closes
scope_alloc         end.head - begin.head what the scope allocated

Source: the public format of the device runtime's scope stats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from runner.base.errors import ScheduleError
from runner.base.files import write_text
from runner.base.reading import parse_json_line
from runner.rings.parts.records import ScopeRecord
from runner.rings.replay import Replay
from runner.rings.schedule import NUM_RINGS, Schedule
from runner.rings.sizes import RingSizes
from runner.rings.tensormap import CAPACITY as TENSORMAP_ENTRIES

VERSION = 6
FIELDS = ("task_window_start", "task_window_end", "heap_start", "heap_end", "dep_pool_start", "dep_pool_end")
UNUSED_COUNTS = ("depth", "tensormap", "tensormap_max")
"""Numbers that nothing is worked out from; a file may lack them, but not hold what no device writes."""


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
    for figures in scope_figures(replay.uncounted):
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
        "tensormap_max": TENSORMAP_ENTRIES,
    }


def _line(schedule: Schedule, record: ScopeRecord) -> dict[str, Any]:
    scope = schedule.scopes[record.scope]
    head = {"site": site(schedule, record.scope), "phase": record.phase, "depth": scope.depth, "ring": scope.ring}
    counters = (*record[2:6], record.pool_tail + 1, record.pool_head + 1)  # the runtime's pool counters begin at 1
    return head | dict(zip(FIELDS, counters, strict=True)) | {"tensormap": record.tensormap}


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
    num_unopened: int = 0

    @property
    def state(self) -> str:
        """How much of a run the file tells."""
        if self.fatal:
            return "ended by a fatal error"
        if self.dropped:
            return "records lost, peaks are lower bounds"
        if self.num_unclosed:
            return "not complete"
        return "complete" if self.scopes else "no records"

    def on_ring(self, ring: int) -> list[ClosedScope]:
        return [scope for scope in self.scopes if scope.ring == ring]


def read_scope_stats(path: Path) -> StatsFile:
    """Read a file recorded on a device or written by us; raises ScheduleError naming file and line."""
    meta, records = read_records(path)
    return _stats(str(path), meta, records)


def read_records(path: Path) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """The line of capacities, and every record behind its file and line, both checked; raises ScheduleError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"cannot read {path}: {error}") from None
    parsed = {f"{path}:{number}": line for number, line in enumerate(lines, 1) if line.strip()}
    if not parsed:
        raise ScheduleError(f"{path}: empty, expected a line of capacities and one line per record")
    (first, meta), *records = [(where, _parse(where, line)) for where, line in parsed.items()]
    _check_meta(first, meta)
    for where, record in records:
        _check_record(where, record)
    if meta["total"] != len(records) + meta["dropped"]:
        raise ScheduleError(
            f"{first}: 'total' is {meta['total']:,}, but the file has {len(records):,} records, the last at"
            f" {[*parsed][-1]}, and 'dropped' is {meta['dropped']:,}: was it cut?"
        )
    return meta, records


def stats_of_replay(replay: Replay) -> StatsFile:
    """What `write_scope_stats` would write, parsed."""
    lines = [("", _line(replay.schedule, record)) for record in replay.records]
    meta = _meta(replay.sizes, len(lines), replay.deadlock is not None)
    return _stats(f"{replay.schedule.name} ({replay.model})", meta, lines)


def _parse(where: str, line: str) -> dict[str, Any]:
    value = parse_json_line(where, line, ScheduleError, any_number=True)  # a bad number is told with its key
    if not isinstance(value, dict):
        raise ScheduleError(f"{where}: got {type(value).__name__}, expected an object")
    return value


def _check_meta(where: str, meta: Mapping[str, Any]) -> None:
    if meta.get("version") != VERSION:
        raise ScheduleError(f"{where}: schema version {meta.get('version')!r}, expected {VERSION}")
    for name in ("heap_max", "task_window_max", "dep_pool_max"):
        values = meta.get(name)
        if not isinstance(values, list) or len(values) != NUM_RINGS or not all(map(_is_count, values)):
            raise _unexpected(where, meta, name, f"a list of {NUM_RINGS} integers from 0 up, one per ring")
    _check_counts(where, meta, ("total", "dropped"))
    if not isinstance(meta.get("fatal"), bool):
        raise _unexpected(where, meta, "fatal", "true or false")


def _check_record(where: str, record: Mapping[str, Any]) -> None:
    if not isinstance(record.get("site"), str):
        raise _unexpected(where, record, "site", "a string")
    if record.get("phase") not in ("begin", "end"):
        raise _unexpected(where, record, "phase", "'begin' or 'end'")
    if not _is_count(record.get("ring")) or record["ring"] >= NUM_RINGS:
        raise _unexpected(where, record, "ring", f"0 to {NUM_RINGS - 1}")
    _check_counts(where, record, FIELDS)


def _check_counts(where: str, holder: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in (*names, *(name for name in UNUSED_COUNTS if name in holder)):
        if not _is_count(holder.get(name)):
            raise _unexpected(where, holder, name, "an integer from 0 up")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _unexpected(where: str, holder: Mapping[str, Any], name: str, expected: str) -> ScheduleError:
    got = repr(holder[name])[:60] if name in holder else "nothing"
    return ScheduleError(f"{where}: '{name}' is {got}, expected {expected}")


def _stats(name: str, meta: Mapping[str, Any], records: Iterable[tuple[str, Mapping[str, Any]]]) -> StatsFile:
    """Pair begin and end records, each behind its place, last-in first-out per (ring, site).

    An end without a begin is counted where records were lost; raises ScheduleError where none were.
    """
    begun: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    scopes: list[ClosedScope] = []
    unopened = 0
    for where, record in records:
        ring, site = record["ring"], record["site"]
        open_here = begun.setdefault((ring, site), [])
        if record["phase"] == "begin":
            open_here.append(record)
            continue
        if not open_here:
            if not meta["dropped"]:
                raise ScheduleError(f"{where}: the end of {site} on ring {ring} has no begin, and 'dropped' is 0")
            unopened += 1
            continue
        closed = _closed(open_here.pop(), record)
        if min(closed[2:]) < 0:
            raise ScheduleError(f"{where}: {site} on ring {ring} ends before it begins: heads never go back")
        scopes.append(ClosedScope(*closed))
    heap_max, window_max = tuple(meta["heap_max"]), tuple(meta["task_window_max"])
    unclosed = sum(map(len, begun.values()))
    return StatsFile(name, heap_max, window_max, meta["fatal"], meta["dropped"], tuple(scopes), unclosed, unopened)


def _closed(begin: Mapping[str, Any], end: Mapping[str, Any]) -> tuple[int, str, int, int, int, int]:
    """The fields of a ClosedScope."""
    return (
        end["ring"],
        end["site"],
        end["heap_end"] - begin["heap_start"],
        end["heap_end"] - end["heap_start"],
        end["heap_end"] - begin["heap_end"],
        end["task_window_end"] - begin["task_window_start"],
    )


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
