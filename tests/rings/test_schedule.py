"""Lowering a placement: blocks, creator edges, scopes, manual mode, sharing and dynamic loops."""

import pytest

from runner.base.tensor_spec import TensorSpec
from runner.program.program import Program, Span, Task, Tensor, Trips
from runner.rings.lowering.lower import lower
from runner.rings.placement import PlacedAlloc, PlacedLoop, PlacedRead, PlacedScope, PlacedTask
from runner.rings.schedule import Begin, End, Read, Repeat, Submit


def _program(*tasks: Task, sizes: tuple[int, ...]) -> Program:
    tensors = tuple(Tensor(i, f"t{i}", TensorSpec("u8", (n,))) for i, n in enumerate(sizes))
    return Program("demo", tensors, tasks, Span("root", "demo", tuple(t.id for t in tasks)))


CHAIN = _program(
    Task(0, "a", "op", "AIV", creates=(0, 1)),
    Task(1, "b", "op", "AIV", creates=(2,), uses=(0,), reads=(0,), waits=(0,)),
    Task(2, "c", "op", "AIC", uses=(1, 2), reads=(1, 2), waits=(0, 1)),
    sizes=(1, 1025, 4096),
)


def test_a_task_creates_its_outputs_in_one_block_of_rounded_tensors():
    schedule = lower(CHAIN, [PlacedTask(0), PlacedTask(1), PlacedTask(2)])
    first = schedule.submissions[0]
    assert [(s.name, s.offset, s.size_bytes) for s in first.slots] == [("t0", 0, 1024), ("t1", 1024, 2048)]
    assert [s.size_bytes for s in schedule.submissions] == [3072, 4096, 0]
    assert schedule.submissions[2].holds == (0, 1)
    assert schedule.steps == (Begin(0), Submit(0), Submit(1), Submit(2), End(0))


def test_an_alloc_takes_over_what_the_task_would_have_created():
    schedule = lower(CHAIN, [PlacedAlloc((1, 2)), PlacedTask(0), PlacedTask(1), PlacedTask(2)])
    alloc, a, b, c = schedule.submissions
    assert (alloc.size_bytes, alloc.core, a.size_bytes, b.size_bytes) == (6144, None, 1024, 0)
    assert (a.holds, b.holds, c.holds) == ((0,), (0, 1), (0,))
    assert c.waits == (0, 1, 2)


def test_scopes_nest_and_clamp_to_the_last_ring():
    items: tuple = (PlacedTask(0),)
    for depth in range(5, 0, -1):
        items = (PlacedScope(f"s{depth}", items),)
    schedule = lower(CHAIN, items)
    assert [(s.name, s.depth, s.ring) for s in schedule.scopes[1:]] == [
        ("s1", 1, 1),
        ("s2", 2, 2),
        ("s3", 3, 3),
        ("s4", 4, 3),
        ("s5", 5, 3),
    ]


def test_nothing_is_inferred_in_a_manual_scope():
    program = _program(
        Task(0, "a", "op", "AIV", creates=(0,)),
        Task(1, "b", "op", "AIV", uses=(0,), reads=(0,), waits=(0,)),
        Task(2, "c", "op", "AIV", uses=(0,), reads=(0,), waits=(0,), after=(1,)),
        sizes=(8,),
    )
    schedule = lower(program, [PlacedScope("m", (PlacedTask(0), PlacedTask(1), PlacedTask(2)), "manual")])
    assert [s.waits for s in schedule.submissions] == [(), (), (1,)]
    assert [s.holds for s in schedule.submissions] == [(), (), (1,)]  # the explicit edge keeps what it waits for, the use nothing


def test_an_arena_overlays_tensors_and_brings_its_edges():
    items = [PlacedAlloc((0, 2), (0, 0), 4096), PlacedTask(0), PlacedTask(1, extra_waits=(0,)), PlacedTask(2)]
    schedule = lower(CHAIN, items)
    assert [(s.offset, s.size_bytes) for s in schedule.submissions[0].slots] == [(0, 1024), (0, 4096)]
    assert schedule.submissions[0].size_bytes == 4096
    assert schedule.submissions[2].waits == (0, 1)


def test_a_tensor_is_placed_once():
    with pytest.raises(AssertionError, match="placed twice"):
        lower(CHAIN, [PlacedAlloc((0,)), PlacedAlloc((0,))])


def test_a_dynamic_loop_knows_where_its_trips_begin():
    program = _program(
        Task(0, "n", "op", "AIV", creates=(0,)), Task(1, "t0", "op", "AIV"), Task(2, "t1", "op", "AIV"), sizes=(4,)
    )
    trips = Trips("loop", (0,), (0,), 2, lambda read: read(0, (0,)))
    schedule = lower(program, [PlacedTask(0), PlacedRead(trips), PlacedLoop(trips, ((PlacedTask(1),), (PlacedTask(2),)))])
    assert schedule.steps == (Begin(0), Submit(0), Read((0,)), Repeat((0,), trips, (4, 5), 6), Submit(1), Submit(2), End(0))
