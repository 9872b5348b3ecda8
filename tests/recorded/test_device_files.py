"""Files for tools of the device: what plans and runs leave reads back as they were, and holds what its format asks for."""

import json
import random
from collections import Counter

import pytest
from capture_files import random_program
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA, ROOT
from random_schedules import build, programs, small_sizes
from sampled import sampled

from runner.driver.device.files import planned_run, writers
from runner.driver.driver import Setup
from runner.driver.outputs import SideFiles
from runner.driver.planning import PlanRequest, plan
from runner.recorded.edges import schedule_of
from runner.recorded.opening import read_recording
from runner.recorded.recording import OUTSIDE
from runner.recorded.showing import Shown
from runner.report.device.perfetto import perfetto_json
from runner.report.device.swimlane import swimlane_json
from runner.report.device.timeline import task_ids, traced
from runner.rings.replay import eager
from runner.rings.schedule import Begin, End, Submit
from runner.rings.timed import AIV_PER_MIX, Timing, timed

pytestmark = pytest.mark.usefixtures("short_searches")

SHIPPED = sorted(path.stem for path in (ROOT / "graphs" / "deepseek_v4").glob("*.yaml"))
TIMING = Timing(0.5, lambda submission: 3.0 + submission % 5, 2, 4)


def _written(found, folder):
    files = SideFiles(*(folder / name for name in ("scope_stats.jsonl", "deps.json", "chip_swimlane_records.json", "t.json")))
    for write in writers(files, planned_run(found, files.need_times)):
        write()
    return files


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", sampled(SHIPPED, lambda graph: graph not in ("prefill_fwd", "decode_fwd_mtp")))
def test_a_schedule_written_as_a_capture_is_rebuilt(graph, tmp_path):
    """Schedule > deps, scope stats, swimlane > recording > the same schedule.

    The one thing that the device's files do not tell is how the bytes of neighbours are divided of which no task names any.
    """
    found = plan(Setup(["tiny"], [], None, None), PlanRequest(graph))
    _written(found, tmp_path)
    recording = read_recording(tmp_path)
    ours, rebuilt = found.schedule, schedule_of(recording)
    assert [*rebuilt.steps] == [step for step in ours.steps if isinstance(step, Begin | End | Submit)]
    for name in ("depth", "mode"):
        assert [getattr(scope, name) for scope in rebuilt.scopes] == [getattr(scope, name) for scope in ours.scopes]
    for name in ("waits", "holds", "core", "num_blocks"):
        got, expected = ([getattr(item, name) for item in schedule.submissions] for schedule in (rebuilt, ours))
        assert got == expected, name
    tensors = recording.tensors
    if not any("the heaps' base" in text for text in recording.estimated):
        assert all(tensors[a.tensor].exact for item in recording.submissions for a in item.arguments if a.tensor != OUTSIDE)
    for index, item in enumerate(recording.submissions):
        if all(tensors[tensor].exact for tensor in item.creates):
            assert rebuilt.submissions[index].size_bytes == ours.submissions[index].size_bytes, index
    assert sum(item.size_bytes for item in rebuilt.submissions) == sum(item.size_bytes for item in ours.submissions)
    proof = Shown.of(recording).as_json()["proof"]
    assert proof["addresses"][0] == proof["addresses"][1] > 0 and proof["scopes"][0] == proof["scopes"][1] > 0


@pytest.mark.parametrize("name", ["05", "07", "layers_1", "layers_5", "simulated"])
def test_a_capture_that_is_written_again_is_rebuilt(name, tmp_path):
    """Capture > schedule as recorded > files > the same program: blocks, edges and scopes."""
    first = read_recording(DATA / "captures" / name)
    found = plan(Setup([], [], None, None), PlanRequest(str(DATA / "captures" / name), allow_missing_edges=True))
    _written(found, tmp_path)
    ours, again = found.schedule, schedule_of(read_recording(tmp_path))
    assert [*again.steps] == [*ours.steps]
    assert [item.waits for item in again.submissions] == [item.waits for item in ours.submissions]
    named = {argument.tensor for submission in first.submissions for argument in submission.arguments}
    for index, submission in enumerate(first.submissions):
        if set(submission.creates) & named:
            assert again.submissions[index].size_bytes == ours.submissions[index].size_bytes


@pytest.mark.parametrize("graph", ["layers_1", "moe", "attention_decode_csa"])
def test_a_plan_in_which_tensors_take_turns_is_rebuilt(graph, tmp_path):
    """An arena of minpeak's is one tensor of which all in it are parts, as whoever writes the plan for a device would have it."""
    is_capture = graph == "layers_1"
    path = str(DATA / "captures" / graph) if is_capture else graph
    found = plan(Setup([] if is_capture else ["tiny"], [], None, None), PlanRequest(path, "minpeak"))
    assert any(item.num_tensors == 1 < len(item.slots) for item in found.schedule.submissions)
    _written(found, tmp_path)
    recording = read_recording(tmp_path)
    rebuilt = schedule_of(recording)
    assert [item.waits for item in rebuilt.submissions] == [item.waits for item in found.schedule.submissions]
    for index, item in enumerate(found.schedule.submissions):
        if item.num_tensors == 1 < len(item.slots):
            assert rebuilt.submissions[index].size_bytes == item.size_bytes and len(rebuilt.submissions[index].slots) == 1
    proof = Shown.of(recording).as_json()["proof"]
    assert proof["addresses"][0] == proof["addresses"][1] > 0


# --- the timeline -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(programs(), st.tuples(*[st.integers(2, 12)] * 4), st.integers(1, 3))
def test_a_timeline_is_the_run_of_the_timed_replay(items, heap, aic):
    """Every block runs once on cores that nobody else has; submissions follow each other; scopes nest as in the schedule."""
    schedule, timing = build(items), Timing(0.5, lambda submission: submission % 4, aic, 2 * aic)
    replay, timeline = traced(schedule, small_sizes(heap), timing)
    plain = timed(schedule, small_sizes(heap), timing)
    assert (replay.makespan_us, replay.stall_us, replay.offsets) == (plain.makespan_us, plain.stall_us, plain.offsets)
    busy: dict[int, float] = {}
    for run in timeline.runs:
        item = schedule.submissions[run.submission]
        assert len(run.cores) == (1 + AIV_PER_MIX if item.core == "MIX" else 1)
        for core in run.cores:
            assert busy.get(core, 0.0) <= run.start_us
            assert item.core == "MIX" or timeline.cores[core] == item.core.lower()
            busy[core] = run.end_us
    placed = [k for k, offset in enumerate(replay.offsets) if offset >= 0]
    assert [submit.submission for submit in timeline.submits] == placed
    if replay.deadlock is None:
        blocks = Counter(run.submission for run in timeline.runs)
        assert blocks == {k: item.num_blocks for k, item in enumerate(schedule.submissions) if item.core is not None}
        assert max((run.end_us for run in timeline.runs), default=0.0) <= replay.makespan_us
        stalled = sum(s.end_us - s.start_us - 0.5 for s in timeline.submits)
        assert stalled == pytest.approx(replay.stall_us), "nothing else makes the submitting thread wait here"
    now = 0.0
    for submit in timeline.submits:
        assert now <= submit.start_us <= submit.end_us
        now = submit.end_us
    for ring in range(4):
        held = [level.held_bytes for level in timeline.levels if level.ring == ring]
        assert max(held, default=0) == replay.peak_bytes[ring]


def test_a_swimlane_has_every_dispatch_once_and_no_time_of_zero():
    """The converters join rows by (core, dispatch) and take 0 for no time."""
    schedule = schedule_of(read_recording(DATA / "captures" / "layers_1"))
    replay, timeline = traced(schedule, read_recording(DATA / "captures" / "layers_1").sizes, TIMING)
    found = swimlane_json(task_ids(schedule, [True] * len(schedule.submissions)), timeline)
    rows = found["aicore_tasks"]
    assert all(len(row) == 6 and 0 < row[3] <= row[4] for row in rows)
    keys = [(row[0], row[2]) for row in rows]
    assert len(set(keys)) == len(keys) and keys == [(row[0], row[1]) for row in found["aicpu_tasks"]]
    assert len(found["metadata"]["core_types"]) == found["metadata"]["num_cores"] == 6
    assert max(row[4] for row in rows) - 1000 == round(replay.makespan_us * 1000)


# --- Perfetto ---------------------------------------------------------------------------------------------------------


def check_trace(trace):
    """What the format asks for: slices of a thread nest, flows bind to slices, counters belong to processes with names."""
    events = trace["traceEvents"]
    named = {(e["pid"], e["name"]): e["args"] for e in events if e["ph"] == "M"}
    slices: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in events:
        assert (event["pid"], "process_name") in named, event
        if event["ph"] == "X":
            begin = round(event["ts"] * 1000)
            assert event["dur"] >= 0 and event["name"]
            slices.setdefault((event["pid"], event["tid"]), []).append((begin, begin + round(event["dur"] * 1000)))
        elif event["ph"] == "C":
            assert event["args"] and all(type(value) is int and value >= 0 for value in event["args"].values())
    for thread, spans in slices.items():
        open_until: list[int] = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= begin:
                open_until.pop()
            assert not open_until or end <= open_until[-1], f"slices of {thread} cross"
            open_until.append(end)
    flows: dict[int, dict[str, dict]] = {}
    for event in events:
        if event["ph"] in "sf":
            assert event["ph"] not in flows.setdefault(event["id"], {})
            flows[event["id"]][event["ph"]] = event
            at = round(event["ts"] * 1000)
            assert any(begin <= at < end for begin, end in slices[event["pid"], event["tid"]]), event
    for flow in flows.values():
        assert set(flow) == {"s", "f"} and flow["f"]["bp"] == "e" and flow["s"]["ts"] < flow["f"]["ts"]
        assert (flow["s"]["cat"], flow["s"]["name"]) == (flow["f"]["cat"], flow["f"]["name"])
    return slices, flows


@pytest.mark.parametrize("broken", ["cross", "loose flow", "no process"])
def test_the_check_sees_what_is_wrong(broken):
    def piece(ph, **rest):
        return {"ph": ph, "pid": 1, "tid": 1, "name": "a", "cat": "c"} | rest

    head = [{"ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": {"name": "p"}}]
    events = {
        "cross": [piece("X", ts=0, dur=2), piece("X", ts=1, dur=2)],
        "loose flow": [piece("X", ts=0, dur=2), piece("s", ts=2, id=1), piece("f", ts=3, id=1, bp="e")],
        "no process": [piece("X", ts=0, dur=1) | {"pid": 2}],
    }[broken]
    with pytest.raises(AssertionError):
        check_trace({"traceEvents": head + events})


@settings(max_examples=40, deadline=None)
@given(programs(), st.tuples(*[st.integers(2, 12)] * 4), st.integers(0, 10**6))
def test_perfetto_traces_of_random_runs_hold_what_the_format_asks_for(items, heap, seed):
    rng = random.Random(seed)
    times = [rng.choice((0, 0.0004, 1.7, rng.random() * 9)) for _ in range(400)]
    schedule = build(items)
    replay, timeline = traced(schedule, small_sizes(heap), Timing(rng.random(), lambda k: times[k % 400], 1, 3))
    slices, flows = check_trace(perfetto_json(schedule, timeline))
    ran = {run.submission for run in timeline.runs if round(run.end_us * 1000) > round(run.start_us * 1000)}
    edges = sum(wait in ran for k in ran for wait in schedule.submissions[k].waits)
    assert len(flows) == edges
    assert len(slices.get((2, 1), ())) == len(timeline.submits)
    assert len(slices[2, 2]) == len(timeline.scopes) == sum(isinstance(step, Begin) for step in schedule.steps) or replay.deadlock


def test_the_perfetto_trace_of_a_shipped_graph(tmp_path):
    """`moe` at tiny: slices of blocks on cores, of submissions, of scopes; counters of each ring in use."""
    found = plan(Setup(["tiny"], [], None, None), PlanRequest("moe", progress="timed"))
    files = _written(found, tmp_path)
    trace = json.loads(files.perfetto.read_text())
    slices, flows = check_trace(trace)
    assert len(slices[2, 1]) == len(found.schedule.submissions) and len(slices[2, 2]) == len(found.schedule.scopes)
    counters = {e["name"] for e in trace["traceEvents"] if e["ph"] == "C"}
    assert {"ring 0 bytes", "ring 0 slots", "ring 1 bytes", "open scopes"} <= counters and flows
    peak = max(e["args"]["held"] for e in trace["traceEvents"] if e["name"] == "ring 1 bytes")
    assert peak == found.replay.peak_bytes[1]


# --- what a run that dies leaves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_random_program_that_dies_leaves_what_it_submitted(seed, tmp_path):
    program = random_program(seed, heap=6 * 1024, manual=False)
    path = tmp_path / "p.json"
    path.write_text(json.dumps(program))
    found = plan(Setup([], [], None, None), PlanRequest(str(path), progress="eager", allow_missing_edges=True))
    folder = tmp_path / "out"
    folder.mkdir()
    _written(found, folder)
    again = read_recording(folder)
    placed = sum(offset >= 0 for offset in found.replay.offsets)
    assert len(again.submissions) == placed
    assert bool(again.facts["open_scopes"]) == (found.deadlock is not None)
    assert eager(schedule_of(again), again.sizes).deadlock is None, "it goes as far as it went"
