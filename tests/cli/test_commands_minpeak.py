"""minpeak from the command line: options, certificate, refusals; and its schedules under the verifier."""

from __future__ import annotations

import json

import pytest
from random_programs import loop_program, random_program
from sampled import sampled
from typer.testing import CliRunner

from runner.cli.main import app
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.sizes import RingSizes
from runner.verify.verify import check
from schedulers.minpeak.planner import plan
from schedulers.minpeak.techniques import TECHNIQUES

pytestmark = pytest.mark.usefixtures("short_searches")
TOTAL = ("--objective", "total")


def run(*options: str, graph: str = "moe") -> tuple[int, str]:
    command = ["schedule", graph, "--config", "tiny", "--scheduler", "minpeak", "--ring-heap", "safe", *options]
    result = CliRunner().invoke(app, command)
    return result.exit_code, result.output + str(result.exception or "")


def certificate(*options: str, graph: str = "moe") -> dict:
    code, output = run("--json", *options, graph=graph)
    assert code == 0, output
    return json.loads(output[output.index("{") :])["certificate"]


def test_the_arena_needs_no_more_than_is_alive() -> None:
    found = certificate("--objective", "total")
    assert found["objective"] == "total"
    assert found["proved_optimal"] and found["gap"] == found["idle_bytes"] == 0  # it is parted over all rings


def test_without_sharing_more_bytes() -> None:
    graph = "attention_decode_hca"
    assert certificate("--no-share", *TOTAL, graph=graph)["value"] > certificate(*TOTAL, graph=graph)["value"]


def test_the_worst_ring_is_smaller_than_the_one_arena() -> None:
    assert certificate("--objective", "worst")["value"] < certificate(*TOTAL)["value"]


def test_the_default_is_the_fewest_bytes_that_cost_no_time() -> None:
    balanced, least = certificate("--task-us", "20"), certificate("--task-us", "20", *TOTAL)
    time = balanced["time"]
    assert balanced["objective"] == "balanced" and "time" not in least
    assert time["makespan_us"] <= 1.05 * time["fastest_us"] and least["value"] <= balanced["value"]
    assert max(time["critical_path_us"], time["work_us"]) <= time["fastest_us"]
    assert certificate("--task-us", "20", "--slack", "1000")["value"] == least["value"]
    assert certificate("--task-us", "20", "--slack", "0")["value"] >= balanced["value"]


def test_a_budget_buys_time() -> None:
    found = certificate("--budget", "4MiB", "--task-us", "20")
    code, output = run("--json", "--task-us", "20", *TOTAL)
    assert code == 0
    least = json.loads(output[output.index("{") :])
    assert found["lower_bound"] <= found["value"] <= least["makespan_us"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--budget", "1KiB"), "no placement was found within 1,024 bytes: the smallest one takes"),
        (("--budget", "much"), "--budget much: 'much' is not a size"),
        (("--objective", "speed"), "objective 'speed': expected one of balanced, total, worst, makespan"),
        (("--slack", "-1"), "--slack -1: expected a percentage of 0 or more"),
        (("--no-technique", "foldin"), "unknown technique 'foldin'"),
        (("--technique", "spread", "--no-technique", "spread"), "technique 'spread' is switched both on and off"),
        (("--explain-plan", "--scheduler", "auto"), "--explain-plan explains plans of minpeak, got --scheduler auto"),
    ],
)
def test_refusals(options: tuple[str, ...], text: str) -> None:
    code, output = run(*options, graph="o_proj_decode")
    assert code != 0
    assert text in output


def test_techniques_are_listed_without_a_graph() -> None:
    result = CliRunner().invoke(app, ["schedule", "--list-techniques"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[::3] == [f"{technique.name} (on)" for technique in TECHNIQUES]
    assert lines[1].strip() == TECHNIQUES[0].why[0] and lines[2].strip() == TECHNIQUES[0].why[1]


def test_a_technique_can_be_done_without() -> None:
    code, output = run("--json", "--explain-plan", "--no-technique", "spread", "--no-technique", "orders", *TOTAL)
    assert code == 0, output
    used = [note["technique"] for note in json.loads(output[output.index("{") :])["explanation"]]
    assert "spread" not in used and "orders" not in used and used[-1] == "winner"


def test_a_plan_is_explained() -> None:
    code, output = run("--explain-plan", *TOTAL)
    assert code == 0, output
    shown = output[output.index("how the plan was found") :]
    for text in ("learning", "spread", "pruning", "reuse edges between kept tasks", "candidate", "winner", "arena: "):
        assert text in shown


@pytest.mark.parametrize(
    "given", [{}, {"objective": "total"}, {"share": False}, {"objective": "worst"}, {"objective": "makespan"}], ids=str
)
@pytest.mark.parametrize("num", sampled((6, 20), (6,)))
def test_schedules_pass_the_verifier(given: dict[str, object], num: int) -> None:
    for seed in range(num):
        program = loop_program(seed) if seed % 2 else random_program(seed, max_tasks=10)
        schedule = plan(program, given).schedule
        heap = [safe_heap(load) for load in ring_loads(schedule)]
        assert check(schedule, RingSizes().with_heap(heap)) == [], f"seed {seed}"
