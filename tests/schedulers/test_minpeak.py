"""minpeak: placements are sound under any interleaving, and as small as an exhaustive search finds."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from random_programs import loop_program, random_program, random_trips, run_in_order, run_shuffled
from sampled import sampled
from shipped_programs import shipped_program

from runner.language.library import find_graph
from runner.program.lifetimes import Rows, lives_of
from runner.program.program import Program, Span, Trips
from runner.rings.capacity import program_peak_live, ring_loads, safe_heap
from runner.rings.defaults import DEVICE
from runner.rings.devices.devices import device
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.rings.timed import timed, uniform_timing
from runner.verify.verify import verify
from schedulers import get_scheduler
from schedulers.minpeak import folding as fold
from schedulers.minpeak import planner as minpeak
from schedulers.minpeak.plan import Options
from schedulers.minpeak.planner import plan

TOTAL = {"objective": "total"}
pytestmark = pytest.mark.usefixtures("short_searches")


def safe_sizes(schedule) -> RingSizes:
    return RingSizes().with_heap([safe_heap(load) for load in ring_loads(schedule)])


@pytest.mark.parametrize("block", sampled(range(100), (0, 35, 65)))
def test_shared_bytes_survive_random_interleavings(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        program = random_program(seed)
        schedule = plan(program, TOTAL).schedule
        rng = random.Random(seed)
        for run in range(3):
            trips = random_trips(program, rng)
            expected = run_in_order(program, trips)
            assert run_shuffled(program, schedule, safe_sizes(schedule), trips, run) == expected, (
                f"seed {seed}, run {run}, {trips}"
            )


@pytest.mark.parametrize("objective", ["total", "worst", "makespan"])
@pytest.mark.parametrize("share", [True, False], ids=["share", "no-share"])
@pytest.mark.parametrize("num", sampled((4, 10), (4,)))
def test_never_worse_than_the_other_strategies(objective: str, share: bool, num: int) -> None:
    for seed in range(num):
        assert_never_worse(random_program(seed, max_tasks=12), objective, share)
    assert_never_worse(shipped_program("moe"), objective, share)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("objective", ["total", "worst", "makespan"])
@pytest.mark.parametrize("share", [True, False], ids=["share", "no-share"])
def test_never_worse_on_a_thousand_programs_and_all_shipped_graphs(objective: str, share: bool) -> None:
    for seed in range(1000):
        assert_never_worse(random_program(seed, max_tasks=random.Random(seed).choice((6, 12, 24, 48))), objective, share)
    for path in sorted(Path(find_graph("moe")).parent.glob("*.yaml")):
        assert_never_worse(shipped_program(path.stem), objective, share)


def assert_never_worse(program: Program, objective: str, share: bool) -> None:
    """Bytes of the rings, or the makespan on rings of their safe capacity within the bytes of the best of the others."""
    others = [
        get_scheduler(name)(program, {"batch_allocs": batch})
        for name in ("annotated", "unscoped", "manual", "auto", "autoscope")
        for batch in (False, True)
        if name != "manual" or objective != "makespan"  # it runs ahead of its data: no edges at all
    ]
    options = {"objective": objective, "share": share, "time_limit_s": 1e9, "timing": lambda schedule: TIMING}
    if objective == "makespan":
        others.sort(key=makespan)
        options["budget_bytes"] = sum(safe_sizes(others[0]).heap)
    found = plan(program, options).schedule
    assert all(value(found, objective) <= value(other, objective) for other in others), program.name
    assert sum(safe_sizes(found).heap) <= options.get("budget_bytes", float("inf"))


TIMING = uniform_timing(0.5, 20.0)


def value(schedule: Schedule, objective: str) -> float:
    heap = safe_sizes(schedule).heap
    return {"total": sum(heap), "worst": max(heap)}[objective] if objective != "makespan" else makespan(schedule)


def makespan(schedule: Schedule) -> float:
    found = timed(schedule, safe_sizes(schedule), TIMING).makespan_us
    assert found is not None
    return found


@pytest.mark.parametrize("num", sampled((40, 100), (40,)))
def test_without_the_sharing_edges_results_change(num: int) -> None:
    """The interleavings above do catch a missing edge."""
    changed = 0
    for seed in range(num):
        program = random_program(seed, loops=False)
        schedule = plan(program, TOTAL | {"techniques": {"apart": False}}).schedule
        natural = {i: set() for i in range(len(schedule.submissions))}
        of_task = {s.task: i for i, s in enumerate(schedule.submissions) if s.task is not None}
        for task in program.tasks:
            if task.id in of_task:
                natural[of_task[task.id]] = {of_task[w] for w in task.waits + task.after if w in of_task} | {0}
        bare = tuple(replace(s, waits=tuple(w for w in s.waits if w in natural[i])) for i, s in enumerate(schedule.submissions))
        for run in range(5):
            got = run_shuffled(program, replace(schedule, submissions=bare), safe_sizes(schedule), {}, run)
            changed += got != run_in_order(program, {})
    assert changed > num // 5


@pytest.mark.parametrize("num", sampled((40, 120), (40,)))
def test_folded_loops_are_as_good_and_as_safe(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "MIN_SAVED", 1)
    num_folded = 0
    for seed in range(num):
        program = loop_program(seed)
        monkeypatch.setattr(minpeak, "FOLD_FROM", len(program.tasks))
        in_full = plan(program, TOTAL).certificate
        monkeypatch.setattr(minpeak, "FOLD_FROM", 0)
        found = plan(program, TOTAL)
        assert found.certificate.total_bytes - 3 * 1024 <= in_full.total_bytes  # in full the other strategies use all rings
        lives = lives_of(program)
        num_folded += len(fold.fold(lives, Rows.of([task.waits + task.after for task in program.tasks])).loops)
        rng = random.Random(seed)
        for run in range(2):
            trips = random_trips(program, rng)
            got = run_shuffled(program, found.schedule, safe_sizes(found.schedule), trips, run)
            assert got == run_in_order(program, trips), f"seed {seed}, run {run}, {trips}"
    assert num_folded > 5 * num // 12


@pytest.mark.parametrize("num", sampled((20, 60, 200), (20,)))
def test_certificate_bounds_hold(num: int) -> None:
    for seed in range(num):
        program = random_program(seed)
        found = plan(program, TOTAL)
        touched = {t for task in program.tasks if task.op is not None for t in task.reads + task.writes}
        if all(t.id in touched for t in program.tensors if t.is_local):  # an untouched alloc counts where it stands
            assert found.certificate.peak_live_bytes == program_peak_live(program)
        total = sum(safe_heap(load) for load in ring_loads(found.schedule))
        assert found.certificate.lower_bound <= found.certificate.value == found.certificate.total_bytes == total


def naming_allocs(program: Program, rng: random.Random) -> Program:
    """Some tasks name in `after:` the alloc of a tensor that they use."""
    alloc_of = {tensor: task.id for task in program.tasks if task.op is None for tensor in task.creates}
    tasks = []
    for task in program.tasks:
        allocs = {alloc_of[tensor] for tensor in task.uses if tensor in alloc_of and rng.random() < 0.5}
        tasks.append(replace(task, after=tuple(sorted({*task.after, *allocs}))) if task.op is not None else task)
    return replace(program, tasks=tuple(tasks))


@pytest.mark.parametrize("num", sampled((15, 40, 150), (15,)))
@pytest.mark.parametrize("share", [True, False], ids=["share", "no-share"])
def test_waiting_for_an_alloc_stands_for_no_other_edge(share: bool, num: int) -> None:
    """An alloc runs nothing: whoever comes after it has still to wait for the former tenants of its bytes."""
    num_named = 0
    for seed in range(num):
        rng = random.Random(seed)
        program = naming_allocs(random_program(seed), rng)
        num_named += any(program.tasks[a].op is None for task in program.tasks for a in task.after)
        schedule = plan(program, TOTAL | {"share": share}).schedule
        assert not verify(schedule), f"seed {seed}"
        trips = random_trips(program, rng)
        assert run_shuffled(program, schedule, safe_sizes(schedule), trips, seed) == run_in_order(program, trips), f"seed {seed}"
    assert num_named > num // 5


def with_empty_loops(program: Program, rng: random.Random) -> Program:
    """The program with loops that run no trip, as routing leaves them, between its items."""
    items: list[int | Span] = []
    for item in program.body.items:
        if rng.random() < 0.3:
            items.append(Span("dynamic", f"empty{len(items)}", trips=Trips(f"empty{len(items)}", (), (), 0, lambda value: 0)))
        items.append(item)
    return replace(program, body=replace(program.body, items=tuple(items)))


@pytest.mark.parametrize("num", sampled((4, 10, 30), (4,)))
@pytest.mark.parametrize("share", [True, False], ids=["share", "no-share"])
def test_loops_without_trips_end_no_scope(share: bool, num: int) -> None:
    for seed in range(num):
        rng = random.Random(seed)
        program = with_empty_loops(random_program(seed, max_tasks=rng.choice((12, 60))), rng)
        schedule = plan(program, TOTAL | {"share": share, "time_limit_s": 1e9}).schedule
        assert not verify(schedule), f"seed {seed}"
        trips = random_trips(program, rng)
        assert run_shuffled(program, schedule, safe_sizes(schedule), trips, seed) == run_in_order(program, trips), f"seed {seed}"


def test_a_library_call_without_timing_takes_the_defaults_of_commands():
    """One set for all: half a microsecond a submission, the cores of a device, the duration of a task without a known cost."""
    timing = Options.of({}).timing(Schedule("s", (), (), (), "none"))
    assert (timing.submit_us, timing.block_us(0), timing.aic, timing.aiv) == (0.5, device(DEVICE).task_us, 24, 48)
