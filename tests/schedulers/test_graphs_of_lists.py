"""minpeak under every objective, on graphs whose trips inputs or tensors of their own decide: sound plans, the same results."""

import random

import pytest
import random_lists
from sampled import sampled

from runner.base.errors import RinggraphError
from runner.driver.planning import MinpeakOptions, PlanRequest, place
from runner.verify.verify import verify

pytestmark = pytest.mark.usefixtures("short_searches")

OPTIONS = {
    "balanced": MinpeakOptions(),
    "no slack": MinpeakOptions(slack=0.0),
    "total": MinpeakOptions("total"),
    "worst": MinpeakOptions("worst"),
    "makespan": MinpeakOptions("makespan"),
    "budget": MinpeakOptions(budget="64KiB"),
    "no sharing": MinpeakOptions(no_share=True),
}


@pytest.mark.parametrize("num", sampled((4, 8), (4,)))
@pytest.mark.parametrize("name", OPTIONS)
def test_every_objective_plans_any_graph(name, num, tmp_path):
    planned = 0
    for seed in range(num):
        graph, stage = random_lists.graphs(random.Random(seed))
        path = random_lists.written(tmp_path, graph, stage)
        if random_lists.findings(path):
            continue
        try:
            found = place(random_lists.SETUP, PlanRequest(path, "minpeak", minpeak=OPTIONS[name]))
        except RinggraphError as error:
            assert name == "budget" and "65,536" in str(error), f"seed {seed}: {error}"
            continue
        assert found.schedule.program is not None
        program, schedule = random_lists.cells(found.schedule.program), found.schedule
        assert verify(schedule) == [], f"seed {seed}"
        assert random_lists.in_any_order(program, program, schedule, seed), f"seed {seed}"
        planned += 1
    assert planned > (num // 8 if name == "budget" else 5 * num // 8)
