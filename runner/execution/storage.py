"""This module owns the memory that a schedule's blocks lie in: a buffer each, or rings.

The executor asks a `Storage` for the block of every submission and tells it what has completed; which bytes that block has is
the storage's business. A *place* is `(buffer, offset)`: a buffer's number and a byte offset in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import Protocol

import torch

from runner.base.errors import DeadlockError, ExecutionError
from runner.base.tensor_spec import BLOCK_ALIGN, DTYPE_BYTES, round_up
from runner.rings.heap import RingHeap
from runner.rings.parts.records import Deadlock, ScopeRecord
from runner.rings.schedule import NUM_RINGS, Schedule
from runner.rings.sizes import RingSizes

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "bool": torch.bool,
    "i8": torch.int8,
    "u8": torch.uint8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e8m0": torch.float8_e8m0fnu,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
}
"""The torch dtype of every dtype name."""

assert TORCH_DTYPES.keys() == DTYPE_BYTES.keys()

Place = tuple[int, int]
"""Buffer number, byte offset."""
_NOWHERE: Place = (-1, 0)
"""The place of a block without bytes."""


class Storage(Protocol):
    """Blocks of a schedule, one run after another; not thread-safe, the executor holds its lock around every call."""

    @property
    def device(self) -> torch.device: ...

    @property
    def peak_bytes(self) -> int:
        """The most bytes that live blocks have had at once; with rings, the sum of what each ring has held at most."""
        ...

    @property
    def ring_peaks(self) -> tuple[int, ...]:
        """Per ring the most bytes it has held; empty without rings."""
        ...

    @property
    def records(self) -> list[ScopeRecord]:
        """Scope stats of this run; empty without rings."""
        ...

    def held(self) -> tuple[int, int, int] | None:
        """The ring of the innermost scope, bytes between its tail and head, and its live slots; None without rings."""
        ...

    def restart(self) -> None:
        """Makes ready for another run, whatever became of the last one; buffers stay where they are."""
        ...

    def begin(self, scope: int) -> None: ...

    def end(self, scope: int) -> None: ...

    def take(self, submission: int) -> Place | None:
        """The place of the submission's block, or None when it has to wait for something to complete; raises DeadlockError."""
        ...

    def complete(self, submission: int) -> None: ...

    def leave_out(self, first: int, end: int) -> None:
        """Submissions `first` to `end - 1` will not come: their trips do not run."""
        ...

    def flat(self, buffer: int, dtype: str) -> torch.Tensor:
        """A whole buffer as a one-dimensional tensor of `dtype`."""
        ...


def new_buffer(size_bytes: int, device: torch.device, what: str) -> torch.Tensor:
    """`u8[size_bytes]`, the size rounded up so that it can be viewed as any dtype; raises ExecutionError."""
    try:
        return torch.empty(round_up(max(size_bytes, 1), BLOCK_ALIGN), dtype=torch.uint8, device=device)
    except RuntimeError as error:
        raise ExecutionError(f"cannot allocate {what} ({size_bytes:,} bytes) on '{device}'") from error


class PlainStorage:
    """A buffer of its own for every block that has bytes.

    A block is released as rule 4 says (completed, scope closed, all holders completed). Its buffer then serves later blocks of
    the same size: that keeps a layered program's buffers few and the views into them reusable.
    """

    def __init__(self, schedule: Schedule, device: torch.device):
        self._names = [submission.name for submission in schedule.submissions]
        self._sizes = [round_up(submission.size_bytes) for submission in schedule.submissions]
        self._holds = [submission.holds for submission in schedule.submissions]
        self.device = device
        self._buffers: list[torch.Tensor] = []
        self._places: list[Place] = []
        self._typed: dict[tuple[int, str], torch.Tensor] = {}
        self.ring_peaks: tuple[int, ...] = ()
        self.records: list[ScopeRecord] = []
        self.restart()

    def held(self) -> None:
        return None

    def restart(self) -> None:
        self._live_bytes = 0
        self.peak_bytes = 0
        self._buffer_of = [-1] * len(self._sizes)
        self._pins = [0] * len(self._sizes)  # of every submission whose block is live; what has none is no holder
        self._open: list[list[int]] = []
        self._free: dict[int, list[int]] = {}
        for number, buffer in enumerate(self._buffers):
            self._free.setdefault(buffer.numel(), []).append(number)

    def begin(self, scope: int) -> None:
        self._open.append([])

    def end(self, scope: int) -> None:
        self._unpin(self._open.pop())

    def take(self, submission: int) -> Place:
        pins = self._pins
        for holder in self._holds[submission]:
            if pins[holder]:
                pins[holder] += 1
        size = self._sizes[submission]
        if not size:
            return _NOWHERE
        free = self._free.get(size)
        if free:
            buffer = heappop(free)  # the lowest number: later runs of the schedule then meet the same buffers again
        else:
            buffer = len(self._buffers)
            self._buffers.append(new_buffer(size, self.device, f"the block of '{self._names[submission]}'"))
            self._places.append((buffer, 0))
        self._live_bytes += size
        if self._live_bytes > self.peak_bytes:
            self.peak_bytes = self._live_bytes
        self._buffer_of[submission] = buffer
        pins[submission] = 2  # the submission itself and its scope
        self._open[-1].append(submission)
        return self._places[buffer]

    def complete(self, submission: int) -> None:
        holds = self._holds[submission]
        if holds:
            self._unpin(holds)
        count = self._pins[submission]
        if count > 1:
            self._pins[submission] = count - 1
        elif count:
            self._unpin((submission,))

    def leave_out(self, first: int, end: int) -> None:
        pass

    def flat(self, buffer: int, dtype: str) -> torch.Tensor:
        typed = self._typed.get((buffer, dtype))
        if typed is None:
            typed = self._typed[buffer, dtype] = self._buffers[buffer].view(TORCH_DTYPES[dtype])
        return typed

    def _unpin(self, submissions: Iterable[int]) -> None:
        pins = self._pins
        for submission in submissions:
            count = pins[submission]
            if count > 1:
                pins[submission] = count - 1
            elif count:
                pins[submission] = 0
                size = self._sizes[submission]
                self._live_bytes -= size
                heappush(self._free.setdefault(size, []), self._buffer_of[submission])


class RingStorage:
    """Four ring heaps on torch memory: one buffer of its capacity for every ring that a block was taken from."""

    def __init__(self, schedule: Schedule, sizes: RingSizes, device: torch.device):
        self._schedule = schedule
        self._sizes = sizes
        self.device = device
        self._typed: dict[tuple[int, str], torch.Tensor] = {}
        self._buffers: list[torch.Tensor | None] = [None] * NUM_RINGS
        self.restart()

    def held(self) -> tuple[int, int, int] | None:
        ring = self._heap.rings[self._open[-1]]
        return self._open[-1], ring.head_bytes - ring.tail_bytes, ring.live

    def restart(self) -> None:
        self._heap = RingHeap(self._schedule, self._sizes)
        self._open: list[int] = []

    @property
    def peak_bytes(self) -> int:
        return sum(self._heap.peak_bytes)

    @property
    def ring_peaks(self) -> tuple[int, ...]:
        return tuple(self._heap.peak_bytes)

    @property
    def records(self) -> list[ScopeRecord]:
        return self._heap.records

    def begin(self, scope: int) -> None:
        self._open.append(self._schedule.scopes[scope].ring)
        self._heap.begin(scope)

    def end(self, scope: int) -> None:
        self._open.pop()
        self._heap.end(scope)

    def take(self, submission: int) -> Place | None:
        offset = self._heap.try_submit(submission)
        if offset is None:
            deadlock = self._heap.deadlock(submission)
            if deadlock is not None:
                raise _deadlock_error(deadlock)
            return None
        ring = self._open[-1]
        if self._buffers[ring] is None and self._schedule.submissions[submission].size_bytes:
            self._buffers[ring] = new_buffer(self._sizes.heap[ring], self.device, f"ring {ring}")
        return (ring, offset)

    def complete(self, submission: int) -> None:
        self._heap.complete(submission)

    def leave_out(self, first: int, end: int) -> None:
        self._heap.leave_out(first, end)

    def flat(self, buffer: int, dtype: str) -> torch.Tensor:
        typed = self._typed.get((buffer, dtype))
        if typed is None:
            whole = self._buffers[buffer]
            assert whole is not None, "a view into a ring that no block was taken from"
            typed = self._typed[buffer, dtype] = whole.view(TORCH_DTYPES[dtype])
        return typed


def _deadlock_error(deadlock: Deadlock) -> DeadlockError:
    where = f"{deadlock.mark}: " if deadlock.mark else ""
    pinned = f"\n  pinned by: scope '{deadlock.scope}' at {deadlock.scope_mark}" if deadlock.scope_mark else ""
    return DeadlockError(f"{where}deadlock, code {deadlock.code} {deadlock.name}: {deadlock}{pinned}", deadlock)
