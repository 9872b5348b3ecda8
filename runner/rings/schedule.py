"""This module owns the flat schedule: the order of submissions, the scopes around them, and what lies in which block.

All that replays, verifies or executes works on a `Schedule` and needs no `Program`: `lowering.lower` makes one of what a
strategy returns, and recorded and traced programs are made into one directly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, TypeVar
from weakref import ref

from runner.base.errors import Mark
from runner.base.records import open_record
from runner.program.program import Program, Trips

T = TypeVar("T")
What = TypeVar("What", bound=Hashable)

NUM_RINGS = 4
"""Ring heaps of a device; a scope that lies deeper than there are rings shares the last one."""


MAX_TENSORS = 32
"""Tensor arguments of a submission, created and used."""

MAX_SCOPES = 64
"""Scopes that may be open at a time, the root included; the runtime does not check."""


def ring_of(depth: int) -> int:
    """The ring of a scope at `depth`, counted from 0 at the root."""
    return depth if depth < NUM_RINGS else NUM_RINGS - 1


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor's place in its submission's block."""

    tensor: int
    offset: int
    size_bytes: int
    name: str = ""


class MapEntry(NamedTuple):
    """An argument that takes an entry of the tensormap: a tensor that exists and is written.

    `owner` is the submission in whose block the tensor begins, at `offset`; -1 for a tensor from outside, which `offset` then
    numbers. The argument is `begin` to `end` of its bytes. `covers` where it is read too (an INOUT) and has all of these bytes:
    entries that lie in them go.
    """

    owner: int
    offset: int
    begin: int
    end: int
    covers: bool


@open_record
class Submission:
    """One slot of a ring's window and one block of its heap (`size_bytes` may be 0).

    `waits` are the submissions that must have completed before this one may start (creator, RAW, WAW, explicit and
    sharing edges, without repeats, all earlier in the schedule); `holds` those of them whose block and slot stay until it has
    completed: creators of what it touches, and explicit edges, but for wait-only ones. `core` is None for an alloc, which
    completes as soon as it is submitted. `explicit` are those of `holds` whose tensors it need not touch. `num_tensors` counts
    its tensor arguments, created and used; `entries` are those that take an entry of the tensormap.
    """

    __slots__ = ()

    name: str
    size_bytes: int = 0
    slots: Sequence[Slot] = ()
    waits: tuple[int, ...] = ()
    holds: tuple[int, ...] = ()
    core: str | None = None
    op: str | None = None
    task: int | None = None
    num_blocks: int = 1
    mark: Mark | None = None
    entries: tuple[MapEntry, ...] = ()
    num_tensors: int = 0
    explicit: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ScopeInfo:
    """A runtime scope. `depth` counts from 0 at the root and decides the ring (`ring_of`)."""

    name: str
    depth: int
    mode: str = "auto"
    mark: Mark | None = None
    end_mark: Mark | None = None

    @property
    def ring(self) -> int:
        return ring_of(self.depth)


@dataclass(frozen=True, slots=True)
class Begin:
    scope: int


@dataclass(frozen=True, slots=True)
class End:
    scope: int


@dataclass(frozen=True, slots=True)
class Submit:
    submission: int


@dataclass(frozen=True, slots=True)
class Read:
    """The submitting thread blocks until these submissions have completed."""

    waits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A dynamic loop or `if`: blocks like `Read`, then knows its trip count.

    Trip k's steps begin at index `starts[k]`; after the last trip that runs, go on at `end`. Planning takes every trip that the
    schedule holds; running asks `trips.evaluate`.
    """

    waits: tuple[int, ...]
    trips: Trips | None
    starts: tuple[int, ...]
    end: int


Step = Begin | End | Submit | Read | Repeat


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Schedule:
    """A flat, ordered program for the rings. `steps` begins with the root scope's Begin and ends with its End."""

    name: str
    submissions: tuple[Submission, ...]
    scopes: tuple[ScopeInfo, ...]
    steps: tuple[Step, ...]
    strategy: str = ""
    program: Program | None = None


class Lately:
    """Results by what was asked for; of more than `most` the one that has not been asked for the longest is forgotten."""

    def __init__(self, most: int) -> None:
        self._known, self._most = dict[Hashable, Any](), most

    def once(self, what: Hashable, make: Callable[[], T]) -> T:
        """What was made when this was asked for before, else what is made now."""
        self._known[what] = found = self._known.pop(what) if what in self._known else make()
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return found


MOST_KNOWN = 8


def remembered(find: Callable[[What], T]) -> Callable[[What], T]:
    """Remembers what was found of the schedules or programs that were asked for lately, which nobody changes: one command asks
    for the same ones many times, and large ones take seconds."""
    known: list[tuple[ref[What], T]] = []

    @wraps(find)
    def found_once(what: What) -> T:
        for of, found in known:
            if of() is what:
                return found
        found = find(what)
        known[:] = [(ref(what), found), *(entry for entry in known[: MOST_KNOWN - 1] if entry[0]() is not None)]
        return found

    return found_once
