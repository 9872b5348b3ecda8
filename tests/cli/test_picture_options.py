"""Pictures are of the plan that `schedule` makes with the same options."""

import json
import re

import pytest
import typer
from sampled import sampled

from runner.cli.main import app, main
from runner.cli.options import PLAN

pytestmark = pytest.mark.usefixtures("short_searches")
NOT_OF_A_PLAN = {"progress", "list_techniques", "explain_plan", "write", "as_json", "no_cache"}
NOT_OF_A_PLAN |= {"scope_stats", "deps", "swimlane", "perfetto", "graph", "given", "out"}


def _status(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return ended.value.code or 0


def test_view_and_rings_take_the_options_of_a_plan_that_schedule_takes():
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    names = {name: {p.name for p in commands[name].params} - NOT_OF_A_PLAN for name in ("schedule", "view", "rings")}
    assert {"objective", "budget", "slack", "no_share", "batch_allocs"} <= names["schedule"]
    assert names["view"] == names["rings"] == names["schedule"]
    for name in ("view", "rings"):
        of_schedule = {p.name: (p.opts, p.default, p.help) for p in commands["schedule"].params}
        assert all(
            of_schedule[p.name] == (p.opts, p.default, p.help) for p in commands[name].params if p.name not in NOT_OF_A_PLAN
        )


UNSIZED = {"ring_heap", "ring_window", "ring_pool", "allow_missing_edges"}
PLANNING = {"placement": {"ring_heap"}, "watch": UNSIZED, "schedule-diff": UNSIZED, "scope-stats diff": UNSIZED, "view": set()}
"""Commands that plan, and which options of a plan mean nothing there."""


@pytest.mark.parametrize("name", PLANNING)
def test_commands_that_plan_take_all_that_says_how(name):
    command = typer.main.get_command(app)
    for part in name.split():
        command = command.commands[part]  # type: ignore[attr-defined]
    assert PLAN.keys() & {p.name for p in command.params} == PLAN.keys() - PLANNING[name]


def test_options_that_do_nothing_are_told(capsys, tmp_path):
    """A newcomer asks for the fewest bytes, and gets the plan of the graph's own scopes."""
    for command in ("schedule", "size", "placement"):
        assert _status(command, "moe", "--objective", "total") == 0
        assert "note: --objective is for --scheduler minpeak; 'annotated' plans as ever" in capsys.readouterr().err
        assert _status(command, "moe", "--objective", "total", "--scheduler", "minpeak") == 0
        assert "note: --objective" not in capsys.readouterr().err
    assert _status("schedule-diff", "moe", "moe:minpeak", "--objective", "total") == 0
    assert "note: --objective" not in capsys.readouterr().err
    assert _status("schedule", "moe", "--slack", "3", "--no-technique", "learning") == 0
    assert "note: --slack, --no-technique are for" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--slack", "-1"), ("--technique", "none"), ("--objective", "bytes"), ("--budget", "many")])
def test_what_does_nothing_is_refused_if_it_cannot_be(options, capsys):
    assert _status("schedule", "moe", *options) == 1
    assert _status("schedule", "moe", *options, "--scheduler", "minpeak") == 1
    alone, planned = capsys.readouterr().err.split("error: ")[1:]
    assert alone == planned


@pytest.mark.parametrize("options", [("--device", "a9"), ("--cores", "aic=x")])
def test_what_no_time_asks_for_is_refused_all_the_same(options, tmp_path, capsys):
    assert _status("placement", "moe", *options, "-o", tmp_path / "p.json") == 1
    assert options[1].rpartition("=")[2] in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_placement_is_of_the_plan_that_is_asked_for(tmp_path, capsys):
    """Of options that only `schedule` had: batched blocks, and a balanced plan by the durations that are given."""
    heaps = []
    for options in (("--batch-allocs",), ("--scheduler", "minpeak", "--task-us", "20", "--cores", "unlimited")):
        assert _status("schedule", "moe", "--json", "--no-cache", "--ring-heap", "safe", *options) == 0
        planned = json.loads(capsys.readouterr().out)
        assert _status("placement", "moe", "-o", tmp_path / "p.json", *options) == 0
        assert capsys.readouterr().err.endswith(f"wrote {tmp_path / 'p.json'}\n")
        heaps.append([ring["heap_bytes"] for ring in json.loads((tmp_path / "p.json").read_text())["rings"]])
        assert heaps[-1] == [ring["safe_bytes"] for ring in planned["rings"]]
    assert heaps[0] != heaps[1]


def test_pictures_say_where_they_are(tmp_path, capsys):
    for command in ("dot", "rings"):
        out = tmp_path / f"{command}.svg"
        assert _status(command, "moe", "-o", out) == 0
        said = capsys.readouterr()
        assert said.out == "" and said.err.endswith(f"wrote {out}\n") and out.stat().st_size
    assert _status("dot", "moe") == 0
    assert capsys.readouterr().err == ""


PLANS = [
    (),
    ("--scheduler", "minpeak", "--objective", "total", "--no-share"),
    ("--scheduler", "minpeak", "--budget", "160KiB"),
    ("--scheduler", "minpeak", "--slack", "50", "--no-technique", "spread"),
    ("--batch-allocs", "--ring-heap", "1MiB", "--cores", "aic=1,aiv=2", "--submit-us", "2"),
]
OF_SMALL_AND_LARGE = [(graph, options) for graph in ("o_proj_decode", "moe") for options in PLANS]


@pytest.mark.parametrize(
    ("graph", "options"), sampled(OF_SMALL_AND_LARGE, lambda case: (case[0] == "moe") == ("minpeak" not in case[1]))
)
def test_the_page_is_of_the_plan_that_schedule_makes(graph, options, tmp_path, capsys):
    page = tmp_path / "page.html"
    heap = () if "--ring-heap" in options else ("--ring-heap", "safe")
    assert _status("schedule", graph, "--json", "--no-cache", *heap, *options) == 0
    planned = json.loads(capsys.readouterr().out)
    assert _status("view", graph, "-o", page, *options) == 0
    assert _status("rings", graph, "-o", tmp_path / "rings.svg", *options) == 0
    found = re.search(r'type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    [side] = json.loads(found[1])["sides"]
    for name in ("makespan_us", "stall_us", "safe_total_bytes", "num_tasks"):
        assert side["report"][name] == planned[name], name
    assert side["certificate"] == planned.get("certificate")
    assert side["capacity"] == [ring["capacity_bytes"] for ring in planned["rings"]]


@pytest.mark.parametrize("command", ["view", "rings"])
def test_a_plan_that_cannot_be_is_refused_in_the_same_words(command, tmp_path, capsys):
    given = ("--scheduler", "minpeak", "--budget", "1KiB")
    assert _status("schedule", "o_proj_decode", *given) == 1
    told = capsys.readouterr().err
    assert _status(command, "o_proj_decode", *given, "-o", tmp_path / "out.svg") == 1
    assert capsys.readouterr().err == told and "smallest" in told
    assert list(tmp_path.iterdir()) == []
