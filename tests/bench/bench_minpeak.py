"""minpeak against general-purpose planners on the same tensors and lives, and its time from 10^3 to 10^6 tasks.

    .venv/bin/python tests/bench/bench_minpeak.py [planners|growth]

Planners get one trip of every loop that minpeak solves once; all of them plan one free arena. What the ring rules cost over it is
the
difference between the safe total of minpeak's schedule and the best free arena.
"""

from __future__ import annotations

import gc
import sys
import time

import numpy as np

from runner.commands_common import registry, resolve
from runner.expand import expand
from runner.loader import GraphLibrary, find_graph
from runner.program import Program
from runner.spec import BLOCK_ALIGN
from schedulers.arena import Problem, first_fit, pack
from schedulers.fold import fold, template
from schedulers.lifetimes import Rows, lives_of
from schedulers.minpeak import plan

MIB = 2**20
CP_SAT_SECONDS = 20.0


def program_of(graph: str, deploy: str, ep: int, *sets: str, config: tuple[str, ...] = ("flash", "seed")) -> Program:
    resolved = resolve(list(config), list(sets), deploy, ep, graph)
    library = GraphLibrary()
    return expand(library.load(find_graph(graph)), resolved, registry(), library=library)


def best_fit_by_size(problem: Problem) -> int:
    """Height of the arena when tensors, the largest first, go to the smallest gap that holds them."""
    order = np.argsort(-problem.size, kind="stable").tolist()
    placed: list[tuple[int, int, int, int]] = []  # offset, end offset, first, end
    for t in order:
        first, end, size = int(problem.first[t]), int(problem.end[t]), int(problem.size[t])
        floor, best = 0, None
        for low, high, a, b in sorted(placed):
            if a < end and b > first:
                if low - floor >= size and (best is None or low - floor < best[0]):
                    best = (low - floor, floor)
                floor = max(floor, high)
        low = floor if best is None else best[1]
        placed.append((low, low + size, first, end))
    return max((high for _, high, _, _ in placed), default=0)


def cp_sat(problem: Problem) -> tuple[int, str]:
    """Height found by OR-tools' CP-SAT with one worker, and its status."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    most = int(problem.size.sum())
    height = model.new_int_var(problem.lower_bound(), most, "height")
    times, spaces = [], []
    for t in range(len(problem)):
        size = int(problem.size[t])
        offset = model.new_int_var(0, most - size, f"offset{t}")
        first, length = int(problem.first[t]), int(problem.end[t] - problem.first[t])
        times.append(model.new_fixed_size_interval_var(first, length, f"time{t}"))
        spaces.append(model.new_fixed_size_interval_var(offset, size, f"space{t}"))
        model.add(offset + size <= height)
    model.add_no_overlap_2d(times, spaces)
    model.minimize(height)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = CP_SAT_SECONDS
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    found = int(solver.value(height)) if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else 0
    return found, solver.status_name(status)


def timed_call(call):
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def planners() -> None:
    cases = [
        ("prefill ep2 padded, 2 layers", program_of("prefill_fwd", "prefill", 2, "recv_layout=padded", "num_hidden_layers=2")),
        ("prefill ep8 ragged, 4 layers", program_of("prefill_fwd", "prefill", 8, "num_hidden_layers=4")),
        ("decode ep8 padded, 4 layers", program_of("decode_fwd", "decode", 8, "recv_layout=padded", "num_hidden_layers=4")),
    ]
    print(
        "MiB (seconds)                   tensors  bound  first fit  best fit by size  CP-SAT             minpeak arena  its rings"
    )
    for name, program in cases:
        lives = lives_of(program)
        one = template(fold(lives, Rows.of([t.waits + t.after for t in program.tasks])), lives)
        problem = Problem.free(one.first, one.end, one.size)
        in_order, a = timed_call(lambda p=problem: int((first_fit(p, np.argsort(p.first, kind="stable")) + p.size).max()))
        by_size, b = timed_call(lambda p=problem: best_fit_by_size(p))
        (solved, status), c = timed_call(lambda p=problem: cp_sat(p))
        ours, d = timed_call(lambda p=problem: pack(p))
        total = sum(plan(program, {}).heap_bytes)
        heights = [
            f"{h * BLOCK_ALIGN / MIB:.2f} ({s:.2f})" for h, s in ((in_order, a), (by_size, b), (solved, c), (ours.height, d))
        ]
        print(
            f"{name:32}{len(problem):7}{problem.lower_bound() * BLOCK_ALIGN / MIB:8.2f}  {heights[0]}  {heights[1]}  "
            f"{heights[2]} {status}  {heights[3]}  {total / MIB:.2f}"
        )


def growth() -> None:
    print("layers  tasks      expand s  plan s  tasks/s of plan")
    gc.disable()
    for layers in (1, 2, 4, 8, 16, 32, 43, 64):
        ratios = [0, 0, *([4, 128] * layers)][:layers]
        sets = (f"num_hidden_layers={layers}", f"compress_ratios={[*ratios, 0]}")
        program, expanding = timed_call(lambda sets=sets: program_of("prefill_fwd", "prefill", 8, *sets))
        _, planning = timed_call(lambda program=program: plan(program, {}))
        num = len(program.tasks)
        print(f"{layers:6}  {num:9,}  {expanding:8.2f}  {planning:6.2f}  {num / planning:,.0f}", flush=True)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ("planners", "growth"):
        {"planners": planners, "growth": growth}[wanted]()
