"""Runs that died: what their scope stats say alone, and what the program beside them says more."""

import json

import pytest
from capture_files import random_program
from places import DATA

from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.recorded.ended.held import held_at_end, most_in_use
from runner.recorded.ended.pinned import death_of
from runner.recorded.opening import read_recording
from runner.recorded.programs import load_json, replay_recording
from runner.recorded.scope_stats import read_scope_stats, write_scope_stats
from runner.rings.replay import eager

CAPTURES = DATA / "captures"
CASES = sorted((DATA / "conformance").rglob("*.json"))


def _dead_cases():
    return [path for path in CASES if not load_json(path).get("outcome", {"ok": True})["ok"]]


def _stats(tmp_path, replay):
    path = tmp_path / "s.jsonl"
    write_scope_stats(path, replay.schedule, replay.sizes, replay.records, fatal=True)
    return path


def test_what_held_the_ring_in_the_captures_that_died():
    """`died`: the alloc of the scope that stays open; `22`: `s` of the second pass, behind what wrapping leaves unused."""
    for name, ring, held, pinned, asked in (("died", 1, 16384, "a", "z"), ("22", 2, 10240, "s", "p")):
        stats = held_at_end(CAPTURES / name / "scope_stats.jsonl")
        assert (stats.code, stats.is_certain, stats.fullest.ring, stats.fullest.resource) == (2, False, ring, "heap")
        program = death_of(read_recording(CAPTURES / name / "program.json"))
        assert (program.held.code, program.held.is_certain, program.deadlock.block) == (2, True, asked)
        assert (program.held.fullest.ring, program.held.fullest.used) == (ring, held)
        assert (program.pins[0].ring, program.pins[0].block, program.pins[0].is_exact) == (ring, pinned, True)
        assert program.pins[0].scope == program.held.scopes[-1].site
        assert program.safe_heap[ring] > program.held.fullest.capacity, "that many bytes would have been enough"
        capture = death_of(read_recording(CAPTURES / name))
        assert (capture.held.code, capture.held.fullest.ring, capture.deadlock) == (2, ring, None)
        assert (capture.pins[0].ring, capture.pins[0].submission) == (ring, program.pins[0].submission)
        assert [scope.site for scope in capture.held.scopes] == [scope.site for scope in stats.scopes]
    assert held_at_end(CAPTURES / "22" / "scope_stats.jsonl").fullest.percent == 75.0


@pytest.mark.parametrize("path", _dead_cases(), ids=lambda path: path.stem)
def test_recorded_deadlocks_are_told_from_their_program(path, tmp_path):
    """The code is the recorded one; scope stats alone tell it wherever the last record was of a ring in use."""
    outcome, recording = load_json(path)["outcome"], read_recording(path)
    found = death_of(recording)
    assert found.held.code == outcome["code"]
    if "ring" in outcome:
        assert found.held.scopes[-1].ring == outcome["ring"]
    stats = _stats(tmp_path, replay_recording(recording))
    alone = held_at_end(stats)
    assert len(alone.scopes) == read_scope_stats(stats).num_unclosed == len(found.held.scopes)
    assert not alone.is_certain and (alone.fullest.used or alone.basis.startswith("a guess: "))
    for least, true in zip(alone.scopes, found.held.scopes, strict=True):
        assert least.held_slots <= true.held_slots or least.ring == 3, "scopes inside one may share the last ring"


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_end_as_their_replay_does(seed, tmp_path):
    recording = read_conformance(random_program(seed, heap=8 * 1024))
    replay = eager(schedule_of(recording), recording.sizes)
    found = death_of(recording)
    assert (found is None) == (replay.deadlock is None)
    if found is None:
        assert held_at_end(_stats(tmp_path, replay)) is None
        return
    assert found.deadlock == replay.deadlock and found.held.code == replay.deadlock.code
    if replay.deadlock.code == 2:
        assert found.held.fullest.used == replay.deadlock.held_bytes
        if replay.deadlock.oldest is not None:
            assert found.pins[0].block == replay.deadlock.oldest and found.pins[0].scope == replay.deadlock.scope
        again = eager(schedule_of(recording), recording.sizes.with_heap([*found.safe_heap]))
        assert again.deadlock is None or again.deadlock.code != 2


def test_of_lost_records_an_end_without_a_begin_is_skipped(tmp_path, call):
    """A stream that lost its first record: figures of what is there, said to be lower bounds, by `show` and by `diff`."""
    whole = (CAPTURES / "05" / "scope_stats.jsonl").read_text().splitlines()
    meta = json.loads(whole[0])
    path = tmp_path / "lost.jsonl"
    path.write_text("\n".join([json.dumps(meta | {"dropped": 1}), *whole[2:]]) + "\n")
    found = json.loads(call("scope-stats", "show", path, "--json")[1])
    assert (found["dropped"], found["unopened"], found["lower_bounds"]) == (1, 1, True)
    assert "peaks are lower bounds" in call("scope-stats", "show", path)[1]
    assert (
        "(1 records dropped: peaks are lower bounds)"
        in call("scope-stats", "diff", path, CAPTURES / "05" / "scope_stats.jsonl")[1]
    )
    path.write_text("\n".join([json.dumps(meta | {"total": meta["total"] - 1}), *whole[2:]]) + "\n")
    code, _, err = call("scope-stats", "show", path)
    assert code == 1 and "has no begin, and 'dropped' is 0" in err


def test_show_says_what_died_and_what_to_change(call):
    path = CAPTURES / "22" / "scope_stats.jsonl"
    code, out, _ = call("scope-stats", "show", path, "--program", CAPTURES / "22" / "program.json")
    assert code == 0
    assert "ended with code 2 HEAP_RING_DEADLOCK: a replay of the program ends with it" in out
    assert "ring 2 is pinned by 's' of submission 9 (6,144 bytes)" in out and "PTO2_RING_HEAP=" in out
    _, out, _ = call("scope-stats", "show", path)
    assert "likely ended with code 2 HEAP_RING_DEADLOCK: heap of ring 2: 12,288 of 16,384 bytes (75.0%)" in out
    found = json.loads(call("scope-stats", "show", path, "--program", CAPTURES / "22", "--json")[1])["ended"]
    assert found["recorded"]["open"][2]["site"] == "orch.cpp:6" and found["program"]["pins"][0]["submission"] == 9
    assert found["program"]["pins"][0]["is_exact"] is False, "the bytes behind the last record are not in a capture"
    complete = json.loads(call("scope-stats", "show", CAPTURES / "05" / "scope_stats.jsonl", "--json")[1])
    assert complete["ended"] == {"recorded": None, "program": None}


def _written(tmp_path, fatal, dropped, *records):
    """A file of records `(phase, site, depth, heap in use, pool in use, tensormap)`."""
    meta = {"version": 6, "fatal": fatal, "dropped": dropped, "total": len(records) + dropped, "tensormap_max": 65536}
    meta |= {"heap_max": [65536] * 4, "task_window_max": [64] * 4, "dep_pool_max": [16384] * 4}
    lines = [meta]
    for phase, site, depth, heap, pool, entries in records:
        line = {"site": site, "phase": phase, "depth": depth, "ring": depth, "task_window_start": 0, "task_window_end": 1}
        line |= {"heap_start": 0, "heap_end": heap, "dep_pool_start": 1, "dep_pool_end": 1 + pool, "tensormap": entries}
        lines.append(line)
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_most_in_use_of_every_resource(tmp_path):
    """Of a complete run too: a pool and a table that were nearly full are told, whatever the last record says."""
    begin = ("begin", "a:1", 0, 0, 0, 0)
    inner = [("begin", "b:2", 1, 0, 0, 0), ("end", "b:2", 1, 4096, 16379, 65000), ("begin", "b:2", 1, 4096, 3, 0)]
    path = _written(tmp_path, False, 0, begin, *inner, ("end", "b:2", 1, 4096, 9, 5), ("end", "a:1", 0, 1024, 0, 0))
    most = {(usage.ring, usage.resource): (usage.used, usage.percent) for usage in most_in_use(path)}
    assert most[1, "pool"] == (16379, 100.0) and most[None, "tensormap"] == (65000, 99.2)
    assert most[1, "heap"][0] == 4096 and most[0, "heap"][0] == 1024
    assert held_at_end(path) is None


def test_a_lost_end_is_no_open_scope(tmp_path):
    """The end of the scope around it, or the next begin at its depth, shows that a scope is over; without either it is open."""
    begin, inner = ("begin", "a:1", 0, 0, 0, 0), ("begin", "b:2", 1, 0, 0, 0)
    end, around = ("end", "b:2", 1, 4096, 0, 0), ("end", "a:1", 0, 1024, 0, 0)
    assert held_at_end(_written(tmp_path, False, 1, begin, inner, around)) is None
    assert held_at_end(_written(tmp_path, False, 1, begin, inner, inner, end, around)) is None
    still = held_at_end(_written(tmp_path, True, 1, begin, inner, inner, end, inner))
    assert [scope.site for scope in still.scopes] == ["a:1", "b:2"]
