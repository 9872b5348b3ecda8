"""One of the four rings: where a block goes, and when its bytes, slot and pool entries come back."""

from __future__ import annotations

POOL_SWEEP = 64
"""Pool entries are reclaimed only when this many tasks have retired since the last sweep."""


class Ring:
    """One ring: slots, bytes and pool entries of the tasks submitted to it, oldest first."""

    __slots__ = (
        "alive", "anchor", "ends", "pool", "pool_head", "pool_marks", "pool_swept", "pool_tail", "retired", "seen", "size",
        "spill_head", "spill_marks", "tail", "tail_wraps", "tasks", "top", "top_wraps", "window",
    )  # fmt: skip

    def __init__(self, size: int, window: int, pool: int) -> None:
        self.size = size
        self.window = window
        self.pool = pool
        self.tasks: list[int] = []  # submissions, in slot order
        self.ends: list[int] = []  # where each task's block ends
        self.alive = 0  # index in `tasks` of the oldest live one, as far as that is known to the submitting thread
        self.retired = 0  # and as it is
        self.seen = 0  # `alive` when the tail was last refreshed
        self.anchor = -1  # a task that restarted the empty ring at 0; the tail stays until it has retired
        self.top = self.tail = 0
        self.top_wraps = self.tail_wraps = 0
        self.pool_head = self.pool_tail = self.pool_swept = self.spill_head = 0
        self.pool_marks: list[int] = []  # `pool_head` after each task; of an alloc, what the slot held a window ago
        self.spill_marks: list[int] = []

    def refresh(self) -> None:
        """Rule 5: move the tail to the end of the block of the last consumed task.

        Called before a submission only, if anything has retired since the last call: what retires in between is not seen, as on
        the device, and scope stats show the old tail.
        """
        self.seen = self.alive
        # After a restart at 0 the tail is 0 already. Tasks from before it end at the ring's far end, where the tail must not go
        # back to, so their retirement is passed over until the task that restarted the ring has retired too.
        if self.anchor >= 0:
            if self.alive <= self.anchor:
                return
            self.anchor = -1
        tail = self.ends[self.alive - 1]
        if tail < self.tail:
            self.tail_wraps += 1
        self.tail = tail

    def bump(self, size_bytes: int) -> int | None:
        """Rule 3: the offset of a block of `size_bytes`, or None when it has to wait."""
        top, tail = self.top, self.tail
        if size_bytes == 0:
            return top
        # What is held lies in [tail, top), or once wrapped in [tail, size) and [0, top). `top == tail` means empty, so a block
        # put below the tail has to end strictly below it: a full ring would look like an empty one.
        if top >= tail:
            if self.size - top >= size_bytes:
                self.top = top + size_bytes
                return top
            if tail > size_bytes:
                self.top = size_bytes
                self.top_wraps += 1
                return 0
            if top == tail and size_bytes <= self.size:
                self.top = size_bytes
                self.tail = 0
                self.top_wraps += 1
                self.tail_wraps += 1
                self.anchor = len(self.tasks)
                return 0
            return None
        if tail - top > size_bytes:
            self.top = top + size_bytes
            return top
        return None

    @property
    def live(self) -> int:
        return len(self.tasks) - self.alive

    @property
    def head_bytes(self) -> int:
        return self.top + self.top_wraps * self.size

    @property
    def tail_bytes(self) -> int:
        return self.tail + self.tail_wraps * self.size

    def pool_fits(self, entries: int) -> bool:
        """Whether `entries` more pool entries fit, after a sweep if one is due."""
        if self.pool - (self.pool_head - self.pool_tail) >= entries:
            return True
        if self.alive and self.alive >= self.pool_swept + POOL_SWEEP:
            self.pool_tail = max(self.pool_tail, self.pool_marks[self.alive - 1])
            self.pool_swept = self.alive
        return self.pool - (self.pool_head - self.pool_tail) >= entries

    def spill_fits(self, entries: int) -> bool:
        tail = self.spill_marks[self.alive - 1] if self.alive else 0
        return self.pool - (self.spill_head - tail) >= entries
