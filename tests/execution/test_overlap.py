"""Worker threads that really overlap: a balanced plan on its rings beside unlimited memory, and results under shuffled runs.

Ops sleep, which takes no processor: what overlaps is what the plan and the engine let overlap.
"""

import random
import threading
from dataclasses import replace
from time import sleep

import numpy as np
import pytest
from programs import ROW, Builder, externals

from runner.execution.executor import CompiledSchedule
from runner.program.ops import OpRegistry
from runner.program.program import Program, Span
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.schedule import Schedule
from runner.rings.sizes import RingSizes
from runner.rings.timed import uniform_timing
from schedulers import get_scheduler
from schedulers.minpeak.planner import plan

SLEEP_S = 0.02
WORKERS = 4
LANES, STEPS = 4, 12
TURNS = 3


def slow_ops(pause) -> OpRegistry:
    """An op, exact in f32, that calls `pause` first."""
    registry = OpRegistry()

    @registry.op("combine", "a: f32[N, M], b: f32[N, M] -> y: f32[N, M]", core="AIV")
    def combine(a, b, *, y):
        pause()
        y.copy_((a * 3 + b) % 1021)

    return registry


def lanes() -> Program:
    """Chains side by side that meet at the end: in the fewest bytes they would take turns."""
    builder = Builder()
    x, out = builder.tensor("x", kind="input"), builder.tensor("out", kind="output")
    ends = [x] * LANES
    for _ in range(STEPS):
        ends = [builder.combine(builder.combine(end, x), end) for end in ends]
    for end in ends[:-1]:
        x = builder.combine(end, x)
    builder.combine(ends[-1], x, out)
    return whole(builder)


def whole(builder: Builder) -> Program:
    """All tasks in the order in which they were made."""
    return replace(builder.program(), body=Span("root", "made", tuple(range(len(builder.tasks)))))


def dag(seed: int) -> tuple[Program, np.ndarray]:
    """Tasks that read any two tensors made before, and what they must give for an input of ones."""
    draw, builder = random.Random(seed), Builder()
    x, out = builder.tensor("x", kind="input"), builder.tensor("out", kind="output")
    values = {x: np.ones((4, ROW), np.float32)}
    for _ in range(24):
        a, b = (draw.choice(list(values)[-6:]) for _ in range(2))
        values[builder.combine(a, b)] = (values[a] * 3 + values[b]) % 1021
    a, b = list(values)[-2:]
    builder.combine(a, b, out)
    return whole(builder), (values[a] * 3 + values[b]) % 1021


def safe(schedule: Schedule) -> RingSizes:
    return RingSizes().with_heap([safe_heap(load) for load in ring_loads(schedule)])


def balanced(program: Program) -> Schedule:
    """The plan for as many workers as there are threads, tasks of the length that ops sleep."""
    timing = uniform_timing(1.0, SLEEP_S * 1e6, (1, WORKERS))
    return plan(program, {"timing": lambda schedule: timing, "time_limit_s": 1e9}).schedule


@pytest.mark.bench
def test_a_balanced_plan_takes_no_longer_than_unlimited_rings(capsys):
    program = lanes()
    unlimited, planned = get_scheduler("unscoped")(program, {}), balanced(program)
    assert sum(safe(planned).heap) < sum(safe(unlimited).heap) / 2
    given = externals(unlimited, {"x": np.ones((4, ROW), np.float32)})
    busy, most = 0, 0
    lock = threading.Lock()

    def pause():
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        sleep(SLEEP_S)
        with lock:
            busy -= 1

    ops = slow_ops(pause)
    sides = [
        CompiledSchedule(unlimited, ops, given, workers=WORKERS),
        CompiledSchedule(planned, ops, given, rings=safe(planned), workers=WORKERS),
    ]
    times = [[side.run().elapsed_s for side in sides] for _ in range(TURNS)]
    free_s, planned_s = (min(column) for column in zip(*times, strict=True))
    with capsys.disabled():
        print(f"\n{len(program.tasks)} sleeping tasks on {WORKERS} threads: {planned_s / free_s:.3f} times unlimited memory")
    assert most == WORKERS
    assert planned_s <= 1.1 * free_s


def assert_equal_bits(seeds: range, runs: int) -> None:
    """Runs of balanced plans whose ops sleep for random times give what numpy gives, to the bit."""
    for seed in seeds:
        draw, (program, expected) = random.Random(seed), dag(seed)
        planned = balanced(program)
        given = externals(planned, {"x": np.ones((4, ROW), np.float32)})
        ops = slow_ops(lambda draw=draw: sleep(draw.random() * 3e-4))
        compiled = CompiledSchedule(planned, ops, given, rings=safe(planned), workers=WORKERS)
        out = given[program.outputs["out"]]
        for _ in range(runs):
            out.fill_(float("nan"))
            compiled.run()
            np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.usefixtures("short_searches")
def test_results_do_not_depend_on_the_interleaving():
    assert_equal_bits(range(4), 5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_interleavings():
    assert_equal_bits(range(20), 50)
