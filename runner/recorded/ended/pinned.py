"""This module says, of a run that died, which tensor pinned its ring: by replaying the program that it ran as far as it went.

Of a capture, what completed is what has rows of its own (allocs and dummies complete when they can); the run goes up to its last
submission. Any other program is replayed under its own progress, up to the submission that cannot be placed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from runner.recorded.edges import schedule_of
from runner.recorded.ended.held import Held, OpenScope, Usage, fullest_but_heap, fullest_of, likely_code
from runner.recorded.recording import Recording
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.heap import block_name
from runner.rings.parts.records import Deadlock
from runner.rings.replay import Driver
from runner.rings.schedule import NUM_RINGS, Begin, End, Schedule, Step
from runner.rings.tensormap import CAPACITY as TENSORMAP_ENTRIES


@dataclass(frozen=True, slots=True)
class Pin:
    """What holds a ring: its oldest live task, and why that has not retired.

    `block` is the largest tensor of its block, `submission` its number in the program; where the bytes are a guess, `is_exact` is
    False. `scope` is the open scope that it belongs
    to; where that is None, `waits_for` names what has not completed: users of the block, or the task itself.
    """

    ring: int
    submission: int
    block: str
    size_bytes: int
    is_exact: bool
    scope: str | None
    waits_for: tuple[str, ...]

    def __str__(self) -> str:
        why = f"the open scope '{self.scope}'" if self.scope is not None else ", ".join(f"'{name}'" for name in self.waits_for)
        verb = "belongs to" if self.scope is not None else "is kept by"
        size = f"{self.size_bytes:,} bytes" if self.is_exact else "its bytes were not recorded"
        what = f"'{self.block}' of submission {self.submission} ({size})"
        return f"ring {self.ring} is pinned by {what}, which {verb} {why}"

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Death:
    """How a program's run ended: what was held, what pinned each ring that the innermost scope waits for, and what it asked for.

    `deadlock` is None of a capture, which does not tell the submission that could not be placed. `safe_heap` are heaps that the
    program cannot fill, where all of it is known.
    """

    held: Held
    pins: tuple[Pin, ...]
    deadlock: Deadlock | None
    safe_heap: tuple[int, ...] | None

    def as_json(self) -> dict[str, Any]:
        asked = None if self.deadlock is None else {"block": self.deadlock.block, "size_bytes": self.deadlock.size_bytes}
        told = None if self.deadlock is None else str(self.deadlock)
        pins = [pin.as_json() for pin in self.pins]
        return self.held.as_json() | {"pins": pins, "asked_for": asked, "deadlock": told, "safe_heap": self.safe_heap}


def death_of(recording: Recording) -> Death | None:
    """How the run of a recorded program ended; None where it ended well."""
    schedule = schedule_of(recording)
    num_open = len(recording.facts.get("open_scopes", ()))
    if num_open:
        schedule = replace(schedule, steps=schedule.steps[: len(schedule.steps) - num_open])
    run = _Ending(schedule, recording)
    deadlock = run.run().deadlock
    if not run.open or (deadlock is None and not num_open):
        return None
    held = run.held(deadlock)
    rings = [held.scopes[-1].ring, *(ring for ring in range(NUM_RINGS) if ring != held.scopes[-1].ring)]
    pins = [pin for pin in (run.pin(ring) for ring in rings) if pin is not None]
    safe = None if num_open else tuple(safe_heap(load) for load in ring_loads(schedule))
    return Death(held, tuple(pins), deadlock, safe)


class _Ending(Driver):
    """A replay that keeps the rings as they were when it ended."""

    model = "ending"

    def __init__(self, schedule: Schedule, recording: Recording) -> None:
        super().__init__(schedule, recording.sizes)
        self.recording = recording
        self.open: list[int] = []
        self.members: dict[int, list[int]] = {}  # open scope -> what it submitted
        self.placed: list[int] = []
        facts = recording.facts
        ended = facts.get("end_us") if facts.get("source") == "capture" else None
        self.ended = None if ended is None else frozenset(ended)
        self.users: dict[int, list[int]] = {}

    def steps(self) -> Iterator[Step]:
        for number, step in enumerate(self.schedule.steps):
            for submission in self.recording.completions.get(number, ()):
                self.heap.complete(submission)
            yield step
            if isinstance(step, Begin):  # it was not refused
                self.open.append(step.scope)
                self.members[step.scope] = []
            elif isinstance(step, End):
                del self.members[self.open.pop()]
        self.settle()

    def submitted(self, submission: int) -> None:
        self.members[self.open[-1]].append(submission)
        self.placed.append(submission)
        for held in self.schedule.submissions[submission].holds:
            self.users.setdefault(held, []).append(submission)
        is_done = self.recording.progress == "eager" if self.ended is None else submission in self.ended
        if is_done:
            self.heap.complete(submission)

    def settle(self) -> None:
        """Completes dummies of a capture, which have no rows, in their order."""
        for submission in self.placed:
            waits = self.schedule.submissions[submission].waits
            if self.recording.submissions[submission].kind == "dummy" and all(map(self.heap.completed.__getitem__, waits)):
                self.heap.complete(submission)

    def wait(self, submission: int) -> Deadlock | None:
        return self.heap.stuck(submission)

    def read(self, waits: tuple[int, ...]) -> None:
        pass

    # --- what was left ------------------------------------------------------------------------------------------------

    def held(self, deadlock: Deadlock | None) -> Held:
        usages = []
        for number, ring in enumerate(self.heap.rings):
            if ring.alive != ring.seen:  # as the next submission would
                ring.refresh()
            usages.append(Usage("heap", number, ring.head_bytes - ring.tail_bytes, ring.size))
            usages.append(Usage("window", number, ring.live, ring.window - 1))
            usages.append(Usage("pool", number, ring.pool_head - ring.pool_tail, ring.pool))
        usages.append(Usage("tensormap", None, self.heap.entries_in_use, TENSORMAP_ENTRIES))
        scopes = tuple(self.open_scope(scope) for scope in self.open)
        if deadlock is None:
            fullest = fullest_but_heap(usages, scopes[-1].ring)
            return Held(scopes, tuple(usages), fullest, likely_code(fullest, scopes[-1]))
        names = {1: "window", 2: "heap", 3: "window", 4: "pool", 11: "tensormap"}
        short = [usage for usage in usages if usage.resource == names.get(deadlock.code) and usage.ring in (deadlock.ring, None)]
        fullest = short[0] if short else fullest_of(usages, scopes[-1].ring)
        return Held(scopes, tuple(usages), fullest, deadlock.code, is_certain=True)

    def open_scope(self, scope: int) -> OpenScope:
        info, members = self.schedule.scopes[scope], self.members[scope]
        held = sum(self.schedule.submissions[submission].size_bytes for submission in members)
        return OpenScope(info.name, info.depth, info.ring, held, len(members))

    def pin(self, number: int) -> Pin | None:
        """What holds a ring, None where nothing lives on it."""
        ring = self.heap.rings[number]
        if not ring.live:
            return None
        oldest = ring.tasks[ring.alive]
        scope = next((self.schedule.scopes[scope].name for scope in self.open if oldest in self.members[scope]), None)
        waiting = [user for user in (oldest, *self.users.get(oldest, ())) if not self.heap.completed[user]]
        names = tuple(self.schedule.submissions[user].name for user in dict.fromkeys(waiting))
        size_bytes = self.schedule.submissions[oldest].size_bytes
        is_exact = all(self.recording.tensors[tensor].exact for tensor in self.recording.submissions[oldest].creates)
        return Pin(number, oldest, block_name(self.schedule, oldest), size_bytes, is_exact, scope, names)
