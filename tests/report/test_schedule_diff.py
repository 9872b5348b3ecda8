"""`ringgraph schedule-diff` and the scopes that `schedule --json` lists."""

import json

import pytest
from programs import random_program

from runner.report.diff import any_trip, scope_differences, scope_rows, side_of
from runner.rings.schedule import Begin, End, Submit

SMALL = ("--config", "tiny", "--set", "num_hidden_layers=3")


def written(call, folder, scheduler):
    code, out, err = call("schedule", "moe", *SMALL, "--scheduler", scheduler, "--json")
    assert code == 0, err
    path = folder / f"{scheduler}.json"
    path.write_text(out)
    return path


@pytest.mark.parametrize("seed", range(10))
def test_rows_hold_every_scope_byte_and_task_once(seed):
    schedule, _, _ = random_program(seed)
    rows = scope_rows(schedule)
    assert sum(row.count for row in rows) == sum(isinstance(step, Begin) for step in schedule.steps)
    assert sum(isinstance(step, End) for step in schedule.steps) == sum(row.count for row in rows)
    submitted = [schedule.submissions[step.submission] for step in schedule.steps if isinstance(step, Submit)]
    assert sum(row.total_bytes for row in rows) == sum(s.size_bytes for s in submitted)
    assert sum(row.num_tasks for row in rows) == sum(s.core is not None for s in submitted)
    assert all(row.bytes <= row.total_bytes <= row.count * row.bytes for row in rows)


def test_names_that_differ_in_trip_numbers_only_are_one_row():
    assert any_trip("layer_12.moe.e3.t0") == "layer_*.moe.e*.t*"
    assert any_trip("layer_12.moe.experts") == "layer_*.moe.experts"
    assert any_trip("layer_0.hc_pre..12") == "layer_*.hc_pre..12"


def test_a_schedule_is_the_same_as_itself():
    side = side_of(random_program(1)[0], "a")
    assert side.scopes and all(difference.is_same for difference in scope_differences(side, side))


def test_files_and_names_of_the_same_schedules_compare_alike(call, tmp_path):
    files = [written(call, tmp_path, scheduler) for scheduler in ("annotated", "unscoped")]
    code, out, err = call("schedule-diff", *files, "--json")
    assert code == 0, err
    by_file = json.loads(out)
    code, out, err = call("schedule-diff", "moe", "moe:unscoped", *SMALL, "--json")
    assert code == 0, err
    by_name = json.loads(out)
    for key in ("rings", "scopes", "safe_total_bytes", "num_same_scopes"):
        assert by_file[key] == by_name[key]
    assert [path.name for path in files] == [by_file[side].rpartition("/")[2] for side in ("left", "right")]


def test_figures_are_those_of_the_two_schedules(call, tmp_path):
    files = [written(call, tmp_path, scheduler) for scheduler in ("annotated", "autoscope")]
    _, out, _ = call("schedule-diff", *files, "--json")
    found = json.loads(out)
    sides = [json.loads(path.read_text()) for path in files]
    for ring in found["rings"]:
        for name in ("safe_bytes", "least_bytes", "num_tasks"):
            assert ring[name] == [side["rings"][ring["ring"]][name] for side in sides]
    assert found["safe_total_bytes"] == [side["safe_total_bytes"] for side in sides]
    changed = {(scope["ring"], scope["name"]): scope for scope in found["scopes"]}
    assert changed[1, "experts"]["left"] is not None and changed[3, "experts.e*.t*"]["left"] is None


def test_text_names_rings_and_scopes(call):
    code, out, _ = call("schedule-diff", "moe", "moe:unscoped", *SMALL)
    assert code == 0
    assert "left:  moe\n" in out and "right: moe:unscoped\n" in out and "scopes are the same" in out
    assert "planned with routing bound; timed assumes 0.5 us a submission, tasks as their ops' costs say" in out
    code, out, err = call("schedule-diff", "head", "head:unscoped", *SMALL, "--routing", "uniform", "--json")
    found = json.loads(out)
    assert code == 0 and found["routing"] == "uniform" and found["timing"]["cores"] == "aic=24,aiv=48"
    assert len(found["routing_notes"]) == 1 and err.count("note: --routing uniform has no effect") == 1


def test_what_is_no_schedule_is_refused(call, tmp_path):
    bad = tmp_path / "bad.json"
    for text in ("", "[]", "{}", '{"rings": [{}], "scopes": []}', '{"rings": 3}'):
        bad.write_text(text)
        code, _, err = call("schedule-diff", bad, "moe")
        assert code == 1 and "is not a schedule" in err and "hint:" in err
    code, _, err = call("schedule-diff", tmp_path / "none.json", "moe")
    assert code == 1 and "none.json" in err
    code, _, err = call("schedule-diff", "moe")
    assert code == 2 and "Missing argument 'B'" in err
    code, _, err = call("schedule", "moe", "head")
    assert code == 2 and "head" in err
