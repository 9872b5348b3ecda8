"""Recorded programs planned anew: what stays, what a plan says in the recording's words, and the figures."""

import json
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
from capture_files import random_program
from places import DATA
from recorded_programs import random_items
from sampled import sampled

from runner.base.errors import ConfigError, RinggraphError, ScheduleError
from runner.driver.compare.compare import compare
from runner.driver.device.placement import placement
from runner.driver.driver import Setup
from runner.driver.face import Driver
from runner.driver.planning import MinpeakOptions, PlanRequest, TimedOptions, plan
from runner.driver.recorded import open_recorded
from runner.driver.sizing import size
from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.recorded.opening import read_recording
from runner.recorded.plans import plan_lines
from runner.recorded.program import program_of_recording
from runner.report.verdict import verdict
from runner.rings.capacity import least_heap, ring_loads
from runner.rings.replay import eager, lagging
from runner.rings.schedule import Begin, End, Submit
from runner.rings.sizes import RingSizes
from runner.rings.timed import timed
from runner.verify.edges import Need, Order
from runner.verify.verify import races, verify
from schedulers import get_scheduler

CAPTURES = DATA / "captures"
TRACES = DATA / "seed-program"
KIB = 1024


@cache
def _plan(path, scheduler="annotated", **options):
    """A plan, worked out once for all tests that look at it."""
    return plan(Setup(), PlanRequest(str(path), scheduler, **options))


def _recordings(num_random=12, without=()):
    yield from (read_recording(path) for path in sorted(CAPTURES.iterdir()) if path.name not in without)
    for seed in range(num_random):
        yield read_conformance(random_program(seed, 64 * KIB))


def test_annotated_is_what_the_device_ran():
    """Submissions, blocks, edges and scopes of the program as written are those of the recording."""
    for recording in _recordings():
        ours, ran = get_scheduler("annotated")(program_of_recording(recording), {}), schedule_of(recording)
        assert ours.steps == ran.steps
        assert [(s.depth, s.mode) for s in ours.scopes] == [(s.depth, s.mode) for s in ran.scopes]
        for mine, theirs in zip(ours.submissions, ran.submissions, strict=True):
            assert (mine.size_bytes, mine.core, mine.waits, mine.holds) == (
                theirs.size_bytes,
                theirs.core,
                theirs.waits,
                theirs.holds,
            ), (recording.name, mine.name)
            assert [(s.offset, s.size_bytes) for s in mine.slots] == [(s.offset, s.size_bytes) for s in theirs.slots]


@pytest.mark.parametrize(
    ("strategy", "without"),
    [
        *(("auto", ()), ("unscoped", ()), ("autoscope", ()), ("minpeak", ("layers_1", "layers_3", "layers_5"))),
        pytest.param("minpeak", (), marks=pytest.mark.slow),
        pytest.param("minpeak apart", (), marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("short_searches")
def test_what_was_ordered_stays_ordered(strategy, without):
    """Every edge of the recording is an order of the plan, and the plan is verified but for what the recording left open."""
    options = {"share": strategy != "minpeak apart"}
    for recording in _recordings(without=without):
        program = program_of_recording(recording)
        recorded = get_scheduler("annotated")(program, {})
        program = replace(program, races=races(recorded))
        planned = get_scheduler(strategy.split()[0])(program, options)
        assert [d.message for d in verify(planned) if d.code != "V2"] == [], recording.name
        of_task = {s.task: k for k, s in enumerate(planned.submissions) if s.task is not None}
        needs = [
            Need("recorded", tuple(sorted(firsts)), of_task[k], -1)
            for k, submission in enumerate(recorded.submissions)
            if k in of_task and (firsts := {of_task[w] for w in submission.waits if recorded.submissions[w].core is not None})
        ]
        assert list(Order(planned).unordered(needs)) == [], recording.name


def test_a_tensor_lives_until_its_last_use_in_a_manual_scope():
    program = program_of_recording(read_recording(CAPTURES / "simulated"))
    by_name = {tensor.name: tensor.id for tensor in program.tensors}
    users = [task.id for task in program.tasks if by_name["alloc.2"] in task.uses]
    assert users == [3, 4, 8], "the last of them in the manual scope"


APART = [("layers_1", 769), ("layers_3", 709), ("layers_5", 899)]


@pytest.mark.parametrize(("name", "most_apart"), sampled(APART, APART[:1]))
def test_minpeak_of_decoder_like_captures(name, most_apart):
    """545 KiB live at once; as recorded they need 1,164, 4,562 and 1,452. The plans run at their safe sizes, in any progress."""
    shared = _plan(CAPTURES / name, "minpeak", minpeak=MinpeakOptions("total"))
    apart = _plan(CAPTURES / name, "minpeak", minpeak=MinpeakOptions("total", no_share=True))
    assert shared.report.safe_total_bytes <= 548 * KIB
    assert apart.report.safe_total_bytes <= most_apart * KIB <= 900 * KIB
    balanced = _plan(CAPTURES / name, "minpeak")
    assert balanced.report.safe_total_bytes <= 548 * KIB
    recorded_us, planned_us = balanced.timed_recorded and balanced.timed_recorded.makespan_us, balanced.report.makespan_us
    assert recorded_us and planned_us and planned_us <= 1.05 * recorded_us
    for found in (shared, apart, balanced):
        assert found.deadlock is None and not found.warnings
        assert found.sizes.heap == tuple(ring.safe_bytes for ring in found.report.rings)
        assert lagging(found.schedule, found.sizes).deadlock is None
        assert eager(found.schedule, found.sizes).deadlock is None
        assert verify(found.schedule, found.sizes) == []


LIVE = [("layers_1", 481), ("layers_3", 480), ("layers_5", 481)]


@pytest.mark.parametrize(("name", "from_first_use"), sampled(LIVE, LIVE[:1]))
def test_what_lives_at_once(name, from_first_use):
    """The bound of a plan: 545 KiB from alloc to last use, as written; less where allocs move to their first use."""
    submissions = []

    def walk(items):
        for item in items:
            for _ in range(item.get("loop", 1)):
                if "scope" in item or "body" in item:
                    walk(item.get("scope") or item["body"])
                else:
                    submissions.append(item)

    walk(json.loads((CAPTURES / name / "program.json").read_text())["program"]["items"])
    current, lives = {}, []  # name -> its life: bytes, alloc, first use, last use
    for k, item in enumerate(submissions):
        for use in [use for part in ("inputs", "inouts", "existing", "no_dep") for use in item.get(part, ())]:
            if life := current.get(use if isinstance(use, str) else use["name"]):
                life[2:] = [k if life[2] is None else life[2], k]
        made = item.get("outputs", item.get("alloc"))
        for tensor in [{"name": made, "bytes": item["bytes"]}] if isinstance(made, str) else made:
            size = -(-tensor["bytes"] // KIB)
            lives.append([size, k, None if "alloc" in item else k, k])
            current[tensor["name"]] = lives[-1]
    for begin, most in ((1, 545), (2, from_first_use)):
        assert max(sum(life[0] for life in lives if life[begin] <= k <= life[3]) for k in range(len(submissions))) == most
    took = _plan(CAPTURES / name, "minpeak", minpeak=MinpeakOptions("total")).report.safe_total_bytes
    assert from_first_use * KIB <= took <= 548 * KIB


def test_a_submission_costs_what_was_recorded():
    """Where a record is so long that it holds a wait, and where a plan adds a submission, the median."""
    found = open_recorded(Setup(), CAPTURES / "simulated")
    usual, costs = found.recording.facts["submit_us"], [s.submit_us for s in found.recording.submissions]
    timing = found.timing(found.schedule)
    for k, cost in enumerate(costs):
        assert timing.cost_us(k) == (cost if cost is not None and cost <= 8 * usual else usual)
    assert len({timing.cost_us(k) for k in range(len(costs))}) > 3
    assert {found.timing(found.schedule, submit_us=2.0).cost_us(k) for k in range(len(costs))} == {2.0}


def _rescoped(found):
    """The recording with a plan's scopes and allocs: a program in the format, as its author would write it after the plan."""
    recording, after = found.recorded.recording, found.schedule
    names = [f"s{k}" for k in range(len(recording.submissions))]
    tensors = [f"t{k}" for k in range(len(recording.tensors))]
    stack = [[]]
    for step in after.steps[1:-1]:  # without the root
        if isinstance(step, Begin):
            stack.append([])
        elif isinstance(step, End):
            inner = stack.pop()
            stack[-1].append({"scope": inner})
        elif isinstance(step, Submit):
            item = after.submissions[step.submission]
            if item.task is None or recording.submissions[item.task].is_alloc:
                stack[-1].append({"alloc": [{"name": tensors[s.tensor], "bytes": s.size_bytes} for s in item.slots]})
                continue
            submission, own = recording.submissions[item.task], {s.tensor for s in item.slots}
            row = {"task": names[item.task], "kind": submission.kind, "inputs": [], "inouts": [], "existing": []}
            for a in submission.arguments:
                name = a.name if a.tensor < 0 else tensors[a.tensor]
                part = name if a.size_bytes is None else {"name": name, "offset": a.offset_bytes, "bytes": a.size_bytes}
                row[a.mode + "s" if a.mode != "existing" else a.mode].append(part)
            row["existing"] += [tensors[t] for t in submission.creates if t not in own]
            row["outputs"] = [{"name": tensors[s.tensor], "bytes": s.size_bytes} for s in item.slots]
            stack[-1].append(row)
    sizes = found.sizes
    capacities = {"ring_heap": [*sizes.heap], "ring_task_window": [*sizes.window], "ring_dep_pool": [*sizes.pool]}
    return read_conformance({"name": "rescoped", "program": {"items": stack[0]}, "capacities": capacities})


@pytest.mark.parametrize("name", sampled(["layers_1", "layers_3", "layers_5"], ["layers_1"]))
def test_new_scopes_replayed_as_a_program(name):
    """Without sharing a plan is scopes and allocs alone, so that it can be written as a program: this runs at the safe sizes."""
    found = _plan(CAPTURES / name, "minpeak", minpeak=MinpeakOptions("total", no_share=True))
    rescoped = _rescoped(found)
    assert rescoped.sizes == found.sizes
    schedule = schedule_of(rescoped)
    for replay in (eager, lagging):
        assert replay(schedule, rescoped.sizes).deadlock is None
    loads = ring_loads(schedule)
    assert sum(map(least_heap, loads)) <= found.report.safe_total_bytes


def test_times_side_by_side():
    """Recorded, timed as recorded and as planned; what the recorded run did between tasks explains the first difference."""
    found = _plan(CAPTURES / "layers_1", "minpeak", minpeak=MinpeakOptions("total"))
    run = found.run
    assert run is not None
    assert run["makespan_us"] == pytest.approx(4417.28, abs=1)
    assert run["kernels_us"] + run["data_gaps_us"] + run["core_gaps_us"] == pytest.approx(run["makespan_us"])
    assert run["timed_as_recorded_us"] < run["timed_as_planned_us"] < run["makespan_us"]
    assert run["after_core"] > 0, "the recording gave tasks a core that was busy"
    recorded = found.recorded
    assert recorded is not None
    timing = TimedOptions().of_recorded(recorded, recorded.schedule)
    assert (timing.aic, timing.aiv, timing.submit_us) == (2, 4, 0.8)
    assert timed(recorded.schedule, found.sizes, timing).makespan_us is not None
    assert timing.block_us(1) == recorded.recording.submissions[1].duration_us


def test_durations_are_those_of_options_where_these_are_given():
    recorded = open_recorded(Setup(), CAPTURES / "simulated")
    timing = TimedOptions(0.25, 7.0, "aic=1,aiv=2").of_recorded(recorded, recorded.schedule)
    assert (timing.submit_us, timing.aic, timing.aiv) == (0.25, 1, 2)
    assert (timing.block_us(1), timing.block_us(7)) == (7.0, 0.0), "a dummy takes no time"


def test_a_plan_in_the_words_of_the_recording():
    found = _plan(CAPTURES / "layers_1", "minpeak", minpeak=MinpeakOptions("total", no_share=True))
    changes, recorded = found.changes, found.recorded
    assert changes is not None and recorded is not None
    lines = list(plan_lines(recorded.recording, changes))
    assert lines[0] == "open a scope before submission 1 (`k1`, site orch.cpp:1), close it after 46 (depth 1)"
    assert changes["edges"] == [], "scopes alone need none"
    assert {"site": "orch.cpp:3", "mode": "auto", "first": 10, "last": 22} in changes["drop"] or changes["kept_scopes"]
    made_by = {t: k for k, s in enumerate(recorded.recording.submissions) for t in s.creates}
    names = {tensor.name: k for k, tensor in enumerate(recorded.recording.tensors)}
    assert all(made_by[names[row["tensor"]]] == row["made_by"] for row in changes["allocs"])
    shared = _plan(CAPTURES / "layers_1", "minpeak", minpeak=MinpeakOptions("total"))
    assert shared.changes is not None and shared.changes["edges"]
    waits = {(s.task, shared.schedule.submissions[w].task) for s in shared.schedule.submissions for w in s.waits}
    assert all((edge["to"], edge["from"]) in waits for edge in shared.changes["edges"])
    assert list(plan_lines(recorded.recording, _plan(CAPTURES / "05").changes or {})) == ["as recorded: nothing moves"]
    json.dumps(shared.as_json())


def test_commands_take_recorded_programs(short_searches):
    driver, capture = Driver(), CAPTURES / "05"
    assert "orch.cpp:2" in driver.draw(capture, level="task")
    explained = driver.explain(capture, "k1.3")
    assert [(use.name, use.mode) for use in explained.operands] == [("in0", "in"), ("inout0", "inout")]
    both = size(Setup(), [str(capture), str(CAPTURES / "07")], "annotated")
    assert both.names == ("05", "07")
    found = compare(Setup(), f"{CAPTURES / 'layers_3'}:annotated", f"{CAPTURES / 'layers_3'}:minpeak", PlanRequest(""))
    assert found.left.rings[0]["safe_bytes"] > 8 * found.right.rings[0]["safe_bytes"]
    program = compare(Setup(), str(capture / "program.json"), str(capture), PlanRequest(""))
    assert program.left.rings == program.right.rings
    frontier = driver.frontier(capture, 1)
    assert frontier.points[0].total_bytes == 17 * KIB


@pytest.mark.parametrize(
    "command",
    [
        ("schedule", "CAPTURE"),
        ("frontier", "CAPTURE", "--points", "1"),
        ("schedule-diff", "CAPTURE:annotated", "CAPTURE:auto"),
        ("size", "CAPTURE", "--scheduler", "minpeak"),
        ("scope-stats", "diff", "CAPTURE/scope_stats.jsonl", "--schedule", "CAPTURE"),
    ],
    ids=lambda command: command[0],
)
def test_commands_say_that_times_are_the_recorded_ones_but_for_options(short_searches, call, command):
    """Not those of a device, which no recorded program is timed by."""
    line = [part.replace("CAPTURE", str(CAPTURES / "03")) for part in command]
    for options, words in ((), ""), (("--task-us", "3", "--cores", "aic=1,aiv=2"), ", but 3 us a task, cores aic=1,aiv=2"):
        status, out, err = call(*line, *options)
        told = [text for text in out.splitlines() if "timed assumes" in text or "timed: what" in text]
        assert status == 0 and len(told) == 1 and told[0].endswith(f"what was recorded{words}"), (told, err)


def test_what_was_recorded_is_null_in_json(short_searches):
    """In that of every command."""
    driver, path, timed = Driver(), CAPTURES / "07", TimedOptions(task_us=3.0)
    of_size = driver.size(str(path), scheduler="minpeak", timed=timed)
    for found in driver.plan(path, timed=timed), of_size, driver.frontier(path, 1, timed=timed):
        told = found.as_json()["timing"]
        assert told["is_recorded"] and told["task_us"] == 3.0 and told["submit_us"] is None and told["cores"] is None


SAFE = (8192, 13312, 1024, 1024)


@pytest.mark.parametrize(
    ("rings", "expected"),
    [
        ((None, None, None), (SAFE, 16, 64)),
        ((None, "4", None), (SAFE, 4, 64)),
        ((None, None, "4"), (SAFE, 16, 4)),
        (("1MiB", None, None), ((2**20,) * 4, 16, 64)),
        (("safe", "64", None), (SAFE, 64, 64)),
    ],
)
def test_rings_that_no_option_gives_are_those_of_the_recording(rings, expected):
    """In `schedule` and in `placement`, whose heaps are always safe; what is too small for one is so for the other."""
    request = PlanRequest(str(CAPTURES / "05"), "unscoped", rings=rings)
    found, sizes = plan(Setup(), request), placement(Setup(), request).sizes
    heap, window, pool = expected
    assert found.sizes == RingSizes(heap, (window,) * 4, (pool,) * 4) == replace(sizes, heap=heap)
    assert (found.refusal is None) == (pool > 4) == placement(Setup(), request).is_kept


@pytest.mark.parametrize(
    ("setup", "options", "message"),
    [
        (Setup(("tiny",)), {}, "--config has no meaning for .*a recorded program"),
        (Setup(ops=("mine.py",)), {}, "--ops has no meaning for .*a recorded program"),
        (Setup((), ("ep=2",)), {}, "--set has no meaning"),
        (Setup(deploy="prefill"), {}, "--deploy has no meaning"),
        (Setup(ep=2), {}, "--ep has no meaning"),
        (Setup(), {"routing": "random:7"}, "--routing has no meaning"),
        (Setup(), {"write": True}, "--write has no meaning for .*there is no graph to write to"),
    ],
)
def test_options_of_graphs_are_refused(setup, options, message):
    with pytest.raises(ConfigError, match=message):
        plan(setup, PlanRequest(str(CAPTURES / "05"), **options))


COMMANDS = {
    "schedule": lambda request: plan(Setup(), request),
    "placement": lambda request: placement(Setup(), request),
    "schedule-diff": lambda request: compare(Setup(), f"{request.graph}:auto", str(request.graph), request),
    "size": lambda request: size(Setup(), [str(request.graph)], request.scheduler, request.minpeak, timed=request.timed),
    "frontier": lambda request: Driver().frontier(request.graph, 1, routing=request.routing, timed=request.timed),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("graph", [str(CAPTURES / "05"), "moe"], ids=["capture", "graph"])
def test_what_cannot_be_is_refused_by_every_command(graph, command, tmp_path):
    """Times and options of minpeak, whether the strategy looks at them or not; of a capture a routing."""
    wrong = [
        ({"timed": TimedOptions(task_us=float("nan"))}, "--task-us nan: expected 0"),
        ({"timed": TimedOptions(submit_us=float("inf"))}, "--submit-us inf: expected 0"),
        ({"timed": TimedOptions(task_us=1.0, profile=tmp_path / "p.json")}, "both say how long a task takes"),
        ({"timed": TimedOptions(cores="aic=0")}, "--cores aic=0"),
        ({"timed": TimedOptions(device="a9")}, "no device is called 'a9'"),
    ]
    wrong += [({"minpeak": MinpeakOptions(slack=-3.0)}, "--slack -3: expected")] * (command not in ("size", "frontier"))
    wrong += [({"routing": "uniform"}, "--routing has no meaning")] * (graph != "moe" and command != "size")
    for options, message in wrong:
        with pytest.raises(RinggraphError, match=message):
            COMMANDS[command](PlanRequest(graph, **options))


def test_without_dependencies_nothing_is_planned(tmp_path):
    for name in ("scope_stats.jsonl", "chip_swimlane_records.json"):
        (tmp_path / name).write_bytes((CAPTURES / "05" / name).read_bytes())
    with pytest.raises(RinggraphError, match=r"has no deps\.json: nothing tells which task needs what"):
        _plan(tmp_path)


def test_what_the_recording_left_open_is_told_and_kept_open():
    found = _plan(CAPTURES / "simulated", "minpeak", minpeak=MinpeakOptions("total"))
    assert [w.message[:2] for w in found.warnings] == ["16"]
    recorded = found.recorded
    assert recorded is not None
    assert (5, 9) in recorded.program.races, "both write h, one of them in a manual scope"


@pytest.mark.parametrize(
    ("variant", "row"), [("a", 0), pytest.param("b", 1, marks=pytest.mark.slow), pytest.param("c", 2, marks=pytest.mark.slow)]
)
def test_the_traced_programs_have_the_figures_of_the_docs(variant, row):
    """What `make figures` works out of the traces, by `schedule`: 0.5 us a submission, 20 us a task, workers without limit."""
    known = json.loads((DATA.parents[1] / "docs" / "figures" / "data" / "seed.json").read_text())[row]["traced"]
    options = TimedOptions(0.5, 20.0, "unlimited")
    found = _plan(TRACES / f"program_{variant}.jsonl.xz", rings=("1GiB", None, None), progress="timed", timed=options)
    rings = found.report.rings
    assert round(100 * max(ring.high_water_bytes for ring in rings) / 2**30, 2) == known["percent"]
    assert [round(ring.least_bytes / 2**20, 3) for ring in rings if ring.num_blocks] == known["least_mib"]


def _applied(recording, words):
    """A program with a plan's words applied to the recording, by nothing but them: scopes, allocs, and who makes what."""
    stack, opened, old = [], {}, []
    for step in recording.steps:
        if isinstance(step, Begin):
            stack.append(step.scope)
        elif isinstance(step, End):
            stack.pop()
        elif isinstance(step, Submit) and not recording.submissions[step.submission].is_alloc:
            for depth, scope in enumerate(stack[1:], 1):
                opened.setdefault(scope, [depth, step.submission, 0])[2] = step.submission
    dropped = [(row["site"], row["first"], row["last"]) for row in words["drop"]]
    for scope, (depth, first, last) in opened.items():
        key = (recording.scopes[scope].site, first, last)
        if key in dropped:
            dropped.remove(key)
        else:
            old.append((first, depth, last))
    assert not dropped
    scopes = sorted(old + [(row["before"], row["depth"], row["close_after"]) for row in words["open"]])
    blocks, place = {}, {}
    for row in words["allocs"]:
        key = (row["block"], row["before"], row["depth"])
        blocks[key] = row["block_bytes"]
        place[row["tensor"]] = f"block{list(blocks).index(key)}"
    items, closing = [[]], []

    def allocate(before, depth):
        for number, (key, num_bytes) in enumerate(blocks.items()):
            if key[1:] == (before, depth):
                items[-1].append({"alloc": f"block{number}", "bytes": num_bytes})

    for k, submission in enumerate(recording.submissions):
        names = [recording.tensors[t].name for t in submission.creates]
        own = [{"name": n, "bytes": recording.tensors[t].size_bytes} for n, t in zip(names, submission.creates, strict=True)]
        own = [tensor for tensor in own if tensor["name"] not in place]
        if submission.is_alloc:
            assert not own, "the plans of these captures move every alloc"
            continue
        while closing and closing[-1] < k:
            inner = items.pop()
            items[-1].append({"scope": inner})
            closing.pop()
        allocate(k, len(items) - 1)
        for first, depth, last in scopes:
            if first == k:
                assert depth == len(items)
                items.append([])
                closing.append(last)
                allocate(k, depth)
        row = {"task": f"s{k}", "inputs": [], "inouts": [], "existing": [], "outputs": own, "kind": submission.kind}
        row["existing"] = [place[name] for name in names if name in place]
        for a in submission.arguments:
            row[a.mode + "s" if a.mode != "existing" else a.mode].append(place.get(a.name, a.name))
        items[-1].append(row)
    while closing:
        closing.pop()
        inner = items.pop()
        items[-1].append({"scope": inner})
    return read_conformance({"program": {"items": items[0]}})


SAID = [*product(["layers_1", "layers_3"], [False, True])]


@pytest.mark.parametrize(("name", "no_share"), sampled(SAID, SAID[:1]))
def test_the_words_of_a_plan_are_the_plan(name, no_share):
    found = _plan(CAPTURES / name, "minpeak", minpeak=MinpeakOptions("total", no_share=no_share))
    said = schedule_of(_applied(found.recorded.recording, found.changes))
    assert [least_heap(load) for load in ring_loads(said)] == [least_heap(load) for load in ring_loads(found.schedule)]


def test_what_the_runtime_refuses_is_no_question_of_bytes(tmp_path):
    path = tmp_path / "empty.json"
    path.write_text('{"program": {"items": [{"alloc": []}]}}')
    found = verdict("empty", _plan(path).report)
    assert found == "'empty' is refused by the runtime, whatever its rings hold: 'alloc': an alloc of no tensors."


MANNERS = {
    "balanced": {},
    "makespan": {"objective": "makespan"},
    "total": {"objective": "total"},
    "no sharing": {"no_share": True},
    "budget": {"budget": "48KiB"},
}


def _planned(path, manner):
    """Plans by minpeak as asked for: what no rings of any size would hold is a message, and all else is verified."""
    try:
        found = _plan(path, "minpeak", minpeak=MinpeakOptions(**MANNERS[manner]))
    except RinggraphError as error:
        return str(error)
    assert found.deadlock is not None or verify(found.schedule, found.sizes) == []
    return found


def _written_program(tmp_path, items):
    path = tmp_path / "program.json"
    sizes = {"ring_heap": [64 * KIB] * 4, "ring_task_window": [256] * 4, "ring_dep_pool": [1024] * 4}
    path.write_text(json.dumps({"name": "program", "program": {"items": items}, "capacities": sizes}), "utf-8")
    return path


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", [3])
def test_tensors_without_bytes_are_planned_like_others(tmp_path, seed, manner):
    """A sixth of their tensors have no bytes, as dummies' outputs have none on a device."""
    _planned(_written_program(tmp_path, random_items(seed)), manner)


@pytest.mark.slow
@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("first", range(0, 60, 10))
def test_many_programs_with_tensors_without_bytes(tmp_path, first, manner):
    for seed in range(first, first + 10):
        _planned(_written_program(tmp_path, random_items(seed)), manner)


@pytest.mark.slow
@pytest.mark.parametrize("manner", MANNERS)
def test_every_recorded_program_is_planned(manner):
    for path in sorted((DATA / "conformance").glob("**/*.json")):
        if "tensormap" not in path.name:  # 65,536 tensors
            _planned(path, manner)


@pytest.mark.parametrize("manner", MANNERS)
def test_a_program_without_bytes_or_time_is_planned(tmp_path, manner):
    found = _planned(_written_program(tmp_path, [{"alloc": [{"name": "a", "bytes": 0}]}]), manner)
    assert not isinstance(found, str) and found.deadlock is None


@pytest.mark.parametrize(("item", "why"), [({"alloc": []}, "an alloc of no tensors"), (None, "33 tensor arguments")])
def test_no_frontier_of_what_the_runtime_refuses(tmp_path, item, why):
    made = [{"name": f"v{k}", "bytes": 1} for k in range(32)]
    task = [{"alloc": made}, {"task": "t", "inputs": [t["name"] for t in made], "outputs": [{"name": "y", "bytes": 1}]}]
    with pytest.raises(ScheduleError, match=f"no run ends: .*{why}"):
        Driver().frontier(_written_program(tmp_path, task if item is None else [item]), 1)
