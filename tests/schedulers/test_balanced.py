"""minpeak's balanced plans: on the true frontier of bytes and time, beaten by no strategy, safe in any interleaving.

A slice of each here; a thousand programs, every trip count and all shipped graphs with `-m slow`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice, product
from math import prod
from pathlib import Path

import pytest
from exact_balance import Exact
from random_programs import dynamic_loops, loop_program, random_program, random_trips, run_in_order, run_shuffled
from shipped_programs import shipped_program

from runner.language.library import find_graph
from runner.program.lifetimes import lives_of
from runner.program.program import Program
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.rings.timed import Timing, timed, uniform_timing
from runner.verify.verify import verify
from schedulers import get_scheduler
from schedulers.minpeak.plan import Plan
from schedulers.minpeak.planner import plan

TICK_US = 0.5
ON_FRONTIER, MOST_OFF = 0.95, 1.10
"""The part of the programs whose plan nothing beats, and by how much others may be beaten, in bytes or in time."""


def safe_sizes(schedule: Schedule) -> RingSizes:
    return RingSizes().with_heap([safe_heap(load) for load in ring_loads(schedule)])


# --- the true frontier ------------------------------------------------------------------------------------------------


def small_programs() -> Iterator[tuple[Program, list[int]]]:
    """Programs without loops of two to ten tasks, and the ticks that each task runs."""
    for seed in range(10**6):
        program, rng = random_program(seed, max_tasks=10, loops=False), random.Random(seed)
        if 2 <= len(program.tasks) <= 10 and any(tensor.is_local for tensor in program.tensors):
            yield program, [rng.choice((10, 20, 40, 80)) if task.op is not None else 0 for task in program.tasks]


def balanced(program: Program, lengths: list[int], **options: object) -> Plan:
    """The plan if each task runs so many ticks, a submission takes one, and there are workers without limit."""

    def timing(schedule: Schedule) -> Timing:
        return Timing(TICK_US, lambda submission: lengths[schedule.submissions[submission].task or 0] * TICK_US)

    return plan(program, {"timing": timing, "time_limit_s": 1e9, **options})


def exact_of(program: Program, lengths: list[int]) -> Exact:
    return Exact(lives_of(program, allocs_touch=False), lengths, [int(task.op is not None) for task in program.tasks], 1)


def late_within(program: Program, lengths: list[int]) -> float:
    """How many times the shortest time the run takes that is found within the bytes of the balanced plan."""
    in_time = balanced(program, lengths)
    found = balanced(program, lengths, budget_bytes=sum(in_time.heap_bytes))
    assert sum(found.heap_bytes) <= sum(in_time.heap_bytes)
    ticks = round(found.certificate.value / TICK_US)
    return ticks / (exact_of(program, lengths).fewest_ticks(sum(in_time.heap_bytes) // 1024) or ticks)


def beaten_by(program: Program, lengths: list[int]) -> tuple[float, float]:
    """How many times the fewest bytes for its time a balanced plan takes, and how many times the shortest time for its bytes."""
    found = balanced(program, lengths)
    assert found.certificate.time is not None
    units, ticks = sum(found.heap_bytes) // 1024, round(found.certificate.time.makespan_us / TICK_US)
    exact = exact_of(program, lengths)
    return units / (exact.fewest_units(ticks) or units), ticks / (exact.fewest_ticks(units) or ticks)


def assert_on_the_frontier(count: int) -> None:
    factors = [max(beaten_by(*case)) for case in islice(small_programs(), count)]
    num_on = sum(factor <= 1 for factor in factors)
    print(f"\n{num_on} of {count} small programs are on the true frontier, the furthest is off by {max(factors) - 1:.1%}")
    assert num_on >= ON_FRONTIER * count, sorted(factors)[-count // 10 :]
    assert max(factors) <= MOST_OFF, factors


def test_on_the_true_frontier() -> None:
    assert_on_the_frontier(6)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_on_the_true_frontier() -> None:
    assert_on_the_frontier(1000)


def assert_shortest_within(count: int) -> None:
    factors = [late_within(*case) for case in islice(small_programs(), count)]
    assert sum(factor <= 1 for factor in factors) >= 0.9 * count, factors
    assert max(factors) <= MOST_OFF, factors


def test_shortest_within_bytes() -> None:
    assert_shortest_within(1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_shortest_within_bytes() -> None:
    assert_shortest_within(100)


def test_the_exact_solver_finds_what_is_found_by_hand() -> None:
    """Two tensors that live one after the other, of tasks that do not wait: fewer bytes cost the time of one task."""
    apart = (p for p, _ in small_programs() if len(p.tasks) == 2 and all(t.creates for t in p.tasks) and not p.tasks[1].waits)
    program = next(p for p in apart if all(task.op for task in p.tasks))
    lives = lives_of(program)
    first, second = (sum(int(lives.size[t]) for t in lives.touches.row(k)) for k in range(2))
    exact = Exact(lives, [20, 20], [1, 1], 0)
    assert exact.fewest_ticks(10**4) == 22 and exact.fewest_ticks(max(first, second, 1) + 3) == 41
    assert exact.fewest_units(22) == first + second + 2  # rings without an arena


# --- other strategies -------------------------------------------------------------------------------------------------


def assert_not_dominated(program: Program, timing: Timing) -> None:
    """No strategy, with or without batching, takes no more bytes and no more time, and less of one."""

    def point(schedule: Schedule) -> tuple[int, float]:
        sizes = safe_sizes(schedule)
        makespan_us = timed(schedule, sizes, timing).makespan_us
        assert makespan_us is not None
        return sum(sizes.heap), makespan_us

    found = plan(program, {"timing": lambda schedule: timing, "time_limit_s": 1e9})
    size, time_us = point(found.schedule)
    assert found.certificate.time is not None and found.certificate.time.makespan_us == pytest.approx(time_us)
    for name in ("annotated", "unscoped", "auto", "autoscope"):  # `manual` lacks edges: its run is none that could be used
        for batch in (False, True):
            other_size, other_us = point(get_scheduler(name)(program, {"batch_allocs": batch}))
            assert other_size > size or other_us > time_us or (other_size, other_us) == (size, time_us), f"{program.name}: {name}"
            assert time_us <= 1.05 * other_us + 1e-6, f"{program.name}: {name}"


def assert_random_not_dominated(count: int) -> None:
    for seed in range(count):
        rng = random.Random(seed)
        program = random_program(seed, max_tasks=rng.choice((6, 12, 24, 48))) if seed % 4 else loop_program(seed)
        cores = rng.choice(((None, None), (24, 48), (1, 2)))
        assert_not_dominated(program, uniform_timing(0.5, rng.choice((1.0, 5.0, 20.0)), cores))


SHIPPED = [path.stem for path in sorted(Path(find_graph("moe")).parent.glob("*.yaml"))]
QWEN3 = ["qwen3_decode", "qwen3_prefill"]


def test_no_strategy_dominates() -> None:
    assert_random_not_dominated(4)
    for graph in ("attend_tile", "qwen3_decode"):
        assert_not_dominated(shipped_program(graph), uniform_timing(0.5, 20.0, (24, 48)))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_strategy_dominates_on_a_thousand_programs() -> None:
    assert_random_not_dominated(1000)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("graph", [*SHIPPED, *QWEN3])
def test_no_strategy_dominates_on_shipped_graphs(graph: str) -> None:
    program = shipped_program(graph)
    for timing in (uniform_timing(0.5, 20.0, (24, 48)), uniform_timing(0.5, 2.0)):
        assert_not_dominated(program, timing)


# --- interleavings ----------------------------------------------------------------------------------------------------


MOST_COUNTS = 500
"""Combinations of trip counts of a program that are all run; nine in ten have fewer. Of more, as many by chance."""


def trip_counts(program: Program, rng: random.Random, most: int) -> Iterator[Mapping[str, int]]:
    """Every combination of trip counts of the dynamic loops, or `most` of them."""
    loops = dynamic_loops(program)
    if prod(bound + 1 for bound in loops.values()) > most:
        yield from (random_trips(program, rng) for _ in range(most))
        return
    for counts in product(*(range(bound + 1) for bound in loops.values())):
        yield dict(zip(loops, counts, strict=True))


def assert_safe(program: Program, seed: int, most: int) -> None:
    """Runs in random order in safe capacities end, and give what a run in order gives: any overlap would change it."""
    schedule = plan(program, {"timing": lambda schedule: uniform_timing(0.5, 20.0), "time_limit_s": 1e9}).schedule
    assert not verify(schedule), program.name
    rng = random.Random(seed)
    for trips in trip_counts(program, rng, most):
        got = run_shuffled(program, schedule, safe_sizes(schedule), trips, rng.randrange(10**9))
        assert got == run_in_order(program, trips), f"{program.name}, {trips}"


def assert_random_safe(count: int, most: int) -> None:
    for seed in range(count):
        assert_safe(random_program(seed) if seed % 4 else loop_program(seed), seed, most)


@pytest.mark.usefixtures("short_searches")
def test_safe_in_any_interleaving() -> None:
    assert_random_safe(8, 4)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_thousand_safe_at_every_trip_count() -> None:
    assert_random_safe(1000, MOST_COUNTS)
