"""This module checks schedules on its own: what it passes is safe at the given capacities, for any progress of execution.

It shares no code with `runner.rings.heap` and with no scheduler: it simulates the rings on intervals of bytes and works out from
the program's regions which tasks must be ordered (`runner.verify.edges`). Findings have a code:

V1 structure (scopes, submissions, trips)   V2 mode (AUTO in MANUAL, too many open)   V3 block (alignment, bounds, size, tensors)
V4 capacity (a ring is too small)           V5 read after close                  V6 missing edge: order, or a block kept alive
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from runner.base.errors import Diagnostic, Mark, ScheduleError
from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.program import Program
from runner.rings.schedule import Begin, End, Repeat, Schedule, Submission, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import StepWalk
from runner.verify.edges import Conflict, Order, region_needs, sharing_needs

MAX_BLOCK_BYTES = 2**31 - 1
MAX_SCOPES = 64
MAX_TENSORS = 32
MAX_FINDINGS = 20
"""Findings of one kind that are listed; what comes after is counted."""


def verify(schedule: Schedule, sizes: RingSizes | None = None) -> list[Diagnostic]:
    """All that is wrong with a schedule; capacities are checked only where `sizes` are given."""
    broken = list(_structure(schedule))
    if broken:
        return broken
    found = [*_modes(schedule), *_blocks(schedule)]
    if sizes is not None:
        found += _capacity(schedule, sizes)
    found += _closed_reads(schedule)
    if schedule.program is not None:
        found += _edges(schedule, schedule.program)
    return found


def check(schedule: Schedule, sizes: RingSizes | None = None, *, allow_missing_edges: bool = False) -> list[Diagnostic]:
    """Raise ScheduleError with all findings; with `allow_missing_edges`, return those of code V6 instead."""
    found = verify(schedule, sizes)
    allowed = [d for d in found if allow_missing_edges and d.code == "V6"]
    if len(allowed) < len(found):
        raise ScheduleError([d for d in found if d not in allowed])
    return allowed


def _finding(code: str, message: str, mark: Mark | None = None, hint: str | None = None) -> Diagnostic:
    return Diagnostic(code, message, mark, hint=hint)


# --- V1, V2: structure ------------------------------------------------------------------------------------------------


def _structure(schedule: Schedule) -> Iterator[Diagnostic]:
    """Scopes nest, every submission is submitted once and in order, waits point backwards, every task of the program is there."""
    if (misplaced := _misplaced_loop(schedule)) is not None:
        yield misplaced
        return
    walk = StepWalk(schedule)
    open_scopes = walk.scopes
    begun: set[int] = set()
    submitted = 0
    for step in walk:
        if isinstance(step, Begin):
            depth, outer = schedule.scopes[step.scope].depth, len(open_scopes) - 1
            if depth != outer or step.scope in begun:
                name = schedule.scopes[step.scope].name
                yield _finding("V1", f"scope '{name}' of depth {depth} begins at depth {outer}, or twice")
            begun.add(step.scope)
        elif isinstance(step, End):
            if not open_scopes or open_scopes[-1] != step.scope:
                yield _finding("V1", f"scope '{schedule.scopes[step.scope].name}' ends but is not the innermost open scope")
                return
        elif isinstance(step, Submit):
            if step.submission != submitted or not open_scopes:
                yield _finding("V1", f"submission {step.submission} comes as number {submitted}, or outside of all scopes")
                return
            submitted += 1
        elif any(wait >= submitted for wait in step.waits):
            yield _finding("V1", "a read waits for a task that is submitted after it")
    if open_scopes or submitted != len(schedule.submissions):
        yield _finding("V1", f"{len(open_scopes)} scopes stay open, {submitted} of {len(schedule.submissions)} are submitted")
    for index, item in enumerate(schedule.submissions):
        waits, holds = item.waits, item.holds
        if (waits and max(waits) >= index) or (holds and holds != waits and not set(holds) <= set(waits)):
            yield _finding("V1", f"'{item.name}' waits for a later submission, or holds one that it does not wait for", item.mark)
    if schedule.program is not None:
        yield from _missing_tasks(schedule, schedule.program)


def _misplaced_loop(schedule: Schedule) -> Diagnostic | None:
    """The first dynamic loop whose trips do not lie behind it one after another, inside the trip around it: no walk is safe."""
    ends = [len(schedule.steps)]  # where open trips end, the innermost last
    for at, step in enumerate(schedule.steps):
        while at >= ends[-1]:
            ends.pop()
        if isinstance(step, Repeat):
            bounds = (*step.starts, step.end)
            if bounds[0] != at + 1 or any(low > high for low, high in pairwise(bounds)) or step.end > ends[-1]:
                name = step.trips.path if step.trips is not None else "of a recorded program"
                return _finding("V1", f"the trips of loop '{name}' do not lie behind it one after another")
            ends += reversed(bounds[1:])
    return None


def _missing_tasks(schedule: Schedule, program: Program) -> Iterator[Diagnostic]:
    count: dict[int, int] = {}
    for item in schedule.submissions:
        if item.task is not None:
            count[item.task] = count.get(item.task, 0) + 1
    for task in program.tasks:
        if count.get(task.id, 0) != 1 and (task.op is not None or count.get(task.id, 0) > 1):
            yield _finding("V1", f"task '{task.path}' is submitted {count.get(task.id, 0)} times, expected once", task.mark)
    placed = {slot.tensor for item in schedule.submissions for slot in item.slots}
    for tensor in program.tensors:
        if tensor.is_local and tensor.id not in placed:
            yield _finding("V1", f"tensor '{tensor.name}' lies in no block", tensor.mark)


def _modes(schedule: Schedule) -> Iterator[Diagnostic]:
    walk = StepWalk(schedule)
    for step in walk:
        if isinstance(step, Begin):
            scope = schedule.scopes[step.scope]
            outer = next((s for s in walk.scopes[:-1] if schedule.scopes[s].mode == "manual"), None)
            if outer is not None and scope.mode == "auto":
                name = schedule.scopes[outer].name
                yield _finding("V2", f"auto scope '{scope.name}' lies inside the manual scope '{name}'", scope.mark)
            if len(walk.scopes) == MAX_SCOPES + 1:
                yield _finding("V2", f"scope '{scope.name}' is open beside {MAX_SCOPES} others, the most that may be", scope.mark)


# --- V3: blocks -------------------------------------------------------------------------------------------------------


def _blocks(schedule: Schedule) -> Iterator[Diagnostic]:
    for item in schedule.submissions:
        if item.size_bytes % BLOCK_ALIGN or item.size_bytes > MAX_BLOCK_BYTES:
            message = f"the block of '{item.name}' has {item.size_bytes:,} bytes"
            rule = f"expected a multiple of {BLOCK_ALIGN:,}, at most {MAX_BLOCK_BYTES:,}"
            yield _finding("V3", f"{message}, {rule}", item.mark)
        if item.num_tensors > MAX_TENSORS:
            message = f"'{item.name}' has {item.num_tensors} tensors, at most {MAX_TENSORS} are possible"
            yield _finding("V3", message, item.mark)
        for slot in item.slots:
            if slot.offset % BLOCK_ALIGN or slot.offset < 0 or slot.offset + slot.size_bytes > item.size_bytes:
                place = f"[{slot.offset:,}, {slot.offset + slot.size_bytes:,})"
                message = f"tensor '{slot.name}' lies at {place} of a block of {item.size_bytes:,} bytes"
                yield _finding("V3", f"{message}, expected within it at a multiple of {BLOCK_ALIGN:,}", item.mark)
            if schedule.program is not None:
                needed = schedule.program.tensors[slot.tensor].spec.size_bytes
                if slot.size_bytes < needed:
                    yield _finding("V3", f"tensor '{slot.name}' has {slot.size_bytes:,} bytes, needs {needed:,}", item.mark)


# --- V4: capacities ---------------------------------------------------------------------------------------------------


@dataclass
class _Line:
    """One ring as a line of bytes: live blocks by offset, and the order in which they came."""

    capacity: int
    starts: list[int] = field(default_factory=list)  # of live blocks with bytes, sorted
    ends: list[int] = field(default_factory=list)
    queue: deque[tuple[int, int, int]] = field(default_factory=deque)  # (scope that holds it, start, end), oldest first
    at: int = 0  # where the last block ended
    fence: int | None = None  # after a wrap: blocks must end below this

    def place(self, size_bytes: int) -> int | None:
        """Where the next block lies, or None if it would meet a live block or pass the end."""
        if not size_bytes:
            return self.at
        if not self.starts and not self._fits_on(size_bytes) and not size_bytes < self.at:
            self.at, self.fence = 0, None  # empty: start over
        start = self.at
        if self.fence is None and start + size_bytes > self.capacity:
            start, self.fence = 0, self.at_oldest()
        if start + size_bytes > self.capacity or (self.fence is not None and start + size_bytes >= self.fence):
            return None
        at = bisect_left(self.starts, start)
        meets_next = at < len(self.starts) and self.starts[at] < start + size_bytes
        if meets_next:
            return None
        self.starts.insert(at, start)
        self.ends.insert(at, start + size_bytes)
        self.at = start + size_bytes
        return start

    def _fits_on(self, size_bytes: int) -> bool:
        return self.at + size_bytes <= self.capacity

    def at_oldest(self) -> int:
        """The oldest live byte, below which a wrapped block must stay."""
        return next((start for _, start, end in self.queue if end > start), self.at)

    def release(self, open_scopes: Collection[int]) -> None:
        """Drop the oldest blocks whose scopes have closed; everything behind an open scope's block stays."""
        while self.queue and self.queue[0][0] not in open_scopes:
            _, start, end = self.queue.popleft()
            if end > start:
                at = bisect_left(self.starts, start)
                del self.starts[at], self.ends[at]
        if not self.starts:
            self.fence = None


def _capacity(schedule: Schedule, sizes: RingSizes) -> Iterator[Diagnostic]:
    """The first submission that cannot be placed when all others have completed: then it cannot be in any run."""
    lines = [_Line(capacity) for capacity in sizes.heap]
    walk = StepWalk(schedule)
    for step in walk:
        if isinstance(step, End):
            lines[walk.rings[-1]].release(walk.scopes[:-1])
        elif isinstance(step, Submit):
            ring = walk.rings[-1]
            line, item = lines[ring], schedule.submissions[step.submission]
            if len(line.queue) >= sizes.window[ring] - 1:
                yield _finding("V4", f"ring {ring}: no slot for '{item.name}', {len(line.queue):,} are held", item.mark)
                return
            start = line.place(item.size_bytes)
            if start is None:
                held = sum(line.ends) - sum(line.starts)
                message = f"ring {ring} ({line.capacity:,} bytes) cannot hold '{_title(item)}' ({item.size_bytes:,} bytes)"
                yield _finding("V4", f"{message}: {held:,} bytes are held by open scopes", item.mark)
                return
            line.queue.append((walk.scopes[-1], start, start + item.size_bytes))


def _title(item: Submission) -> str:
    largest = max(item.slots, key=lambda slot: slot.size_bytes, default=None)
    return largest.name if largest is not None and largest.name else item.name


# --- V5: reads after close --------------------------------------------------------------------------------------------


def _closed_reads(schedule: Schedule) -> Iterator[Diagnostic]:
    """Uses of a tensor after the scope of its block has closed."""
    program = schedule.program
    owner_scope: dict[int, int] = {}  # submission -> scope
    block_of: dict[int, int] = {}  # tensor -> submission
    walk = StepWalk(schedule)
    open_scopes = walk.scopes
    for step in walk:
        if isinstance(step, Submit):
            item = schedule.submissions[step.submission]
            owner_scope[step.submission] = open_scopes[-1]
            for slot in item.slots:
                block_of[slot.tensor] = step.submission
            tensors = program.tasks[item.task].uses if program is not None and item.task is not None else ()
            closed = [block for block in item.holds if owner_scope[block] not in open_scopes and block not in item.explicit]
            closed += [block_of[t] for t in tensors if t in block_of and owner_scope[block_of[t]] not in open_scopes]
            for block in sorted(set(closed)) if closed else ():
                yield _closed(schedule, f"'{item.name}' uses", block, owner_scope[block], item.mark)
        elif isinstance(step, Repeat) and step.trips is not None:
            for tensor in step.trips.reads:
                block = block_of.get(tensor)
                if block is not None and owner_scope[block] not in open_scopes:
                    yield _closed(schedule, f"loop '{step.trips.path}' reads", block, owner_scope[block], step.trips.mark)


def _closed(schedule: Schedule, who: str, block: int, scope: int, mark: Mark | None) -> Diagnostic:
    title, name = _title(schedule.submissions[block]), schedule.scopes[scope].name
    hint = f"allocate it outside of '{name}', or do this inside"
    return _finding("V5", f"{who} the block of '{title}' after its scope '{name}' closed", mark, hint)


# --- V6: edges --------------------------------------------------------------------------------------------------------


def races(schedule: Schedule) -> frozenset[tuple[int, int]]:
    """Pairs of tasks that a schedule leaves in no order though both touch the same bytes, and `(-1, task)` for a use of a block
    that nothing keeps: what `Program.races` is for a program that was recorded so."""
    program, order, users = schedule.program, Order(schedule), _users(schedule)
    assert program is not None
    found = {_tasks(schedule, conflict) for conflict in order.unordered(region_needs(schedule, users))}
    found |= {(-1, schedule.submissions[user].task or 0) for _, user in _unkept(schedule, users, order)}
    return frozenset(found)


def _tasks(schedule: Schedule, conflict: Conflict) -> tuple[int, int]:
    first, second = (schedule.submissions[k].task for k in (conflict.first, conflict.second))
    return -1 if first is None else first, -1 if second is None else second


def _users(schedule: Schedule) -> dict[int, list[int]]:
    """Per tensor the submissions that touch it."""
    program = schedule.program
    assert program is not None
    users: dict[int, list[int]] = {}
    for index, item in enumerate(schedule.submissions):
        if item.task is not None:
            task = program.tasks[item.task]
            touched = {*task.reads, *task.writes, *task.creates} if task.op is not None else set()
            for tensor in touched:
                users.setdefault(tensor, []).append(index)
    return users


def _edges(schedule: Schedule, program: Program) -> Iterator[Diagnostic]:
    order, users = Order(schedule), _users(schedule)
    yield from _explicit(schedule, program, order)
    conflicts = [*order.unordered(region_needs(schedule, users)), *order.unordered(sharing_needs(schedule, users))]
    if program.races:
        conflicts = [c for c in conflicts if c.kind == "sharing" or _tasks(schedule, c) not in program.races]
    pairs = {(c.kind, c.first, c.second): c for c in sorted(conflicts, key=lambda c: (c.kind == "sharing", c.second, c.first))}
    yield from _capped((_missing_edge(schedule, program, c) for c in pairs.values()), "pairs of tasks lack an edge")
    yield from _capped(_lifetimes(schedule, users, order), "blocks may be reclaimed too early")


def _capped(findings: Iterable[Diagnostic], what: str) -> Iterator[Diagnostic]:
    """The first findings, then how many more there are."""
    num = 0
    for num, finding in enumerate(findings, 1):
        if num <= MAX_FINDINGS:
            yield finding
    if num > MAX_FINDINGS:
        yield _finding("V6", f"{num - MAX_FINDINGS:,} more {what}")


def _explicit(schedule: Schedule, program: Program, order: Order) -> Iterator[Diagnostic]:
    """The graph's own `after:` edges."""
    of_task = {item.task: index for index, item in enumerate(schedule.submissions) if item.task is not None}
    for index, item in enumerate(schedule.submissions):
        for task in program.tasks[item.task].after if item.task is not None else ():
            if task in of_task and not order.before(of_task[task], index):
                yield _finding("V6", f"'{item.name}' does not wait for '{program.tasks[task].path}' (after)", item.mark)


def _lifetimes(schedule: Schedule, users: dict[int, list[int]], order: Order) -> Iterator[Diagnostic]:
    """Blocks that may be reclaimed while a task still uses them."""
    program = schedule.program
    for block, user in _unkept(schedule, users, order):
        task = schedule.submissions[user].task
        if program is None or (-1, task) not in program.races:
            message = f"nothing keeps the block of '{_title(schedule.submissions[block])}' until"
            message += f" '{schedule.submissions[user].name}' has completed"
            yield _finding("V6", message, schedule.submissions[user].mark, "add 'after:' its creator")


def _unkept(schedule: Schedule, users: dict[int, list[int]], order: Order) -> Iterator[tuple[int, int]]:
    """Blocks and their users for which neither the user nor a task after it holds the block."""
    holders: dict[int, list[int]] = {}
    for index, item in enumerate(schedule.submissions):
        for block in item.holds:
            holders.setdefault(block, []).append(index)
    for block, item in enumerate(schedule.submissions):
        for user in sorted({user for slot in item.slots for user in users.get(slot.tensor, ())}):
            if user == block or block in schedule.submissions[user].holds:
                continue
            later = [holder for holder in holders.get(block, ()) if order.runs_with(holder, user)]
            if not any(order.before(user, holder) for holder in later):
                yield block, user


def _missing_edge(schedule: Schedule, program: Program, conflict: Conflict) -> Diagnostic:
    first, second = schedule.submissions[conflict.first], schedule.submissions[conflict.second]
    tensor = program.tensors[conflict.tensor].name
    if conflict.other is not None:
        tensor = f"{tensor}' and '{program.tensors[conflict.other].name}' in the same bytes of '{_title(second)}"
    message = f"no edge orders '{second.name}' after '{first.name}': {conflict.kind} on '{tensor}'"
    return _finding("V6", message, second.mark, f"add 'after: [{first.name.rpartition('.')[2]}]'")
