"""`ringgraph frontier`: its points, its bounds, and that the picture of the same data is the same file."""

import itertools
import json
import re
import sys

import pytest
from sampled import sampled

from runner import Driver
from runner.driver.frontier import OTHERS
from runner.report.frontier import Frontier, Point, budgets, draw_frontier, merged, undominated
from runner.rings.capacity import ring_loads
from schedulers.minpeak.plan import Options
from schedulers.minpeak.planner import STRATEGIES, Planner, plan

SMALL = ("frontier", "qkv_proj_rope", "--config", "tiny", "--deploy", "prefill", "--points", "2")
LARGER = ("frontier", "moe", *SMALL[2:-1], "1")
MIB = 2**20
pytestmark = pytest.mark.usefixtures("short_searches")


def test_only_points_that_nothing_beats_are_kept():
    points = [Point(name, size, time) for name, size, time in (("d", 3, 5), ("a", 1, 9), ("b", 2, 9), ("c", 2, 4), ("e", 9, 1))]
    assert [p.label for p in undominated(points)] == ["a", "c", "e"]
    brute = [
        p
        for p in points
        if not any(q is not p and q.total_bytes <= p.total_bytes and q.makespan_us <= p.makespan_us for q in points)
    ]
    assert sorted(brute, key=lambda p: p.total_bytes) == list(undominated(points))
    assert merged([points[0], points[1], Point("f", 3, 5)]) == (Point("d, f", 3, 5), points[1])


def test_budgets_lie_between_the_ends():
    found = budgets(100 * MIB, 800 * MIB, 2)
    assert [round(b / MIB) for b in found] == [200, 400]


def test_more_bytes_never_take_more_time_and_bounds_hold(call, tmp_path):
    code, out, err = call(*LARGER, "--out", tmp_path / "f.svg", "--json")
    assert code == 0, err
    found = json.loads(out)
    sizes = [p["total_bytes"] for p in found["points"]]
    times = [p["makespan_us"] for p in found["points"]]
    assert sizes == sorted(sizes) and times == sorted(times, reverse=True)
    assert min(sizes) >= found["peak_live_bytes"]
    assert min(p["makespan_us"] for p in found["points"] + found["others"]) >= found["critical_path_us"]
    _, schedule, _ = call("schedule", *LARGER[1:-2], "--scheduler", "minpeak", "--json")
    assert min(sizes) == json.loads(schedule)["safe_total_bytes"]
    assert (tmp_path / "f.svg").read_text().count("<svg") == 1


def test_every_command_assumes_the_same_and_says_it(call):
    """A strategy has one makespan, whichever command tells it; another routing or timing that is given is said as well."""
    assumed = {
        "submit_us": 0.5,
        "task_us": None,
        "cores": "aic=24,aiv=48",
        "profile": None,
        "device": "a2a3",
        "is_recorded": False,
    }
    for given, changed in (((), {}), (("--routing", "random:0", "--task-us", "20", "--cores", "unlimited"), {"task_us": 20.0})):
        found = json.loads(call(*SMALL[:-1], "1", *given, "--json")[1])
        timing = assumed | changed | ({"cores": "unlimited"} if given else {})
        assert found["timing"] == timing and found["name"].endswith("routing random:0" if given else "routing bound")
        points = {label: point for point in found["others"] for label in point["label"].split(", ")}
        for strategy in ("annotated", "autoscope"):
            planned = ("--scheduler", strategy, "--ring-heap", "safe", *given, "--json")
            plan = json.loads(call("schedule", *SMALL[1:-2], *planned)[1])
            assert plan["timing"] == timing and plan["routing"] == (given[1] if given else "bound")
            assert plan["makespan_us"] == points[strategy]["makespan_us"]
            assert plan["safe_total_bytes"] == points[strategy]["total_bytes"]


def test_reports_say_what_they_assume(call):
    said = "0.5 us a submission, tasks as their ops' costs say, cores aic=24,aiv=48 of a2a3"
    assert f"timed assumes {said}" in call("schedule", *SMALL[1:-2])[1]
    assert f"routing bound; timed: {said}" in call("frontier", *SMALL[1:-2], "--points", "1")[1]
    sized = ("size", *SMALL[1:-2], "--scheduler", "minpeak")
    assert "scheduler minpeak, routing bound\n" in call(*sized, "--objective", "total")[1]
    assert f"scheduler minpeak, routing bound; timed: {said}" in call(*sized)[1]
    found = json.loads(call(*sized, "--objective", "makespan", "--json")[1])
    assert (found["routing"], found["timing"]["cores"]) == ("bound", "aic=24,aiv=48")


def test_a_picture_is_the_same_every_time(tmp_path):
    frontier = Frontier("x", (Point("a", MIB, 9.0), Point("b", 2 * MIB, 4.0)), (Point("c", 3 * MIB, 5.0),), MIB, 3.0)
    for name in ("one.svg", "two.svg"):
        draw_frontier(frontier, tmp_path / name)
    one = (tmp_path / "one.svg").read_bytes()
    assert one == (tmp_path / "two.svg").read_bytes()
    assert b"dc:date" not in one


def test_every_point_has_its_name(tmp_path):
    """The ends, the budgets and the balanced one, each at a place of its own where they are near."""
    names = ("fewest bytes", "1.5 MiB", "balanced", "1.6 MiB", "any bytes")
    points = tuple(Point(f"minpeak, {name}", MIB + number * MIB // 50, 9.0 - number / 100) for number, name in enumerate(names))
    draw_frontier(Frontier("x", points, (Point("c", 3 * MIB, 9.5),), MIB, 3.0), tmp_path / "f.svg")
    drawn = (tmp_path / "f.svg").read_text()
    found = {name: re.search(rf"<!-- {name} -->\s*<g[^>]*translate\(([0-9.]+) ([0-9.]+)\)", drawn) for name in names}
    places = [(float(at[1]), float(at[2])) for at in found.values() if at is not None]
    assert len(places) == len(names)
    for (x, y), (x2, y2) in itertools.combinations(places, 2):
        assert abs(x - x2) > 25 or abs(y - y2) > 6


def test_what_cannot_be_drawn_is_told_before_planning(call, tmp_path, monkeypatch):
    code, _, err = call(*SMALL, "--out", tmp_path / "f.bmp")
    assert code == 1 and "expected .svg, .png or .pdf" in err and "planning" not in err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = call(*SMALL, "--out", tmp_path / "f.svg")
    assert code == 1 and "drawing needs matplotlib" in err and "pip install 'ringgraph[plot]'" in err


def test_a_small_file_of_many_tasks_is_refused(call, tmp_path, monkeypatch):
    path = tmp_path / "g.yaml"
    path.write_text('graph: g\nbody: [{for: t, range: 20000, body: [{alloc: {b: "f32[4]"}}]}]\n')
    code, _, err = call("frontier", path, "--config", "tiny")
    assert code == 1 and "the frontier of 20,000 tasks takes too long: more than 1,100" in err
    assert "set RINGGRAPH_LIMITS=frontier=N" in err
    path.write_text(path.read_text().replace("20000", "20"))
    assert call("frontier", path, "--config", "tiny", "--points", "1")[0] == 0
    monkeypatch.setenv("RINGGRAPH_LIMITS", "frontier=19,density=0")
    assert call("frontier", path, "--config", "tiny", "--points", "1")[0] == 1
    assert call(*SMALL)[0] == 0, "installed graphs are what they are"


def test_no_budget_is_planned_where_more_bytes_buy_nothing(tmp_path):
    path, said = tmp_path / "p.json", []
    path.write_text('{"name": "p", "program": {"items": [{"alloc": "a", "bytes": 4096}, {"task": "t", "inouts": ["a"]}]}}')
    found = Driver().frontier(path, 6, say=said.append)
    assert len(found.points) == 1 and not any(label.endswith("iB") for label in said)
    said.clear()
    Driver("tiny", deploy="prefill").frontier("moe", 1, say=said.append)
    assert sum(label.endswith("iB") for label in said) >= 1


def test_a_recorded_program_of_many_tasks_is_refused(call, tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"name": "p", "program": {"items": [{"loop": 20000, "body": [{"task": "t"}]}]}}')
    code, _, err = call("frontier", path)
    assert code == 1 and "the frontier of 20,000 tasks takes too long: more than" in err


SMALL_AND_LARGE = sampled(("o_proj_decode", "moe"), ("o_proj_decode",))


@pytest.mark.parametrize("graph", SMALL_AND_LARGE)
def test_one_planner_for_all_budgets_plans_as_one_for_each(graph):
    program = Driver("tiny").expand(graph)
    planner = Planner(program, Options.of({"objective": "makespan", "time_limit_s": float("inf")}))
    least = sum(plan(program, {}).heap_bytes)
    for budget in (None, least, least * 5 // 4, 2 * least):
        alone = plan(program, {"objective": "makespan", "budget_bytes": budget, "time_limit_s": float("inf")})
        found = planner.shortest(budget)
        assert (found.schedule, found.certificate) == (alone.schedule, alone.certificate)


@pytest.mark.parametrize("graph", SMALL_AND_LARGE)
def test_what_was_asked_before_changes_no_plan(graph):
    """Candidates are made once for all that a planner is asked; each answer is that of a planner of its own."""
    program = Driver("tiny").expand(graph)
    planner = Planner(program, Options.of({"objective": "makespan", "time_limit_s": float("inf")}))
    asked = [
        {"objective": "total"},
        {"objective": "balanced"},
        {"share": False, "objective": "total"},
        {"share": False, "objective": "worst"},
        {"objective": "worst"},
        {"share": False, "objective": "balanced"},
        {"objective": "makespan", "budget_bytes": 2 * sum(plan(program, {}).heap_bytes)},
    ]
    for options in asked + asked[::-1]:
        alone, found = plan(program, options | {"time_limit_s": float("inf")}), planner.asked(**options).plan()
        assert (found.schedule, found.certificate, found.found_by) == (alone.schedule, alone.certificate, alone.found_by), options


def test_what_several_questions_come_to_is_made_once(monkeypatch):
    """Arenas that several budgets lead to; strategies with sharing and without, where no list of the graph shares bytes."""
    made = []
    monkeypatch.setattr("schedulers.minpeak.planner.ring_loads", lambda schedule: made.append(schedule) or ring_loads(schedule))
    planner = Planner(Driver("tiny").expand("o_proj_decode"), Options.of({"objective": "makespan", "time_limit_s": float("inf")}))
    planner.shortest(10 * MIB)
    first = len(made)
    planner.asked(share=False, objective="total").plan()
    planner.shortest(20 * MIB)
    assert first == len(made) == len({"arena", "arena by timed runs", "scopes"}) + 2 * len(STRATEGIES)


LACKS_AN_EDGE = """\
graph: lacks
doc: A manual scope in which nothing orders b behind a.
inputs: {x: "f32[64, 256]"}
weights: {w: "f32[256, 256]"}
outputs: {y: "f32[64, 256]"}
body:
  - scope: m
    mode: manual
    body:
      - {op: linear, id: a, in: {x: x, w: w}, out: {y: "h: f32[64, 256]"}}
      - {op: linear, id: b, in: {x: h, w: w}, out: {y: "g: f32[64, 256]"}}
      - {op: linear, id: c, in: {x: g, w: w}, out: {y: y}, after: [b]}
"""
FORTY = ", ".join(f't{k}: "f32[4, 4]"' for k in range(40))
TOO_MANY = f"""\
graph: many
doc: An alloc of more tensors than a submission takes.
inputs: {{x: "f32[4, 4]"}}
weights: {{w: "f32[4, 4]"}}
outputs: {{y: "f32[4, 4]"}}
body:
  - alloc: {{{FORTY}}}
  - {{op: linear, id: first, in: {{x: x, w: w}}, out: {{y: t0}}}}
  - {{op: linear, id: last, in: {{x: t0, w: w}}, out: {{y: y}}}}
"""


@pytest.mark.parametrize(
    ("text", "name", "left_out", "why"),
    [
        (LACKS_AN_EDGE, "lacks", {"annotated", "autoscope"}, "no edge orders 'm.b' after 'm.a': RAW on 'h' (V6)"),
        (
            TOO_MANY,
            "many",
            {*OTHERS},
            "'alloc' has 40 tensors, at most 32 are possible (V3)",
        ),
    ],
    ids=["edge", "tensors"],
)
def test_a_strategy_of_which_no_run_is_right_is_left_out_and_told(call, tmp_path, text, name, left_out, why):
    path = tmp_path / f"{name}.yaml"
    path.write_text(text, "utf-8")
    refused = {s for s in OTHERS if call("schedule", path, "--scheduler", s)[0]}
    code, out, err = call("frontier", path, "--points", "1", "--json")
    found = json.loads(out)
    assert code == 0 and refused == left_out and why in err
    assert found["warnings"] == [f"{', '.join(s for s in OTHERS if s in left_out)}: left out, as no such run is right: {why}"]
    shown = {label for point in found["others"] for label in point["label"].split(", ")}
    assert not shown & left_out and set(OTHERS) - left_out <= shown
    assert min(p["makespan_us"] for p in found["points"] + found["others"]) >= found["critical_path_us"]
    code, out, err = call("schedule-diff", f"{path}:annotated", f"{path}:minpeak", "--json")
    assert code == 0 and json.loads(out)["warnings"] == [f"'{path}:annotated': no such run is right: {why}"] and why in err
    assert why in call("scope-stats", "diff", "tests/data/captures/03/scope_stats.jsonl", "--schedule", path)[2]
