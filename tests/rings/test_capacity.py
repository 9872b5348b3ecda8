"""Capacities against replays of the ring heap itself, which knows nothing of epochs; and the seed program's table."""

from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA
from random_programs import loop_program, random_program
from random_schedules import KIB, build, programs
from sampled import sampled

from runner.base.tensor_spec import round_up
from runner.program.spans import SpanWalk
from runner.recorded.programs import load_json, schedule_from_recorded
from runner.recorded.traces import read_trace
from runner.rings.capacity import fits, least_heap, least_window, program_peak_live, ring_loads, robust_heap, safe_heap
from runner.rings.replay import eager, lagging
from runner.rings.sizes import RingSizes

AMPLE_HEAP = (2**30,) * 4
AMPLE = RingSizes(AMPLE_HEAP)
SIZES = (0, 1, 1024, 2048, 3000, 5000, 7000)


def _runs(schedule, ring, capacity):
    heap = list(AMPLE_HEAP)
    heap[ring] = capacity
    return eager(schedule, AMPLE.with_heap(heap)).deadlock is None


@settings(max_examples=50, deadline=None)
@given(programs(sizes=SIZES))
def test_least_is_the_smallest_capacity_that_runs(items):
    schedule = build(items)
    for ring, load in enumerate(ring_loads(schedule)):
        least = least_heap(load)
        assert _runs(schedule, ring, least)
        assert not any(_runs(schedule, ring, capacity) for capacity in range(KIB, least, KIB))


@settings(max_examples=50, deadline=None)
@given(programs(sizes=SIZES))
def test_robust_and_all_above_run(items):
    schedule = build(items)
    for ring, load in enumerate(ring_loads(schedule)):
        robust = robust_heap(load)
        assert least_heap(load) <= robust <= max(KIB, load.span + load.largest_block)
        for capacity in (*range(robust, robust + 12 * KIB, KIB), robust + 1, robust + 1023, 2 * robust, 3 * robust + KIB):
            assert _runs(schedule, ring, capacity)


@settings(max_examples=50, deadline=None)
@given(programs(sizes=SIZES, dynamic=True), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_safe_capacity_runs_for_every_trip_count(items, trips):
    full, some = build(items), build(items, trips)
    loads = ring_loads(full)
    safe = AMPLE.with_heap([safe_heap(load) for load in loads])
    window = [least_window(load) for load in loads]
    for schedule in (full, some):
        assert eager(schedule, replace(safe, window=tuple(window))).deadlock is None
    for ring, load in enumerate(loads):
        for capacity in range(robust_heap(load), robust_heap(load) + 6 * KIB, KIB):
            assert _runs(some, ring, capacity)


@settings(max_examples=50, deadline=None)
@given(programs(sizes=SIZES, dynamic=True), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_rings_not_marked_dynamic_do_not_depend_on_trips(items, trips):
    full, some = build(items), build(items, trips)
    for load, other in zip(ring_loads(full), ring_loads(some), strict=True):
        if not load.dynamic:
            assert [epoch for epoch in load.epochs if len(epoch) > 1] == [epoch for epoch in other.epochs if len(epoch) > 1]


@settings(max_examples=50, deadline=None)
@given(programs(sizes=SIZES), st.integers(1, 20))
def test_fits_equals_a_replay(items, kib):
    schedule = build(items)
    for ring, load in enumerate(ring_loads(schedule)):
        assert fits(load, kib * KIB) == _runs(schedule, ring, kib * KIB)


@settings(max_examples=50, deadline=None)
@given(programs(sizes=(0, 1)))
def test_least_window_is_the_smallest_that_runs(items):
    schedule = build(items)
    for ring, load in enumerate(ring_loads(schedule)):
        least = least_window(load)
        for window, runs in ((least, True), (2 * least, True), (least // 2, least == 4)):
            if window >= 4:
                windows = tuple(window if r == ring else 2**14 for r in range(4))
                assert (eager(schedule, replace(AMPLE, window=windows)).deadlock is None) == runs


@settings(max_examples=50, deadline=None)
@given(programs(sizes=(0, 1)))
def test_pool_bound_never_overflows(items):
    schedule = build(items)
    bounds = [max(4, load.pool_bound) for load in ring_loads(schedule)]
    assert lagging(schedule, replace(AMPLE, pool=tuple(bounds))).deadlock is None


def test_more_heap_can_deadlock_where_less_does_not():
    """Recorded: runs in 10 KiB, deadlocks in 11 KiB."""
    schedule, _ = schedule_from_recorded(load_json(DATA / "conformance" / "32_nonmonotone_heap10K_ok.json"))
    load = ring_loads(schedule)[1]
    assert [fits(load, kib * KIB) for kib in (9, 10, 11, 12)] == [False, True, False, False]
    assert least_heap(load) == 10 * KIB
    assert robust_heap(load) == (9 + 7) * KIB
    assert all(fits(load, kib * KIB) for kib in range(16, 64))


@pytest.mark.parametrize(
    ("variant", "least_mib"),
    sampled([("a", (261.0, 622.1, 0)), ("b", (261.0, 587.9, 44.1)), ("c", (261.0, 295.7, 556.9))], lambda case: case[0] == "c"),
)
def test_traced_seed_program(variant, least_mib):
    """The table of the traced program, found there by replay in steps of 256 KiB."""
    schedule = read_trace(DATA / "seed-program" / f"program_{variant}.jsonl.xz")
    for load, expected in zip(ring_loads(schedule), least_mib, strict=False):
        least = least_heap(load) / 2**20
        assert expected - 0.30 <= least <= expected + 0.05 or not load.epochs


def peak_live(touched, size_bytes):
    """The most bytes of tensors that lie between their first and last use, over a submission order.

    `touched` lists the tensors that each task uses, in submission order; those missing from `size_bytes` come from outside.
    """
    first = {}
    last = {}
    for at, tensors in enumerate(touched):
        for tensor in tensors:
            if tensor in size_bytes:
                first.setdefault(tensor, at)
                last[tensor] = at
    change = {}
    for tensor, at in first.items():
        change[at] = change.get(at, 0) + size_bytes[tensor]
        change[last[tensor] + 1] = change.get(last[tensor] + 1, 0) - size_bytes[tensor]
    return max(accumulate(change[at] for at in sorted(change)), default=0)


@pytest.mark.parametrize("seed", range(60))
def test_peak_live_of_programs(seed):
    program = loop_program(seed) if seed % 2 else random_program(seed, max_tasks=40)
    sizes = {tensor.id: round_up(tensor.spec.size_bytes) for tensor in program.tensors if tensor.is_local}
    touched = []
    for item in SpanWalk(program.body):
        task = program.tasks[item] if isinstance(item, int) else None
        if task is not None and task.op is not None:
            touched.append((*task.creates, *task.reads, *task.writes))
        elif task is None and item.trips is not None:
            touched.append(item.trips.reads)
    assert program_peak_live(program) == peak_live(touched, sizes)


def test_peak_live_by_hand():
    sizes = {1: 100, 2: 10, 3: 1}
    assert peak_live([[1, 9], [2], [1, 3], [3, 2]], sizes) == 111
    assert peak_live([[1], [2], [3]], sizes) == 100
    assert peak_live([], sizes) == 0


def test_empty_rings_need_the_least_heap_there_is():
    load = ring_loads(build([]))[2]
    assert (least_heap(load), robust_heap(load), least_window(load), load.num_blocks) == (1024, 1024, 4, 0)
