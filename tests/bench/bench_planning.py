"""Planning at 10^3 to 10^6 tasks: tasks per second of every step, which should hardly fall (`make bench`).

The program is a stack of layers as large models have them: a scope a layer, tensors created by most tasks, each task reading the
one before and a tensor of the layer, and a value read on the host once a layer.

`RINGGRAPH_BASE=/path/to/another/checkout` adds expansion and planning of a whole prefill there and here, by turns in one run.
"""

import gc
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest
from places import ROOT

from runner.base.tensor_spec import TensorSpec
from runner.program.program import Program, Region, Span, Task, Tensor, Trips
from runner.rings.capacity import least_heap, program_peak_live, ring_loads, safe_heap
from runner.rings.replay import eager, lagging
from runner.rings.sizes import RingSizes
from runner.rings.timed import timed, uniform_timing
from runner.verify.verify import verify
from schedulers import get_scheduler

TASKS_PER_LAYER = 500
CORES = ("AIC", "AIV", "MIX")


def _program(num_tasks: int) -> Program:
    tensors, tasks, layers = [], [], []
    carried = None
    for layer in range(-(-num_tasks // TASKS_PER_LAYER)):
        members: list[int | Span] = []
        shared = previous = carried
        for k in range(TASKS_PER_LAYER):
            index = len(tasks)
            made = len(tensors)
            tensors.append(Tensor(made, f"t{made}", TensorSpec("f32", (16, 16 + k % 64))))
            reads = tuple(t for t in dict.fromkeys((previous, shared)) if t is not None)
            waits = tuple(sorted(reads))  # tensor n is made by task n
            operands = {f"in{i}": Region(t) for i, t in enumerate(reads)} | {"out": Region(made)}
            tasks.append(
                Task(
                    index, f"l{layer}.{k}", "op", CORES[k % 3], operands, {}, (made,), reads, reads, (made,), waits, num_blocks=4
                )
            )
            members.append(index)
            previous = made
            shared = made if k == 0 else shared
        trips = Trips(f"l{layer}", (previous,), (previous,), 1, lambda element: 0)
        members.append(Span("read", f"l{layer}.read", trips=trips))
        # The last task of a layer stands outside of its scope, so that the next layer may read what it made.
        last = members.pop(-2)
        layers += [Span("scope", f"l{layer}", tuple(members[:-1])), last, members[-1]]
        carried = previous
    return Program("stack", tuple(tensors), tuple(tasks), Span("root", "", tuple(layers)))


@pytest.mark.bench
def test_planning_is_near_linear(capsys):
    with capsys.disabled():
        print()
        for exponent in (3, 4, 5, 6):
            gc.collect()
            gc.disable()
            print(_row(_program(10**exponent)))
            gc.enable()


def _row(program: Program) -> str:
    num, times = len(program.tasks), {}

    def lap(name, call):
        start = perf_counter()
        result = call()
        times[name] = perf_counter() - start
        return result

    schedule = lap("schedule", lambda: get_scheduler("auto")(program, {"batch_allocs": True}))
    loads = lap("epochs", lambda: ring_loads(schedule))
    sizes = lap("capacities", lambda: RingSizes(window=(2**20,) * 4).with_heap([safe_heap(load) for load in loads]))
    assert all(least_heap(load) <= size for load, size in zip(loads, sizes.heap, strict=True))
    lap("eager", lambda: eager(schedule, sizes))
    lap("lagging", lambda: lagging(schedule, sizes))
    replay = lap("timed", lambda: timed(schedule, sizes, uniform_timing(0.5, 20, (24, 48))))
    assert replay.deadlock is None
    lap("verify", lambda: verify(schedule, sizes))
    lap("peak live", lambda: program_peak_live(program))
    total = sum(times.values())
    steps = ", ".join(f"{name} {num / max(t, 1e-6):,.0f}" for name, t in times.items())
    return f"{num:>9,} tasks in {total:7.2f} s: {num / total:>9,.0f} tasks a second ({steps})"


WHOLE_PREFILL = """\
import gc
from time import process_time
try:
    from runner import Driver
    expand = lambda: Driver("flash", ep=8).expand("prefill_fwd")
except ImportError:  # before modules had rooms
    from runner.commands_common import program_of, resolve
    expand = lambda: program_of("prefill_fwd", resolve(["flash"], (), "prefill", 8))
from schedulers import get_scheduler
minpeak = get_scheduler("minpeak")
gc.disable()
start = process_time()
program = expand()
expanded = process_time()
minpeak(program, {})
print(len(program.tasks), expanded - start, process_time() - expanded)
"""
TURNS = 3


def _whole_prefill(checkout: Path) -> tuple[int, float, float]:
    """Tasks, and CPU seconds of expansion and planning, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", WHOLE_PREFILL], cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True,
        text=True, check=True, timeout=600,
    )  # fmt: skip
    tasks, expanding, planning = done.stdout.split()
    return int(tasks), float(expanding), float(planning)


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.skipif("RINGGRAPH_BASE" not in os.environ, reason="set RINGGRAPH_BASE to another checkout")
def test_whole_prefill_beside_another_checkout(capsys):
    base = Path(os.environ["RINGGRAPH_BASE"])
    rows = [(_whole_prefill(base), _whole_prefill(ROOT)) for _ in range(TURNS)]
    with capsys.disabled():
        print(f"\nflash prefill at ep8, bound, {rows[0][1][0]:,} tasks; CPU seconds, least of {TURNS} turns\n")
        for name, column in (("expansion", 1), ("minpeak", 2)):
            theirs, ours = (min(row[side][column] for row in rows) for side in (0, 1))
            print(f"{name:<10} {theirs:6.2f} there {ours:6.2f} here: {ours / theirs:.2f} times")
    assert len({run[0] for row in rows for run in row}) == 1
