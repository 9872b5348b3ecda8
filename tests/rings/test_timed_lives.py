"""Runs of programs whose memory is short: what they hold at any time, who waits for whom; ample bytes hold nothing up."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from random_programs import random_program
from shipped_programs import shipped_program

from runner.program.lifetimes import Rows, lives_of
from runner.program.program import Program
from runner.rings.devices.timed_lives import MOST_LENGTHS, Times, Work, run_at, run_in_budget, run_in_turn
from runner.rings.timed import Timing
from schedulers import get_scheduler

RULES = {
    "in order": partial(run_in_budget, in_order=True),
    "as ready": partial(run_in_budget, in_order=False),
    "in turn": run_in_turn,
}


def work_of(seed: int) -> Work:
    return work_of_program(random_program(seed, max_tasks=40), random.Random(seed))


def work_of_program(program: Program, rng: random.Random) -> Work:
    schedule = get_scheduler("unscoped")(program, {})
    lengths = [rng.choice((5.0, 10.0, 40.0)) for _ in program.tasks]
    timing = Timing(0.5, lambda k: lengths[schedule.submissions[k].task or 0])
    waits = Rows.of([task.waits + task.after for task in program.tasks])
    return Work.of(lives_of(program, allocs_touch=False), waits, schedule, timing)


def most_held(work: Work, times: Times) -> int:
    """The most units that tensors take at once, each from the begin of its first to the finish of its last use."""
    events = sorted(
        [(float(t), -int(s)) for t, s in zip(times.finish, work.lives.size, strict=True)]
        + [(float(t), int(s)) for t, s in zip(times.begin, work.lives.size, strict=True)]
    )
    return int(np.cumsum([units for _, units in events]).max(initial=0))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(12))
def test_a_run_keeps_within_its_budget_and_its_order(rule: str, seed: int):
    work = work_of(seed)
    peak = -(-work.lives.peak_live_bytes // 1024)
    for budget in (peak, peak * 5 // 4, peak * 2, 10**9):
        times = RULES[rule](work, budget)
        assert times.makespan_us < float("inf") and most_held(work, times) <= budget
        for task, waits in enumerate(work.waits):
            assert all(times.ends[wait] <= times.starts[task] for wait in waits)
        assert times.makespan_us >= work.bound_us()[0] - 1e-6
    assert not times.is_held_up and times.makespan_us == work.free.makespan_us


@pytest.mark.parametrize("rule", RULES)
def test_what_is_known_of_other_runs_changes_none(rule: str):
    """Budgets in any order, and limits of time: each run is that of work of which nothing is known."""
    reused = 0
    for seed in range(4):
        known, chance = work_of(seed), random.Random(seed)
        peak, free_us = -(-known.lives.peak_live_bytes // 1024), known.free.makespan_us
        for budget in chance.sample([peak, peak * 9 // 8, peak * 5 // 4, peak * 3 // 2, peak * 2, peak * 3, 10**9], 7):
            for until_us in (free_us / 2, free_us, 2 * free_us):
                found, alone = (RULES[rule](work, budget, until_us) for work in (known, replace(known)))
                assert (found.makespan_us, found.is_held_up) == (alone.makespan_us, alone.is_held_up)
                if found.makespan_us < float("inf"):
                    names = ("starts", "ends", "begin", "finish", "late")
                    assert all(np.array_equal(getattr(found, name), getattr(alone, name)) for name in names)
                    reused += not found.is_held_up
    assert reused > 20


@pytest.mark.parametrize("seed", range(3))
def test_a_length_is_that_of_the_run(seed: int):
    work, rng = work_of(seed), np.random.default_rng(seed)
    many = [rng.integers(0, 60, len(work.lives.size)) for _ in range(MOST_LENGTHS + 5)]
    for offsets in [*many, *many[::-1]]:
        assert work.length_us(offsets) == run_at(work, offsets).makespan_us


def test_trip_counts_that_callers_give_hold_nothing_up():
    """The host waits for no task where a dynamic loop's count is an input of the graph."""
    work = work_of_program(shipped_program("expert_group"), random.Random(0))
    assert [] in work.reads.values()
    path_us, work_us = work.bound_us()
    assert 0 < max(path_us, work_us) <= work.free.makespan_us + 1e-6


def test_bytes_in_turn_let_pipelines_go_on():
    """Where all first stages would take the bytes at once, no second one could run: in turn each goes on."""
    runs = [(run_in_turn(work, peak), RULES["in order"](work, peak)) for work, peak in map(tight, range(40))]
    assert sum(turn.makespan_us < order.makespan_us for turn, order in runs) >= 5


def tight(seed: int) -> tuple[Work, int]:
    work = work_of(seed)
    return work, -(-work.lives.peak_live_bytes // 1024)
