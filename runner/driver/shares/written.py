"""What shares bytes in a plan, written into the files of its graph as `share:` lists.

The lists are looked for by what files can say, the same for every trip, layer and use of a text, under the objective of the plan.
Nothing is written that was not read again: the new texts do the same work, lint finds nothing new in them, and `annotated` makes
of them what is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import ScheduleError
from runner.base.tensor_spec import BLOCK_ALIGN
from runner.driver.write import Files, Texts, Written, library_of
from runner.expansion.sharing.texts import Texts as GraphTexts
from runner.language.graph import Shared
from runner.language.library import GraphLibrary
from runner.program.equivalence import refuse_other_work
from runner.program.lifetimes import lives_of, task_columns
from runner.program.program import Program
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.devices.timed_lives import Work
from runner.rings.schedule import NUM_RINGS, Schedule
from runner.rings.sizes import RingSizes
from runner.rings.timed import Timing, timed
from runner.writeback.sharing.scene import scene_of
from runner.writeback.sharing.search import ShareSearch
from runner.writeback.sharing.text import plain, share_splices
from runner.writeback.splices import Splice, spliced
from schedulers import get_scheduler

if TYPE_CHECKING:
    from schedulers.minpeak.planner import Plan


SLOWER = 1.02
"""By how much the run of lists may be longer than that of the plan, where they take no more bytes."""


@dataclass(frozen=True)
class Said:
    """What files say: their schedule by `annotated`, its safe capacities, its timed run, what changes in them, who found it."""

    schedule: Schedule
    heap_bytes: tuple[int, ...]
    makespan_us: float
    written: Written
    found_by: str

    @property
    def figures(self) -> tuple[int, float]:
        """Bytes and microseconds."""
        return sum(self.heap_bytes), self.makespan_us


@dataclass(frozen=True)
class Aim:
    """What is looked for: the fewest bytes, of runs of at most `limit_us` if given; or, if `is_fast`, the shortest run, within
    `most_bytes` if given. `plan` are bytes and microseconds of what is to be said: lists that take no more bytes are not to be
    slower either, by more than `SLOWER`, even if slower ones take fewer; those that take more may be slower by as much, if they
    then take fewer."""

    limit_us: float | None = None
    is_fast: bool = False
    most_bytes: int | None = None
    plan: tuple[int, float] | None = None

    @property
    def latest_us(self) -> float:
        """How long a run may take at most."""
        limit_us = float("inf") if self.limit_us is None else self.limit_us
        return limit_us if self.plan is None else max(limit_us, SLOWER * self.plan[1])

    def prefers(self, one: tuple[int, float], other: tuple[int, float]) -> bool:
        """Whether a plan of so many bytes and microseconds is better than another."""

        def rank(plan: tuple[int, float]) -> tuple[bool, float, float]:
            size_bytes, makespan_us = plan
            if self.is_fast:
                is_over = self.most_bytes is not None and size_bytes > self.most_bytes
                return is_over, size_bytes if is_over else makespan_us, size_bytes
            is_late = makespan_us > self.latest_us
            return is_late, makespan_us if is_late else size_bytes, makespan_us

        return rank(one) < rank(other)


def aim_of(plan: Plan, figures: tuple[int, float], budget_bytes: object) -> Aim:
    """What to look for in place of a plan of so many bytes and microseconds."""
    if plan.certificate.objective == "makespan":
        return Aim(is_fast=True, most_bytes=budget_bytes if isinstance(budget_bytes, int) else None, plan=figures)
    time = plan.certificate.time
    return Aim(limit_us=None if time is None else time.fastest_us * (1 + time.slack), plan=figures)


Timed = Callable[[Schedule], Timing]


def best_files(
    files: Files,
    aim: Aim,
    timing: Timed,
    sample: Callable[[GraphLibrary], Program],
    scoped: tuple[Schedule, Written],
    say: Callable[[str, float], None] | None = None,
) -> Said:
    """The files with scopes (`scoped`), lists, both or neither, whichever is best under an aim; raises RinggraphError.

    `sample` is the program in which loops of which only a run knows the trips make several. Where new scopes are better than
    lists alone, lists beside them are looked for, as the same command will do when the scopes stand in the files.
    """
    best = _with_lists(files, Written(), aim, timing, sample, say)
    schedule, written = scoped
    scopes = _said(schedule, timing, written, "scopes that files can say")
    if aim.prefers(best.figures, scopes.figures):
        return best
    if written.texts == without_lists(files).texts:
        return scopes
    both = _with_lists(files, written, aim, timing, sample, say)
    return replace(both, found_by=f"scopes and {both.found_by}") if aim.prefers(both.figures, scopes.figures) else scopes


def _with_lists(
    files: Files,
    start: Written,
    aim: Aim,
    timing: Timed,
    sample: Callable[[GraphLibrary], Program],
    say: Callable[[str, float], None] | None,
) -> Said:
    library = library_of(start.texts)
    program = files.expand(library)
    before = get_scheduler("annotated")(program, {"share": False})
    lives = lives_of(program, allocs_touch=False)
    texts = GraphTexts(library.load(files.path), library)
    others = [lives_of(sample(library), allocs_touch=False)]
    scene = scene_of(lives, texts, files.may_write, others)
    waits = task_columns(program).edges
    search = ShareSearch(scene, Work.of(lives, waits, before, timing(before)))
    if aim.is_fast:
        most = None if aim.most_bytes is None else aim.most_bytes // BLOCK_ALIGN - (NUM_RINGS - 1)
        found = search.fastest(most, 0.0 if aim.plan is None else aim.plan[1] * SLOWER)
    else:
        found = search.fewest(aim.limit_us)
        if found is not None and aim.plan is not None:
            most, limit_us = aim.plan[0] // BLOCK_ALIGN, aim.plan[1] * SLOWER
            if found.height <= most and found.makespan_us > limit_us:
                found = search.as_fast(found, limit_us, most)
            elif found.height > most and aim.limit_us is not None:
                found = search.as_small(aim.limit_us, aim.latest_us, most)
    bare = _said(before, timing, Written(), "annotated")
    if found is not None:
        if say is not None:
            say("lists that files can say", found.height * BLOCK_ALIGN)
        lists = _read_again(files, start, program, found.proposal.said, texts, timing)
        if not aim.prefers(bare.figures, lists.figures):  # what no list names has blocks that the search does not count
            return lists
    return _read_again(files, start, program, {}, texts, timing)


def without_lists(files: Files) -> Written:
    """The files that may change, without lists that share bytes."""
    library = GraphLibrary()
    return _relisted(files, Written(), GraphTexts(library.load(files.path), library), {})


def _relisted(files: Files, start: Written, texts: GraphTexts, said: Mapping[str, tuple[Shared, ...]]) -> Written:
    """The files that may change, with these lists and no others, beside what is written in any case."""

    def data(path: Path) -> bytes:
        return start.texts[path] if path in start.texts else path.read_bytes()

    splices: dict[Path, Sequence[Splice]] = {}
    for file, graph in texts.graphs.items():
        entries = said.get(file, ())
        if files.may_write(file) and plain(graph.share) != plain(entries):
            splices[Path(file)] = share_splices(data(Path(file)), entries)
    new: Texts = {path: spliced(data(path), mine) for path, mine in splices.items()}
    return Written({**start.texts, **new}, (*start.rounds, splices) if splices else start.rounds)


def _read_again(
    files: Files, start: Written, program: Program, said: Mapping[str, tuple[Shared, ...]], texts: GraphTexts, timing: Timed
) -> Said:
    """The files with these lists, as they are read."""
    written = _relisted(files, start, texts, said)
    after = files.expand(library_of(written.texts))
    refuse_other_work(program, after)
    _refuse_findings(files, written.texts)
    schedule = replace(get_scheduler("annotated")(after, {}), strategy="minpeak")
    return _said(schedule, timing, written, "lists that files can say" if said else "annotated")


def figures_of(schedule: Schedule, timing: Timed) -> tuple[int, float]:
    """The bytes of a schedule's safe capacities, and the microseconds of its timed run in them."""
    return _said(schedule, timing, Written(), "").figures


def _said(schedule: Schedule, timing: Timed, written: Written, found_by: str) -> Said:
    heap = tuple(safe_heap(load) for load in ring_loads(schedule))
    run = timed(schedule, RingSizes().with_heap(heap), timing(schedule))
    makespan_us = float("inf") if run.makespan_us is None or run.deadlock is not None else run.makespan_us
    return Said(schedule, heap, makespan_us, written, found_by)


def _refuse_findings(files: Files, new: Texts) -> None:
    """Lint finds nothing in the new texts that it does not find in the old ones."""
    if not new:
        return
    old = {(finding.code, finding.message) for finding in files.findings(library_of({}))}
    for finding in files.findings(library_of(new)):
        if (finding.code, finding.message) not in old:
            raise ScheduleError(f"the lists that share bytes cannot be written: lint would find that {finding.message}")


def with_files(plan: Plan, found: Said) -> Plan:
    """The plan that files say in place of one that they cannot."""
    old, total = plan.certificate, sum(found.heap_bytes)
    facts = None if old.time is None else replace(old.time, makespan_us=found.makespan_us)
    is_fast = old.objective == "makespan"
    loads = ring_loads(found.schedule)
    idle = 0 if is_fast else sum(not load.num_blocks for load in loads) * BLOCK_ALIGN
    value = found.makespan_us if is_fast else total
    certificate = replace(old, value=value, total_bytes=total, time=facts, idle_bytes=idle)
    changed = {"schedule": found.schedule, "heap_bytes": found.heap_bytes, "certificate": certificate}
    return replace(plan, **changed, found_by=found.found_by, run=None, unlimited=None)
