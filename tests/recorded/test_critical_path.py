"""Chains of recorded runs: against the rules on small runs, and against what must hold of any run."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA

from runner.driver.device.critical import critical_path_of
from runner.driver.device.files import planned_run, writers
from runner.driver.driver import Setup
from runner.driver.outputs import SideFiles
from runner.driver.planning import PlanRequest, TimedOptions, plan
from runner.report.device.critical_path import Observed, critical_path

CAPTURES = DATA / "captures"


def _run(tasks, submits=(), freed=None):
    """`tasks`: task -> (core, start, end, waits)."""
    return Observed(
        {task: f"k{task}" for task in tasks},
        {task: row[1] for task, row in tasks.items()},
        {task: row[2] for task, row in tasks.items()},
        {task: row[3] for task, row in tasks.items()},
        [(row[0], task, row[1], row[2]) for task, row in tasks.items()],
        submits,
        freed or {},
    )


def test_each_gap_is_laid_to_what_opened_last():
    """1 runs first; 2 waits for its data; 3 for 2's core; 4 for its submission; 6 for the room that the end of 4 made for 5."""
    tasks = {
        1: (0, 1.0, 5.0, ()),
        2: (1, 5.5, 9.0, (1,)),
        3: (1, 9.5, 12.0, (1,)),
        4: (0, 21.0, 25.0, (1,)),
        6: (2, 27.0, 30.0, ()),
    }
    submits = [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 2.0, 3.0), (4, 19.0, 20.0), (5, 20.0, 25.5), (6, 25.5, 26.5)]
    found = critical_path(_run(tasks, submits, {5: 4}))
    kinds = {task: (gate.kind, gate.behind, gate.us) for task, gate in found.gates.items()}
    assert kinds == {
        1: ("submission", None, 1.0),
        2: ("data", 1, 0.5),
        3: ("core", 2, 0.5),
        4: ("submission", None, 21.0),
        6: ("heap", 4, 2.0),
    }
    assert found.observed == (4, 6) and found.static == (1, 4)
    assert found.static_us == 8.0 and found.makespan_us == 30.0
    assert found.waited_us == {"data": 0.0, "core": 0.0, "submission": 22.5, "heap": 0.5}
    assert found.kernels_us + sum(found.waited_us.values()) == found.makespan_us


@pytest.mark.parametrize(
    ("name", "static_us", "num_tasks"),
    [
        ("layers_1", 2947.06, 68),
        ("layers_3", 2686.94, 57),
        ("layers_5", 5192.38, 112),
        ("05", 666.32, 24),
        ("simulated", 3578.1, 11),
    ],
)
def test_the_static_chain_of_captures(name, static_us, num_tasks):
    """The figures of the public tool: 2.95, 2.69, 5.19, 0.67 and 3.58 ms. What we call observed adds up to the whole run."""
    found = critical_path_of(CAPTURES / name)
    assert found.static_us == pytest.approx(static_us) and len(found.static) == num_tasks
    assert found.kernels_us + sum(found.waited_us.values()) == pytest.approx(found.makespan_us)


def test_the_simulated_run_waited_for_its_submissions():
    """Its device had nothing to do most of the time: what ended last began when it was submitted."""
    found = critical_path_of(CAPTURES / "simulated")
    assert found.waited_us["submission"] > 0.99 * found.makespan_us and found.waited_us["data"] == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(1, 9), st.sets(st.integers(0, 11), max_size=3)), max_size=12
    )
)
def test_chains_of_random_runs_add_up(rows):
    """Tasks in order on random cores, each begun when core, data and submission are there, or some time later."""
    tasks, free, at, submits = {}, {}, 0.0, []
    for task, (core, idle, took, picks) in enumerate(rows):
        waits = tuple(sorted(pick for pick in picks if pick < task))
        submits.append((task, at, at + 1.0))
        at += 1.0
        begin = max([at, free.get(core, 0.0), *(tasks[wait][2] for wait in waits)]) + (idle if idle > 3 else 0)
        tasks[task] = (core, begin, begin + took, waits)
        free[core] = begin + took
    found = critical_path(_run(tasks, submits))
    assert found.kernels_us + sum(found.waited_us.values()) == pytest.approx(found.makespan_us)
    longest: dict[int, float] = {}
    for task, (_, begin, end, waits) in tasks.items():
        longest[task] = end - begin + max((longest[wait] for wait in waits), default=0.0)
    assert found.static_us == max(longest.values(), default=0.0) <= found.makespan_us + 1e-9
    for task, gate in found.gates.items():
        assert gate.us >= -1e-9 and (gate.behind is None or tasks[gate.behind][2] <= tasks[task][1])


def test_a_run_that_its_rings_hold_up_is_told(tmp_path, call):
    """A decoder whose rings hold one tile at a time: its timed run, written and read, waits for the heap."""
    path = tmp_path / "p.json"
    loop = {"loop": 6, "body": [{"alloc": "a", "bytes": 4096}, {"task": "k", "inputs": ["ext"], "inouts": ["a"], "outputs": []}]}
    scope = [{"scope": [loop["body"][0], loop["body"][1]]} for _ in range(6)]
    path.write_text(json.dumps({"program": {"items": scope}, "capacities": {"ring_heap": [4096] * 4}}))
    found = plan(Setup([], [], None, None), PlanRequest(str(path), timed=TimedOptions(task_us=10.0)))
    files = SideFiles(tmp_path / "scope_stats.jsonl", tmp_path / "deps.json", tmp_path / "chip_swimlane_records.json")
    for write in writers(files, planned_run(found, True)):
        write()
    path.unlink()
    code, out, _ = call("critical-path", tmp_path, "--json")
    shown = json.loads(out)
    assert code == 0 and len(shown["tasks"]) == 6
    assert [row["waited_for"] for row in shown["tasks"]] == ["submission"] + ["heap"] * 5
    assert shown["static"]["us"] == pytest.approx(10.0) and len(shown["observed"]["tasks"]) == 6
    assert shown["observed"]["makespan_us"] == pytest.approx(found.report.makespan_us, abs=0.01)
    assert "waited for" in call("critical-path", tmp_path)[1]


def test_what_has_no_times_or_edges_is_refused(call, tmp_path):
    code, _, err = call("critical-path", CAPTURES / "05" / "program.json")
    assert code == 1 and "tells no times of any task" in err
    (tmp_path / "scope_stats.jsonl").write_text((CAPTURES / "05" / "scope_stats.jsonl").read_text())
    code, _, err = call("critical-path", tmp_path)
    assert code == 1 and "deps.json" in err
