"""This module owns the four ring heaps under one submitting thread: placement, FIFO reclaim, deadlock, scope stats.

No memory is touched here: the planner replays schedules on a `RingHeap`, the executor asks the same object where a block lies.
The caller drives it, in the order of the schedule's steps:

    heap.begin(scope)                 # at a scope's begin
    offset = heap.try_submit(i)       # None: must wait. Then either
    heap.deadlock(i)                  #   the facts why waiting cannot help, or None: complete something and try again
    heap.complete(i)                  # when task i has completed (an alloc completes by itself when it is submitted)
    heap.end(scope)                   # at its end: its blocks may go as soon as they are complete and unused

An object of this class is not thread-safe; an executor calls it under its own lock.

Source: the rules of docs/memory-model.md, which restate the public `simpler` runtime (`tensormap_and_ringbuffer`, a2a3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from runner.base.errors import ScheduleError
from runner.base.tensor_spec import MAX_BLOCK_BYTES
from runner.rings.parts.records import Deadlock, ScopeRecord
from runner.rings.parts.ring import Ring
from runner.rings.schedule import MAX_SCOPES, MAX_TENSORS, NUM_RINGS, MapEntry, Schedule, remembered
from runner.rings.sizes import RingSizes
from runner.rings.tensormap import CAPACITY as TENSORMAP_ENTRIES
from runner.rings.tensormap import SWEEP, Address, TensorMap

INLINE_EDGES = 64  # edges that a task holds itself; more spill into the ring's pool


class PoolNeed(NamedTuple):
    """Pool entries of one submission: what must be free, what of it is taken, and what its edges beyond 64 spill."""

    free: int
    taken: int
    spilled: int


NO_POOL_NEED = PoolNeed(0, 0, 0)


class RingHeap:
    """State of the four rings while a schedule is submitted; see the module docstring for the protocol.

    records      scope stats in order of occurrence
    offsets      per submission the block's offset in its ring, -1 before it is placed
    completed    per submission 1 once it has completed
    peak_bytes   per ring the most bytes that were held (head - tail) just after a placement
    peak_slots   per ring the most live tasks
    peak_at      per ring the submission that set `peak_bytes`

    Retirement is made known every `publish_every` tasks of a ring, when the ring is empty, and by `publish`.
    """

    def __init__(self, schedule: Schedule, sizes: RingSizes, publish_every: int = 1) -> None:
        self.schedule = schedule
        self.sizes = sizes
        self.publish_every = publish_every
        self.rings = [Ring(*three) for three in zip(sizes.heap, sizes.window, sizes.pool, strict=True)]
        num = len(schedule.submissions)
        self._items = schedule.submissions
        self._ring_of = bytearray(num)
        self._pins = [0] * num  # the open scope, own completion, and submitted users that have not completed
        self._consumed = bytearray(num)
        self._open: list[tuple[int, int, list[int]]] = []  # (scope, ring, its own submissions)
        self._unwired: int | None = None  # a submission that has its block and still waits for map or pool entries
        self._unmapped: int | None = None  # ... for map entries
        self._short = 0  # pool entries that it must find free, whatever completes meanwhile; 0 if it does not wait for them
        self._kept: list[int] = []  # its producers that only ordering names; they are kept until it has its entries
        has_entries = any(item.entries for item in self._items)
        self._known_alive = [0] * num if has_entries else []  # per task its ring's `alive` when it came
        self._free_entries = TENSORMAP_ENTRIES  # of the tensormap at least, as far as was looked
        self.map: TensorMap | None = None  # kept from where it may be short of entries
        self.completed = bytearray(num)
        self.offsets = [-1] * num
        self._num_seen = 0  # submissions up to the last one that has a block
        self._records: list[ScopeRecord] = []
        self._moments: list[int] = []  # submissions before each record whose tensormap entries have not been counted yet
        self.peak_bytes = [0] * NUM_RINGS
        self.peak_slots = [0] * NUM_RINGS
        self.peak_at: list[int | None] = [None] * NUM_RINGS
        check_block_sizes(schedule)

    # --- scopes -----------------------------------------------------------------------------------------------------

    def begin(self, scope: int) -> None:
        self._open.append((scope, self.schedule.scopes[scope].ring, []))
        self._record("begin")

    def end(self, scope: int) -> None:
        """Close the innermost scope, which must be `scope`: record it, then release its tasks."""
        assert self._open and self._open[-1][0] == scope, f"scope {scope} is not the innermost open scope"
        self._record("end")
        _, ring, members = self._open.pop()
        pins = self._pins
        for task in members:
            pins[task] -= 1
            if pins[task] == 0:
                self._consumed[task] = 1
        self._advance(self.rings[ring])

    def _record(self, phase: str) -> None:
        scope, index, _ = self._open[-1]
        ring = self.rings[index]
        if self.map is None:
            self._moments.append(self._num_seen)
        self._records.append(
            ScopeRecord(
                phase,
                scope,
                ring.alive,
                len(ring.tasks),
                ring.tail_bytes,
                ring.head_bytes,
                ring.pool_tail,
                ring.pool_head,
                self.map.used if self.map else 0,
            )
        )

    # --- submissions ------------------------------------------------------------------------------------------------

    def try_submit(self, submission: int) -> int | None:
        """The offset of the submission's block in the ring of the innermost open scope, or None when it must wait."""
        _, index, members = self._open[-1]
        ring = self.rings[index]
        if self._unwired is None:
            if len(members) >= ring.window - 1:
                return None
            if ring.alive != ring.seen:
                ring.refresh()
            if len(ring.tasks) - ring.alive >= ring.window - 1:
                return None
            offset = ring.bump(self._items[submission].size_bytes)
            if offset is None:
                return None
            self._commit(submission, offset, index, ring, members)
            if self._known_alive and self._items[submission].core is not None:
                self._known_alive[submission] = ring.alive
                if self.map is not None:
                    self.map.sync(index, len(ring.tasks) - 1, ring.alive, ring.window)
                if self._items[submission].entries and not self._surely_fits(submission):
                    self._unmapped = self._unwired = submission
        if (self._unmapped is not None and not self._register(submission, index, ring)) or not self._wire(submission, ring):
            self._keep_producers(submission)
            self._unwired = submission
            return None
        self._unwired, self._short = None, 0
        if self._kept:
            self._kept, kept = [], self._kept
            self._release(kept)
        return self.offsets[submission]

    def _keep_producers(self, submission: int) -> None:
        """Keep what a submission waits for that has its block and lacks entries: its edges are made, and not linked yet."""
        if not self._kept:
            holds = self._items[submission].holds
            self._kept = [wait for wait in self._items[submission].waits if not self._consumed[wait] and wait not in holds]
            for wait in self._kept:
                self._pins[wait] += 1

    def _commit(self, submission: int, offset: int, index: int, ring: Ring, members: list[int]) -> None:
        ring.tasks.append(submission)
        ring.ends.append(ring.top)
        members.append(submission)
        self.offsets[submission] = offset
        self._num_seen = submission + 1
        self._ring_of[submission] = index
        pins = self._pins
        for held in self._items[submission].holds:
            pins[held] += 1
        if self._items[submission].core is not None:
            pins[submission] += 2
        else:
            pins[submission] += 1
            self.completed[submission] = 1
        held_bytes = ring.top - ring.tail + (ring.top_wraps - ring.tail_wraps) * ring.size
        if held_bytes > self.peak_bytes[index]:
            self.peak_bytes[index] = held_bytes
            self.peak_at[index] = submission
        if len(ring.tasks) - ring.alive > self.peak_slots[index]:
            self.peak_slots[index] = len(ring.tasks) - ring.alive

    def _register(self, submission: int, index: int, ring: Ring) -> bool:
        """Take tensormap entries for what a task writes and has not created; False when they do not fit yet."""
        assert self.map is not None
        entries = self._items[submission].entries
        addresses = self._addresses(entries)
        self.map.cover(entries, addresses)
        is_short = self.map.used + len(entries) > self.map.capacity
        if is_short and not self.map.room(len(entries), [ring.alive for ring in self.rings]):
            return False
        self.map.register(index, len(ring.tasks) - 1, entries, addresses)
        self._unmapped = None
        return True

    # --- the tensormap ------------------------------------------------------------------------------------------------
    #
    # Most programs never come near its end, and keeping it takes as long as all else. So entries are counted as if none were
    # ever covered, and only when that is too many the table itself is made, and kept from then on. What scope records say of
    # it is worked out when somebody asks: all that it does follows from what was known of the rings when each task came.

    def _surely_fits(self, submission: int) -> bool:
        """Whether the entries of a task that has its block fit without a look at the table, which is made if they may not."""
        if self.map is not None:
            return False
        self._free_entries -= len(self._items[submission].entries)
        if self._free_entries < 0:
            self._free_entries = TENSORMAP_ENTRIES - sum(map(self._most_entries, self.rings))
        if self._free_entries >= 0:
            return True
        self.map = self._count_entries(submission)
        index = self._ring_of[submission]
        ring = self.rings[index]
        self.map.sync(index, len(ring.tasks) - 1, ring.alive, ring.window)
        return False

    def _most_entries(self, ring: Ring) -> int:
        """Entries that tasks of a ring can have at most; its last task has swept all but 63 of those known to have retired."""
        last = next((task for task in reversed(ring.tasks) if self._items[task].core is not None), None)
        first = 0 if last is None else max(0, self._known_alive[last] - SWEEP + 1)
        return sum([len(self._items[task].entries) for task in islice(ring.tasks, first, None)])

    def _count_entries(self, end: int) -> TensorMap:
        """The table after the submissions before `end`; what was left open in records is filled in."""
        table, numbers, begin = TensorMap(), [0] * NUM_RINGS, 0
        first = len(self._records) - len(self._moments)
        for at, moment in enumerate([*self._moments, end], first):
            for submission in range(begin, moment):
                if self.offsets[submission] < 0:  # in a trip that does not run
                    continue
                index = self._ring_of[submission]
                if self._items[submission].core is not None:
                    table.sync(index, numbers[index], self._known_alive[submission], self.rings[index].window)
                    if entries := self._items[submission].entries:
                        addresses = self._addresses(entries)
                        table.cover(entries, addresses)
                        table.register(index, numbers[index], entries, addresses)
                numbers[index] += 1
            begin = max(begin, moment)
            if at < len(self._records):
                self._records[at] = self._records[at]._replace(tensormap=table.used)
        self._moments = []
        return table

    def _addresses(self, entries: Sequence[MapEntry]) -> list[Address]:
        """Where the tensors of entries begin."""
        ring_of, offsets = self._ring_of, self.offsets
        return [(-1, e[1]) if e[0] < 0 else (ring_of[e[0]], offsets[e[0]] + e[1]) for e in entries]

    @property
    def entries_in_use(self) -> int:
        """Entries of the tensormap that are in use now."""
        if not self._known_alive:
            return 0
        return (self.map or self._count_entries(self._num_seen)).used

    @property
    def records(self) -> list[ScopeRecord]:
        """What scope stats note, so far."""
        if self._moments and self._known_alive:
            self._count_entries(self._num_seen)
        return self._records

    @property
    def uncounted(self) -> Sequence[ScopeRecord]:
        """The same, but entries of the tensormap may not have been counted yet."""
        return self._records

    def _wire(self, submission: int, ring: Ring) -> bool:
        """Take pool entries for the edges to producers that are not consumed; False when they do not fit yet."""
        need = self._pool_need(submission)
        if need is not NO_POOL_NEED or self._short:  # nothing always fits, and sweeps nothing
            if not ring.spill_fits(need.spilled):
                return False
            if not ring.pool_fits(need.free or self._short):
                self._short = need.free or self._short  # once it waits for room, it does not help that its producers complete
                return False
            ring.spill_head += need.spilled
            ring.pool_head += need.taken
        ring.spill_marks.append(ring.spill_head)
        marks = ring.pool_marks
        if self._items[submission].core is not None:
            marks.append(ring.pool_head)
        else:  # allocs leave no mark
            marks.append(marks[-ring.window] if len(marks) >= ring.window else 0)
        return True

    def _pool_need(self, submission: int) -> PoolNeed:
        waits = self._items[submission].waits
        completed = self.completed
        pending = 0
        for wait in waits:
            if not completed[wait]:
                pending += 1
        if not pending and len(waits) <= INLINE_EDGES:
            return NO_POOL_NEED
        edges = len(waits) - sum(map(self._consumed.__getitem__, waits))  # a byte each: 1 once consumed
        return PoolNeed(edges if pending else 0, pending, edges - INLINE_EDGES if edges > INLINE_EDGES else 0)

    def leave_out(self, first: int, end: int) -> None:
        """Submissions `first` to `end - 1` will not come (trips that do not run): nobody waits for them."""
        self.completed[first:end] = self._consumed[first:end] = b"\1" * (end - first)

    def complete(self, submission: int) -> None:
        """Note that a submitted task has completed: blocks that nothing needs any more are reclaimed, oldest first."""
        if self.completed[submission]:
            return
        self.completed[submission] = 1
        self._release((submission, *self._items[submission].holds))

    def _release(self, kept: Iterable[int]) -> None:
        """Take a reason to keep them from each; those that have no other are consumed."""
        pins = self._pins
        for pinned in kept:
            pins[pinned] -= 1
            if not pins[pinned]:
                self._consumed[pinned] = 1
                ring = self.rings[self._ring_of[pinned]]
                if ring.retired < len(ring.tasks) and ring.tasks[ring.retired] == pinned:
                    self._advance(ring)

    def _advance(self, ring: Ring) -> None:
        """Retire the oldest tasks as far as they are consumed; one that is not holds up all behind it, whose bytes it fences."""
        tasks, consumed, retired = ring.tasks, self._consumed, ring.retired
        end = len(tasks)
        while retired < end and consumed[tasks[retired]]:
            retired += 1
        ring.retired = retired
        if retired - ring.alive >= self.publish_every or retired == end:
            ring.alive = retired

    def publish(self) -> bool:
        """Make known what has retired, for a submission that waits; False when all was."""
        news = [ring for ring in self.rings if ring.alive != ring.retired]
        for ring in news:
            ring.alive = ring.retired
        return bool(news)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def blocker(self) -> int | None:
        """The oldest live submission of the current ring: nothing can be reclaimed there before it retires.

        While a submission waits for the tensormap, which serves all rings, it is that of a ring where waiting can help, if any.
        """
        if self._unmapped is None:
            return self._head(self._open[-1][1])
        heads = ((index, self._head(index)) for index in range(NUM_RINGS))
        kept = self._items[self._unmapped].waits  # these stay until the submission that waits has its entries
        return next((h for index, h in heads if h is not None and h != self._oldest_open(index) and h not in kept), None)

    def _head(self, index: int) -> int | None:
        ring = self.rings[index]
        return ring.tasks[ring.retired] if ring.retired < len(ring.tasks) else None

    @property
    def waits_for(self) -> tuple[int, int, int]:
        """Of a submission that was refused: the runtime's code if it waits too long, its ring, and what changes on progress."""
        index = self._open[-1][1]
        if self._unmapped is not None and self.map is not None:
            return 11, index, self.map.used
        return 2, index, self.rings[index].retired

    def deadlock(self, submission: int) -> Deadlock | None:
        """Why `submission`, just refused by `try_submit`, can never be placed; None when waiting can help (rule 7)."""
        index = self._open[-1][1]
        ring = self.rings[index]
        members = self._open[-1][2]
        if self._unwired is None and len(members) >= ring.window - 1:
            return self._facts(submission, 1, "scope too large", members[0])
        head = self.blocker()
        if ring.alive != ring.retired:
            return None  # what has retired is not known yet
        if self._unmapped is not None:
            if any(other.alive != other.retired for other in self.rings):
                return None
            return None if head is not None else self._facts(submission, 11, "no progress", None)
        oldest = self._oldest_open(index)
        if head is not None and head != oldest and (self._unwired is None or head not in self._items[submission].waits):
            return None  # what waits for pool entries has its block already, and keeps those of its producers
        if self._unwired is not None:
            spills = ring.spill_fits(self._pool_need(submission).spilled)
            return self._facts(submission, 4, "open scope" if spills and head == oldest else "no progress", head)
        if head is None:
            return self._facts(submission, 2, "no progress", None)
        return self._facts(submission, 3 if ring.live >= ring.window - 1 else 2, "open scope", oldest)

    def stuck(self, submission: int) -> Deadlock:
        """What the runtime says when `submission`, just refused, has waited in vain: nothing retired in time."""
        index = self._open[-1][1]
        ring = self.rings[index]
        if self._unmapped is not None:
            code = 11
        elif self._unwired is not None:
            code = 4
        else:
            code = 3 if ring.live >= ring.window - 1 else 2
        return self._facts(submission, code, "no progress", ring.tasks[ring.alive] if ring.live else None)

    # --- what the runtime refuses ---------------------------------------------------------------------------------

    def refused_submissions(self) -> set[int]:
        """Those that the runtime refuses for their arguments."""
        return _refused(self.schedule)

    def invalid(self, submission: int) -> Deadlock:
        """Why the runtime refuses one of these."""
        num = self.schedule.submissions[submission].num_tensors
        why = f"{num} tensor arguments, more than {MAX_TENSORS}" if num > MAX_TENSORS else "an alloc of no tensors"
        return self._facts(submission, 5, "", None, why)

    def invalid_scope(self, scope: int) -> Deadlock | None:
        """The same of a scope that is to be opened."""
        scopes = self.schedule.scopes
        refused = f"a scope beside {MAX_SCOPES} that are open" if len(self._open) >= MAX_SCOPES else ""
        if self._open and scopes[scope].mode == "auto" and scopes[self._open[-1][0]].mode == "manual":
            refused = "an auto scope in a manual one"
        if not refused:
            return None
        facts = self._facts(-1, 5, "", None, refused)
        return replace(facts, block=scopes[scope].name, mark=scopes[scope].mark)

    def _oldest_open(self, index: int) -> int | None:
        for _, ring, members in self._open:
            if ring == index and members:
                return members[0]
        return None

    def _facts(self, submission: int, code: int, how: str, oldest: int | None, refused: str = "") -> Deadlock:
        """What keeps a submission, -1 for none, from being placed in the ring of the innermost open scope."""
        index = self._open[-1][1]
        ring = self.rings[index]
        submissions = self.schedule.submissions
        pinning = next((scope for scope, r, members in self._open if r == index and oldest in members), None)
        info = None if pinning is None else self.schedule.scopes[pinning]
        return Deadlock(
            code,
            how,
            index,
            submission,
            block_name(self.schedule, submission) if submission >= 0 else "",
            submissions[submission].size_bytes if submission >= 0 else 0,
            ring.size,
            ring.head_bytes - ring.tail_bytes,
            ring.window,
            ring.live,
            ring.pool,
            submissions[submission].mark if submission >= 0 else None,
            info and info.name,
            info and info.mark,
            None if oldest is None else block_name(self.schedule, oldest),
            None if oldest is None else submissions[oldest].mark,
            refused,
        )


@remembered
def _refused(schedule: Schedule) -> set[int]:
    return {
        number
        for number, item in enumerate(schedule.submissions)
        if item.num_tensors > MAX_TENSORS or (item.core is None and not item.slots and not item.size_bytes)
    }


def block_name(schedule: Schedule, submission: int) -> str:
    """What to call a submission's block: its largest tensor, else the submission itself."""
    item = schedule.submissions[submission]
    largest = max(item.slots, key=lambda slot: slot.size_bytes, default=None)
    return largest.name if largest is not None and largest.name else item.name


def check_block_sizes(schedule: Schedule) -> None:
    """Refuse blocks that the runtime's 32-bit size cannot hold; raises ScheduleError."""
    for index, submission in enumerate(schedule.submissions):
        if submission.size_bytes > MAX_BLOCK_BYTES:
            where = f"{submission.mark}: " if submission.mark else ""
            raise ScheduleError(
                f"{where}the block of '{block_name(schedule, index)}' has {submission.size_bytes:,} bytes, "
                f"more than the {MAX_BLOCK_BYTES:,} that a block may have",
                hint=_smaller(schedule, index),
            )


def _smaller(schedule: Schedule, index: int) -> str:
    """What makes a submission's block smaller."""
    made = schedule.submissions[index]
    if made.num_tensors < len(made.slots):
        return f"it is an arena, in which tensors lie across each other: keep '{block_name(schedule, index)}' apart from them"
    return "split the tensor, or the alloc that groups it with others"
