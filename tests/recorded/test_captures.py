"""Captures rebuilt: recorded folders against their true blocks, and random programs against the files of a run of theirs."""

import json
import shutil
from collections import Counter

import pytest
from capture_files import random_program, write_capture
from places import DATA

from runner.base.errors import ConfigError, RinggraphError, ScheduleError
from runner.driver.face import Driver
from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.recorded.opening import is_recorded, read_recording
from runner.recorded.recording import OUTSIDE
from runner.recorded.showing import Shown
from runner.recorded.writing import program_json
from runner.rings.schedule import Begin, End

CAPTURES = DATA / "captures"
COMPLETE = ("03", "05", "07", "layers_1", "layers_3", "layers_5", "simulated")


def _program(name):
    """What the capture was made of, in its format."""
    return read_conformance(json.loads((CAPTURES / name / "program.json").read_text()))


def _true_blocks(name):
    """(ring, task, offset) -> (bytes, whether some task names it), of every block of the program."""
    program = _program(name)
    named = {a.tensor for s in program.submissions for a in s.arguments if a.tensor != OUTSIDE}
    created = [tensor for s in program.submissions for tensor in s.creates]
    shown = Shown.of(program).as_json()["blocks"]
    return {(b["ring"], b["task"], b["offset"]): (b["bytes"], t in named) for b, t in zip(shown, created, strict=False)}


def _shown(path):
    return Shown.of(read_recording(path)).as_json()


def _got(shown):
    return {(b["ring"], b["task"], b["offset"]): (b["bytes"], b["exact"]) for b in shown["blocks"]}


def _without_order(name, folder):
    shutil.copytree(CAPTURES / name, folder)
    path = folder / "chip_swimlane_records.json"
    data = json.loads(path.read_text()) | {"chip_swimlane_level": 3}
    del data["aicpu_orchestrator_phases"]
    path.chmod(0o644)
    path.write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.parametrize("has_order", [True, False])
def test_every_named_block_is_right_and_exact(name, has_order, tmp_path):
    shown = _shown(CAPTURES / name if has_order else _without_order(name, tmp_path / name))
    got, true = _got(shown), _true_blocks(name)
    for place, (size, is_named) in true.items():
        if is_named:
            assert got[place] == (size, True), place
    wrong = {place: size for place, (size, is_exact) in got.items() if is_exact and true.get(place, (None,))[0] != size}
    assert wrong == {}, "what is said to be exact is right"
    assert shown["proof"]["complete"], shown["proof"]
    if has_order:
        assert not any("order" in text for text in shown["estimated"])
    else:
        assert any("submission order" in text for text in shown["estimated"])


@pytest.mark.parametrize("name", COMPLETE)
def test_the_recorded_blocks_are_those_of_the_file(name):
    """`blocks.json`, where the capture has it, says the same as the program beside it."""
    path = CAPTURES / name / "blocks.json"
    if name != "simulated":
        rows = json.loads(path.read_text())
        assert {(b["ring"], b["task"], b["offset"]): b["bytes"] for b in rows} == {k: v[0] for k, v in _true_blocks(name).items()}


@pytest.mark.parametrize("name", COMPLETE)
def test_scopes_steps_and_edges_are_those_of_the_program(name):
    program, rebuilt = _program(name), read_recording(CAPTURES / name)
    assert rebuilt.steps == program.steps
    assert [(s.depth, s.mode) for s in rebuilt.scopes] == [(s.depth, s.mode) for s in program.scopes]
    ours, true = schedule_of(rebuilt).submissions, schedule_of(program).submissions
    assert [(s.waits, s.holds, s.core) for s in ours] == [(s.waits, s.holds, s.core) for s in true]


@pytest.mark.parametrize("name", COMPLETE)
def test_without_order_every_task_keeps_its_scope_and_its_edges(name, tmp_path):
    """Only where allocs stand among others is not told."""
    told, untold = _shown(CAPTURES / name), _shown(_without_order(name, tmp_path / name))

    def by_place(shown):
        ids = [(s["ring"], s["number"]) for s in shown["submissions"]]
        edges = {(ids[e["from"]], ids[e["to"]], e["explicit"], e["keeps"]) for e in shown["edges"]}
        return dict(zip(ids, shown["submissions"], strict=True)), edges

    assert by_place(told) == by_place(untold)
    sites = [[s["site"] for s in shown["scopes"]] for shown in (told, untold)]
    assert sites[0] == sites[1]


def test_the_keys_of_a_recorded_program():
    shown = _shown(CAPTURES / "simulated")
    assert [*shown] == ["rings", "scopes", "submissions", "blocks", "edges", "estimated", "proof"]
    assert shown["rings"][1] == {"ring": 1, "heap": 20480, "window": 64, "pool": 256}
    assert shown["scopes"][0] == {"site": "(unknown):0", "depth": 0, "ring": 0, "mode": "auto", "first": 0, "last": 26}
    assert shown["scopes"][3] == {"site": "orch.cpp:12", "depth": 2, "ring": 2, "mode": "manual", "first": 8, "last": 9}
    assert shown["submissions"][7] == {"name": "dummy", "ring": 1, "number": 2, "kind": "dummy", "duration": None}
    k3 = shown["submissions"][3]
    assert (k3["name"], k3["kind"], round(k3["duration"], 2)) == ("kernel_0", "aic", 415.16)
    assert {"from": 7, "to": 8, "explicit": True, "keeps": True} in shown["edges"]
    assert shown["blocks"][0] == {"ring": 0, "task": 0, "offset": 0, "bytes": 3072, "exact": True}


def test_an_edge_from_an_earlier_tensor_at_the_address_is_none():
    """The third layer's `q` lies where the first one's lay; the replay that wrote deps.json never forgets a writer."""
    rebuilt = read_recording(CAPTURES / "simulated")
    assert rebuilt.facts["stale_edges"] == ((3, 19),)
    assert 3 not in (rebuilt.submissions[19].waits or ())


@pytest.mark.parametrize(("name", "num_open"), [("died", 2), ("22", 3)])
def test_a_run_that_died_is_read(name, num_open):
    rebuilt = read_recording(CAPTURES / name)
    shown = Shown.of(rebuilt).as_json()
    assert len(rebuilt.facts["open_scopes"]) == num_open
    assert any("left open" in text for text in shown["estimated"])
    assert shown["proof"]["complete"]
    got, true = _got(shown), _true_blocks(name)
    named = {
        rebuilt.facts["rings"][k] for k, s in enumerate(rebuilt.submissions) for t in s.creates if t in rebuilt.facts["named"]
    }
    assert len(named) > 0
    for (ring, task, offset), (size, is_exact) in got.items():
        if (ring, task) in named and is_exact:
            assert true[ring, task, offset][0] == size


@pytest.mark.parametrize("name", [path.name for path in sorted(CAPTURES.iterdir())])
def test_what_is_written_reads_back_to_the_same(name, tmp_path):
    rebuilt = read_recording(CAPTURES / name)
    path = tmp_path / "out.json"
    path.write_text(json.dumps(program_json(rebuilt)))
    before, after = Shown.of(rebuilt).as_json(), _shown(path)
    assert {k: v for k, v in before.items() if k != "proof"} == {k: v for k, v in after.items() if k != "proof"}


def _random_case(seed, folder, has_order, manual):
    written = write_capture(folder, random_program(seed, (12, 16, 24, 64)[seed % 4] * 1024, manual), has_order=has_order)
    return None if written is None else (*written, read_recording(folder))


def _places(schedule, replay):
    """Per tensor its (ring, number, offset), and bytes."""
    shown = [(sub, ring) for sub, ring in zip(schedule.submissions, _rings(schedule), strict=True)]
    counts, found = Counter(), {}
    for index, (submission, ring) in enumerate(shown):
        for slot in submission.slots:
            found[slot.tensor] = (ring, counts[ring], replay.offsets[index] + slot.offset, slot.size_bytes)
        counts[ring] += 1
    return found


def _rings(schedule):
    open_scopes, rings = [], []
    for step in schedule.steps:
        if isinstance(step, Begin):
            open_scopes.append(step.scope)
        elif isinstance(step, End):
            open_scopes.pop()
        else:
            rings.append(schedule.scopes[open_scopes[-1]].ring)
    return rings


@pytest.mark.parametrize("has_order", [True, False])
def test_random_captures(has_order, tmp_path):
    """Steps and edges come out; named tensors of auto scopes are right wherever they are said to be exact, and nearly all are.

    Where no edge names a first tensor the heaps' base is a guess, and says so.
    """
    counts = Counter()
    for seed in range(60):
        case = _random_case(seed, tmp_path / f"{seed}", has_order, manual=False)
        if case is None:
            continue
        recording, schedule, replay, rebuilt = case
        if rebuilt.facts["base"] is None or any("base" in text for text in rebuilt.estimated):
            counts["guess"] += 1
            continue
        shown = Shown.of(rebuilt).as_json()
        got, true = _got(shown), _places(schedule, replay)
        for tensor in {a.tensor for s in recording.submissions for a in s.arguments if a.tensor != OUTSIDE}:
            *place, size = true[tensor]
            counts["named"] += 1
            counts["right"] += got.get(tuple(place)) == (size, True)
        if has_order:
            assert rebuilt.steps == recording.steps, seed
            ours = [(s.waits, s.holds) for s in schedule_of(rebuilt).submissions]
            assert ours == [(s.waits, s.holds) for s in schedule.submissions], seed
    assert counts["named"] > 200
    assert counts["right"] >= 0.97 * counts["named"], counts


@pytest.mark.parametrize("manual", [True, False])
@pytest.mark.parametrize("has_order", [True, False])
def test_what_is_said_to_be_exact_is_right(has_order, manual, tmp_path):
    """Whatever was guessed: a row is a tensor, or all that an alloc has which nobody names, and its bytes are the true ones."""
    num_exact = 0
    for seed in range(100, 150):
        case = _random_case(seed, tmp_path / f"{seed}", has_order, manual)
        if case is None:
            continue
        _, schedule, replay, rebuilt = case
        ends = {(ring, task, at): at + size for ring, task, at, size in _places(schedule, replay).values()}
        for (ring, task, offset), (size, is_exact) in _got(Shown.of(rebuilt).as_json()).items():
            if is_exact:
                at = offset
                while at < offset + size:
                    assert (ring, task, at) in ends, (seed, ring, task, offset, size)
                    at = ends[ring, task, at]
                assert at == offset + size, (seed, ring, task, offset, size)
                num_exact += 1
    assert num_exact > 100


@pytest.mark.parametrize("seed", range(12))
def test_random_captures_with_manual_scopes_are_read(seed, tmp_path):
    """Every scope has its mode, every task its scope."""
    case = _random_case(seed, tmp_path, True, manual=True)
    if case is not None:
        recording, _, _, rebuilt = case
        assert rebuilt.steps == recording.steps
        used = {rebuilt.facts["scope_of"][k] for k, s in enumerate(recording.submissions) if not s.is_alloc}
        for scope in used:
            assert rebuilt.scopes[scope].mode == recording.scopes[scope].mode


# --- what is missing or broken ----------------------------------------------------------------------------------------


def _copy(tmp_path, name="05"):
    folder = tmp_path / name
    shutil.copytree(CAPTURES / name, folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def test_without_deps_there_are_scopes_and_sums(tmp_path):
    folder = _copy(tmp_path)
    (folder / "deps.json").unlink()
    shown = _shown(folder)
    assert len(shown["scopes"]) == 13 and len(shown["submissions"]) == 37 and not shown["edges"]
    assert shown["proof"]["complete"] and shown["proof"]["scopes"] == [13, 13]
    assert any("deps.json is missing" in text for text in shown["estimated"])


def test_without_times_there_are_no_durations(tmp_path):
    folder = _copy(tmp_path, "layers_3")
    (folder / "chip_swimlane_records.json").unlink()
    shown = _shown(folder)
    assert shown["proof"]["complete"]
    assert {s["duration"] for s in shown["submissions"]} == {None}
    assert any("chip_swimlane_records.json is missing" in text for text in shown["estimated"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "scope_stats.jsonl").unlink(), "has no scope_stats.jsonl, which alone says"),
        (lambda d: (d / "deps.json").write_text("{}"), "deps.json: tensors: got None, expected a list"),
        (lambda d: (d / "deps.json").write_text('{"tensors": [], "tasks": [{}]}'), r"tasks\[0\].task_id: got nothing"),
        (
            lambda d: (d / "deps.json").write_text('{"tensors": [], "tasks": [{"task_id": "99999999999999999"}]}'),
            r"tasks\[0\].task_id: got 99999999999999999, of ring 23283064, expected one of 4 rings",
        ),
        (lambda d: _edit(d, '"total": 26', '"total": 27'), "was it cut"),
        (lambda d: _edit(d, '"dropped": 0, "total": 26', '"dropped": 1, "total": 27'), "1 records were dropped"),
        (
            lambda d: _edit(d, '"depth": 1, "ring": 1', '"depth": 2, "ring": 2'),
            "begins at depth 2 on ring 2, expected depth 1",
        ),
        (lambda d: _edit(d, '"task_window_end": 36', '"task_window_end": 35'), "fits no scope"),
    ],
)
def test_broken_captures_are_refused_in_plain_words(change, message, tmp_path):
    folder = _copy(tmp_path)
    change(folder)
    with pytest.raises(ScheduleError, match=message):
        read_recording(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["edges"][0].update(pred=str(9 << 32)), r"edges\[0\].pred: got 38654705664, of ring 9, expected one of 4"),
        (lambda d: d["edges"][0].update(pred=str(3 << 32 | 7)), "submission 7 of ring 3 fits no scope of scope_stats.jsonl"),
        (lambda d: d["edges"][0].update(succ="77"), r"edges\[0\].succ: no task has the id 77"),
        (lambda d: d["edges"][0].update(arg=17), r"edges\[0\].arg: task 4294967297 has no argument 17 with a tensor"),
        (
            lambda d: d["edges"][0].update(pred=d["edges"][0]["succ"]),
            "an edge leads back, from submission 1 of ring 1 to 1 of ring",
        ),
        (
            lambda d: d["edges"][0].update(pred=d["tasks"][-1]["task_id"]),
            "an edge leads back, from submission 35 of ring 1 to 1 ",
        ),
        (lambda d: d["tasks"][0]["args"][0].update(type="WEIRD"), r"args\[0\].type: got 'WEIRD', expected one of INPUT, INOUT"),
        (lambda d: d["tasks"][0]["args"][0].update(idx=1), r"tasks\[0\].args: an idx comes twice"),
        (lambda d: d.pop("tasks"), "tasks: got None, expected a list"),
    ],
)
def test_broken_dependencies_are_refused_with_their_place(change, message, tmp_path):
    folder = _copy(tmp_path)
    data = json.loads((folder / "deps.json").read_text())
    change(data)
    (folder / "deps.json").write_text(json.dumps(data))
    with pytest.raises(ScheduleError, match=message):
        read_recording(folder)


def test_graph_commands_say_that_a_capture_is_none():
    with pytest.raises(ConfigError, match="is a recorded program, and lint checks graphs"):
        Driver().lint(CAPTURES / "05")
    with pytest.raises(RinggraphError, match="is a folder, and no graph"):
        Driver().load(CAPTURES / "05")


def _edit(folder, old, new):
    path = folder / "scope_stats.jsonl"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_is_a_recorded_program(tmp_path):
    assert is_recorded(CAPTURES / "05") and is_recorded("x.jsonl.xz") and is_recorded("x.json")
    assert not is_recorded("decode_fwd") and not is_recorded("graphs/x.yaml")
    with pytest.raises(ScheduleError, match="is no capture: it has none of"):
        read_recording(tmp_path)
    with pytest.raises(ScheduleError, match="is one file of a capture"):
        read_recording(CAPTURES / "05" / "deps.json")


def test_bytes_of_a_block_that_did_not_fit_before_the_end(tmp_path):
    """An alloc that began the next lap must be larger than what was left, whatever of it is named."""
    items = [
        {"alloc": "base", "bytes": 1},
        {"task": "j", "inputs": ["base"]},
        {"scope": [{"alloc": "a", "bytes": 9000}]},
        {
            "scope": [
                {"alloc": [{"name": "b", "bytes": 1024}, {"name": "unused", "bytes": 4096}]},
                {"task": "m", "inputs": ["b"], "outputs": [{"name": "c", "bytes": 100}]},
                {"task": "n", "inputs": ["c"]},
            ]
        },
    ]
    capacities = {"ring_heap": [12288] * 4, "ring_task_window": [16] * 4, "ring_dep_pool": [64] * 4}
    assert write_capture(tmp_path, {"program": {"items": items}, "capacities": capacities}) is not None
    shown = _shown(tmp_path)
    assert shown["proof"]["complete"], shown["proof"]
    assert [tuple(b.values()) for b in shown["blocks"]][2:] == [
        (1, 1, 0, 1024, True),
        (1, 1, 1024, 4096, False),
        (1, 2, 5120, 1024, True),
    ]
