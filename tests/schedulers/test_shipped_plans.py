"""Programs and schedules of all shipped graphs, at 1, 2 and 8 ranks, are those that were recorded; plans take no more bytes.

`tests/data/shipped_plans.json` was recorded by the build before the rooms (commit b8d4224), each graph under the deployment that
it names itself now. Where a change is meant, `python tests/schedulers/test_shipped_plans.py` records anew: read the difference.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sampled import sampled

TESTS = Path(__file__).parents[1]
RECORDED = TESTS / "data" / "shipped_plans.json"
LAYOUTS = ("annotated", "unscoped", "manual", "auto", "autoscope")
ROUTING = {"tiny": "bound", "flash": "random:0"}
MINPEAK = {"minpeak": {"objective": "total"}, "minpeak_no_share": {"objective": "total", "share": False}}
SLACK_BYTES = 3 * 1024
"""What packing may differ by."""

CASES = json.loads(RECORDED.read_text(encoding="utf-8"))


def program_of(case):
    from runner import Driver

    config, graph, deploy, ranks = case.split()
    return Driver(config, deploy=deploy, ep=int(ranks.removeprefix("ep"))).expand(graph, ROUTING[config])


def layouts(program):
    """Digests of the program and of its schedules by simple rules."""
    from digests import digest

    from schedulers import get_scheduler

    found = {name: digest(get_scheduler(name)(program, {})) for name in LAYOUTS}
    return {"tasks": len(program.tasks), "program": digest(program), **found}


def smallest(program):
    """Safe bytes of minpeak's plans."""
    from runner.rings.capacity import ring_loads, safe_heap
    from schedulers import get_scheduler

    plans = {name: get_scheduler("minpeak")(program, options) for name, options in MINPEAK.items()}
    return {name: sum(safe_heap(load) for load in ring_loads(plan)) for name, plan in plans.items()}


def small(case):
    """Whole models under the tiny configuration only at 8 ranks, whose programs are the smallest; pieces at all ranks."""
    config, graph, _, ranks = case.split()
    return config == "tiny" and (ranks == "ep8" or not graph.endswith("_fwd"))


def smallest_of_its_graph(case):
    """What is planned by default: planning a whole prompt takes as long as all the rest."""
    return small(case) and case.endswith("ep8") and "prefill_fwd" not in case


@pytest.mark.parametrize("case", sampled(CASES, small))
def test_equal_to_what_was_recorded(case):
    assert layouts(program_of(case)) == {name: value for name, value in CASES[case].items() if name not in MINPEAK}


@pytest.mark.parametrize("case", sampled(CASES, smallest_of_its_graph))
def test_plans_take_no_more_bytes(case):
    for name, size_bytes in smallest(program_of(case)).items():
        assert size_bytes <= CASES[case][name] + SLACK_BYTES, name


if __name__ == "__main__":
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]
    made = {}
    for each in CASES:
        expanded = program_of(each)
        made[each] = layouts(expanded) | smallest(expanded)
        print(each, made[each]["minpeak"], made[each]["minpeak_no_share"], flush=True)
    RECORDED.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
