"""Scopes without sharing: equal to exhaustive search over cuts and depths, and no random placement is better."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from random_programs import loop_program, random_program, random_trips, run_in_order, run_shuffled
from sampled import sampled

from runner.program.lifetimes import lives_of
from runner.program.program import Program
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.lowering.lower import lower
from runner.rings.placement import PlacedAlloc, PlacedItem, PlacedScope, PlacedTask
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from schedulers.minpeak.folding import unfolded
from schedulers.scopes.climbing import _Needs, annealed, climbed
from schedulers.scopes.exact import prove
from schedulers.scopes.placement import place_scopes
from schedulers.scopes.scoping import TOTAL, WORST, Goal, Lifetimes, Scoping
from schedulers.scopes.search import Passes, find_scopes


def prepared(program: Program) -> Lifetimes:
    return Lifetimes.of(lives_of(program))


def all_in_root(lives: Lifetimes) -> Scoping:
    return Scoping.of(lives, np.zeros(len(lives.size), np.int64))


def least(lives: Lifetimes, goal: Goal) -> int:
    """The least value, as the search proves it."""
    found, proved = prove(lives, goal, all_in_root(lives))
    assert proved
    assert found.need == Scoping.of(lives, found.depth).need
    return goal.value(found.need)


def capacities(schedule: Schedule) -> list[int]:
    return [safe_heap(load) for load in ring_loads(schedule)]


def exhaustive(lives: Lifetimes, goal: Goal) -> int:
    """The least value over every way to cut and every depth of every tensor, from the definition: no scope lies in more than a
    whole trip and in less than a whole loop."""
    best = None
    spans = list(zip(lives.first.tolist(), lives.end.tolist(), lives.size.tolist(), strict=True))
    looped = [
        (task, edge)
        for inside, edges in map(lives.cuts_of, lives.loops)
        for task in range(inside.start, inside.stop)
        for edge in edges
    ]
    for cuts in itertools.product((1, 2, 3, 4), repeat=lives.num_tasks - 1):
        if any((1, *cuts)[task] < (1, *cuts)[edge] for task, edge in looped):
            continue
        limits = [min((cuts[b - 1] for b in range(first + 1, end)), default=4) - 1 for first, end, _ in spans]
        for depths in itertools.product(*(range(limit + 1) for limit in limits)):
            held: Counter[tuple[int, ...]] = Counter()
            for (first, _, size), depth in zip(spans, depths, strict=True):
                scope = sum(1 for b in range(1, first + 1) if cuts[b - 1] <= depth)
                held[depth, scope] += size
            need = [max((v for (d, _), v in held.items() if d == depth), default=0) for depth in range(4)]
            value = goal.value((need[0], need[1], need[2], need[3]))
            best = value if best is None else min(best, value)
    assert best is not None
    return best


@pytest.mark.parametrize("goal", [TOTAL, WORST], ids=["total", "worst"])
def test_equal_to_exhaustive_search(goal: Goal) -> None:
    checked = 0
    for seed in range(4000):
        program = random_program(seed, max_tasks=6, loops=False)
        lives = prepared(program)
        if lives.num_tasks > 5 or len(lives.size) > 5:
            continue
        value = exhaustive(lives, goal)
        assert least(lives, goal) == value, f"seed {seed}"
        assert goal.value(climbed(lives, goal, all_in_root(lives), lambda: False).need) >= value, f"seed {seed}"
        checked += 1
        if checked == 15:
            return
    pytest.fail("too few programs were small enough")


@pytest.mark.parametrize("goal", [TOTAL, WORST], ids=["total", "worst"])
@pytest.mark.parametrize("num", sampled((5, 12), (5,)))
def test_tensors_are_hoisted_as_an_exhaustive_search_with_dynamic_loops_does(goal: Goal, num: int) -> None:
    checked = hoisted = 0
    for seed in range(4000):
        lives = prepared(random_program(seed, max_tasks=6))
        if not lives.loops or lives.num_tasks > 6 or not 3 <= len(lives.size) <= 5:
            continue
        value, root = exhaustive(lives, goal), all_in_root(lives)
        found = annealed(lives, goal, root, 0, lambda: False)
        assert goal.value(found.need) == value, f"seed {seed}"
        limits = [min(found.cuts[first + 1 : end], default=4) - 1 for first, end in zip(lives.first, lives.end, strict=True)]
        assert (found.depth <= limits).all()
        hoisted += bool((found.depth < limits).any())
        checked += 1
        if checked == num:
            break
    assert checked == num
    assert hoisted > num // 5


def test_the_annealed_needs_are_those_of_the_scoping() -> None:
    rng = random.Random(3)
    for make, seed in itertools.product((random_program, loop_program), range(40)):
        lives = prepared(make(seed))
        depth = [rng.randrange(4) for _ in lives.size]
        assert _Needs(lives).of(depth) == Scoping.of(lives, np.array(depth, np.int64)).need, f"{make.__name__} {seed}"


def random_placement(program: Program, rng: random.Random) -> list[PlacedItem]:
    """Random nested scopes; tensors are allocated by their task, or hoisted alone or in batches, in any scope that may hold
    them."""
    lives = prepared(program)
    cuts = [1, *(rng.choice((1, 2, 3, 4, 4, 4, 5)) for _ in range(lives.num_tasks - 1))]
    allocs: dict[tuple[int, int], list[int]] = {}  # (task before which, depth) -> tensors
    created = {t for task in program.tasks if task.op is not None for t in task.creates}
    for k, tensor in enumerate(lives_of(program).locals.tolist()):
        first, end = int(lives.first[k]), int(lives.end[k])
        limit = min((cuts[b] for b in range(first + 1, end)), default=5) - 1
        home = rng.choice([*range(limit + 1), None])
        innermost_is_fine = limit == 4 and tensor in created
        if home is None and innermost_is_fine:
            continue  # its task creates it
        depth = limit if home is None else home
        scope_begin = max((b for b in range(first + 1) if b == 0 or cuts[b] <= depth), default=0)
        allocs.setdefault((rng.randint(scope_begin, first), depth), []).append(tensor)

    def items(low: int, high: int, depth: int) -> list[PlacedItem]:
        found: list[PlacedItem] = []
        if depth == 4:
            for task in range(low, high):
                found += blocks(task, 4)
                if program.tasks[task].op is not None:
                    found.append(PlacedTask(task))
            return found
        edges = [low, *(b for b in range(low + 1, high) if cuts[b] <= depth + 1), high]
        for a, b in itertools.pairwise(edges):
            for at in range(a, b):
                found += blocks(at, depth)  # what stands inside the next scope goes to that scope's beginning
            found.append(PlacedScope("s", tuple(items(a, b, depth + 1))))
        return found

    def blocks(task: int, depth: int) -> list[PlacedItem]:
        tensors = allocs.pop((task, depth), [])
        if not tensors:
            return []
        if rng.random() < 0.5:
            return [PlacedAlloc(tuple(tensors))]
        return [PlacedAlloc((t,)) for t in tensors]

    return items(0, lives.num_tasks, 0)


@pytest.mark.parametrize("num", sampled((5, 10, 30), (5,)))
def test_no_random_placement_is_better(num: int) -> None:
    rng = random.Random(0)
    equal = 0
    for seed in range(num):
        program = random_program(seed, max_tasks=7, loops=False)
        lives = prepared(program)
        if lives.num_tasks > 9:
            continue
        best = {goal: least(lives, goal) for goal in (TOTAL, WORST)}
        for _ in range(40):
            need = [c // 1024 for c in capacities(lower(program, random_placement(program, rng)))]
            for goal, value in best.items():
                got = goal.value((need[0], need[1], need[2], need[3]))
                assert got >= max(1, value), f"seed {seed}"
                equal += got == value
    assert equal > 2 * num // 3


@pytest.mark.parametrize("num", sampled((30, 100), (30,)))
def test_any_depths_are_a_scoping_that_needs_what_it_says_and_runs(num: int) -> None:
    rng = random.Random(1)
    with_loops = 0
    for seed in range(num):
        program = random_program(seed, max_tasks=12)
        lives = prepared(program)
        with_loops += bool(lives.loops)
        depth = np.array([rng.randrange(4) for _ in lives.size], np.int64)
        for found in (Scoping.of(lives, depth), climbed(lives, TOTAL, all_in_root(lives), lambda: False)):
            schedule = lower(program, place_scopes(lives_of(program), found))
            heap = capacities(schedule)
            assert heap == [max(1, n) * 1024 for n in found.need], f"seed {seed}"
            trips = random_trips(program, rng)
            sizes = RingSizes().with_heap(heap)
            assert run_shuffled(program, schedule, sizes, trips, seed) == run_in_order(program, trips), f"seed {seed}"
    assert with_loops > num // 5


@pytest.mark.parametrize("goal", [TOTAL, WORST], ids=["total", "worst"])
def test_climbing_is_near_the_least(goal: Goal) -> None:
    ratios = []
    for seed in range(30):
        lives = prepared(random_program(seed, max_tasks=7, loops=False))
        if not 2 <= lives.num_tasks <= 8 or not len(lives.size):
            continue
        value = goal.value(climbed(lives, goal, all_in_root(lives), lambda: False).need)
        ratios.append(value / least(lives, goal))
    assert min(ratios) == 1
    assert sum(ratios) / len(ratios) < 1.1


@pytest.mark.parametrize("off", [{}, {"intervals"}, {"bodies"}, {"climbing"}, {"proof"}, {"intervals", "climbing", "proof"}])
@pytest.mark.parametrize("num", sampled((2, 4, 8), (2,)))
def test_without_a_pass_the_plan_is_right_and_no_smaller_than_proved(off: set[str], num: int) -> None:
    for make, seed in itertools.product((random_program, loop_program), range(num)):
        program = make(seed)
        lives, how = lives_of(program), unfolded(len(program.tasks))
        found = find_scopes(lives, how, TOTAL, lambda share: False, passes=Passes(**dict.fromkeys(off, False)))
        schedule = lower(program, found.items)
        heap = capacities(schedule)
        assert sum(heap) == 1024 * found.value >= 1024 * found.bound
        trips = random_trips(program, random.Random(seed))
        sizes = RingSizes().with_heap(heap)
        assert run_shuffled(program, schedule, sizes, trips, seed) == run_in_order(program, trips), f"seed {seed}"
