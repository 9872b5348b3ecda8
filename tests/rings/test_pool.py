"""Pools of exactly the printed bound, attacked: any trip counts of dynamic loops, any interleaving, sweeps of any period."""

import random
import re
import time
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import loop_program, random_program, random_trips, run_in_order, run_shuffled
from random_schedules import build, programs
from sampled import sampled

from runner.base.errors import ScheduleError
from runner.execution.executor import execute
from runner.expansion.expander import expand
from runner.language.library import load_graph
from runner.program.ops import OpRegistry
from runner.rings import capacity, sizes
from runner.rings.capacity import ring_loads
from runner.rings.common_sizes import refuse_deadlock, safe_sizes
from runner.rings.parts import ring
from runner.rings.replay import lagging
from runner.rings.sizes import VARIABLES, RingSizes
from schedulers import get_scheduler

AMPLE = RingSizes((2**30,) * 4)


def swept_every(period):
    """Pools swept after fewer tasks than 64, so that small programs cross many sweeps."""
    return patch.multiple(capacity, POOL_SWEEP=period), patch.object(ring, "POOL_SWEEP", period)


def bounds(schedule):
    return tuple(max(4, load.pool_bound) for load in ring_loads(schedule))


@pytest.mark.parametrize("num", sampled((80, 300), (80,)))
def test_no_trip_counts_need_more_than_the_bound(num):
    @settings(max_examples=num, deadline=None)
    @given(programs(sizes=(0, 1), dynamic=True, max_items=6), st.integers(2, 8), st.data())
    def run(items, period, data):
        at_capacity, at_heap = swept_every(period)
        with at_capacity, at_heap:
            sizes = replace(AMPLE, pool=bounds(build(items)))
            for _ in range(6):
                trips = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
                some = build(items, trips)
                assert lagging(some, sizes).deadlock is None
                assert all(own <= most for own, most in zip(bounds(some), sizes.pool, strict=True))

    run()


def heavy(num):
    """A scope of tasks that each wait for all of four earlier ones."""
    return ("scope", [("task", 0, [0, 1, 2, 3]) for _ in range(num)])


LIGHT = ("task", 0, [])
FOUR = [LIGHT] * 4


@pytest.mark.parametrize(
    "between",
    [
        [("repeat", 3, [("scope", [LIGHT] * 30)])],
        [("repeat", 3, [("scope", [LIGHT] * 10), ("repeat", 3, [("scope", [LIGHT] * 20)])])],
        [("repeat", 3, [("scope", [LIGHT] * 70)]), ("repeat", 3, [heavy(3)])],
        [("repeat", 3, [heavy(30)]), ("scope", [LIGHT] * 40), ("repeat", 3, [("scope", [LIGHT] * 40)])],
        [("scope", [("repeat", 3, [LIGHT] * 30), *[LIGHT] * 3])],
        [("scope", [LIGHT] * 20), heavy(23), ("scope", [LIGHT] * 20), ("repeat", 3, [("scope", [("task", 0, [0])] * 20)])],
        [("scope", [("scope", [heavy(20), ("scope", [("repeat", 3, [("scope", [LIGHT] * 63), LIGHT]), heavy(20)])])])],
    ],
)
def test_trips_that_do_not_run_push_nothing_out(between):
    """Every combination of trip counts, with the sweep of the runtime."""
    items = [*FOUR, heavy(20), *between, heavy(20)]
    full = build(items)
    sizes = replace(AMPLE, pool=bounds(full))
    needed = [0] * 4
    for trips in product(range(4), repeat=3):
        some = build(items, trips)
        assert lagging(some, sizes).deadlock is None
        needed = [*map(max, needed, bounds(some))]
    assert tuple(needed) == sizes.pool  # no more than some run can need


@pytest.mark.parametrize("make", [random_program, loop_program])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), period=st.sampled_from((2, 3, 5, 64)))
def test_random_programs_run_in_the_bounds_in_any_order(make, seed, period):
    program = make(seed)
    schedule = get_scheduler("annotated")(program, {})
    at_capacity, at_heap = swept_every(period)
    with at_capacity, at_heap:
        sizes = safe_sizes([schedule])
        assert lagging(schedule, sizes).deadlock is None
        for turn in range(3):
            trips = random_trips(program, random.Random(seed + turn))
            assert run_shuffled(program, schedule, sizes, trips, seed + turn) == run_in_order(program, trips)


FIELDS = {"--ring-heap": "heap", "--ring-window": "window", "--ring-pool": "pool"}


def advised(schedule, sizes):
    """The sizes with what a refusal's hint says in their place; None when they are not refused."""
    try:
        refuse_deadlock([schedule], sizes)
    except ScheduleError as error:
        changes = re.findall(r"(--ring-\w+) ([\d,]+)", error.hint)
        assert changes
        return replace(sizes, **{FIELDS[option]: tuple(map(int, four.split(","))) for option, four in changes})


@settings(max_examples=40, deadline=None)
@given(
    programs(sizes=(0, 1, 1024, 3000), dynamic=True, max_items=7),
    st.tuples(*[st.sampled_from((1, 2, 3, 8, 64))] * 4),
    st.tuples(*[st.sampled_from((4, 8, 64))] * 4),
    st.tuples(*[st.integers(4, 14)] * 4),
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
)
def test_sizes_run_or_are_refused_with_a_hint_that_helps(items, kib, window, pool, trips):
    """For any heaps, windows and pools: what is not refused runs whatever the trip counts, and so does what the hint says."""
    full, some = build(items), build(items, trips)
    given_sizes = RingSizes(tuple(1024 * size for size in kib), window, pool)
    helped = advised(full, given_sizes)
    sizes = helped or given_sizes
    assert advised(full, sizes) is None
    for schedule in (full, some):
        assert lagging(schedule, sizes).deadlock is None


def test_only_the_option_that_is_too_small_is_named():
    schedule = build([*FOUR, heavy(20)])
    safe = safe_sizes([schedule])
    for field, four in (("heap", safe.heap), ("window", (4,) * 4), ("pool", (4,) * 4)):
        sizes = replace(safe, **{field: four})
        helped = advised(schedule, sizes)
        assert helped == (None if field == "heap" else safe)


# --- worker threads ---------------------------------------------------------------------------------------------------

OPS = OpRegistry()
OPS.op("slow", "a: f32[N] -> y: f32[N]", core="AIV")(lambda a, *, y: time.sleep(0.01))
OPS.op("quick", "a: f32[N] -> y: f32[N]", core="AIV")(lambda a, *, y: None)


def half(name):
    """Ten slow producers, and a scope of 20 tasks that each wait for all of them."""
    producers = [f"{name}{k}" for k in range(10)]
    slow = [f"  - {{op: slow, id: {p}, in: {{a: a}}, out: {{y: '{p}_y: f32[4]'}}}}\n" for p in producers]
    after = f"after: [{', '.join(producers)}]"
    users = [f"      - {{op: quick, id: u{k}, in: {{a: a}}, out: {{y: 'y{k}: f32[4]'}}, {after}}}\n" for k in range(20)]
    return "".join([*slow, f"  - scope: {name}_users\n    body:\n", *users])


LOOP = """\
  - scope: loop
    body:
      - for: t
        range: n[0]
        max: MAX
        body:
          - {op: quick, in: {a: a}, out: {y: "z: f32[4]"}}
"""


def slow_producers(tmp_path, most):
    """Between two halves a dynamic loop of up to `most` tasks without edges."""
    text = "graph: pool\ninputs: {a: 'f32[4]', n: 'i32[1]'}\nbody:\n"
    (tmp_path / "pool.yaml").write_text(text + half("first") + LOOP.replace("MAX", str(most)) + half("second"))
    program = expand(load_graph(tmp_path / "pool.yaml"), SimpleNamespace(values={}, dtypes={}), OPS)
    return program, get_scheduler("annotated")(program, {})


@pytest.mark.parametrize("most", [1, 43, 60, 200])
def test_the_bound_does_not_fall_as_a_loop_grows(tmp_path, most):
    assert ring_loads(slow_producers(tmp_path, most)[1])[1].pool_bound == 400


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_run_of_no_trips_fits_in_the_safe_pool(tmp_path, workers):
    program, schedule = slow_producers(tmp_path, 60)
    sizes = safe_sizes([schedule])
    for num_trips in (0, 1, 60):
        given = {"a": torch.zeros(4), "n": torch.tensor([num_trips], dtype=torch.int32)}
        externals = {program.inputs[name]: value for name, value in given.items()}
        execute(schedule, OPS, externals, rings=sizes, workers=workers)


@pytest.mark.parametrize(("default", "beside"), [(16_384, []), (390, ["PTO2_RING_DEP_POOL=4,400,4,4"])])
def test_pools_that_may_be_too_small_are_printed_beside_the_safe_heaps(default, beside, tmp_path, call, monkeypatch):
    text = half("first") + LOOP.replace("MAX", "200") + half("second")
    text = re.sub(r"op: \w+", "op: rms_norm", text).replace("{a: a}", "{x: x, w: w}").replace("f32[4]", "f32[1, 4]")
    path = tmp_path / "pool.yaml"
    path.write_text(f"graph: pool\ninputs: {{x: 'f32[1, 4]', w: 'f32[4]', n: 'i32[1]'}}\nbody:\n{text}")
    heap, window, pool = VARIABLES
    monkeypatch.setattr(sizes, "VARIABLES", (heap, window, replace(pool, default=default)))
    status, out, err = call("schedule", path, "--config", "tiny", "--scheduler", "annotated")
    assert status == 0, err
    lines = [line for line in out.splitlines() if line.startswith("PTO2_")]
    assert lines[0].startswith("PTO2_RING_HEAP=") and lines[1:] == beside
