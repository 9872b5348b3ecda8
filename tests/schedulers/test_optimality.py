"""minpeak against an exact solver: CP-SAT's model of scopes without sharing, and of tensors in arenas on four rings.

The models are written from the rules alone and share nothing with the search. A few programs here; thousands with `-m slow`.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from ortools.sat.python import cp_model
from random_programs import Builder, random_program

from runner.program.lifetimes import Lives, lives_of
from runner.program.program import Program
from schedulers.minpeak.packing import Problem, pack
from schedulers.minpeak.planner import plan
from schedulers.scopes.bounds import chain_bound

MAX_TASKS = 10
UNIT = 1024
DEPTHS = range(4)


def small_programs(count: int):
    """The first `count` random programs without loops of at most ten tasks, allocs among them."""
    found = 0
    for seed in range(20 * count):
        program = random_program(seed, max_tasks=MAX_TASKS, loops=False)
        if 2 <= len(program.tasks) <= MAX_TASKS and any(t.is_local for t in program.tensors):
            yield program
            found += 1
            if found == count:
                return
    pytest.fail("too few programs were small enough")


def minimum(model: cp_model.CpModel, needs: list, objective: str) -> int:
    """The least total or largest of the four rings, in units, where each has at least one."""
    most = 10_000
    rings = [model.new_int_var(1, most, "") for _ in DEPTHS]
    for ring, levels in zip(rings, needs, strict=True):
        for level in levels:
            model.add(ring >= level)
    if objective == "total":
        model.minimize(sum(rings))
    else:
        worst = model.new_int_var(1, most, "")
        model.add_max_equality(worst, rings)
        model.minimize(worst)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)


def scopes_minimum(lives: Lives, objective: str) -> int:
    """Scopes alone: a cut of level d before a task ends the scopes of depth d and deeper; a tensor lies in one scope that spans
    its life; a ring needs the most that one of its scopes holds."""
    model = cp_model.CpModel()
    most = int(lives.size.sum())
    cuts = [model.new_int_var(1, 4, f"cut{task}") for task in range(lives.num_times)]
    ends = [[model.new_bool_var("") for _ in DEPTHS] for _ in cuts]  # whether a scope of that depth ends before the task
    for cut, levels in zip(cuts, ends, strict=True):
        for depth, ended in zip(DEPTHS, levels, strict=True):
            model.add(cut <= depth).only_enforce_if(ended)
            model.add(cut > depth).only_enforce_if(~ended)
    held: list[list] = [[[] for _ in cuts] for _ in DEPTHS]
    last = np.maximum(lives.end, lives.scope_end).tolist()
    for first, end, size in zip(lives.first.tolist(), last, lives.size.tolist(), strict=True):
        at = [model.new_bool_var("") for _ in DEPTHS]
        model.add_exactly_one(at)
        for depth in DEPTHS:
            held[depth][first].append(size * at[depth])
            for boundary in range(first + 1, end):
                model.add_implication(at[depth], ~ends[boundary][depth])
    needs = []
    for depth in DEPTHS:
        levels, before = [], 0
        for task in range(lives.num_times):
            level = model.new_int_var(0, most, "")
            born = sum(held[depth][task])
            if task:
                model.add(level == born).only_enforce_if(ends[task][depth])
                model.add(level == before + born).only_enforce_if(~ends[task][depth])
            else:
                model.add(level == born)
            levels.append(level)
            before = level
        needs.append(levels)
    return minimum(model, needs, objective)


def arenas_minimum(lives: Lives, objective: str, rings: range = DEPTHS) -> int:
    """Sharing: every tensor has an offset in the arena of one of `rings`; those that live at once do not overlap there."""
    model = cp_model.CpModel()
    most = int(lives.size.sum())
    needs: list[list] = [[] for _ in DEPTHS]
    chosen = [[model.new_bool_var("") for _ in rings] for _ in lives.size]
    for ring in rings:
        times, spaces = [], []
        for k, (first, end, size) in enumerate(zip(lives.first.tolist(), lives.end.tolist(), lives.size.tolist(), strict=True)):
            low, here = model.new_int_var(0, most, ""), chosen[k][ring]
            times.append(model.new_optional_fixed_size_interval_var(first, end - first, here, ""))
            spaces.append(model.new_optional_fixed_size_interval_var(low, size, here, ""))
            top = model.new_int_var(0, 2 * most, "")
            model.add(top == low + size).only_enforce_if(here)
            model.add(top == 0).only_enforce_if(~here)
            needs[ring].append(top)
        model.add_no_overlap_2d(times, spaces)
    for at in chosen:
        model.add_exactly_one(at)
    return minimum(model, needs, objective)


def check(program: Program, share: bool, objective: str) -> None:
    """The planner's value is the exact one; one arena, which shares for a total, leaves three rings of a unit each unused."""
    lives = lives_of(program)
    found = plan(program, {"share": share, "objective": objective, "time_limit_s": 1e9}).certificate
    expected = (arenas_minimum if share else scopes_minimum)(lives, objective)
    idle = 3 if share and objective == "total" else 0
    assert expected * UNIT <= found.value <= (expected + idle) * UNIT, f"{program.name}: {found}, expected {expected * UNIT}"
    assert found.lower_bound <= expected * UNIT


def test_the_arena_itself_is_as_low_as_can_be() -> None:
    """Its height, against an exact solver of the same problem on one ring."""
    for program in small_programs(40):
        lives = lives_of(program)
        found = pack(Problem(lives.first, lives.end, lives.size)).height
        assert found == arenas_minimum(lives, "total", rings=range(1)) - 3


def chain_program(rng: random.Random, num_tasks: int) -> Program:
    """Tasks that hand a tensor on, now and then with scratch of their own."""
    build = Builder()
    before = build.tensor(1, "input")
    for _ in range(num_tasks):
        after = build.tensor(rng.choice((1, 1, 2)))
        scratch = (build.tensor(rng.randint(1, 4)),) if rng.random() < 0.5 else ()
        build.task([build.whole(before)], [build.whole(t) for t in (after, *scratch)], (after, *scratch))
        before = after
    return build.program()


def test_the_chain_bound_holds() -> None:
    rng = random.Random(0)
    stronger = 0
    for num_tasks in (3, 5, 8, 10, 12, 14, 16, 20) * 2:
        lives = lives_of(chain_program(rng, num_tasks))
        bound = chain_bound(lives)
        assert bound <= scopes_minimum(lives, "total")
        stronger += bound * UNIT > lives.peak_live_bytes
    for program in small_programs(10):
        assert chain_bound(lives_of(program)) <= scopes_minimum(lives_of(program), "total")
    assert stronger >= 2


@pytest.mark.parametrize("num_tasks", [2, 4, 9, 16, 17, 24])
def test_the_chain_bound_is_reached_by_a_bare_chain(num_tasks: int) -> None:
    build = Builder()
    before = build.tensor(1, "input")
    for _ in range(num_tasks):
        after = build.tensor(1)
        build.task([build.whole(before)], [build.whole(after)], (after,))
        before = after
    lives = lives_of(build.program())
    assert max(4, chain_bound(lives)) == scopes_minimum(lives, "total")


CASES = [(share, objective) for share in (True, False) for objective in ("total", "worst")]


@pytest.mark.parametrize(("share", "objective"), CASES)
def test_equal_to_an_exact_solver(share: bool, objective: str) -> None:
    for program in small_programs(10):
        check(program, share, objective)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("share", "objective"), CASES)
def test_equal_to_an_exact_solver_on_thousands(share: bool, objective: str) -> None:
    for program in small_programs(2000):
        check(program, share, objective)
