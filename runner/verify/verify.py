"""This module checks schedules on its own: what it passes is safe at the given capacities, for any progress of execution.

It shares no code with `runner.rings.heap` and with no scheduler: it simulates the rings on intervals of bytes and works out from
the program's regions which tasks must be ordered (`runner.verify.needs`). Findings have a code:

V1 structure (scopes, submissions, trips)   V2 mode (AUTO in MANUAL, too many open)   V3 block (alignment, bounds, size, tensors)
V4 capacity (a ring is too small)           V5 read after close                  V6 missing edge: order, or a block kept alive
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from runner.base.errors import Diagnostic, Mark, ScheduleError
from runner.base.records import LARGE, give_back
from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.lifetimes import Ints, distinct
from runner.program.program import Program
from runner.rings.schedule import Begin, End, Repeat, Schedule, Submission, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import StepWalk
from runner.verify.columns import Columns, in_turn, places
from runner.verify.edges import Conflict, Order
from runner.verify.needs import region_needs, sharing_needs

MAX_BLOCK_BYTES = 2**31 - 1
MAX_SCOPES = 64
MAX_TENSORS = 32
MAX_FINDINGS = 20
"""Findings of one kind that are listed; what comes after is counted."""


def verify(schedule: Schedule, sizes: RingSizes | None = None) -> list[Diagnostic]:
    """All that is wrong with a schedule; capacities are checked only where `sizes` are given."""
    if len(schedule.submissions) > LARGE:
        give_back()
    columns = Columns(schedule)
    broken = list(_structure(schedule, columns))
    if broken:
        return broken
    found = [*_modes(columns), *_blocks(schedule, columns)]
    if sizes is not None:
        found += _capacity(schedule, sizes)
    found += _closed_reads(schedule, columns)
    if schedule.program is not None:
        found += _edges(schedule, schedule.program, columns)
    return found


def check(schedule: Schedule, sizes: RingSizes | None = None, *, allow_missing_edges: bool = False) -> list[Diagnostic]:
    """Raise ScheduleError with all findings; with `allow_missing_edges`, return those of code V6 instead."""
    found = verify(schedule, sizes)
    allowed = [d for d in found if allow_missing_edges and d.code == "V6"]
    if len(allowed) < len(found):
        raise ScheduleError([d for d in found if d not in allowed])
    return allowed


def why_unfit(schedule: Schedule) -> str | None:
    """The first thing that is wrong with a schedule, in words and with its code; None where nothing is."""
    found = next(iter(verify(schedule)), None)
    return found and f"{found.message} ({found.code})"


def _finding(code: str, message: str, mark: Mark | None = None, hint: str | None = None) -> Diagnostic:
    return Diagnostic(code, message, mark, hint=hint)


# --- V1, V2: structure ------------------------------------------------------------------------------------------------


def _structure(schedule: Schedule, columns: Columns) -> Iterator[Diagnostic]:
    """Scopes nest, every submission is submitted once and in order, waits point backwards, every task of the program is there."""
    if (misplaced := _misplaced_loop(columns)) is not None:
        yield misplaced
        return
    open_scopes: list[int] = []
    begun: set[int] = set()
    submitted = 0
    for step in schedule.steps:
        if isinstance(step, Submit):
            if step.submission != submitted or not open_scopes:
                yield _finding("V1", f"submission {step.submission} comes as number {submitted}, or outside of all scopes")
                return
            submitted += 1
        elif isinstance(step, Begin):
            depth, outer = schedule.scopes[step.scope].depth, len(open_scopes)
            if depth != outer or step.scope in begun:
                name = schedule.scopes[step.scope].name
                yield _finding("V1", f"scope '{name}' of depth {depth} begins at depth {outer}, or twice")
            begun.add(step.scope)
            open_scopes.append(step.scope)
        elif isinstance(step, End):
            if not open_scopes or open_scopes.pop() != step.scope:
                yield _finding("V1", f"scope '{schedule.scopes[step.scope].name}' ends but is not the innermost open scope")
                return
        elif any(wait >= submitted for wait in step.waits):
            yield _finding("V1", "a read waits for a task that is submitted after it")
    if open_scopes or submitted != len(schedule.submissions):
        yield _finding("V1", f"{len(open_scopes)} scopes stay open, {submitted} of {len(schedule.submissions)} are submitted")
    waiting, holding = columns.waits.owners(), columns.holds.owners()
    late, unheld = columns.waits.values >= waiting, ~columns.edges.have(holding, columns.holds.values)
    for index in distinct(np.concatenate([waiting[late], holding[unheld]])).tolist():
        item = schedule.submissions[index]
        yield _finding("V1", f"'{item.name}' waits for a later submission, or holds one that it does not wait for", item.mark)
    if schedule.program is not None:
        yield from _missing_tasks(schedule.program, columns)


def _misplaced_loop(columns: Columns) -> Diagnostic | None:
    """The first dynamic loop whose trips do not lie behind it one after another, inside the trip around it: no walk is safe."""
    ends = [len(columns.schedule.steps)]  # where open trips end, the innermost last
    for at, _, step in columns.others:
        if isinstance(step, Repeat):
            while at >= ends[-1]:
                ends.pop()
            bounds = (*step.starts, step.end)
            if bounds[0] != at + 1 or any(low > high for low, high in pairwise(bounds)) or step.end > ends[-1]:
                name = step.trips.path if step.trips is not None else "of a recorded program"
                return _finding("V1", f"the trips of loop '{name}' do not lie behind it one after another")
            ends += reversed(bounds[1:])
    return None


def _missing_tasks(program: Program, columns: Columns) -> Iterator[Diagnostic]:
    count = np.bincount(columns.tasks, minlength=len(program.tasks))
    for index in np.flatnonzero(count != 1).tolist():
        task = program.tasks[index]
        if task.op is not None or count[index]:
            yield _finding("V1", f"task '{task.path}' is submitted {count[index]} times, expected once", task.mark)
    placed = np.zeros(len(program.tensors), bool)
    placed[columns.tensor] = True
    for index in np.flatnonzero(~placed).tolist():
        tensor = program.tensors[index]
        if tensor.is_local:
            yield _finding("V1", f"tensor '{tensor.name}' lies in no block", tensor.mark)


def _modes(columns: Columns) -> Iterator[Diagnostic]:
    schedule, open_scopes = columns.schedule, list[int]()
    for _, _, step in columns.others:
        if isinstance(step, Begin):
            scope = schedule.scopes[step.scope]
            outer = next((s for s in open_scopes if schedule.scopes[s].mode == "manual"), None)
            if outer is not None and scope.mode == "auto":
                name = schedule.scopes[outer].name
                yield _finding("V2", f"auto scope '{scope.name}' lies inside the manual scope '{name}'", scope.mark)
            open_scopes.append(step.scope)
            if len(open_scopes) == MAX_SCOPES + 1:
                yield _finding("V2", f"scope '{scope.name}' is open beside {MAX_SCOPES} others, the most that may be", scope.mark)
        elif isinstance(step, End):
            open_scopes.pop()


# --- V3: blocks -------------------------------------------------------------------------------------------------------


def _blocks(schedule: Schedule, columns: Columns) -> Iterator[Diagnostic]:
    items = schedule.submissions
    sizes = np.fromiter((item.size_bytes for item in items), np.int64, len(items))
    tensors = np.fromiter((item.num_tensors for item in items), np.int64, len(items))
    wrong = np.flatnonzero((sizes % BLOCK_ALIGN != 0) | (sizes > MAX_BLOCK_BYTES) | (tensors > MAX_TENSORS))
    low, high = columns.offset, columns.offset + columns.size
    outside = (low % BLOCK_ALIGN != 0) | (low < 0) | (high > sizes[columns.block])
    if schedule.program is not None:
        outside |= columns.size < columns.program.size_bytes[columns.tensor]
    for index in distinct(np.concatenate([wrong, columns.block[outside]])).tolist():
        yield from _wrong_block(items[index], schedule.program)


def _wrong_block(item: Submission, program: Program | None) -> Iterator[Diagnostic]:
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
        if program is not None and slot.size_bytes < (needed := program.tensors[slot.tensor].spec.size_bytes):
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


def _closed_reads(schedule: Schedule, columns: Columns) -> Iterator[Diagnostic]:
    """Uses of a tensor after the scope of its block has closed."""
    scopes = columns.scopes
    closed_at = scopes.closed_at[scopes.of]  # of each submission's scope
    found: list[tuple[int, int, Diagnostic]] = []  # submissions before it, 1 for a submission and 0 for a loop before it
    for user, block in _used_when_closed(schedule, columns, closed_at):
        item = schedule.submissions[user]
        found.append((user, 1, _closed(schedule, f"'{item.name}' uses", block, int(scopes.of[block]), item.mark)))
    for submitted, repeat, around in scopes.repeats:
        if repeat.trips is None or not submitted:
            continue
        tensors = np.array(repeat.trips.reads, np.int64)
        for block in columns.blocks_of(tensors, np.full(len(tensors), submitted - 1)).tolist():
            if block >= 0 and (scope := int(scopes.of[block])) not in around:
                who = f"loop '{repeat.trips.path}' reads"
                found.append((submitted, 0, _closed(schedule, who, block, scope, repeat.trips.mark)))
    yield from (finding for _, _, finding in sorted(found, key=lambda entry: entry[:2]))


def _used_when_closed(schedule: Schedule, columns: Columns, closed_at: Ints) -> list[tuple[int, int]]:
    """Submissions and blocks that they hold, or of which they use tensors, though the block's scope has closed, in order."""
    user, block = columns.holds.owners(), columns.holds.values
    closed = closed_at[block] <= user
    found = {(u, b) for u, b in zip(user[closed].tolist(), block[closed].tolist(), strict=True)}
    found = {(u, b) for u, b in found if b not in schedule.submissions[u].explicit}
    if schedule.program is not None:
        used = columns.program.tensors(lambda task: task.uses)
        at, user = columns.per_submission(used)
        block = columns.blocks_of(used.values[at], user)
        closed = (block >= 0) & (closed_at[block] <= user)
        found.update(zip(user[closed].tolist(), block[closed].tolist(), strict=True))
    return sorted(found)


def _closed(schedule: Schedule, who: str, block: int, scope: int, mark: Mark | None) -> Diagnostic:
    title, name = _title(schedule.submissions[block]), schedule.scopes[scope].name
    hint = f"allocate it outside of '{name}', or do this inside"
    return _finding("V5", f"{who} the block of '{title}' after its scope '{name}' closed", mark, hint)


# --- V6: edges --------------------------------------------------------------------------------------------------------


def races(schedule: Schedule) -> frozenset[tuple[int, int]]:
    """Pairs of tasks that a schedule leaves in no order though both touch the same bytes, and `(-1, task)` for a use of a block
    that nothing keeps: what `Program.races` is for a program that was recorded so."""
    order, columns = Order(schedule), Columns(schedule)
    found = {_tasks(schedule, conflict) for conflict in order.unordered(region_needs(columns))}
    found |= {(-1, schedule.submissions[user].task or 0) for _, user in _unkept(schedule, columns, order)}
    return frozenset(found)


def _tasks(schedule: Schedule, conflict: Conflict) -> tuple[int, int]:
    first, second = (schedule.submissions[k].task for k in (conflict.first, conflict.second))
    return -1 if first is None else first, -1 if second is None else second


def _edges(schedule: Schedule, program: Program, columns: Columns) -> Iterator[Diagnostic]:
    order = Order(schedule)
    yield from _explicit(schedule, program, columns, order)
    conflicts = [*order.unordered(region_needs(columns)), *order.unordered(sharing_needs(columns))]
    if program.races:
        conflicts = [c for c in conflicts if c.kind == "sharing" or _tasks(schedule, c) not in program.races]
    pairs = {(c.kind, c.first, c.second): c for c in sorted(conflicts, key=lambda c: (c.kind == "sharing", c.second, c.first))}
    yield from _capped((_missing_edge(schedule, program, columns, c) for c in pairs.values()), "pairs of tasks lack an edge")
    yield from _capped(_lifetimes(schedule, columns, order), "blocks may be reclaimed too early")


def _capped(findings: Iterable[Diagnostic], what: str) -> Iterator[Diagnostic]:
    """The first findings, then how many more there are."""
    num = 0
    for num, finding in enumerate(findings, 1):
        if num <= MAX_FINDINGS:
            yield finding
    if num > MAX_FINDINGS:
        yield _finding("V6", f"{num - MAX_FINDINGS:,} more {what}")


def _explicit(schedule: Schedule, program: Program, columns: Columns, order: Order) -> Iterator[Diagnostic]:
    """The graph's own `after:` edges."""
    pairs = list(zip(columns.tasks.tolist(), columns.submitted.tolist(), strict=True))
    named = [(task, index) for task, index in pairs if program.tasks[task].after]
    of_task = dict(pairs) if named else {}
    for task, index in named:
        item = schedule.submissions[index]
        for other in program.tasks[task].after:
            if other in of_task and not order.before(of_task[other], index):
                yield _finding("V6", f"'{item.name}' does not wait for '{program.tasks[other].path}' (after)", item.mark)


def _lifetimes(schedule: Schedule, columns: Columns, order: Order) -> Iterator[Diagnostic]:
    """Blocks that may be reclaimed while a task still uses them.

    Those of the outermost scope need no holder: when that closes, nobody comes any more who could get their bytes.
    """
    program = schedule.program
    for block, user in _unkept(schedule, columns, order):
        task = schedule.submissions[user].task
        if not schedule.scopes[int(columns.scopes.of[block])].depth:
            continue
        if program is None or (-1, task) not in program.races:
            message = f"nothing keeps the block of '{_title(schedule.submissions[block])}' until"
            message += f" '{schedule.submissions[user].name}' has completed"
            yield _finding("V6", message, schedule.submissions[user].mark, "add 'after:' its creator")


def _unkept(schedule: Schedule, columns: Columns, order: Order) -> Iterator[tuple[int, int]]:
    """Blocks and their users for which neither the user nor a task after it holds the block.

    Who is submitted when the block's scope has closed may come too late to hold it: of an alloc, say, nothing is left by then.
    """
    doubtful: set[tuple[int, int]] = set()
    scopes = columns.scopes
    for slots in in_turn(np.arange(len(columns.tensor))):
        at, which = places(columns.users, columns.tensor[slots])
        user, block = columns.users.values[at], columns.block[slots][which]
        left = (user != block) & ~columns.kept.have(user, block)
        doubtful.update(zip(block[left].tolist(), user[left].tolist(), strict=True))
    holders: dict[int, list[int]] = {}
    if doubtful:
        holder, held = columns.holds.owners(), columns.holds.values
        is_open = holder < scopes.closed_at[scopes.of[held]]
        for index, block in zip(holder[is_open].tolist(), held[is_open].tolist(), strict=True):
            holders.setdefault(block, []).append(index)
    for block, user in sorted(doubtful):
        later = [holder for holder in holders.get(block, ()) if order.runs_with(holder, user)]
        if not any(order.before(user, holder) for holder in later):
            yield block, user


def _missing_edge(schedule: Schedule, program: Program, columns: Columns, conflict: Conflict) -> Diagnostic:
    first, second = schedule.submissions[conflict.first], schedule.submissions[conflict.second]
    tensor = program.tensors[conflict.tensor].name
    other = next((tensor for tensor in reversed(conflict.others) if conflict.first in columns.users.row(tensor)), None)
    if other is not None:
        tensor = f"{tensor}' and '{program.tensors[other].name}' in the same bytes of '{_title(second)}"
    message = f"no edge orders '{second.name}' after '{first.name}': {conflict.kind} on '{tensor}'"
    return _finding("V6", message, second.mark, f"add 'after: [{first.name.rpartition('.')[2]}]'")
