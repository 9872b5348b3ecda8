"""The minpeak strategy: the placement that needs the least heap, at no price in time or at any, or the shortest run within a
budget of bytes.

The planner makes candidates, the most promising first, and keeps the best one. It ends as soon as a lower bound says that no
candidate that is left can be better.

    objective         sharing: candidates                          no sharing
    balanced          one arena, strategies, the lowest arena      scopes, strategies, the least of which is in time
                      that is in time
    total             one arena; then the other strategies         scopes; then the other strategies
    worst             arenas of one height; then these             scopes; then these
    makespan          one arena, arenas by timed runs, strategies, scopes, strategies
                      scopes, all within the budget

An arena is packed (`packing`), made safe by reuse edges (`reuse_edges`) and placed (`arenas`); `balance` packs by timed runs;
`schedulers.scopes` looks for scopes. docs/memory-model.md has the bounds and their proofs, `techniques` what can be switched off.

Options (all optional):

    objective      "balanced" (default), "total", "worst" or "makespan"
    slack          for "balanced": the run may take this part longer than the fastest of all strategies and of unlimited rings
    budget_bytes   the shortest makespan whose safe total is at most this; implies objective "makespan"
    share          False: no two tensors share bytes
    written        only what graph files can say (`schedulers.written.search`): True, or what they demand (`Demands`)
    techniques     {name: False} switches techniques off
    time_limit_s   seconds of this process's CPU after which it stops looking for something better; the best so far is returned
    timing         Schedule -> runner.rings.timed.Timing, what makespan means; if missing, `default_timing` from there
    report         called with the Plan when it is made
    progress       called with a line of text and the best value whenever there is a better one
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from math import inf
from weakref import WeakKeyDictionary

from runner.base.errors import ConfigError
from runner.base.tensor_spec import BLOCK_ALIGN, MAX_BLOCK_BYTES
from runner.program.lifetimes import lives_of, named_allocs, task_columns
from runner.program.program import Program
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.devices.least_time import least_us
from runner.rings.devices.timed_lives import Work
from runner.rings.lowering.lower import lower
from runner.rings.replay import RunTimes
from runner.rings.schedule import NUM_RINGS, Lately, Schedule
from runner.rings.sizes import MIN_HEAP_BYTES, RingSizes
from runner.rings.unlimited import run_times, run_unlimited
from runner.writeback.annotations import NO_DEMANDS, Demands
from schedulers import get_scheduler
from schedulers.minpeak.arenas import PARTED_UP_TO, Arenas, level_arenas, one_arena, parted, place_arenas
from schedulers.minpeak.balance import Search
from schedulers.minpeak.folding import Fold, fold, regroup, unfolded
from schedulers.minpeak.plan import Certificate, Note, Options, Plan, TimeFacts
from schedulers.minpeak.use_times import in_task_lengths
from schedulers.scopes.bounds import chain_bound
from schedulers.scopes.scoping import TOTAL, WORST, Goal
from schedulers.scopes.search import Passes, find_scopes
from schedulers.written.search import written_scopes

FOLD_FROM = 4_000
"""Programs with more tasks than this have their loops folded; smaller ones are solved in full, in about a second at most."""

SCOPES_UP_TO = 40
"""Tasks of programs that try scopes beside an arena, in about 30 ms; in larger ones 3 KiB of idle rings are nothing."""

MOST_MADE = 32
"""What is kept for other questions: up to twenty candidates for all budgets, and a dozen arenas for the last ones."""

BALANCE_UP_TO = 60_000
"""Tasks of programs that are run on a simulated device to balance bytes against time, in half a minute or two."""

FALLBACKS = 4
"""Arenas that the search took to be in time, which are tried where the replay of the lowest is not."""

GROUPS = (64, 8, 1)
"""How many trips of a loop get bytes of their own, where bytes are to be had; tried in this order."""

DELAYS = (None, 0.02, 0.0, 0.1, 0.005, -0.01, 0.3)
"""For how long bytes are not used again, as parts of the run's length; None stands for times in task lengths, of no run. With
a tenth more bytes than the fewest, shipped graphs are fastest by None 24 times, 0.02 14, 0.1 12, 0.3 9, the others 4 times."""

STRATEGIES = ("annotated", "unscoped", "autoscope", "manual")
"""Other strategies, of which the first, the graph's own scopes, is always a candidate. Every scope of theirs is made automatic:
that takes the same bytes, and a manual one orders nothing by itself. So `auto` is the same as `annotated` here."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    name: str
    schedule: Schedule
    heap: tuple[int, ...]
    pool: tuple[int, ...]  # entries that suffice in any run: bytes are set against time
    num_idle: int
    """Rings without blocks."""

    bound: int = 0
    """Bytes that the objective was proved to need without sharing, 0 if there is no such proof."""

    def value(self, goal: Goal) -> int:
        a, b, c, d = (size // BLOCK_ALIGN for size in self.heap)
        return goal.value((a, b, c, d)) * BLOCK_ALIGN

    def idle(self, goal: Goal) -> int:
        """Bytes of rings without blocks, which nothing can use less of."""
        return self.num_idle * MIN_HEAP_BYTES if goal is TOTAL else 0


def minpeak(program: Program, options: Mapping[str, object]) -> Schedule:
    """The schedule of `plan`; `report` gets the whole plan."""
    found = plan(program, options)
    Options.of(options).report(found)
    return found.schedule


def plan(program: Program, options: Mapping[str, object]) -> Plan:
    """The best placement found for `program`, what is proved about it, and how it was found; raises ConfigError."""
    return Planner(program, Options.of(options)).plan()


class Planner:
    def __init__(self, program: Program, options: Options) -> None:
        self.program, self.options, self.on = program, options, options.techniques
        self.notes: list[Note] = []
        self.started, self.noted = time.process_time(), time.perf_counter()
        self.lives = lives_of(program, allocs_touch=False)  # for arenas
        self.block_lives = lives_of(program) if named_allocs(program) else self.lives  # for blocks in scopes
        self._known = WeakKeyDictionary[_Candidate, RunTimes]()
        self._works = WeakKeyDictionary[_Candidate, Work]()
        self._made = Lately(MOST_MADE)
        self.waits = task_columns(program).edges
        self.fold = unfolded(len(program.tasks))
        if len(program.tasks) > FOLD_FROM and "folding" in self.on:
            self.fold = fold(self.lives, self.waits)
            self._note("folding", "tasks to decide", "tasks", len(program.tasks), len(self.fold.kept))

    def plan(self) -> Plan:
        """What the options ask for; raises ConfigError."""
        if self.options.objective in ("makespan", "balanced"):
            return self.balanced() if self.options.objective == "balanced" else self.shortest(self.options.budget_bytes)
        goal = TOTAL if self.options.objective == "total" else WORST
        return self.written(goal) if self.options.written else self.smallest(goal)

    def asked(self, **options: object) -> Planner:
        """The same planner with other options but its techniques and timing: no candidate that it has made is made again."""
        other = copy(self)
        other.options, other.notes, other.started = replace(self.options, **options), [], time.process_time()
        return other

    @cached_property
    def _chain(self) -> int:
        return chain_bound(self.block_lives)

    def _note(self, technique: str, what: str, unit: str = "", before: float | None = None, after: float | None = None) -> None:
        if technique in self.on or technique in ("candidate", "winner"):
            now = time.perf_counter()
            self.notes.append(Note(technique, what, unit, before, after, now - self.noted))
            self.noted = now

    def _over(self, share: float = 1.0) -> bool:
        """Whether this share of the time is over: CPU time, so that other work on the machine does not change a plan."""
        return (limit_s := self.options.time_limit_s) < inf and time.process_time() > self.started + share * limit_s

    def smallest(self, goal: Goal) -> Plan:
        """The best of all candidates under an objective of bytes."""
        bound, bound_name = self._bound(goal)
        best: _Candidate | None = None
        why = "the least of all candidates"
        for candidate in self._candidates(goal):
            if candidate.bound > bound and not self.options.share:
                bound, bound_name = candidate.bound, "search"
            value = candidate.value(goal)
            self._note("candidate", candidate.name, "bytes", best and best.value(goal), value)
            if best is None or value < best.value(goal):
                best = candidate
                self.options.progress(best.name, value)
            if "bounds" in self.on and (enough := self._enough(best, goal, bound)):
                why = enough
                break
        assert best is not None
        self._note("winner", f"{best.name}: {why}", "bytes", None, best.value(goal))
        return self._finished(best, best.value(goal), bound, bound_name, best.idle(goal))

    def _enough(self, best: _Candidate, goal: Goal, bound: int) -> str:
        """Why no candidate that is left can be better, "" if one can."""
        folded = self.fold.loops and len(self.program.tasks) > SCOPES_UP_TO  # in a small program others may use all rings
        idle = best.idle(goal) if folded else 0
        if best.value(goal) <= bound + idle:
            return "it takes as much as the lower bound" + (" and the 1,024 bytes of each unused ring" if idle else "")
        if best.value(goal) <= goal.floor(self._chain) * BLOCK_ALIGN:
            return "the others share no bytes, and without sharing nothing takes less"
        return ""

    def _bound(self, goal: Goal, shares: bool | None = None) -> tuple[int, str]:
        """Bytes that no placement under the objective can do without, and which bound says so."""
        shares = self.options.share and not self.options.written if shares is None else shares
        lives = self.lives if shares else self.block_lives
        peak, largest = lives.peak_live_bytes // BLOCK_ALIGN, int(lives.size.max(initial=0))
        chain = peak if shares or "chains" not in self.on else self._chain
        if goal is WORST and largest > goal.floor(chain):
            return largest * BLOCK_ALIGN, "largest_tensor"
        return goal.floor(chain) * BLOCK_ALIGN, "chain" if chain > peak else "peak_live"

    def _candidates(self, goal: Goal) -> Iterator[_Candidate]:
        """Candidates for an objective of bytes, the most promising first."""
        if not self.options.share:
            yield self._made.once(goal, partial(self._scoped, goal))
        elif goal is WORST and "level_arenas" in self.on:
            arenas = level_arenas(self.fold, self.lives, self.on)
            self._note("level_arenas", f"largest of {len(arenas.edges) - 1} rings", "bytes", None, arenas.edges[1] * BLOCK_ALIGN)
            yield self._placed("arenas of one height", self.fold, arenas)
        else:
            yield self._made.once("arena", self._arena)
        if self.options.share and "apart" in self.on and len(self.program.tasks) <= SCOPES_UP_TO:
            yield self._made.once(goal, partial(self._scoped, goal))
        yield from self._others()

    def _arena(self) -> _Candidate:
        """The lowest arena, with as many trips of loops side by side as fit without more bytes."""
        folded, lowest = self.fold, one_arena(self.fold, self.lives, self.on)
        first, started, learned = (height * BLOCK_ALIGN for height in lowest.packing.heights)
        self._note("orders", "height of one arena", "bytes", first, started)
        self._note("learning", "height of one arena", "bytes", started, learned)
        arenas = self._parted(lowest)
        for group, wider in self._groups() if "spread" in self.on else ():
            apart = one_arena(wider, self.lives, self.on, in_task_lengths(wider, self.lives, self.waits), lowest.height)
            apart = self._parted(apart)
            fits = apart.height - len(apart.edges) <= lowest.height - len(arenas.edges)
            what = f"bytes of their own for what is in use at once, {group} trips of a loop" + ("" if fits else ": no room")
            self._note("spread", what, "bytes", lowest.height * BLOCK_ALIGN, apart.height * BLOCK_ALIGN)
            if fits:
                folded, arenas = wider, apart
                break
        return self._placed("arena", folded, arenas)

    def _parted(self, arenas: Arenas) -> Arenas:
        """An arena on as many rings as can be, of a small program."""
        return parted(arenas, self.lives.size)[-1] if len(self.program.tasks) <= PARTED_UP_TO else arenas

    def _groups(self) -> Iterator[tuple[int, Fold]]:
        """The folds with many trips in a group, some, and one; each fold once."""
        loops = None
        for group in GROUPS if self.fold.loops and "grouping" in self.on else (1,):
            folded = regroup(self.fold, group)
            if folded.loops != loops:
                yield group, folded
            loops = folded.loops

    def _placed(self, name: str, folded: Fold, arenas: Arenas) -> _Candidate:
        items, edges = place_arenas(folded, self.lives, self.waits, arenas, self.on)
        self._note("pruning", "reuse edges between kept tasks", "edges", edges.num_wanted, edges.num_kept)
        return self._candidate(name, partial(lower, self.program, items, "minpeak", (edges.targets, edges.sources)))

    def _scoped(self, goal: Goal) -> _Candidate:
        """The best scopes that are found, without sharing."""
        passes = Passes(**{name: name in self.on for name in ("intervals", "bodies", "climbing", "proof")})
        bound = self._bound(goal, shares=False)[0] // BLOCK_ALIGN
        found = find_scopes(self.block_lives, self.fold, goal, self._over, bound, passes)
        return self._candidate("scopes", partial(lower, self.program, found.items, "minpeak"), found.bound * BLOCK_ALIGN)

    def _others(self) -> Iterator[_Candidate]:
        """Those of other strategies in which no block is larger than a device's can be."""
        return (one for one in self._strategies() if all(s.size_bytes <= MAX_BLOCK_BYTES for s in one.schedule.submissions))

    def _strategies(self) -> Iterator[_Candidate]:
        """The graph's own scopes and the other strategies, with and without batching: minpeak is never worse than any of them."""
        is_short = len(self.program.tasks) <= FOLD_FROM or self.options.objective != "balanced"
        for batch in (False, True) if "batching" in self.on and is_short else (False,):
            for name in STRATEGIES if "strategies" in self.on else STRATEGIES[:1]:
                given = {"batch_allocs": batch, "automatic": True, "share": self.options.share or not self.program.arenas}
                how = (", as automatic scopes" if name == "manual" else "") + (", in blocks of up to 16" if batch else "")
                make = partial(get_scheduler(name), self.program, given)
                yield self._made.once((name, *given.values()), partial(self._candidate, name + how, make))

    def _candidate(self, name: str, placed: Callable[[], Schedule], bound: int = 0) -> _Candidate:
        schedule = placed()
        loads = ring_loads(schedule)
        pool = tuple(max(load.pool_bound, default) for load, default in zip(loads, RingSizes().pool, strict=True))
        num_idle = sum(not load.num_blocks for load in loads)
        return _Candidate(name, schedule, tuple(map(safe_heap, loads)), pool, num_idle, bound)

    def _finished(self, best: _Candidate, value: float, bound: float, name: str, idle: int = 0) -> Plan:
        certificate = Certificate(self.options.objective, value, bound, name, idle, sum(best.heap), self.lives.peak_live_bytes)
        schedule = best.schedule if best.schedule.strategy == "minpeak" else replace(best.schedule, strategy="minpeak")
        return Plan(schedule, best.heap, certificate, best.name, tuple(self.notes))

    # --- fewest bytes in time -----------------------------------------------------------------------------------------

    def balanced(self) -> Plan:
        """Of all candidates whose timed run is at most the slack longer than the fastest, the one with the fewest bytes.

        No strategy is better in bytes and time at once: one that takes no more bytes would be in time too, and be taken. None is
        tried where the smallest of a large program is in time of any run that there can be.
        """
        candidates = self._candidates(TOTAL)  # whose runs say what time is to be had
        smallest = next(candidates)
        known = [(self._makespan_us(smallest), smallest)]
        work = self._work(smallest)
        path_us, work_us = work.bound_us()
        schedule, timing = smallest.schedule, self.options.timing  # so that a plan does not keep the planner
        unlimited = cache(lambda: run_unlimited(schedule, timing(schedule)).times)
        fastest_us, limit_us = 0.0, max(path_us, work_us) * (1 + self.options.slack)
        is_large = len(self.program.tasks) > FOLD_FROM
        if is_large and known[0][0] > limit_us and self._enough(smallest, TOTAL, self._bound(TOTAL)[0]):
            limit_us = least_us(work) * (1 + self.options.slack)
        if known[0][0] > limit_us or not is_large:  # few tasks: others may do without idle rings
            for candidate in candidates:
                known.append((self._makespan_us(candidate), candidate))
                if self._over() and len(known) > 2:  # the graph's own scopes are among them
                    break
            fastest_us = min([unlimited().makespan_us or inf, *(makespan_us for makespan_us, _ in known)])
            limit_us = fastest_us * (1 + self.options.slack)
        shortest_us = min(makespan_us for makespan_us, _ in known)
        is_best = sum(smallest.heap) <= self._bound(TOTAL)[0] and known[0][0] <= fastest_us
        if self.options.share and (known[0][0] > limit_us or (len(self.waits) <= PARTED_UP_TO and not is_best)):
            known += self._lowest(smallest, limit_us)
        for makespan_us, candidate in known:
            late = f", {makespan_us / fastest_us - 1:.1%} longer than the fastest" if makespan_us > limit_us > 0 else ""
            self._note("candidate", f"{candidate.name}: {makespan_us:,.1f} us{late}", "bytes", None, sum(candidate.heap))
        in_time = [found for found in known if found[0] <= limit_us] or [min(known, key=lambda found: found[0])]
        makespan_us, best = min(in_time, key=lambda found: (sum(found[1].heap), found[0]))
        self._note("winner", f"{best.name}: the fewest bytes of all that are in time", "bytes", None, sum(best.heap))
        plan = self._finished(best, sum(best.heap), *self._bound(TOTAL), best.idle(TOTAL))
        facts = TimeFacts(makespan_us, shortest_us, self.options.slack, path_us, work_us, unlimited)
        times = {"run": self._known[best], "unlimited": unlimited if best is smallest else None}
        return replace(plan, certificate=replace(plan.certificate, time=facts), **times)

    def _lowest(self, smallest: _Candidate, limit_us: float) -> Iterator[tuple[float, _Candidate]]:
        """Arenas that are in time, with their makespans: the lowest whose replay bears that out."""
        if "balance" not in self.on or len(self.program.tasks) > BALANCE_UP_TO:
            for candidate in self._delayed(smallest, None) if "delay" in self.on else ():
                yield self._makespan_us(candidate), candidate
            return
        search = Search(self._work(smallest), self._over, self._made.once("starts", list))
        search.lowest(limit_us)
        lowest = sorted((p for p in search.found if p.makespan_us <= limit_us), key=lambda p: (p.units, p.makespan_us))
        for placed in lowest[:FALLBACKS]:
            candidate = self._placed("arena in time", unfolded(len(self.program.tasks)), placed.arenas)
            makespan_us = self._makespan_us(candidate)
            yield makespan_us, candidate
            if makespan_us <= limit_us:
                return

    def _work(self, candidate: _Candidate) -> Work:
        if candidate not in self._works:
            timing = self.options.timing(candidate.schedule)
            self._works[candidate] = Work.of(self.lives, self.waits, candidate.schedule, timing)
        return self._works[candidate]

    # --- what graph files can say -------------------------------------------------------------------------------------

    def written(self, goal: Goal) -> Plan:
        """What graph files can say without sharing."""
        demands = self.options.written if isinstance(self.options.written, Demands) else NO_DEMANDS
        on = {"cuts": "written" in self.on, "trimming": "trimming" in self.on}
        found = written_scopes(self.program, goal, self._over, demands=demands, **on)
        best = self._candidate("scopes that files can say", lambda: found.schedule)
        value, why = best.value(goal), "arenas and scopes for single trips cannot be written"
        self._note("candidate", best.name, "bytes", None, value)
        self._note("winner", f"{best.name}: {why}", "bytes", None, value)
        plan = self._finished(best, value, *self._bound(goal), best.idle(goal))
        return replace(plan, annotations=found.annotations)

    def shortest(self, budget: int | None) -> Plan:
        """Of all candidates within the budget, the one with the shortest timed run."""
        best: tuple[float, _Candidate] | None = None
        least: _Candidate | None = None
        for candidate in self._fast(budget):
            if least is None or sum(candidate.heap) < sum(least.heap):
                least = candidate
            if budget is not None and sum(candidate.heap) > budget:
                self._note("candidate", f"{candidate.name}: {sum(candidate.heap):,} bytes, more than the budget")
                continue
            makespan_us = self._makespan_us(candidate)
            self._note("candidate", candidate.name, "us", best and best[0], makespan_us)
            if best is None or makespan_us < best[0]:
                best = (makespan_us, candidate)
                self.options.progress(candidate.name, makespan_us)
            if self._over():
                break
        assert least is not None
        if best is None:
            raise ConfigError(
                f"no placement was found within {budget:,} bytes: the smallest one takes {sum(least.heap):,}",
                hint=f"peak live is {self.lives.peak_live_bytes:,} bytes; allow at least what the smallest one takes",
            )
        late = " that were made in time" if self._over() else ""
        self._note("winner", f"{best[1].name}: the shortest run of all candidates{late}", "us", None, best[0])
        bound_us = self._work(best[1]).bound_us()
        name = "critical path" if bound_us[0] >= bound_us[1] else "work over cores"
        return self._finished(best[1], best[0], max(bound_us), name)

    def _fast(self, budget: int | None) -> Iterator[_Candidate]:
        """Candidates for a short run: the smallest first, then those that give bytes away for less waiting."""
        fixed = self._of_any_budget()
        yield (smallest := next(fixed))
        if self.options.share and "balance" in self.on and len(self.program.tasks) <= BALANCE_UP_TO:
            search = Search(self._work(smallest), self._over, self._made.once("starts", list))
            most = None if budget is None else budget // BLOCK_ALIGN - (0 if search.is_small else NUM_RINGS - 1)
            if (placed := search.fastest(most)) is not None:
                make = partial(self._placed, "arena by timed runs", unfolded(len(self.program.tasks)), placed.arenas)
                yield self._made.once((placed.arenas.offsets.tobytes(), placed.arenas.edges), make)
        elif self.options.share and "delay" in self.on:
            yield from self._delayed(smallest, budget)
        yield from fixed

    def _of_any_budget(self) -> Iterator[_Candidate]:
        yield next(self._candidates(TOTAL))
        yield from self._others()
        if self.options.share and not self._over():
            yield self._made.once(TOTAL, partial(self._scoped, TOTAL))

    def _delayed(self, arena: _Candidate, budget: int | None) -> Iterator[_Candidate]:
        """Arenas in which bytes are used again only after some time, with as many trips side by side as fit into the budget."""
        free = self._work(arena).free
        most = 0 if budget is None else budget // BLOCK_ALIGN - (NUM_RINGS - 1)
        for delay in DELAYS:
            for group, folded in self._groups():
                if self._over():
                    return
                in_use = (free.begin, free.finish + (delay or 0) * free.makespan_us)
                times = in_use if delay is not None else in_task_lengths(folded, self.lives, self.waits)
                arenas = one_arena(folded, self.lives, self.on, times, most)
                if not most or arenas.height <= most:
                    after = "in task lengths" if delay is None else f"after {delay:.1%} of the run"
                    yield self._placed(f"arena, {group} trips apart, bytes used again {after}", folded, arenas)
                    break

    def _makespan_us(self, candidate: _Candidate) -> float:
        if candidate not in self._known:
            sizes = RingSizes.from_lists(candidate.heap, RingSizes().window, candidate.pool)
            self._known[candidate] = run_times(candidate.schedule, sizes, self.options.timing(candidate.schedule))
        makespan_us = self._known[candidate].makespan_us
        return inf if makespan_us is None else makespan_us
