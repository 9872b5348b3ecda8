"""Lowering works on arrays over all tasks; the same placement lowered one task after another comes to the same schedule."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from lowered_by_task import differences
from random_programs import Builder, loop_program, random_program
from shipped_programs import shipped_program

from runner.program.program import Program, Region, Span, Task
from runner.rings.lowering.lower import lower
from runner.rings.placement import PlacedAlloc, PlacedItem, PlacedTask
from runner.rings.schedule import Schedule
from schedulers import get_scheduler

STRATEGIES = ("annotated", "unscoped", "autoscope", "manual", "minpeak")


@pytest.fixture
def compared(monkeypatch):
    """Compares whatever is lowered; holds the number of submissions."""
    counts: list[int] = []

    def both(program: Program, items: Sequence[PlacedItem], strategy: str = "", extra=None) -> Schedule:
        schedule = lower(program, items, strategy, extra)
        pairs = () if extra is None else zip(extra[0].tolist(), extra[1].tolist(), strict=True)
        assert differences(schedule, program, items, pairs) == []
        counts.append(len(schedule.submissions))
        return schedule

    for module in ("schedulers.layouts.layouts", "schedulers.minpeak.planner", "schedulers.written.search"):
        monkeypatch.setattr(f"{module}.lower", both)
    return counts


def _odd(program: Program, rng: random.Random) -> Program:
    """The program with modes, parts and whole tensors for boxes, `after` that only waits, and what modes leave unordered."""

    def region(given: Region) -> Region:
        part = (rng.randint(0, 2),) if rng.random() < 0.3 else None
        return replace(given, part=part, box=None if rng.random() < 0.6 else given.box)

    def changed(task: Task) -> Task:
        operands = {name: region(given) for name, given in task.operands.items()}
        modes = {name: rng.choice(("existing", "no_dep", "in")) for name in operands if rng.random() < 0.1}
        earlier = [w for w in task.waits if rng.random() < 0.2]
        kept = tuple([w for w in task.waits if w not in earlier])
        after = tuple(sorted({*task.after, *(w for w in kept if rng.random() < 0.2)}))
        only = tuple([a for a in after if rng.random() < 0.3])
        edges = {"unordered": tuple(earlier), "waits": kept, "after": after, "wait_only": only}
        return replace(task, operands=operands, modes=modes, **edges)

    return replace(program, tasks=tuple([changed(task) if task.op is not None else task for task in program.tasks]))


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 300))])
def test_random_programs(seed, compared):
    rng = random.Random(seed)
    programs = [random_program(seed, max_tasks=25), loop_program(seed), _odd(random_program(seed, max_tasks=25), rng)]
    for program in programs:
        for strategy in STRATEGIES[:4]:
            get_scheduler(strategy)(program, {"batch_allocs": rng.random() < 0.5})
    get_scheduler("minpeak")(programs[0], {"objective": "total"})
    assert sum(compared) > 20


def test_what_an_alloc_without_a_submission_waits_for_is_no_other_tasks_edge():
    build = Builder()
    source = build.tensor(1, "input")
    first, second, third = (build.tensor(1) for _ in range(3))
    build.task([build.whole(source)], [build.whole(first)], (first,))
    alloc = build.alloc((second,))
    build.task([build.whole(source)], [build.whole(third)], (third,))
    program = Program("demo", tuple(build.tensors), tuple(build.tasks), Span("root", "demo", (0, 1, 2)))
    items = [PlacedAlloc((second,)), PlacedTask(0), PlacedTask(alloc, extra_waits=(0,)), PlacedTask(2)]
    schedule = lower(program, items)
    assert differences(schedule, program, items, ()) == []
    assert schedule.submissions[2].waits == ()


@pytest.mark.parametrize("graph", ["decode_fwd", "prefill_fwd", "qwen3_decode"])
def test_shipped_graphs(graph, compared):
    program = shipped_program(graph)
    for strategy in STRATEGIES:
        get_scheduler(strategy)(program, {"objective": "total"} if strategy == "minpeak" else {})
    assert min(compared) > 50
