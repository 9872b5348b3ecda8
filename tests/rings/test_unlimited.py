"""A run that memory holds up nowhere, against a longest path worked out here from the program alone."""

from dataclasses import replace
from functools import cache
from itertools import product

import pytest
from random_programs import loop_program, random_program
from sampled import sampled

from runner.program.program import Span
from runner.rings import unlimited
from runner.rings.capacity import least_window, ring_loads, safe_heap
from runner.rings.sizes import RingSizes
from runner.rings.timed import timed, uniform_timing
from runner.rings.unlimited import run_times, run_unlimited, unlimited_sizes, without_sharing
from schedulers.layouts.layouts import unscoped
from schedulers.minpeak.planner import plan

SUBMIT_US, TASK_US = 0.5, 20.0
TIMING = uniform_timing(SUBMIT_US, TASK_US)


def longest_path(program) -> tuple[float, float]:
    """(makespan, stall) when only data, values read on the host and the cost of submissions hold anything up."""
    finish = {}
    clock = stall = 0.0

    def walk(span: Span) -> None:
        nonlocal clock, stall
        if span.trips is not None:
            until = max((finish[task] for task in span.trips.waits), default=0.0)
            stall += max(0.0, until - clock)
            clock = max(clock, until)
        for item in span.items:
            if isinstance(item, Span):
                walk(item)
                continue
            task = program.tasks[item]
            clock += SUBMIT_US
            start = max([clock, *(finish[t] for t in (*task.waits, *task.after))])
            finish[item] = clock if task.op is None else start + TASK_US

    walk(program.body)
    return max(clock, *finish.values()), stall


@pytest.mark.parametrize("seed", range(30))
def test_without_limits_a_run_takes_the_longest_path(seed):
    program = loop_program(seed) if seed % 2 else random_program(seed, max_tasks=12)
    schedule = unscoped(program, {})
    assert without_sharing(schedule) is schedule
    replay = run_unlimited(schedule, TIMING)
    assert (replay.makespan_us, replay.stall_us) == pytest.approx(longest_path(program))


@pytest.mark.parametrize("seed", range(30))
def test_sharing_is_undone(seed):
    """An arena's tasks wait for each other's bytes; without limits they do not, whatever else the placement does."""
    program = loop_program(seed) if seed % 2 else random_program(seed, max_tasks=12)
    shared = plan(program, {"objective": "total"}).schedule
    replay = run_unlimited(shared, TIMING)
    allocs = sum(submission.core is None for submission in shared.submissions)
    assert replay.makespan_us == pytest.approx(longest_path(program)[0], abs=SUBMIT_US * (allocs + 1))
    heap = [safe_heap(load) for load in ring_loads(shared)]
    limited = timed(shared, RingSizes().with_heap(heap), TIMING)
    assert limited.makespan_us is not None and limited.makespan_us >= replay.makespan_us


def assert_same_run(schedule, timing):
    """The run without rings is the run in rings that are large enough."""
    found, kept = run_unlimited(schedule, timing), timed(without_sharing(schedule), unlimited_sizes(schedule), timing)
    assert (found.makespan_us, found.stall_us, found.finish_us) == (kept.makespan_us, kept.stall_us, kept.finish_us)
    assert found.slow_waits == kept.slow_waits and found.deadlock is kept.deadlock is None
    return kept


@cache
def balanced(seed):
    """A plan of a random program."""
    return plan(loop_program(seed) if seed % 2 else random_program(seed, max_tasks=30), {}).schedule


CORES = [(None, None), (1, 2), (2, 3)]


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize(("seed", "cores"), sampled(product(range(40), CORES), lambda case: case[0] < 6))
def test_no_rings_are_rings_that_are_large_enough(seed, cores):
    timing = replace(uniform_timing(SUBMIT_US, TASK_US, cores), block_us=lambda submission: 1.0 + submission % 7)
    assert_same_run(balanced(seed), timing)


@pytest.mark.parametrize("capacity", [3, 6, 12, 24])
def test_a_tensormap_that_could_run_short_is_kept(capacity, monkeypatch):
    """The bound of its entries never lies below what it held, and decides whether the rings are kept."""
    monkeypatch.setattr(unlimited, "CAPACITY", capacity)
    held = 0
    for seed in range(30):
        schedule = unscoped(loop_program(seed) if seed % 2 else random_program(seed, max_tasks=40), {})
        run = unlimited._Unlimited(without_sharing(schedule), unlimited_sizes(schedule), TIMING)
        run.run()
        kept = timed(without_sharing(schedule), unlimited_sizes(schedule), TIMING)
        most = max(record.tensormap for record in kept.records)
        assert run.most_entries() >= most
        held = max(held, most)
        assert_same_run(schedule, TIMING)
    assert held > 0


@pytest.mark.parametrize("seed", sampled(range(30), range(0, 30, 3)))
def test_times_without_rings_are_those_in_rings_that_are_never_short(seed, monkeypatch):
    """`run_times` keeps no rings where it can be seen that they hold nothing up, and comes to the same in small windows."""
    ways = []
    monkeypatch.setattr(unlimited, "timed", lambda *given: ways.append(timed) or timed(*given))
    program = loop_program(seed) if seed % 2 else random_program(seed, max_tasks=60)
    for schedule in (plan(program, {"objective": "total"}).schedule, unscoped(program, {})):
        loads = ring_loads(schedule)
        heap = [max(1024, sum(totals[-1] for totals in load.epochs)) for load in loads]
        pool = [max(4, load.pool_bound) for load in loads]
        for window in (4, 8, 16, 64, 4096):
            sizes = RingSizes.from_lists(heap, [max(window, least_window(load)) for load in loads], pool)
            num = len(ways)
            assert run_times(schedule, sizes, TIMING) == timed(schedule, sizes, TIMING).times
            assert window < 4096 or len(ways) == num, "nothing was short, and rings were kept all the same"
