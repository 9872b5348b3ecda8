"""minpeak against general-purpose planners, side by side in one run, and its time from 10^3 to 10^6 tasks (`make bench`).

Planners get the tensors and lives of one trip of every loop, as minpeak's own packer does; all of them plan one free arena. What
the ring rules cost over it is the safe total of minpeak's schedule, less the lowest arena that any planner finds.

Hard instances are rectangles (time x bytes) cut at random into boxes, so that the lowest arena is known to be the rectangle's
height: the kind of MiniMalloc's challenging sets.
"""

import gc
import random
from collections.abc import Callable
from time import perf_counter, process_time

import numpy as np
import pytest
from random_programs import loop_program, random_program

from runner.base.tensor_spec import BLOCK_ALIGN
from runner.cli.shared import console, table
from runner.driver.driver import program_of, resolve
from runner.program.lifetimes import Rows, lives_of
from schedulers.minpeak.folding import fold, template
from schedulers.minpeak.packing import FirstFit, Problem, pack
from schedulers.minpeak.planner import plan
from schedulers.scopes import search

MIB = 2**20
CP_SAT_SECONDS = 20.0
CAPACITY, STEPS = 1024, 256
"""Height and length of a hard instance."""


def _program(graph, ep, *sets):
    return program_of(graph, resolve(("flash", "seed"), sets, None, ep, graph))


CASES = {
    "prefill ep2 padded, 2 layers": ("prefill_fwd", 2, "recv_layout=padded", "num_hidden_layers=2"),
    "prefill ep8 ragged, 4 layers": ("prefill_fwd", 8, "recv_layout=ragged", "num_hidden_layers=4"),
    "decode ep8 padded, 4 layers": ("decode_fwd", 8, "recv_layout=padded", "num_hidden_layers=4"),
}


def in_order(problem: Problem) -> int:
    """Height when tensors go to the lowest place that is free, in the order in which they are made."""
    return int((FirstFit(problem).offsets(np.argsort(problem.first, kind="stable")) + problem.size).max())


def best_fit_by_size(problem: Problem) -> int:
    """Height when tensors, the largest first, go to the smallest gap that holds them."""
    placed: list[tuple[int, int, int, int]] = []  # offset, end offset, first, end
    for t in np.argsort(-problem.size, kind="stable").tolist():
        first, end, size = int(problem.first[t]), int(problem.end[t]), int(problem.size[t])
        floor, best = 0, None
        for low, high, a, b in sorted(placed):
            if a < end and b > first:
                if low - floor >= size and (best is None or low - floor < best[0]):
                    best = (low - floor, floor)
                floor = max(floor, high)
        low = floor if best is None else best[1]
        placed.append((low, low + size, first, end))
    return max(high for _, high, _, _ in placed)


def cp_sat(problem: Problem) -> int:
    """Height found by OR-tools' CP-SAT with one worker in CP_SAT_SECONDS, 0 if it finds none."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    most = int(problem.size.sum())
    height = model.new_int_var(problem.lower_bound(), most, "height")
    times, spaces = [], []
    for t in range(len(problem)):
        size, first = int(problem.size[t]), int(problem.first[t])
        offset = model.new_int_var(0, most - size, f"offset{t}")
        times.append(model.new_fixed_size_interval_var(first, int(problem.end[t]) - first, f"time{t}"))
        spaces.append(model.new_fixed_size_interval_var(offset, size, f"space{t}"))
        model.add(offset + size <= height)
    model.add_no_overlap_2d(times, spaces)
    model.minimize(height)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = CP_SAT_SECONDS
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    return int(solver.value(height)) if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else 0


PLANNERS: dict[str, Callable[[Problem], int]] = {
    "first fit": in_order,
    "best fit by size": best_fit_by_size,
    "CP-SAT": cp_sat,
    "minpeak's packer": lambda problem: pack(problem).height,
}


def _timed(call):
    start = perf_counter()
    found = call()
    return found, perf_counter() - start


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_general_planners_on_the_same_lives(capsys):
    out = table("MiB (seconds)", "tensors>", "bound>", *(f"{name}>" for name in PLANNERS), "its rings>", "rings cost>")
    for name, (graph, ep, *sets) in CASES.items():
        program = _program(graph, ep, *sets)
        lives = lives_of(program)
        problem = template(fold(lives, Rows.of([task.waits + task.after for task in program.tasks])), lives)
        cells, heights = [], []
        for planner, call in PLANNERS.items():
            _say(capsys, f"{name}: {planner}")
            height, seconds = _timed(lambda call=call, problem=problem: call(problem))
            cells.append(f"{height * BLOCK_ALIGN / MIB:.2f} ({seconds:.2f})" if height else f"none ({seconds:.2f})")
            heights += [height * BLOCK_ALIGN] if height else []
        (found, seconds) = _timed(lambda program=program: plan(program, {"objective": "total"}))
        total = sum(found.heap_bytes)
        bound = problem.lower_bound() * BLOCK_ALIGN
        assert min(heights) >= bound and total >= found.certificate.peak_live_bytes
        cost = f"{(total - min(heights)) / 1024:,.0f} KiB"
        out.add_row(name, str(len(problem)), f"{bound / MIB:.2f}", *cells, f"{total / MIB:.2f} ({seconds:.2f})", cost)
    with capsys.disabled():
        console().print(out)


def cut(seed: int, num_boxes: int) -> Problem:
    """A rectangle of CAPACITY x STEPS cut into boxes, the largest first, at a random place across a random side."""
    draw = random.Random(seed)
    boxes = [(0, STEPS, 0, CAPACITY)]  # first, end, low, high
    while len(boxes) < num_boxes:
        boxes.sort(key=lambda b: (b[1] - b[0]) * (b[3] - b[2]) * draw.uniform(0.2, 1.0))
        first, end, low, high = boxes.pop()
        along = end - first > 1 and (high - low < 2 or draw.random() < 0.5)
        if along:
            at = draw.randrange(first + 1, end)
            boxes += [(first, at, low, high), (at, end, low, high)]
        elif high - low > 1:
            at = draw.randrange(low + 1, high)
            boxes += [(first, end, low, at), (first, end, at, high)]
        else:
            boxes.insert(0, (first, end, low, high))
    draw.shuffle(boxes)
    first, end, low, high = (np.array(column, np.int64) for column in zip(*boxes, strict=True))
    return Problem(first, end, high - low)


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_hard_instances_whose_optimum_is_known(capsys):
    out = table("height over the optimum (seconds)", "tensors>", *(f"{name}>" for name in PLANNERS))
    for num_boxes in (50, 150, 300):
        for seed in (0, 1):
            problem = cut(seed, num_boxes)
            assert problem.lower_bound() == CAPACITY
            cells = []
            for planner, call in PLANNERS.items():
                _say(capsys, f"{num_boxes} boxes, seed {seed}: {planner}")
                height, seconds = _timed(lambda call=call, problem=problem: call(problem))
                assert not height or height >= CAPACITY
                cells.append(f"{height / CAPACITY:.3f} ({seconds:.2f})" if height else f"none ({seconds:.2f})")
            out.add_row(f"seed {seed}", str(num_boxes), *cells)
    with capsys.disabled():
        console().print(out)


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_growth(capsys):
    with capsys.disabled():
        print("\nlayers      tasks   expand s  minpeak s    tasks/s of minpeak")
    gc.disable()
    try:
        for layers in (1, 2, 4, 8, 16, 32, 43, 70):
            ratios = [0, 0, *([4, 128] * layers)][:layers]
            sets = (f"num_hidden_layers={layers}", f"compress_ratios={[*ratios, 0]}", "recv_layout=ragged")
            program, expanding = _timed(lambda sets=sets: _program("prefill_fwd", 8, *sets))
            _, planning = _timed(lambda program=program: plan(program, {"objective": "total"}))
            num = len(program.tasks)
            with capsys.disabled():
                print(f"{layers:6}  {num:9,}  {expanding:9.2f}  {planning:9.2f}  {num / planning:20,.0f}", flush=True)
    finally:
        gc.enable()


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("objective", ["total", "worst"])
def test_scopes_with_and_without_annealing(objective, capsys, monkeypatch):
    """Values without sharing of 150 random programs, half of them of loops, both ways by turns."""
    annealed, falls, seconds = search.annealed, [], [0.0, 0.0]
    for seed in range(75):
        for program in (random_program(seed, max_tasks=40), loop_program(seed)):
            values = []
            for k, way in enumerate((lambda lives, goal, found, bound, stop: found, annealed)):
                monkeypatch.setattr(search, "annealed", way)
                start = process_time()
                values.append(plan(program, {"share": False, "objective": objective}).certificate.value)
                seconds[k] += process_time() - start
            assert values[1] <= values[0]
            falls.append(1 - values[1] / values[0] if values[0] else 0.0)
    lower = [fall for fall in falls if fall]
    with capsys.disabled():
        mean, most = sum(lower) / max(1, len(lower)), max(falls)
        print(f"\n{objective}: {len(lower)} of {len(falls)} lower, by {mean:.1%}, at most {most:.1%}; ", end="")
        print(f"{seconds[0]:.0f} s of CPU without annealing, {seconds[1]:.0f} with")


def _say(capsys, text):
    with capsys.disabled():
        print(f"  {text}", flush=True)
