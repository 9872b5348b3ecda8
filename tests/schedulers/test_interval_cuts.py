"""Scopes of long programs: what the search says is what the rings need, never less than the least, and layers are solved once."""

from __future__ import annotations

import random

import pytest
from random_programs import Builder, loop_program, random_program, random_trips, run_in_order, run_shuffled
from sampled import sampled

from runner.base.tensor_spec import TensorSpec
from runner.program.lifetimes import Lives, Rows, lives_of
from runner.program.program import Program, Span, Task, Tensor
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.lowering.lower import lower
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from schedulers import get_scheduler
from schedulers.minpeak.folding import Fold, fold, template, unfolded
from schedulers.scopes.axis import Axis
from schedulers.scopes.bodies import body_tree
from schedulers.scopes.bounds import chain_bound
from schedulers.scopes.exact import prove
from schedulers.scopes.intervals import cut_intervals
from schedulers.scopes.placement import place_scopes
from schedulers.scopes.scoping import TOTAL, WORST, Goal, Lifetimes, Scoping


def cut(program: Program, lives: Lives, how: Fold, goal: Goal) -> tuple[Scoping, Schedule]:
    whole = Lifetimes.of(lives)
    found = Scoping.of(whole, cut_intervals(how, template(how, lives), lives, goal, lambda share: False))
    return found, lower(program, place_scopes(lives, found))


def folds(program: Program, lives: Lives) -> list[Fold]:
    return [unfolded(lives.num_times), fold(lives, Rows.of([task.waits + task.after for task in program.tasks]))]


@pytest.mark.parametrize("make", [random_program, loop_program])
@pytest.mark.parametrize("goal", [TOTAL, WORST], ids=["total", "worst"])
@pytest.mark.parametrize("num", sampled((8, 30), (8,)))
def test_scopes_need_what_was_found_and_run(make, goal: Goal, num: int) -> None:
    for seed in range(num):
        program = make(seed)
        lives = lives_of(program)
        for how in folds(program, lives):
            found, schedule = cut(program, lives, how, goal)
            heap = [safe_heap(load) for load in ring_loads(schedule)]
            assert heap == [max(1, units) * 1024 for units in found.need], f"seed {seed}"
            trips = random_trips(program, random.Random(seed))
            sizes = RingSizes().with_heap(heap)
            assert run_shuffled(program, schedule, sizes, trips, seed) == run_in_order(program, trips), f"seed {seed}"


@pytest.mark.parametrize("num", sampled((20, 60), (20,)))
def test_near_the_least_of_small_programs_and_never_below(num: int) -> None:
    """The search hoists nothing out of the deepest scope that holds it, and so does not always find the least."""
    ratios = []
    for seed in range(num):
        program = random_program(seed, max_tasks=8, loops=False)
        lives = lives_of(program)
        if lives.num_times > 10:
            continue
        found = cut(program, lives, unfolded(lives.num_times), TOTAL)[0]
        least, proved = prove(Lifetimes.of(lives), TOTAL, found)
        assert proved
        assert TOTAL.value(found.need) >= TOTAL.value(least.need), f"seed {seed}"
        ratios.append(TOTAL.value(found.need) / TOTAL.value(least.need))
    assert sum(ratios) / len(ratios) < 1.1 and min(ratios) == 1


def layers(count: int) -> Program:
    """Each layer hands 4 units on to the next and holds 16 more at once, 26 in all."""
    tensors, tasks, trips = [Tensor(0, "s", TensorSpec("u8", (4096,)))], [Task(0, "head", "op", creates=(0,), writes=(0,))], []
    stream = 0
    for layer in range(count):
        made = range(len(tensors), len(tensors) + 4)
        tensors += [Tensor(t, f"t{t}", TensorSpec("u8", (1024 * units,))) for t, units in zip(made, (8, 8, 6, 4), strict=True)]
        at = len(tasks)
        reads = [(stream,), made[:1], made[1:2], (stream, made[2])]
        for k, (mine, read) in enumerate(zip(made, reads, strict=True)):
            tasks.append(
                Task(
                    at + k,
                    f"l{layer}.{k}",
                    "op",
                    creates=(mine,),
                    uses=tuple(read),
                    reads=tuple(read),
                    writes=(mine,),
                    waits=(at + k - 1,),
                )
            )
        trips.append(Span("iteration", f"l{layer}", tuple(range(at, at + 4))))
        stream = made[3]
    tasks.append(Task(len(tasks), "tail", "op", uses=(stream,), reads=(stream,), waits=(len(tasks) - 1,)))
    body = Span("root", "root", (0, Span("for", "layers", tuple(trips)), len(tasks) - 1))
    return Program("layers", tuple(tensors), tuple(tasks), body)


@pytest.mark.parametrize("count", sampled((9, 43, 200), (9, 43)))
def test_layers_that_hand_something_on_are_solved_once_and_released_in_groups(count: int) -> None:
    program = layers(count)
    lives = lives_of(program)
    how = unfolded(lives.num_times)
    root, kinds = body_tree(Axis(how, lives.num_times), template(how, lives), lives)
    assert len(kinds) == 2 and len({body.kind for step in root.inner for body in step}) == 1
    total = TOTAL.value(cut(program, lives, how, TOTAL)[0].need)
    assert chain_bound(lives) <= total
    # Streams over two rings in groups of about the root of their number; a layer's own tensors in the other two.
    assert total <= 4 * (2 * count**0.5 + 2) + 26


@pytest.mark.parametrize("num_tasks", sampled((500, 700, 1000), (700,)))
def test_long_chains_are_cut_as_short_ones(num_tasks):
    """Of a body of over 600 tasks few boundaries are kept, and three tasks hold more than lives at once."""
    made, plans = Builder(), []
    last = made.tensor(1, "input")
    for _ in range(num_tasks):
        tensor = made.tensor(64)
        made.task([made.whole(last)], [made.whole(tensor)], (tensor,))
        last = tensor

    get_scheduler("minpeak")(made.program(), {"share": False, "objective": "total", "report": plans.append})
    certificate = plans[0].certificate
    assert certificate.value <= 1.1 * certificate.lower_bound
