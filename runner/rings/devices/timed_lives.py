"""When tensors are in use on a device whose memory is short: a timed run of a program without rings.

The run is that of `runner.rings.timed`, for the tasks of a program instead of a schedule's submissions, with one of four rules
for memory:

    free      every tensor has bytes of its own
    budget    a task starts when its tensors get bytes, of so many in all; bytes have no place yet, they are only counted
    in turn   likewise, but a task's tensors get theirs when those of all tasks before it have theirs, whether it is ready or not:
              no task begins what lacks the bytes to go on, as those that are ready may all do at once
    placed    a task is ready when all tensors that lay in its tensors' bytes have been used for the last time

Under a budget, bytes go to tensors out of order, but never so that the rest of the program could no longer run in order. Edges
lead only to later tasks, so what a tensor has used serves no tensor that comes before its last task, however early it was free.
So all bytes have a *stamp*: the first task that may have them next. At every task that is to come, bytes with later stamps and
tensors that have no bytes yet must fit together:

    task             0   1   2   3   4     budget 4: t1 may have a, 2 units, before t0 has run: the load is 2 at t0, where b, of
    b, 2 units       [=======]             2 units, is still to come. c, of 2, may not: at t0 and t1 the load would be 6. When
    a, 2                 [===]             a has been used, its bytes are stamped 3, and c gets them.
    c, 2                         [===]
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush

import numpy as np

from runner.program.lifetimes import Floats, Ints, Lives, Rows, distinct, live_units
from runner.program.order import predecessors
from runner.program.spans import read_waits
from runner.rings.schedule import Lately, Schedule
from runner.rings.timed import AIV_PER_MIX, Timing

LOOK = 30
"""Ready tasks for which there are no bytes that are passed over, to find one that gets some, as long as anything runs."""

MOST_LENGTHS = 64
"""Placements of which a program's work remembers how long they take: of 20,000 tensors they are 10 MB."""

_LAST = float("inf")


@dataclass(frozen=True)
class Work:
    """What a timed run of a program needs to know, per task: `edges` (what it waits for), `costs_us` of its submission, `task_us`
    of one of its `blocks`, its `core`; `reads` are tasks that the submitting thread waits for before it submits one, `alloc_us`
    what it costs to submit an arena. `aic` and `aiv` are numbers of workers."""

    lives: Lives
    edges: Rows
    costs_us: Sequence[float]
    task_us: Sequence[float]
    blocks: Sequence[int]
    core: Sequence[str | None]
    reads: dict[int, list[int]]
    alloc_us: float
    aic: float
    aiv: float

    @classmethod
    def of(cls, lives: Lives, waits: Rows, schedule: Schedule, timing: Timing) -> Work:
        """The work of a program under a timing, which `schedule`, any placement of the program, translates to tasks."""
        tasks = lives.program.tasks
        costs, lengths = array("d", bytes(8 * len(tasks))), array("d", bytes(8 * len(tasks)))
        allocs_us: list[float] = []
        kinds = list[str | None]([None]) * len(tasks)
        cost_us, block_us = timing.cost_us, timing.block_us
        for k, submission in enumerate(schedule.submissions):
            task = submission.task
            if task is None:
                allocs_us.append(cost_us(k))
            elif submission.core is not None:
                costs[task], lengths[task], kinds[task] = cost_us(k), block_us(k), submission.core
        reads = read_waits(lives.program.body)
        blocks = [task.num_blocks for task in tasks]
        aic, aiv = timing.aic or _LAST, timing.aiv or _LAST
        return cls(lives, waits, costs, lengths, blocks, kinds, reads, max(allocs_us, default=0.0), aic, aiv)

    @cached_property
    def waits(self) -> list[list[int]]:
        """Per task what it waits for, ascending, without repeats."""
        return [sorted(set(self.edges.row(task))) for task in range(len(self.blocks))]

    @cached_property
    def users(self) -> list[list[int]]:
        """Per task who waits for it."""
        users: list[list[int]] = [[] for _ in self.blocks]
        for task, row in enumerate(self.waits):
            for wait in row:
                users[wait].append(task)
        return users

    @cached_property
    def touches(self) -> list[list[int]]:
        """Per task the locals that it touches, as their indices."""
        return [list(dict.fromkeys(self.lives.touches.row(task))) for task in range(len(self.blocks))]

    @cached_property
    def ample(self) -> dict[object, tuple[float, Times]]:
        """Per rule of memory a budget that held nothing up, the least so far, and the run under it."""
        return {}

    @cached_property
    def free(self) -> Times:
        """The run in which every tensor has bytes of its own."""
        return _Run(self).run()

    @cached_property
    def touched(self) -> Ints:
        """The locals that any task touches, ascending."""
        return distinct(self.lives.touches.values)

    @cached_property
    def _lengths_us(self) -> Lately:
        return Lately(MOST_LENGTHS)

    def length_us(self, offsets: Ints, until_us: float = _LAST) -> float:
        """How long `run_at` takes; who looks for places comes to the same ones again and again."""
        return self._lengths_us.once((offsets.tobytes(), until_us), lambda: run_at(self, offsets, until_us).makespan_us)

    def bound_us(self) -> tuple[float, float]:
        """No run is shorter than the critical path, submissions and host reads included, nor than the work over the workers."""
        finish, clock, reads = list[float](), 0.0, self.reads
        for task, cost_us, task_us in zip(self.lives.program.tasks, self.costs_us, self.task_us, strict=True):
            if len(finish) in reads:
                clock = max([clock, *map(finish.__getitem__, reads[len(finish)])])
            clock += cost_us
            start = clock
            for wait in task.waits + task.after if task.after else task.waits:
                if finish[wait] > start:
                    start = finish[wait]
            finish.append(start + task_us)
        work = {"AIC": 0.0, "AIV": 0.0, "MIX": 0.0}
        for core, blocks, length in zip(self.core, self.blocks, self.task_us, strict=True):
            if core is not None:
                work[core] += blocks * length
        over = (work["AIC"] + work["MIX"]) / self.aic, (work["AIV"] + AIV_PER_MIX * work["MIX"]) / self.aiv
        return max(finish, default=0.0), max(over)


@dataclass(frozen=True, eq=False)
class Times:
    """Per local the begin of its first and the finish of its last use, by when its first use must begin to make nothing late,
    float64[num_locals], how long the run takes, per task its start and finish, float64[num_tasks], and whether a task that was
    ready got no bytes."""

    begin: Floats
    finish: Floats
    late: Floats
    makespan_us: float
    starts: Floats
    ends: Floats
    is_held_up: bool = False


class _Counted:
    """Bytes under a budget of units, see the module. `chunks` are free units as (stamp, units), sorted; `held` per local."""

    def __init__(self, work: Work, budget: int) -> None:
        lives = work.lives
        self.touches, self.budget = work.touches, budget
        self.first, self.end, self.size = lives.first.tolist(), lives.end.tolist(), lives.size.tolist()
        self.load: Ints = live_units(lives.first, lives.end, lives.size, lives.num_times)
        self.held = [not size for size in self.size]
        self.chunks: list[tuple[float, int]] = [(0, budget)]
        self.free = budget
        self.front = 0  # all tasks before this one have their bytes
        self.full: dict[int, tuple[int, int]] = {}  # per task that got none: where the load is too high, and the tensor's first
        self.changes = 0  # how often bytes were taken or given
        self.failed: dict[int, int] = {}  # per task that got none: the changes by then

    def take(self, task: int, again: bool) -> bool:
        """Give a task's tensors their bytes, if that may be; unless `again`, not where nothing has changed since it failed."""
        wanted = [tensor for tensor in self.touches[task] if not self.held[tensor]]
        if not wanted:
            return True
        needed = sum(map(self.size.__getitem__, wanted))
        if needed > self.free or self.failed.get(task) == self.changes or (not again and self._is_full(task)):
            return False
        while self.front < len(self.touches) and all(map(self.held.__getitem__, self.touches[self.front])):
            self.front += 1
        chunks, added = self.chunks.copy() if len(wanted) > 1 else None, list[tuple[int, int, int]]()
        if all(self._take(task, tensor, added) for tensor in wanted):
            for tensor in wanted:
                self.held[tensor] = True
            self.free -= needed
            self.changes += 1
            return True
        self.failed[task] = self.changes
        for low, high, units in added:
            self.load[low:high] -= units
        if chunks is not None:
            self.chunks = chunks
        return False

    @property
    def state(self) -> tuple[int, int]:
        """While this is the same, who got no bytes gets none."""
        return self.changes, self.front

    def _is_full(self, task: int) -> bool:
        """Whether the load that was too high still is, and no chunk with a later stamp is free."""
        at, first = self.full.get(task, (-1, 0))
        if at < self.front:
            return False
        below = bisect_right(self.chunks, (first, _LAST))
        return not below or self.chunks[below - 1][0] <= at

    def _take(self, task: int, tensor: int, added: list[tuple[int, int, int]]) -> bool:
        """Take a tensor's units off the chunks with the latest stamps that it may have, and note what loads that `added`."""
        size, first, chunks = self.size[tensor], self.first[tensor], self.chunks
        stop = at = bisect_right(chunks, (first, _LAST))
        got = part = 0
        since = len(added)
        while at and got < size:
            at -= 1
            stamp, units = chunks[at]
            part = min(units, size - got)
            got += part
            low = max(int(stamp), self.front)
            if low < first:
                self.load[low:first] += part
                added.append((low, first, part))
        if got < size:
            return False
        if len(added) > since:
            low = min(low for low, _, _ in added[since:])
            most = low + int(self.load[low:first].argmax())
            if self.load[most] > self.budget:
                self.full[task] = (most, first)
                return False
        stamp, units = chunks[at]
        chunks[at:stop] = [(stamp, units - part)] if units > part else []
        return True

    def give(self, tensor: int) -> None:
        """A tensor has been used for the last time."""
        self.changes += 1
        self.free += self.size[tensor]
        insort(self.chunks, (self.end[tensor], self.size[tensor]))


class _InTurn:
    """Bytes under a budget of units that tensors get in submission order."""

    def __init__(self, work: Work, budget: int) -> None:
        self.touches, self.size = work.touches, work.lives.size.tolist()
        self.held = [False] * len(self.size)
        self.free, self.front = budget, 0  # all tasks before the front have their bytes

    def take(self, task: int, again: bool) -> bool:
        """Whether a task's tensors have their bytes."""
        while self.front <= task:
            wanted = [tensor for tensor in self.touches[self.front] if not self.held[tensor]]
            needed = sum(map(self.size.__getitem__, wanted))
            if needed > self.free:
                return False
            for tensor in wanted:
                self.held[tensor] = True
            self.free -= needed
            self.front += 1
        return True

    @property
    def state(self) -> tuple[int, int]:
        """While this is the same, who got no bytes gets none."""
        return self.free, self.front

    def give(self, tensor: int) -> None:
        """A tensor has been used for the last time."""
        self.free += self.size[tensor]


class _Run:
    """One run. `before` are per local the locals that lay in its bytes, for placed memory; `counted` is memory under a budget,
    where the tasks that are ready start in submission order if `in_order`, else first come, first served."""

    def __init__(
        self,
        work: Work,
        counted: _Counted | _InTurn | None = None,
        in_order: bool = False,
        before: Sequence[Sequence[int]] = (),
    ) -> None:
        num_tasks = len(work.waits)
        self.work, self.counted, self.in_order = work, counted, in_order
        self.pending = [len(waits) for waits in work.waits]
        self.uses = [0] * len(work.lives.size)  # of each local, still to come
        self.after: list[list[int]] = [[] for _ in self.uses] if before else []  # tasks that wait for a local's last use
        for tensors in work.touches:
            for tensor in tensors:
                self.uses[tensor] += 1
        if before:
            for task, tensors in enumerate(work.touches):
                for old in {old for tensor in tensors for old in before[tensor]}:
                    self.after[old].append(task)
                    self.pending[task] += 1
        self.start, self.finish = [0.0] * num_tasks, [-1.0] * num_tasks
        self.submitted = 0  # tasks before this one are
        self.left, self.unfinished = list(work.blocks), list(work.blocks)
        self.ready: dict[str, list[tuple[int, int]]] = {"AIC": [], "AIV": [], "MIX": []}  # heaps of (turn, task)
        self.passed: dict[str, tuple[int, ...]] = {}  # of a core whose ready tasks got no bytes: the state of all by then
        self.turn = 0
        self.events: list[tuple[float, int, int]] = []  # (time, task, blocks that finish; 0: it is submitted)
        self.aic, self.aiv, self.now, self.is_held_up = work.aic, work.aiv, 0.0, False

    def run(self, until_us: float = _LAST) -> Times:
        events, work = self.events, self.work
        is_blocked = self._submit()
        while events:
            if events[0][0] > until_us:
                self.now = _LAST
                break
            self.now, task, blocks = heappop(events)
            if not blocks:
                self.submitted = task + 1
                if not self.pending[task]:
                    self._request(task)
                is_blocked = self._submit()
            else:
                self._take_workers(work.core[task] or "", -blocks)
                self.unfinished[task] -= blocks
                if not self.unfinished[task]:
                    self._finish(task)
                if is_blocked:
                    is_blocked = self._submit()
            if not events or events[0][0] > self.now:
                self._dispatch()
        lives, starts, ends = self.work.lives, np.array(self.start), np.array(self.finish)
        begin, finish = np.full(len(lives.size), np.inf), np.full(len(lives.size), -np.inf)
        owners = lives.touches.owners()
        np.minimum.at(begin, lives.touches.values, starts[owners])
        np.maximum.at(finish, lives.touches.values, ends[owners])
        late = np.full(len(lives.size), np.inf)
        np.minimum.at(late, lives.touches.values, np.array(self._latest_starts())[owners])
        return Times(begin, finish, late, self.now, starts, ends, self.is_held_up)

    def _latest_starts(self) -> list[float]:
        """Per task when it may start at the latest, that those who wait for it are not late for the end of the run."""
        users, lengths = self.work.users, self.work.task_us
        latest = [0.0] * len(users)
        for task in range(len(users) - 1, -1, -1):
            latest[task] = min([latest[user] for user in users[task]], default=self.now) - lengths[task]
        return latest

    def _submit(self) -> bool:
        """Begin the next submission; whether a host read blocks it."""
        work = self.work
        while self.submitted < len(work.waits):
            task = self.submitted
            if task in work.reads and any(self.finish[wait] < 0 for wait in work.reads[task]):
                return True
            if work.core[task] is not None:
                heappush(self.events, (self.now + work.costs_us[task], task, 0))
                return False
            self.submitted = task + 1  # an alloc, which an arena has none of
            if not self.pending[task]:
                self._request(task)
        return False

    def _request(self, task: int) -> None:
        """A task is ready."""
        core = self.work.core[task]
        if core is None:
            self.start[task] = self.now
            self._finish(task)
            return
        self.turn += 1
        heappush(self.ready[core], (task if self.in_order else self.turn, task))

    def _finish(self, task: int) -> None:
        work, freed = self.work, list[int]()
        self.finish[task] = self.now
        for tensor in work.touches[task]:
            self.uses[tensor] -= 1
            if not self.uses[tensor]:
                freed += self.after[tensor] if self.after else ()
                if self.counted is not None:
                    self.counted.give(tensor)
        for user in (*work.users[task], *freed):
            self.pending[user] -= 1
            if not self.pending[user] and user < self.submitted:
                self._request(user)

    def _take_workers(self, core: str, blocks: int) -> None:
        if core != "AIV":
            self.aic -= blocks
        if core != "AIC":
            self.aiv -= blocks * (AIV_PER_MIX if core == "MIX" else 1)

    def _room(self, core: str) -> float:
        return self.aic if core == "AIC" else self.aiv if core == "AIV" else min(self.aic, self.aiv // AIV_PER_MIX)

    def _dispatch(self) -> None:
        """Start what has workers and bytes."""
        for core, queue in self.ready.items():
            if not queue:
                continue
            state = (self.turn, len(queue), *self.counted.state) if self.counted is not None else None
            if state is not None and self.events and self.passed.get(core) == state:
                continue  # as before, none of them gets bytes
            passed: list[tuple[int, int]] = []
            while queue and (len(passed) < LOOK or not self.events) and (room := self._room(core)) >= 1:
                task = queue[0][1]
                if self.counted is not None and not self.counted.take(task, not self.events):
                    passed.append(heappop(queue))
                    self.is_held_up = True
                    continue
                blocks = int(min(room, self.left[task]))
                if self.left[task] == self.work.blocks[task]:
                    self.start[task] = self.now
                self._take_workers(core, blocks)
                heappush(self.events, (self.now + self.work.task_us[task], task, blocks))
                self.left[task] -= blocks
                if not self.left[task]:
                    heappop(queue)
            if state is not None and (not queue or len(passed) >= LOOK):
                self.passed[core] = state
            for entry in passed:
                heappush(queue, entry)


def run_in_budget(work: Work, budget: int, until_us: float = _LAST, *, in_order: bool) -> Times:
    """At most `budget` units are in use, which is at least the most that is alive at once in submission order; endless if it
    takes longer than `until_us`."""
    return _run_under(work, budget, until_us, _Counted, in_order)


def run_in_turn(work: Work, budget: int, until_us: float = _LAST) -> Times:
    """Like `run_in_budget`, where tensors get bytes in submission order, whether their tasks are ready or not."""
    return _run_under(work, budget, until_us, _InTurn, in_order=True)


def _run_under(work: Work, budget: int, until_us: float, kind: type[_Counted | _InTurn], in_order: bool) -> Times:
    """A run that a smaller budget did not hold up is the same under this one: all that is asked for is given at once, and what
    is left over besides comes last when bytes are given."""
    enough, times = work.ample.get((kind, in_order), (_LAST, None))
    if times is None or budget < enough or times.makespan_us > until_us:
        times = _Run(work, kind(work, budget), in_order).run(until_us)
        if not times.is_held_up and times.makespan_us < _LAST:
            work.ample[kind, in_order] = budget, times
    return times


def run_placed(work: Work, before: Sequence[Sequence[int]], until_us: float = _LAST) -> Times:
    """`before` are per local those that lay in its bytes; endless if it takes longer than `until_us`."""
    return _Run(work, before=before).run(until_us)


def run_at(work: Work, offsets: Ints, until_us: float = _LAST) -> Times:
    """Tensors lie at these offsets, in units of one arena; endless if it takes longer than `until_us`."""
    before = predecessors(work.touched, work.lives.first, offsets, work.lives.size)
    return run_placed(work, [before.get(tensor, ()) for tensor in range(len(offsets))], until_us)
