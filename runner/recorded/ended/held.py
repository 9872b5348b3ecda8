"""This module says, of a run that left scopes open, what the rings held when it ended: from its scope stats alone.

Nothing is recorded after the last begin or end of a scope, so all figures are as of then; `pinned` knows more, from the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.recorded.scope_stats import read_records
from runner.rings.parts.records import CODE_NAMES
from runner.rings.schedule import NUM_RINGS
from runner.rings.tensormap import CAPACITY as TENSORMAP_ENTRIES

CODES = {"heap": 2, "window": 3, "pool": 4, "tensormap": 11}
"""The error that the runtime ends with when a resource is short."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a resource is in use: bytes of a heap, slots of a window, entries of a pool or of the tensormap.

    `ring` is None of the tensormap, which serves all rings. Of a window one slot stays free, which `capacity` leaves out.
    """

    resource: str
    ring: int | None
    used: int
    capacity: int

    @property
    def percent(self) -> float:
        return round(100 * self.used / self.capacity, 1) if self.capacity else 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"percent": self.percent}

    def __str__(self) -> str:
        where = "" if self.ring is None else f" of ring {self.ring}"
        unit = {"heap": "bytes", "window": "slots"}.get(self.resource, "entries")
        return f"{self.resource}{where}: {self.used:,} of {self.capacity:,} {unit} ({self.percent}%)"


@dataclass(frozen=True, slots=True)
class OpenScope:
    """A scope that was open at the end, and what of its ring was allocated since it began and still held: the least it held.

    A scope inside it that has the same ring is counted as well.
    """

    site: str
    depth: int
    ring: int
    held_bytes: int
    held_slots: int


@dataclass(frozen=True, slots=True)
class Held:
    """`scopes` are outermost first. `fullest` is the resource that the innermost scope could use and that was nearest its limit.

    `code` is the error that the run likely ended with; `is_certain` where a replay of the program ends with it.
    """

    scopes: tuple[OpenScope, ...]
    usages: tuple[Usage, ...]
    fullest: Usage
    code: int
    is_certain: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "open": [asdict(scope) for scope in self.scopes],
            "held": [usage.as_json() for usage in self.usages],
            "fullest": self.fullest.as_json(),
            "code": self.code,
            "name": CODE_NAMES[self.code],
            "is_certain": self.is_certain,
            "basis": self.basis,
            "advice": self.advice(),
        }

    @property
    def basis(self) -> str:
        """What the code is taken from."""
        if self.is_certain:
            return "a replay of the program ends with it"
        if not self.fullest.used:
            return f"a guess: nothing was recorded after '{self.scopes[-1].site}' had begun, and most runs that die end with this"
        return f"{self.fullest} at the least"

    def advice(self) -> str:
        """What to change."""
        ring, site = self.fullest.ring, self.scopes[-1].site
        smaller = f"close '{site}' earlier, or open scopes inside it, so that what it holds goes before it needs more"
        match self.code:
            case 1:
                return f"'{site}' alone submits more than the window of ring {ring} holds: split it, or set PTO2_RING_TASK_WINDOW"
            case 2:
                return f"{smaller}; or give ring {ring} more bytes by PTO2_RING_HEAP"
            case 3:
                return f"{smaller}; or give ring {ring} more slots by PTO2_RING_TASK_WINDOW (a power of two)"
            case 4:
                return f"{smaller}; or give ring {ring} more pool entries by PTO2_RING_DEP_POOL"
            case 11:
                return "write fewer tensors in place before earlier writers retire: the table is fixed when the runtime is built"
            case _:
                return "change the submission: no ring of any size takes it"


def held_at_end(path: Path) -> Held | None:
    """What a file says of the scopes that its run left open; None where all are closed. Raises ScheduleError."""
    meta, records = read_records(path)
    return held_of_records(meta, [record for _, record in records])


def held_of_records(meta: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Held | None:
    """The same of a file's content."""
    still_open = _still_open(records)
    if not still_open:
        return None
    last = {record["ring"]: record for record in records}
    usages = [usage for ring in range(NUM_RINGS) if ring in last for usage in _usages(meta, ring, last[ring])]
    usages.append(_tensormap(meta, records[-1]))
    scopes = tuple(_open_scope(begin, last[begin["ring"]]) for begin in still_open)
    fullest = fullest_of(usages, scopes[-1].ring)
    return Held(scopes, tuple(usages), fullest, likely_code(fullest, scopes[-1]))


def most_in_use(path: Path) -> tuple[Usage, ...]:
    """Per resource of each ring that has records, and of the tensormap, the most that any record has in use."""
    meta, records = read_records(path)
    most: dict[tuple[int, str], Usage] = {}
    for _, record in records:
        for usage in (*_usages(meta, record["ring"], record), _tensormap(meta, record)):
            key = NUM_RINGS if usage.ring is None else usage.ring, usage.resource
            if key not in most or usage.used > most[key].used:
                most[key] = usage
    return tuple(sorted(most.values(), key=lambda usage: NUM_RINGS if usage.ring is None else usage.ring))


def _still_open(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The begins of the scopes that no record shows to be over, outermost first.

    Scopes nest: where an end was lost, the end of the scope around it, or the next begin at its depth, tells that it is over.
    """
    begun: list[Mapping[str, Any]] = []
    for record in records:
        depth = record.get("depth")
        if record["phase"] == "begin":
            while begun and depth is not None and begun[-1].get("depth", -1) >= depth:
                begun.pop()
            begun.append(record)
            continue
        key = record["ring"], record["site"], depth
        at = next(
            (k for k in reversed(range(len(begun))) if (begun[k]["ring"], begun[k]["site"], begun[k].get("depth")) == key), None
        )
        if at is not None:
            del begun[at:]
    return begun


def fullest_of(usages: Sequence[Usage], ring: int) -> Usage:
    """Of what a scope of a ring can use, what is nearest its limit; a heap before others that are as full."""
    return max(
        (usage for usage in usages if usage.ring in (ring, None)), key=lambda usage: (usage.percent, usage.resource == "heap")
    )


def fullest_but_heap(usages: Sequence[Usage], ring: int) -> Usage:
    """What is full for certain, else the heap: where all but the bytes of the last blocks is known, nothing else was short."""
    full = [usage for usage in usages if usage.ring in (ring, None) and usage.resource != "heap" and usage.used >= usage.capacity]
    return full[0] if full else next(usage for usage in usages if usage.ring == ring and usage.resource == "heap")


def likely_code(fullest: Usage, innermost: OpenScope) -> int:
    """The error of a resource that is full; of a window that one scope fills the scope's."""
    if fullest.resource == "window" and innermost.held_slots >= fullest.capacity:
        return 1
    return CODES[fullest.resource]


def _usages(meta: Mapping[str, Any], ring: int, record: Mapping[str, Any]) -> list[Usage]:
    capacities = {
        "heap": meta["heap_max"][ring],
        "task_window": meta["task_window_max"][ring] - 1,
        "dep_pool": meta["dep_pool_max"][ring],
    }
    names = {"heap": "heap", "task_window": "window", "dep_pool": "pool"}
    return [
        Usage(names[field], ring, record[f"{field}_end"] - record[f"{field}_start"], capacity)
        for field, capacity in capacities.items()
    ]


def _tensormap(meta: Mapping[str, Any], record: Mapping[str, Any]) -> Usage:
    return Usage("tensormap", None, record.get("tensormap", 0), meta.get("tensormap_max", TENSORMAP_ENTRIES))


def _open_scope(begin: Mapping[str, Any], last: Mapping[str, Any]) -> OpenScope:
    """What lies between the later of the scope's beginning and the ring's tail, and the ring's head."""
    held_bytes, held_slots = (
        max(0, last[f"{field}_end"] - max(begin[f"{field}_end"], last[f"{field}_start"])) for field in ("heap", "task_window")
    )
    return OpenScope(begin["site"], begin.get("depth", 0), begin["ring"], held_bytes, held_slots)
