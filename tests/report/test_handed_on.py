"""What a placement's text says orders all bytes that are shared, whatever the trip counts, for one who knows only its rules.

Here nothing of a schedule is read: an edge to a task whose trip does not run stands for that task's own, other edges are those
of the data, and the submitting thread waits where the placement says so.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from random_programs import Builder, loop_program, random_program

from runner.driver.driver import Setup
from runner.driver.planning import PlanRequest, place
from runner.program.program import Program
from runner.report.placement.handing import Handing, handing
from runner.report.placement.steps import steps_of
from runner.rings.schedule import Repeat
from runner.rings.timed import uniform_timing
from schedulers import get_scheduler
from schedulers.minpeak.planner import plan

Step = dict[str, Any]
TIMING = uniform_timing(0.5, 5.0, (None, None))


def chosen(steps: list[Step], rng: random.Random) -> tuple[list[Step], set[str]]:
    """The steps of a run with random trips, and the names of the tasks that it has not."""
    found: list[Step] = []
    left_out: set[str] = set()
    trips: list[list[int]] = []  # of each open loop how many run, and which it is at
    for step in steps:
        if step["do"] == "loop":
            trips.append([rng.randint(0, step["at_most"]), -1])
        elif step["do"] == "trip":
            trips[-1][1] = step["trip"]
        elif step["do"] == "end loop":
            trips.pop()
            continue
        around = trips[:-1] if step["do"] == "loop" else trips
        if all(at < count for count, at in around):
            found.append(step)
        elif "name" in step:
            left_out.add(step["name"])
    return found, left_out


def places(steps: list[Step]) -> dict[tuple[str, str], tuple[str, int, int]]:
    """(maker, tensor) -> the block that it lies in, and where."""
    return {
        (tensor.get("task", step["name"]), tensor["name"]): (step["name"], tensor["offset"], tensor["offset"] + tensor["bytes"])
        for step in steps
        for tensor in step.get("tensors", ())
    }


def overlaps(program: Program, steps: list[Step], rng: random.Random) -> list[str]:
    """Pairs of tasks of one random run whose tensors share bytes, and that nothing orders."""
    run, left_out = chosen(steps, rng)
    by_name = {step["name"]: step for step in steps if "name" in step}
    tasks = {task.path: task for task in program.tasks}

    def resolved(names: list[str]) -> set[str]:
        found, stack, seen = set[str](), list(names), set(names)
        while stack:
            name = stack.pop()
            if name not in left_out:
                found.add(name)
                continue
            more = [dep["after"] for dep in by_name[name].get("deps", ()) if dep["after"] not in seen]
            seen.update(more)
            stack += more
        return found

    at = places(steps)
    lies = {tensor: at.get((task.path, program.tensors[tensor].name)) for task in program.tasks for tensor in task.creates}
    before: dict[str, set[str]] = {}
    gate: set[str] = set()
    wrong: list[str] = []
    for step in run:
        if step["do"] in ("loop", "read"):
            for name in resolved(step["after"]):
                gate |= before.get(name, set()) | {name}
        if step["do"] != "submit":
            continue
        task = tasks[step["name"]]
        waits = {program.tasks[wait].path for wait in task.waits} - left_out
        waits |= resolved([dep["after"] for dep in step.get("deps", ())])
        known = set(gate).union(*(before.get(name, set()) | {name} for name in waits))
        mine = {*task.creates, *task.uses}
        for name in before.keys() - known:
            for old in {*tasks[name].creates, *tasks[name].uses} - mine:
                for new in mine - {*tasks[name].creates, *tasks[name].uses}:
                    (one, low, high), (other, start, end) = lies[new], lies[old]  # type: ignore[misc]
                    if one == other and low < end and start < high:
                        wrong.append(f"{program.name}: {step['name']} and {name}")
        before[step["name"]] = known
    return wrong


def failures(seeds: range, objectives: tuple[str, ...], runs: int) -> list[str]:
    found = []
    for seed in seeds:
        program = loop_program(seed) if seed % 4 == 3 else random_program(seed, max_tasks=24)
        for objective in objectives:
            schedule = plan(program, {"timing": lambda _: TIMING, "objective": objective}).schedule
            steps = list(steps_of(schedule))
            for run in range(runs):
                found += overlaps(program, steps, random.Random(run))
    return found


def test_shared_bytes_are_ordered_whatever_the_trip_counts() -> None:
    assert not failures(range(40, 52), ("total",), 4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_shared_bytes_of_many_programs_are_ordered() -> None:
    assert not failures(range(300), ("total", "balanced", "makespan"), 8)


def test_nobody_hands_on_where_nothing_is_shared() -> None:
    """Then the runtime infers all edges of those that run."""
    moe = place(Setup(["tiny"]), PlanRequest("moe")).schedule
    assert any(isinstance(step, Repeat) for step in moe.steps)
    assert handing(moe) == Handing()


def test_nobody_hands_on_where_nothing_is_decided_at_run_time() -> None:
    assert handing(plan(random_program(2, max_tasks=12, loops=False), {"objective": "total"}).schedule) == Handing()


@pytest.mark.parametrize("maker_modes", [{}, {"out0": "manual_dep"}])
@pytest.mark.parametrize("user_modes", [{}, {"out0": "existing"}, {"out0": "no_dep"}, None])
def test_makers_of_what_lies_in_the_block_of_another(maker_modes: dict[str, str], user_modes: dict[str, str] | None) -> None:
    """An operand that waits for a creator alone waits for the block's alloc, so the maker is told; others wait for writers."""
    build = Builder()
    source, made = build.tensor(1, "input"), build.tensor(2)
    build.task([build.whole(source)], [build.whole(made)], (made,))
    build.task([build.whole(source)], [build.whole(made)])
    build.tasks[0] = replace(build.tasks[0], modes=maker_modes)
    operands = build.tasks[1].operands if user_modes is not None else {}  # a recorded task may use what no operand shows
    build.tasks[1] = replace(build.tasks[1], operands=operands, modes=user_modes or {})
    program = build.program()
    for schedule in (plan(program, {"objective": "total"}).schedule, get_scheduler("annotated")(program, {})):
        in_arena = any(made.core is None for made in schedule.submissions)
        (step,) = (step for step in steps_of(schedule) if step.get("name") == "task1")
        told = [dep["after"] for dep in step.get("deps", ())]
        assert told == (["task0"] if in_arena and (maker_modes or user_modes != {}) else [])
