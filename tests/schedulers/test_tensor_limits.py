"""Plans break no limit of the runtime: 32 tensors a submission, counted as what a plan says they are."""

import pytest
from random_programs import Builder

from runner.rings.lowering.lower import lower
from runner.rings.placement import PlacedAlloc, PlacedTask
from runner.verify.verify import verify
from schedulers import get_scheduler


def many(num):
    """`num` tensors that are all alive at once, read by tasks of a few operands."""
    build = Builder()
    source, result = build.tensor(1, "input"), build.tensor(num, "output")
    made = [build.tensor(1) for _ in range(num)]
    for tensor in made:
        build.task([build.whole(source)], [build.whole(tensor)], (tensor,))
    for place in range(0, num, 10):
        build.task([build.whole(tensor) for tensor in made[place : place + 10]], [(result, place, min(place + 10, num))])
    return build.program()


@pytest.mark.parametrize(("num", "options"), [(40, {}), (40, {"share": False}), (150, {"share": False})])
def test_a_block_of_more_tensors_than_an_alloc_may_have_is_an_arena(num, options):
    schedule = get_scheduler("minpeak")(many(num), options)
    assert verify(schedule) == []
    blocks = [submission for submission in schedule.submissions if len(submission.slots) > 32]
    assert all(block.num_tensors == 1 and block.core is None for block in blocks)
    assert blocks or num < 150


def test_an_alloc_of_33_tensors_is_refused():
    program = many(33)
    tasks = [PlacedTask(task.id) for task in program.tasks]
    tensors = tuple(tensor.id for tensor in program.tensors if tensor.is_local)
    assert [d.code for d in verify(lower(program, [PlacedAlloc(tensors), *tasks]))] == ["V3"]
    assert verify(lower(program, [PlacedAlloc(tensors[:32]), *tasks])) == []


def test_parts_of_an_arena_have_its_address():
    program = many(2)
    first, second = (tensor.id for tensor in program.tensors if tensor.is_local)
    tasks = [PlacedTask(task.id) for task in program.tasks]
    apart = lower(program, [PlacedAlloc((first, second)), *tasks])
    arena = lower(program, [PlacedAlloc((first, second), (0, 1024), 2048), *tasks])
    assert [s.entries[0][:4] for s in apart.submissions[1:3]] == [(0, 0, 0, 1024), (0, 1024, 0, 1024)]
    assert [s.entries[0][:4] for s in arena.submissions[1:3]] == [(0, 0, 0, 1024), (0, 0, 1024, 2048)]
