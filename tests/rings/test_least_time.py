"""No run of any placement takes less than `least_us` says; what stages take, one behind the other, it says to the last bit."""

import random
from dataclasses import replace

import pytest
from random_programs import Builder, loop_program, random_program

from runner.program.lifetimes import Rows, lives_of
from runner.program.program import Program, Span, Trips
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.devices.least_time import JOIN, least_us
from runner.rings.devices.timed_lives import Work
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.rings.timed import Timing, timed
from runner.rings.unlimited import unlimited_sizes
from schedulers import get_scheduler
from schedulers.minpeak import planner

STRATEGIES = ("annotated", "unscoped", "manual", "autoscope", "minpeak")


def timing_of(schedule: Schedule, lengths: list[float], aic: int | None, aiv: int | None) -> Timing:
    return Timing(0.5, lambda k: lengths[schedule.submissions[k].task or 0], aic, aiv)


def work_of(program: Program, lengths: list[float], aic: int | None, aiv: int | None) -> Work:
    schedule = get_scheduler("unscoped")(program, {})
    waits = Rows.of([task.waits + task.after for task in program.tasks])
    return Work.of(lives_of(program, allocs_touch=False), waits, schedule, timing_of(schedule, lengths, aic, aiv))


def with_blocks(program: Program, rng: random.Random) -> Program:
    return replace(program, tasks=tuple([replace(task, num_blocks=rng.choice((1, 1, 3, 7, 24))) for task in program.tasks]))


@pytest.mark.parametrize("num", [8, pytest.param(600, marks=pytest.mark.slow)])
def test_no_run_takes_less(num: int) -> None:
    """Stalls, scopes, rings and shared bytes only add to it; nor does any order of what is ready make up for it."""
    stronger = 0
    for seed in range(num):
        rng = random.Random(seed)
        program = with_blocks(loop_program(seed) if seed % 2 else random_program(seed, max_tasks=40), rng)
        lengths = [rng.choice((1.0, 5.0, 10.0, 40.0)) for _ in program.tasks]
        aic, aiv = rng.choice(((1, 2), (2, 5), (24, 48), (None, None)))
        work = work_of(program, lengths, aic, aiv)
        least, known = least_us(work), max(work.bound_us())
        assert least >= known * (1 - 1e-8)
        stronger += least > known * 1.01
        for name in STRATEGIES:
            schedule = get_scheduler(name)(program, {"automatic": True, "objective": "total"})
            loads = ring_loads(schedule)
            tight = RingSizes.from_lists([safe_heap(load) for load in loads], RingSizes().window, RingSizes().pool)
            for sizes in (tight, unlimited_sizes(schedule)):
                makespan_us = timed(schedule, sizes, timing_of(schedule, lengths, aic, aiv)).makespan_us
                assert makespan_us is None or makespan_us >= least, f"seed {seed}, {name}"
    assert stronger > num // 8


def staged(num_stages: int, wide: int, has_reads: bool = False) -> Program:
    """Stages of `wide` tasks and one that reads what they all make; with reads the host waits for that one, too."""
    build, items = Builder(), list[int | Span]()
    last = build.tensor(1, "input")
    for stage in range(num_stages):
        made = []
        for _ in range(wide):
            made.append(build.tensor(1))
            items.append(build.task([build.whole(last)], [build.whole(made[-1])], (made[-1],)))
        last = build.tensor(1, "output" if stage == num_stages - 1 else "local")
        creates = () if stage == num_stages - 1 else (last,)
        items.append(build.task([build.whole(t) for t in made], [build.whole(last)], creates))
        if has_reads and creates:
            trips = Trips(f"loop{stage}", (last,), (items[-1],), 1, lambda value: 0)
            items.append(Span("loop", f"loop{stage}", (Span("iteration", "0", ()),), trips=trips))
    return Program("staged", tuple(build.tensors), tuple(build.tasks), Span("root", "staged", tuple(items)))


@pytest.mark.parametrize("has_reads", [False, True], ids=["edges", "host-reads"])
@pytest.mark.parametrize(("wide", "aiv", "rounds"), [(12, 4, 3), (4, 4, 1), (10, 4, 2.5), (JOIN, 1, JOIN)])
def test_stages_add_up(wide: int, aiv: int, rounds: float, has_reads: bool) -> None:
    """10 us a task: each stage takes its work over the workers, and the task that joins it its own time."""
    program = staged(5, wide, has_reads)
    work = work_of(program, [10.0] * len(program.tasks), None, aiv)
    work = replace(work, costs_us=[0.0] * len(program.tasks))
    assert least_us(work) == pytest.approx(5 * (rounds + 1) * 10)
    if rounds == int(rounds):
        assert work.free.makespan_us == pytest.approx(least_us(work))


@pytest.mark.parametrize("core", ["AIC", "AIV", "MIX"])
def test_blocks_beyond_the_workers_take_rounds(core: str) -> None:
    build = Builder()
    source, result = build.tensor(1, "input"), build.tensor(1, "output")
    task = build.task([build.whole(source)], [build.whole(result)], (), core)
    program = Program("one", tuple(build.tensors), (replace(build.tasks[0], num_blocks=9),), Span("root", "one", (task,)))
    work = work_of(program, [10.0], 4, 8)
    assert least_us(work) == pytest.approx(0.5 + 10 * (2 if core == "AIV" else 3))
    assert least_us(work_of(program, [10.0], None, None)) == pytest.approx(10.5)


def test_strategies_that_cannot_win_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is what it is where all of them are tried."""
    program = staged(6, 12)
    options = {"timing": lambda schedule: timing_of(schedule, [10.0] * len(program.tasks), 4, 4), "slack": 0.2}
    monkeypatch.setattr(planner, "FOLD_FROM", 50)
    found = planner.plan(program, options)
    monkeypatch.setattr(planner, "least_us", lambda work: 0.0)
    tried = planner.plan(program, options)
    assert found.certificate.time.makespan_us > 1.2 * max(work_of(program, [10.0] * len(program.tasks), 4, 4).bound_us())
    left, all_of_them = (sum(note.technique == "candidate" for note in plan.explanation) for plan in (found, tried))
    assert all_of_them == left + 4
    assert found.schedule == tried.schedule and found.heap_bytes == tried.heap_bytes
