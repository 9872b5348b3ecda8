"""Recorded programs and traces: reading, writing back, and what a broken file is told."""

import json
import lzma

import pytest
from places import DATA
from sampled import sampled

from runner.base.errors import RinggraphError, ScheduleError
from runner.recorded.programs import load_json, recorded_from_replay, schedule_from_recorded
from runner.recorded.traces import read_trace
from runner.rings.replay import eager
from runner.rings.schedule import Read


def _recorded(*items, **capacities):
    return {"name": "case", "program": {"items": list(items)}, "capacities": capacities}


def test_edges_of_a_recorded_program():
    """Creator edges hold; RAW and WAW on in-outs only order; a name that is made again forgets its writers."""
    schedule, _ = schedule_from_recorded(
        _recorded(
            {"alloc": "a", "bytes": 1},
            {"task": "w", "inputs": [], "outputs": [], "inouts": ["a"]},
            {"task": "r", "inputs": ["a", "ext"], "outputs": [{"name": "b", "bytes": 1}], "inouts": []},
            {"task": "e", "inouts": ["ext"]},
            {"task": "f", "inputs": ["ext", "b"]},
            {"alloc": [{"name": "a", "bytes": 1}]},
            {"task": "g", "inputs": ["a"]},
        )
    )
    assert [(s.waits, s.holds) for s in schedule.submissions] == [
        ((), ()),
        ((0,), (0,)),
        ((0, 1), (0,)),
        ((), ()),
        ((2, 3), (2,)),
        ((), ()),
        ((5,), (5,)),
    ]


def test_loops_repeat_and_capacities_fall_back_to_defaults():
    schedule, sizes = schedule_from_recorded(
        _recorded({"loop": 3, "body": [{"scope": [{"alloc": "a", "bytes": 5}]}]}, ring_heap=[0, 2048, 0, 0])
    )
    assert len(schedule.submissions) == 3
    assert [scope.depth for scope in schedule.scopes] == [0, 1, 1, 1]
    assert sizes.heap == (2**28, 2048, 2**28, 2**28)
    found = recorded_from_replay(eager(schedule, sizes))
    assert found["outcome"] == {"ok": True, "code": 0, "name": "none"}
    assert [block["offset"] for block in found["blocks"]] == [0, 1024, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "case.json: the file: got [], expected an object"),
        ({}, "case.json: program: got nothing, expected an object"),
        (
            _recorded({"allok": "a"}),
            "case.json: program.items[0]: expected one of 'alloc', 'task', 'scope' or 'loop', got ['allok']",
        ),
        (
            _recorded({"alloc": "a", "bytes": 1, "task": "t"}),
            "case.json: program.items[0]: expected one of 'alloc', 'task', 'scope' or 'loop', got ['alloc', 'task']",
        ),
        (
            _recorded({"loop": 2, "body": [], "scope": []}),
            "case.json: program.items[0]: expected one of 'alloc', 'task', 'scope' or 'loop', got ['scope', 'loop']",
        ),
        (_recorded({"alloc": "a"}), "case.json: program.items[0].alloc[0].bytes: got nothing, expected an integer"),
        (_recorded({"alloc": "a", "bytes": True}), "case.json: program.items[0].alloc[0].bytes: got True, expected an integer"),
        (_recorded({"alloc": "a", "bytes": -1}), "case.json: program.items[0].alloc[0].bytes: got -1, expected 0 or more"),
        (_recorded({"loop": "x", "body": []}), "case.json: program.items[0].loop: got 'x', expected an integer"),
        (_recorded({"task": "t", "inputs": ["a"]}), "case.json: program.items[0]: tensor 'a' was never created"),
        (_recorded({"loop": -1, "body": []}), "case.json: program.items[0].loop: got -1, expected 0 or more"),
        (_recorded({"scope": [], "mode": "x"}), "case.json: program.items[0].mode: got 'x', expected 'auto' or 'manual'"),
        (_recorded({"task": "t", "inouts": [[]]}), "case.json: program.items[0].inouts: got [], expected a string"),
        (_recorded({"task": "t", "inputs": "a"}), "case.json: program.items[0].inputs: got 'a', expected a list"),
    ],
)
def test_broken_programs_are_located(data, message):
    with pytest.raises(ScheduleError) as error:
        schedule_from_recorded(data, "case.json")
    assert str(error.value) == message


def test_endless_loops_are_refused(monkeypatch):
    monkeypatch.setenv("RINGGRAPH_LIMITS", "steps=1000")
    with pytest.raises(ScheduleError, match=r"program\.items\[0\]\.body: more than 1,000 steps"):
        schedule_from_recorded(_recorded({"loop": 10**12, "body": []}))
    with pytest.raises(ScheduleError, match="more than 1,000 steps"):
        schedule_from_recorded(_recorded({"loop": 10**12, "body": [{"alloc": "a", "bytes": 1}]}))


def test_deep_nesting_is_refused(tmp_path):
    item = {"alloc": "a", "bytes": 1}
    for _ in range(2000):
        item = {"scope": [item]}
    with pytest.raises(ScheduleError, match="nested too deeply"):
        schedule_from_recorded(_recorded(item))
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ScheduleError, match="nested too deeply"):
        load_json(path)


def test_bad_capacities_are_refused():
    with pytest.raises(ScheduleError, match=r"^case\.json: capacities: ring 1: task window of 5"):
        schedule_from_recorded(_recorded(ring_task_window=[4, 5, 4, 4]), "case.json")
    with pytest.raises(ScheduleError, match=r"^case\.json: capacities: ring_heap: got 2 values, expected 4"):
        schedule_from_recorded(_recorded(ring_heap=[4096, 4096]), "case.json")


def test_files_that_are_no_json(tmp_path):
    path = tmp_path / "case.json"
    path.write_text('{"name": \n oops}')
    with pytest.raises(ScheduleError, match=r"case\.json:2:2: not JSON"):
        load_json(path)
    with pytest.raises(ScheduleError, match="cannot read"):
        load_json(tmp_path / "missing.json")


# --- traces -----------------------------------------------------------------------------------------------------------

TRACE = [
    {"op": "begin", "mode": "auto", "depth": 0, "ring": 0, "line": 0},
    {"op": "begin", "mode": "manual", "depth": 1, "ring": 1, "line": 9},
    {"op": "alloc", "id": 4, "ring": 1, "bytes": 3072, "tensors": [[7, 5], [8, 2000]]},
    {"op": "task", "id": 5, "ring": 1, "blocks": 2, "core": "aic", "deps": [4], "reads": [1], "writes": [7]},
    {"op": "read", "tensor": 7, "deps": [5]},
    {"op": "end"},
    {"op": "end"},
]


def _trace(tmp_path, items):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_a_trace_becomes_a_schedule(tmp_path):
    schedule = read_trace(_trace(tmp_path, TRACE))
    alloc, task = schedule.submissions
    assert [(slot.name, slot.offset, slot.size_bytes) for slot in alloc.slots] == [
        ("buffer 7", 0, 1024),
        ("buffer 8", 1024, 2048),
    ]
    assert (task.waits, task.holds, task.core, task.num_blocks) == ((0,), (0,), "AIC", 2)
    assert Read((1,)) in schedule.steps
    assert [(s.depth, s.mode, s.mark.line) for s in schedule.scopes] == [(0, "auto", 1), (1, "manual", 9)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [*t[:2], t[2] | {"bytes": 1}, *t[3:]], "t.jsonl:3: not a trace record: .*take 3,072 bytes, not 1"),
        (lambda t: [*t[:3], t[3] | {"deps": [99]}, *t[4:]], "t.jsonl:4: not a trace record: KeyError"),
        (lambda t: [*t[:3], {"op": "jump"}], "t.jsonl:4: not a trace record: .*unknown op 'jump'"),
        (lambda t: [*t[:3], 5], "t.jsonl:4: not a trace record"),
        (lambda t: t[:-1], "the root scope is never closed"),
        (lambda t: [], "the root scope is never opened"),
    ],
)
def test_broken_traces_are_located(tmp_path, change, message):
    with pytest.raises(ScheduleError, match=message):
        read_trace(_trace(tmp_path, change(TRACE)))


def test_truncated_compressed_trace(tmp_path):
    path = tmp_path / "t.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"op": "end"}\n' * 100)[:40])
    with pytest.raises(RinggraphError, match="cannot read"):
        read_trace(path)


@pytest.mark.parametrize("variant", sampled("abc", "b"))
def test_the_seed_traces_hold_what_their_description_says(variant):
    """21,073 tasks and about 3,580 allocs each; source: the traced program of the reference."""
    schedule = read_trace(DATA / "seed-program" / f"program_{variant}.jsonl.xz")
    tasks = sum(1 for s in schedule.submissions if s.core is not None)
    allocs = len(schedule.submissions) - tasks
    assert tasks == 21_073
    assert 3_540 < allocs < 3_620
