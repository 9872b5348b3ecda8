"""Common ring sizes: what is called safe runs, what can deadlock is refused."""

import numpy as np
import pytest
from places import DATA
from programs import Builder, arithmetic_ops, externals, random_program, scope

from runner.base.errors import ScheduleError
from runner.execution.executor import execute
from runner.recorded.programs import Builder as Recorded
from runner.recorded.programs import load_json, schedule_from_recorded
from runner.rings.capacity import ring_loads, robust_heap
from runner.rings.common_sizes import holds, refuse_deadlock, safe_sizes
from runner.rings.replay import eager
from runner.rings.schedule import Slot, Submission
from runner.rings.sizes import RingSizes

CONFORMANCE = DATA / "conformance"
SEEDS = range(30)


def runs(seed: int, sizes: RingSizes, workers: int) -> None:
    """Runs a random program, whose trip counts are mostly below their bounds, and checks what it computes."""
    schedule, inputs, expected = random_program(seed)
    given = externals(schedule, inputs)
    execute(schedule, arithmetic_ops(), given, rings=sizes, workers=workers)
    for name, tensor in schedule.program.outputs.items():
        np.testing.assert_array_equal(given[tensor].numpy(), expected[name])


@pytest.mark.parametrize("seed", SEEDS)
def test_safe_sizes_run_whatever_the_trip_counts(seed):
    schedule, _, _ = random_program(seed)
    for workers in (1, 3):
        runs(seed, safe_sizes([schedule]), workers)


def test_sizes_that_are_not_refused_run():
    verdicts = []
    for seed in SEEDS:
        schedule, _, _ = random_program(seed)
        safe = safe_sizes([schedule])
        for change in (-2048, -1024, 1024, 3072, 7168):
            sizes = RingSizes().with_heap([max(1024, heap + change) for heap in safe.heap])
            try:
                refuse_deadlock([schedule], sizes)
            except ScheduleError:
                verdicts.append(False)
                continue
            verdicts.append(True)
            runs(seed, sizes, 1)
    assert 30 < sum(verdicts) < len(verdicts) - 20


@pytest.mark.parametrize("seed", SEEDS)
def test_sizes_common_to_two_schedules_hold_for_both(seed):
    schedules = [random_program(seed)[0], random_program(seed + 100)[0]]
    common = safe_sizes(schedules)
    for schedule in schedules:
        assert all(holds(load, size) for load, size in zip(ring_loads(schedule), common.heap, strict=True))
        refuse_deadlock([schedule], common)


def test_a_refusal_names_ring_block_and_sizes_that_work():
    builder = Builder()
    a = builder.fill("a", 1)
    builder.combine(a, a)
    schedule = builder.lower(scope("s", 0, 1))
    with pytest.raises(ScheduleError) as caught:
        refuse_deadlock([schedule], RingSizes().with_heap([1024] * 4))
    assert str(caught.value) == (
        "schedule 'made' can deadlock: ring 1 cannot hold 't1' (1,024 bytes): 1,024 of 1,024 are pinned by the open scope 's'"
        " (oldest block: 'a')\nhint: sizes that work: --ring-heap 1024,2048,1024,1024"
    )


def test_a_ring_that_fails_for_some_trip_counts_only_is_refused():
    schedule, _, _ = random_program(next(seed for seed in range(1000) if _needs_robust(seed)))
    ring = next(ring for ring, load in enumerate(ring_loads(schedule)) if _fits_bound_only(load))
    heap = [max(1024, robust_heap(load)) for load in ring_loads(schedule)]
    heap[ring] -= 1024
    with pytest.raises(ScheduleError, match="but not every number of them"):
        refuse_deadlock([schedule], RingSizes().with_heap(heap))


def _fits_bound_only(load) -> bool:
    from runner.rings.capacity import fits

    size = robust_heap(load) - 1024
    return load.dynamic and size >= 1024 and fits(load, size)


def _needs_robust(seed: int) -> bool:
    return any(_fits_bound_only(load) for load in ring_loads(random_program(seed)[0]))


def test_a_size_common_to_two_is_not_the_larger_of_their_safe_ones():
    """A recorded program runs in 10 KiB, as recorded, and not in the 11 KiB that another one needs."""
    recorded, _ = schedule_from_recorded(load_json(CONFORMANCE / "32_nonmonotone_heap10K_ok.json"))
    other = Recorded()
    other.begin("root")
    other.begin("scope")
    other.submit(Submission("block", 11 * 1024, (Slot(0, 0, 11 * 1024, "block"),)))
    other.end()
    other.end()
    schedules = [recorded, other.schedule("other", "hand")]
    assert [safe_sizes([schedule]).heap[1] // 1024 for schedule in schedules] == [10, 11]
    both = safe_sizes(schedules)
    for kib in range(11, both.heap[1] // 1024 + 1):
        sizes = both.with_heap([both.heap[0], kib * 1024, *both.heap[2:]])
        runs_both = all(eager(schedule, sizes).deadlock is None for schedule in schedules)
        assert runs_both == (kib == both.heap[1] // 1024)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_common_size_is_the_smallest_that_holds_for_both(seed):
    """Against every capacity below it, replayed by the ring heap itself; where trip counts matter `robust` is needed anyway."""
    schedules = [random_program(seed)[0], random_program(seed + 100)[0]]
    common = safe_sizes(schedules)
    loads = [ring_loads(schedule) for schedule in schedules]
    for ring in range(4):
        if any(load[ring].dynamic for load in loads):
            continue
        for smaller in range(1024, common.heap[ring], 1024):
            heap = [smaller if k == ring else size for k, size in enumerate(common.heap)]
            sizes = RingSizes(window=common.window, pool=common.pool).with_heap(heap)
            assert any(eager(schedule, sizes).deadlock is not None for schedule in schedules)
