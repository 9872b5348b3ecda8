"""Scope stats: figures from records, the file written and read back, and comparison."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA
from random_schedules import build, programs, small_sizes

from runner.base.errors import ScheduleError
from runner.recorded.programs import load_json, schedule_from_recorded
from runner.recorded.scope_stats import (
    FIELDS,
    partings,
    read_scope_stats,
    ring_stats,
    scope_figures,
    stats_of_replay,
    write_scope_stats,
)
from runner.rings.replay import eager, lagging
from runner.rings.sizes import RingSizes

CASE = DATA / "conformance" / "05_loop_inner_scope.json"


def _replay():
    return eager(*schedule_from_recorded(load_json(CASE)))


def _written(tmp_path, replay, name="s.jsonl"):
    path = tmp_path / name
    write_scope_stats(path, replay.schedule, replay.sizes, replay.records, fatal=replay.deadlock is not None)
    return path


def test_figures_from_the_recorded_fields():
    """The formulas, on the records of the real runtime: end.head - begin.tail, end.head - end.tail, end.head - begin.head."""
    recorded = load_json(CASE)["records"]
    begun, expected = [], []
    for record in recorded:
        if record["phase"] == "begin":
            begun.append(record)
        else:
            begin = begun.pop()
            head = record["heap_end"]
            expected.append((head - begin["heap_start"], head - record["heap_start"], head - begin["heap_end"]))
    got = [(f.high_water_bytes, f.occupancy_bytes, f.alloc_bytes) for f in scope_figures(_replay().records)]
    assert got == expected


def test_the_file_has_the_fields_that_the_public_plotter_reads(tmp_path):
    lines = [json.loads(line) for line in _written(tmp_path, _replay()).read_text().splitlines()]
    meta, first = lines[0], lines[1]
    assert meta["version"] == 6 and meta["fatal"] is False and meta["dropped"] == 0
    assert meta["total"] == len(lines) - 1
    assert all(len(meta[name]) == 4 for name in ("task_window_max", "heap_max", "dep_pool_max"))
    assert list(first) == ["site", "phase", "depth", "ring", *FIELDS, "tensormap"]
    assert first["site"].rpartition(":")[2].isdigit()


@settings(max_examples=60, deadline=None)
@given(programs(), st.tuples(*[st.integers(1, 12)] * 4))
def test_a_file_reads_back_as_the_replay_that_wrote_it(items, heap):
    replay = lagging(build(items), small_sizes(heap))
    parsed, stats = stats_of_replay(replay), ring_stats(replay)
    assert len(parsed.scopes) == len(scope_figures(replay.records))
    for ring in stats:
        scopes = parsed.on_ring(ring.ring)
        assert ring.high_water_bytes == max((s.high_water_bytes for s in scopes), default=0)
        assert ring.occupancy_bytes == max((s.occupancy_bytes for s in scopes), default=0)
    assert parsed.fatal == (replay.deadlock is not None)


def test_write_then_read(tmp_path):
    replay = _replay()
    read = read_scope_stats(_written(tmp_path, replay))
    expected = stats_of_replay(replay)
    assert (read.scopes, read.heap_max, read.fatal, read.num_unclosed) == (expected.scopes, replay.sizes.heap, False, 0)


def test_partings_name_the_first_scope_that_allocates_otherwise():
    def stats(*block_bytes):
        items = [{"scope": [{"alloc": "a", "bytes": n}]} for n in block_bytes]
        schedule, _ = schedule_from_recorded({"program": {"items": items}})
        return stats_of_replay(eager(schedule, RingSizes()))

    assert partings(stats(1, 1024), stats(1024, 7)) == []
    (found,) = partings(stats(1, 1, 9000), stats(1, 2000, 1))
    assert (found.ring, found.number, found.left.alloc_bytes, found.right.alloc_bytes) == (1, 1, 1024, 2048)
    (found,) = partings(stats(1), stats(1, 1))
    assert (found.number, found.left) == (1, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, expected a line of capacities"),
        ("{}\n", r":1: schema version None, expected 6"),
        ('{"version": 5}\n', r":1: schema version 5, expected 6"),
        ("nonsense\n", r":1: not JSON"),
        ("[]\n", r":1: got list, expected an object"),
        ("[" * 100_000 + "\n", r":1: not JSON"),
        ('{"version": ' + "9" * 5000 + "}\n", r":1: not JSON"),
        ('{"version": 6}\n', r":1: 'heap_max' is nothing, expected a list of 4 integers from 0 up"),
    ],
)
def test_broken_files_are_located(tmp_path, text, message):
    path = tmp_path / "s.jsonl"
    path.write_text(text)
    with pytest.raises(ScheduleError, match=message):
        read_scope_stats(path)
    with pytest.raises(ScheduleError, match="cannot read"):
        read_scope_stats(tmp_path / "missing.jsonl")
    with pytest.raises(FileNotFoundError, match=r"no/s\.jsonl"):
        write_scope_stats(tmp_path / "no" / "s.jsonl", _replay().schedule, RingSizes(), [], fatal=False)


FIGURES = dict.fromkeys(FIELDS, 0)
META = {
    "version": 6, "fatal": False, "dropped": 0, "total": 2, "heap_max": [4096] * 4, "task_window_max": [16] * 4,
    "dep_pool_max": [16] * 4,
}  # fmt: skip
BEGIN = {"site": "a:1", "phase": "begin", "depth": 1, "ring": 1} | FIGURES
END = BEGIN | {"phase": "end", "heap_end": 1024, "task_window_end": 1}


def _file(tmp_path, *lines):
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"heap_max": [4096] * 3}, r"'heap_max' is \[4096, 4096, 4096\], expected a list of 4 integers from 0 up, one per ring"),
        ({"heap_max": [4096, -1, 4096, 4096]}, "'heap_max' is .*, expected a list of 4"),
        ({"task_window_max": [16, 16, 16, float("nan")]}, "'task_window_max' is .*nan.*, expected a list of 4"),
        ({"dep_pool_max": 16}, "'dep_pool_max' is 16, expected a list of 4"),
        ({"total": -1}, "'total' is -1, expected an integer from 0 up"),
        ({"total": None}, "'total' is None, expected an integer from 0 up"),
        ({"dropped": True}, "'dropped' is True, expected an integer from 0 up"),
        ({"fatal": "no"}, "'fatal' is 'no', expected true or false"),
        ({"tensormap_max": -1}, "'tensormap_max' is -1, expected an integer from 0 up"),
        ({"tensormap_max": float("nan")}, "'tensormap_max' is nan, expected an integer from 0 up"),
        ({"total": 3}, r"'total' is 3, but the file has 2 records, the last at .*s\.jsonl:3, and 'dropped' is 0: was it cut\?"),
        ({"total": 1}, "'total' is 1, but the file has 2 records"),
        ({"dropped": 1}, "'total' is 2, but the file has 2 records, .* and 'dropped' is 1"),
    ],
)
def test_capacities_and_counts_that_cannot_be_are_refused(tmp_path, meta, message):
    read_scope_stats(_file(tmp_path, META, BEGIN, END))
    with pytest.raises(ScheduleError, match=r"s\.jsonl:1: " + message):
        read_scope_stats(_file(tmp_path, META | meta, BEGIN, END))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"ring": 9}, "'ring' is 9, expected 0 to 3"),
        ({"ring": -1}, "'ring' is -1, expected 0 to 3"),
        ({"ring": 4}, "'ring' is 4, expected 0 to 3"),
        ({"ring": "1"}, "'ring' is '1', expected 0 to 3"),
        ({"phase": "middle"}, "'phase' is 'middle', expected 'begin' or 'end'"),
        ({"phase": []}, r"'phase' is \[\], expected 'begin' or 'end'"),
        ({"site": 5}, "'site' is 5, expected a string"),
        ({"heap_end": 100, "heap_start": 200}, "a:1 on ring 1 ends before it begins"),
        ({"site": "b:1"}, "the end of b:1 on ring 1 has no begin, and 'dropped' is 0"),
    ]
    + [
        ({field: value}, f"'{field}' is {value!r}, expected an integer from 0 up")
        for field in (*FIELDS, "depth", "tensormap")
        for value in (-1, float("nan"), float("inf"), 1.5, True, None)
    ],
)
def test_records_that_cannot_be_are_refused(tmp_path, record, message):
    with pytest.raises(ScheduleError, match=r"s\.jsonl:3: " + message):
        read_scope_stats(_file(tmp_path, META, BEGIN, END | record))


def test_no_part_of_a_file_is_complete(tmp_path):
    """Cut anywhere, at the end of a line or within one, a file is refused; only the last newline tells nothing."""
    path = _written(tmp_path, _replay())
    data = path.read_bytes()
    for size in reversed(range(len(data) - 1)):
        os.truncate(path, size)  # some file systems wait for the disk where a file is written anew
        with pytest.raises(ScheduleError, match=r"s\.jsonl"):
            read_scope_stats(path)
    path.write_bytes(data[:-1])
    assert read_scope_stats(path).state == "complete"


@pytest.mark.parametrize(
    ("meta", "records", "state", "unpaired"),
    [
        ({}, (BEGIN, END), "complete", (0, 0)),
        ({"total": 0}, (), "no records", (0, 0)),
        ({"dropped": 1}, (END,), "records lost, peaks are lower bounds", (0, 1)),
        ({"dropped": 1}, (BEGIN,), "records lost, peaks are lower bounds", (1, 0)),
        ({"total": 1}, (BEGIN,), "not complete", (1, 0)),
        ({"total": 1, "fatal": True}, (BEGIN,), "ended by a fatal error", (1, 0)),
    ],
)
def test_a_file_says_how_much_it_tells(tmp_path, meta, records, state, unpaired):
    stats = read_scope_stats(_file(tmp_path, META | meta, *records))
    assert (stats.state, (stats.num_unclosed, stats.num_unopened)) == (state, unpaired)
