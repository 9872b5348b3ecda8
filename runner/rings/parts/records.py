"""What a ring heap tells: scope stats at a scope's begin and end, and why a submission can never be placed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from runner.base.errors import Mark
from runner.rings.tensormap import CAPACITY as TENSORMAP_ENTRIES

CODE_NAMES = {
    0: "none",
    1: "SCOPE_DEADLOCK",
    2: "HEAP_RING_DEADLOCK",
    3: "FLOW_CONTROL_DEADLOCK",
    4: "DEP_POOL_OVERFLOW",
    5: "INVALID_ARGS",
    11: "TENSORMAP_OVERFLOW",
}


class ScopeRecord(NamedTuple):
    """What scope stats note at a scope's begin and end: tail and head of slots, bytes and pool entries of its ring.

    `tensormap` is how many entries of the table of all rings are in use. The others are monotonic counters; bytes are
    `offset + wraps x capacity`, so what a wrap leaves unused at the end counts.
    """

    phase: str
    scope: int
    slots_tail: int
    slots_head: int
    heap_tail: int
    heap_head: int
    pool_tail: int
    pool_head: int
    tensormap: int = 0


@dataclass(frozen=True, slots=True)
class Deadlock:
    """A submission that can never be placed.

    With code 5 the runtime refuses it whatever the rings hold; `refused` says for what. Otherwise `how` is "open scope" (the
    ring's oldest live task belongs to a scope that cannot close before this submission), "no progress" (the ring is empty and
    still too small, or nothing retires in time) or "scope too large" (the scope alone fills the window). `scope` and `oldest`
    name what pins the ring: the open scope that owns its oldest live task, and the largest tensor of that task's block.
    """

    code: int
    how: str
    ring: int
    submission: int
    block: str
    size_bytes: int
    capacity_bytes: int
    held_bytes: int
    window: int
    held_slots: int
    pool: int
    mark: Mark | None = None
    scope: str | None = None
    scope_mark: Mark | None = None
    oldest: str | None = None
    oldest_mark: Mark | None = None
    refused: str = ""

    @property
    def name(self) -> str:
        return CODE_NAMES[self.code]

    def __str__(self) -> str:
        if self.code == 5:
            return f"'{self.block}': {self.refused}"
        if self.code == 11:
            return f"the tensormap has no entries left for the arguments of '{self.block}': all {TENSORMAP_ENTRIES:,} are in use"
        if self.code == 2:
            text = f"ring {self.ring} cannot hold '{self.block}' ({self.size_bytes:,} bytes): "
            if self.how == "no progress":
                return text + f"the empty ring has {self.capacity_bytes:,} bytes"
            held = f"{self.held_bytes:,} of {self.capacity_bytes:,} are pinned"
        elif self.code == 4:
            text = f"ring {self.ring} has no pool entries for the edges of '{self.block}': "
            held = f"the pool of {self.pool:,} is pinned"
        else:
            text = f"ring {self.ring} has no slot for '{self.block}': "
            held = f"{self.held_slots:,} of {self.window - 1:,} usable slots are pinned"
        by = f" by the open scope '{self.scope}'" if self.scope else ""
        oldest = f" (oldest block: '{self.oldest}')" if self.oldest else ""
        return f"{text}{held}{by}{oldest}"
