"""The minpeak strategy: the placement that needs the least heap, or the shortest run within a budget of bytes.

With sharing, all tensors lie in arenas with planned offsets (`packing`), whose reuse is made safe by edges
(`reuse_edges`); without, in scopes (`scopes.search`). docs/memory-model.md has the bounds and their proofs.

Options (all optional):

    objective      "total" (default), "worst" or "makespan"
    budget_bytes   the shortest makespan whose safe total is at most this; implies objective "makespan"
    share          False: no two tensors share bytes
    written        True: only what graph files can say (`schedulers.written.search`)
    time_limit_s   when to stop looking for something better; the best so far is returned
    timing         Schedule -> runner.rings.timed.Timing, what makespan means; one duration for all tasks if missing
    report         called with the Plan when it is made
    progress       called with a line of text and the best value whenever there is a better one
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from runner.base.errors import ConfigError
from runner.base.tensor_spec import BLOCK_ALIGN
from runner.program.program import Program, Span
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.placement import PlacedItem, lower
from runner.rings.schedule import NUM_RINGS, Schedule
from runner.rings.sizes import MIN_HEAP_BYTES, RingSizes
from runner.rings.timed import Timing, timed, uniform_timing
from runner.writeback.annotations import Annotations
from schedulers.layouts.batching import place
from schedulers.layouts.layouts import annotated, auto, autoscope, manual_layout, unscoped
from schedulers.lifetimes import Floats, Rows, lives_of, named_allocs
from schedulers.minpeak.arenas import Arenas, automatic, level_arenas, one_arena, place_arenas, split_arena
from schedulers.minpeak.folding import Fold, fold, regroup, unfolded
from schedulers.minpeak.use_times import earliest_finish, in_task_lengths, replayed
from schedulers.scopes.bounds import chain_bound
from schedulers.scopes.scoping import TOTAL, WORST, Goal
from schedulers.scopes.search import find_scopes
from schedulers.written.search import written_scopes

FOLD_FROM = 4_000
"""Programs with more tasks than this have their loops folded; smaller ones are solved in full."""

SEARCH_UP_TO = 40
"""Programs with at most this many tasks are dealt to all four rings."""

GROUPS = (64, 8, 1)
"""How many trips of a loop get bytes of their own, where bytes are to be had; tried in this order."""

STRETCHES = (None, 0.02, 0.0, 0.1, 0.005, -0.01, 0.3)
"""Shares of the run's length by which the time of a tensor is stretched: while there is room, only what begins later reuses its
bytes."""

OBJECTIVES = ("total", "worst", "makespan")


@dataclass(frozen=True)
class Options:
    """See the module docstring."""

    objective: str = "total"
    budget_bytes: int | None = None
    share: bool = True
    written: bool = False
    time_limit_s: float = 30.0
    timing: Callable[[Schedule], Timing] = lambda schedule: uniform_timing(0.5, 20.0)
    report: Callable[[Plan], None] = lambda plan: None
    progress: Callable[[str, float], None] = lambda text, value: None

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Options:
        """Options from a mapping that may hold other strategies' too; raises ConfigError."""
        known = {name: value for name, value in given.items() if name in cls.__dataclass_fields__ and value is not None}
        if known.get("budget_bytes") is not None:
            known.setdefault("objective", "makespan")
        found = cls(**cast(dict[str, Any], known))
        if found.objective not in OBJECTIVES:
            raise ConfigError(f"objective '{found.objective}': expected one of {', '.join(OBJECTIVES)}")
        if found.written and found.objective == "makespan":
            raise ConfigError("graph files say where scopes are, for an objective of bytes: total or worst")
        return found


@dataclass(frozen=True)
class Certificate:
    """What is proved about a plan. Sizes in bytes, of the safe capacities; makespans in microseconds.

    `lower_bound` holds for every placement of this order under the objective (without sharing, if the plan is without); `bound`
    says which bound it is: `peak_live`, `largest_tensor`, `chain` (`scopes.bounds`), or `search` for an exhaustive one.
    `idle_bytes` are those of rings without blocks, which have 1,024 bytes each and count in a total: one arena leaves a gap of
    no more than that.
    """

    objective: str
    value: float
    lower_bound: float
    bound: str
    idle_bytes: int
    total_bytes: int
    peak_live_bytes: int

    @property
    def gap(self) -> float:
        return self.value - self.lower_bound

    @property
    def proved_optimal(self) -> bool:
        """Whether no placement of this order is better under the objective."""
        return self.value <= self.lower_bound


@dataclass(frozen=True)
class Plan:
    """A schedule, its rings' safe capacities and its certificate; `found_by` names the way it was found.

    `annotations` are what to write for a plan of what files can say, `shared_bytes` what an arena would take, if it was asked.
    """

    schedule: Schedule
    heap_bytes: tuple[int, ...]
    certificate: Certificate
    found_by: str
    annotations: Annotations = field(default_factory=Annotations)
    shared_bytes: int | None = None


@dataclass(frozen=True)
class _Candidate:
    name: str
    schedule: Schedule
    heap: tuple[int, ...]
    bound: int = 0
    """Bytes that the objective was proved to need, 0 if there is no such proof."""

    num_idle: int = 0
    """Rings without blocks."""

    @classmethod
    def of(cls, name: str, schedule: Schedule, bound: int = 0) -> _Candidate:
        loads = ring_loads(schedule)
        idle = sum(not load.num_blocks for load in loads)
        return cls(name, schedule, tuple(map(safe_heap, loads)), bound * BLOCK_ALIGN, idle)


def minpeak(program: Program, options: Mapping[str, object]) -> Schedule:
    """The schedule of `plan`; `report` gets the whole plan."""
    found = plan(program, options)
    Options.of(options).report(found)
    return found.schedule


def plan(program: Program, options: Mapping[str, object]) -> Plan:
    """The best placement found for `program`, and what is proved about it; raises ConfigError."""
    return _Planner(program, Options.of(options)).plan()


class _Planner:
    def __init__(self, program: Program, options: Options) -> None:
        self.program, self.options = program, options
        self.run_us = 0.0
        self.began = time.monotonic()
        self.lives = lives_of(program, allocs_touch=False)  # for arenas
        self.block_lives = lives_of(program) if named_allocs(program) else self.lives  # for blocks in scopes
        self.waits = Rows.of([task.waits + task.after for task in program.tasks])
        small = len(program.tasks) <= FOLD_FROM
        self.fold = unfolded(len(program.tasks)) if small else fold(self.lives, self.waits)

    def over(self, share: float) -> bool:
        """Whether this share of the time is over."""
        return time.monotonic() > self.began + share * self.options.time_limit_s

    def stop(self) -> bool:
        return self.over(1.0)

    def grouped(self) -> Iterator[tuple[int, Fold]]:
        """The folds with many trips in a group, some, and one; each fold once."""
        before: Fold | None = None
        for group in GROUPS if self.fold.loops else (1,):
            folded = regroup(self.fold, group) if group > 1 else self.fold
            if before is None or folded.loops != before.loops:
                yield group, folded
            before = folded

    def plan(self) -> Plan:
        if self.options.objective == "makespan":
            return self._shortest()
        goal = TOTAL if self.options.objective == "total" else WORST
        if self.options.written:
            return self._written(goal)
        best: _Candidate | None = None
        bound, bound_name = self._bound(goal)
        enough = 0  # what the candidates after the first, which share nothing, cannot beat
        for candidate in self._smallest(goal):
            if candidate.bound > bound:
                bound, bound_name = candidate.bound, "search"
            if best is None or self._value(candidate, goal) < self._value(best, goal):
                best = candidate
                self.options.progress(best.name, self._value(best, goal))
            if self._value(best, goal) <= bound + (self._idle(best, goal) if self.fold.loops else 0):
                break
            enough = enough or goal.floor(chain_bound(self.block_lives)) * BLOCK_ALIGN
            if self._value(best, goal) <= enough:
                break
        assert best is not None
        return self._finished(best, self._value(best, goal), bound, bound_name, self._idle(best, goal))

    @staticmethod
    def _idle(candidate: _Candidate, goal: Goal) -> int:
        """Bytes of rings without blocks, which nothing can use less of."""
        return candidate.num_idle * MIN_HEAP_BYTES if goal is TOTAL else 0

    def _finished(self, best: _Candidate, value: float, bound: float, name: str, idle: int = 0) -> Plan:
        peak = self.lives.peak_live_bytes
        certificate = Certificate(self.options.objective, value, bound, name, idle, sum(best.heap), peak)
        return Plan(replace(best.schedule, strategy="minpeak"), best.heap, certificate, best.name)

    @staticmethod
    def _value(candidate: _Candidate, goal: Goal) -> int:
        a, b, c, d = (size // BLOCK_ALIGN for size in candidate.heap)
        return goal.value((a, b, c, d)) * BLOCK_ALIGN

    def _written(self, goal: Goal) -> Plan:
        """What graph files can say; of a program that is not folded, also what an arena would take."""
        found = written_scopes(self.program, goal, self.stop)
        best = _Candidate.of("scopes that files can say", found.schedule)
        plan = self._finished(best, self._value(best, goal), *self._bound(goal), self._idle(best, goal))
        small = len(self.program.tasks) <= FOLD_FROM
        return replace(plan, annotations=found.annotations, shared_bytes=sum(self._smallest_arena().heap) if small else None)

    def _bound(self, goal: Goal) -> tuple[int, str]:
        """Bytes that no placement under the objective can do without, and which bound says so."""
        shares = self.options.share and not self.options.written
        peak = (self.lives if shares else self.block_lives).peak_live_bytes // BLOCK_ALIGN
        chain = peak if shares else chain_bound(self.block_lives)
        largest = int(self.block_lives.size.max(initial=0)) if goal is WORST else 0
        if largest > goal.floor(chain):
            return largest * BLOCK_ALIGN, "largest_tensor"
        return goal.floor(chain) * BLOCK_ALIGN, "chain" if chain > peak else "peak_live"

    # --- fewest bytes -------------------------------------------------------------------------------------------------

    def _smallest(self, goal: Goal) -> Iterator[_Candidate]:
        """Candidates for an objective of bytes, the most promising first."""
        if not self.options.share:
            yield self._scoped(goal)
        elif goal is WORST:
            arenas = level_arenas(self.fold, self.lives)
            items = place_arenas(self.fold, self.lives, self.waits, arenas)
            yield _Candidate.of("arenas of one height", self._lower(items), arenas.bound)
        else:
            yield self._smallest_arena()
        yield from self._others()

    def _smallest_arena(self) -> _Candidate:
        """The lowest arena, with as many trips of loops side by side as fit without more bytes."""
        best_fold, best = self.fold, one_arena(self.fold, self.lives)
        better = self._free_overlap(best.height)
        if better is not None:
            best_fold, best = better[0], replace(better[1], bound=best.bound)
        if self.lives.num_times <= SEARCH_UP_TO:
            best = split_arena(best_fold, self.lives, best)
        items = place_arenas(best_fold, self.lives, self.waits, best)
        return _Candidate.of("arena", self._lower(items), best.bound)

    def _free_overlap(self, height: int) -> tuple[Fold, Arenas] | None:
        """An arena no higher than `height` in which what can run side by side shares as little as possible."""
        for _, folded in self.grouped():
            arenas = one_arena(folded, self.lives, in_task_lengths(folded, self.lives, self.waits), height)
            if arenas.height <= height:
                return folded, arenas
        return None

    def _scoped(self, goal: Goal) -> _Candidate:
        found = find_scopes(self.block_lives, self.fold, goal, self.over, self._bound(goal)[0] // BLOCK_ALIGN)
        return _Candidate.of("scopes", self._lower(found.items), found.bound)

    def _others(self) -> Iterator[_Candidate]:
        """The other strategies, with and without batching: minpeak is never worse than any of them."""
        program = replace(self.program, body=_automatic(self.program.body))
        for batch in (False, True):
            for strategy in (annotated, unscoped, auto, autoscope):
                yield _Candidate.of(strategy.__name__, strategy(program, {"batch_allocs": batch}))
            # A manual scope orders nothing by itself; as an automatic one it takes the same bytes.
            items = automatic(place(self.program, manual_layout(batch)))
            yield _Candidate.of("manual, as automatic scopes", self._lower(items))

    def _lower(self, items: list[PlacedItem]) -> Schedule:
        return lower(self.program, items, "minpeak")

    # --- shortest run -------------------------------------------------------------------------------------------------

    def _shortest(self) -> Plan:
        """Of all candidates within the budget, the one with the shortest timed run."""
        budget = self.options.budget_bytes
        best: tuple[float, _Candidate] | None = None
        least: _Candidate | None = None
        for candidate in self._fast():
            if least is None or sum(candidate.heap) < sum(least.heap):
                least = candidate
            if budget is not None and sum(candidate.heap) > budget:
                continue
            makespan = self._makespan(candidate)
            if best is None or makespan < best[0]:
                best = (makespan, candidate)
                self.options.progress(candidate.name, makespan)
            if self.stop():
                break
        assert least is not None
        if best is None:
            raise ConfigError(
                f"no placement was found within {budget:,} bytes: the smallest one takes {sum(least.heap):,}",
                hint=f"peak live is {self.lives.peak_live_bytes:,} bytes; allow at least what the smallest one takes",
            )
        return self._finished(best[1], best[0], self._earliest(best[1]), "critical path")

    def _earliest(self, found: _Candidate) -> float:
        """When the last task finishes at best: every submission at its cost, every task after what it waits for, workers
        abound."""
        timing = self.options.timing(found.schedule)
        task_us = [0.0] * len(self.program.tasks)
        for k, submission in enumerate(found.schedule.submissions):
            if submission.task is not None and submission.core is not None:
                task_us[submission.task] = timing.block_us(k)
        return earliest_finish(self.lives, self.waits, task_us, timing.submit_us)

    def _fast(self) -> Iterator[_Candidate]:
        """Candidates for a short run: the smallest first, then those that give bytes away for less waiting."""
        smallest = next(self._smallest(TOTAL))
        yield smallest
        arena = smallest if self.options.share else self._smallest_arena()
        begin, finish, self.run_us = replayed(self.lives, arena.schedule, self.options.timing(arena.schedule))
        if self.options.share:
            yield from self._apart((begin, finish))
        yield from self._others()
        if self.options.share and not self.stop():
            yield self._scoped(TOTAL)

    def _apart(self, times: tuple[Floats, Floats]) -> Iterator[_Candidate]:
        """Arenas in which bytes are reused only after some time, the longest that fit into the budget."""
        budget = self.options.budget_bytes
        most = 0 if budget is None else budget // BLOCK_ALIGN - (NUM_RINGS - 1)
        for stretch in STRETCHES:
            for group, folded in self.grouped():
                if self.stop():
                    return
                if stretch is None:
                    apart = in_task_lengths(folded, self.lives, self.waits)
                else:
                    apart = (times[0], times[1] + stretch * self.run_us)
                arenas = one_arena(folded, self.lives, apart, most)
                if most and arenas.height > most:
                    continue
                items = place_arenas(folded, self.lives, self.waits, arenas)
                yield _Candidate.of(f"arena, {group} trips apart, stretch {stretch}", self._lower(items))
                break

    def _makespan(self, candidate: _Candidate) -> float:
        sizes = RingSizes().with_heap(candidate.heap)
        replay = timed(candidate.schedule, sizes, self.options.timing(candidate.schedule))
        return float("inf") if replay.makespan_us is None or replay.deadlock is not None else replay.makespan_us


def _automatic(span: Span) -> Span:
    """The span with every written scope automatic."""
    items = tuple(_automatic(item) if isinstance(item, Span) else item for item in span.items)
    return replace(span, items=items, mode="auto")
