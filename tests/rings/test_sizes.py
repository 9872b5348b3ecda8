"""`ringgraph size`: sizes for several graphs at once, and their spellings."""

import json
import re

import pytest
from programs import random_program
from sampled import sampled

from runner.base.errors import ConfigError
from runner.driver.sizing import deployments
from runner.rings.capacity import fits, ring_loads, robust_heap
from runner.rings.common_sizes import device_sizes
from runner.rings.replay import lagging
from runner.rings.sizes import RingSizes

pytestmark = pytest.mark.usefixtures("short_searches")

SMALL = ("--config", "tiny", "--set", "num_hidden_layers=3")
GIB = 2**30


@pytest.mark.parametrize("seed", range(0, 40, 2))
def test_every_schedule_runs_in_both_spellings_of_the_sizes(seed):
    schedules = [random_program(k)[0] for k in (seed, seed + 1)]
    found = device_sizes(schedules, ["a", "b"])
    for heap in (found.sizes.heap, found.power_heap):
        sizes = RingSizes(heap, found.sizes.window, found.sizes.pool)
        for schedule in schedules:
            assert lagging(schedule, sizes).deadlock is None
            for load, size in zip(ring_loads(schedule), heap, strict=True):
                assert fits(load, size)
                assert not load.dynamic or size >= robust_heap(load)


@pytest.mark.parametrize("seed", range(0, 40, 2))
def test_heaps_of_a_run_config_are_powers_of_two_and_no_smaller_one_serves(seed):
    schedules = [random_program(k)[0] for k in (seed, seed + 1)]
    found = device_sizes(schedules, ["a", "b"])
    for ring, size in enumerate(found.power_heap):
        assert size & (size - 1) == 0 and size >= found.sizes.heap[ring] >= 1024
        loads = [ring_loads(schedule)[ring] for schedule in schedules]
        half = size // 2
        if half >= found.sizes.heap[ring]:
            assert not all(half >= robust_heap(load) if load.dynamic else fits(load, half) for load in loads)


def test_totals_and_savings_are_of_the_heaps():
    found = device_sizes([random_program(3)[0]], ["a"])
    heap = found.sizes.heap
    assert found.saved_against_uniform_bytes == sum(max(heap) - size for size in heap)
    assert found.saved_against_gib_bytes == sum(GIB - size for size in heap)


def test_decode_and_prefill_together(call):
    code, out, err = call("size", "decode_fwd", "prefill_fwd", *SMALL, "--json")
    assert code == 0, err
    both = json.loads(out)
    assert {need["graph"] for need in both["needs"]} == {"decode_fwd@decode", "prefill_fwd@prefill"}
    for ring in range(4):
        assert both["ring_heap"][ring] >= max(n["safe_bytes"] for n in both["needs"] if n["ring"] == ring)
    heap = ",".join(map(str, both["ring_heap"]))
    for graph in ("decode_fwd", "prefill_fwd"):
        code, _, err = call("schedule", graph, *SMALL, "--ring-heap", heap, "--json")
        assert code == 0, err


def test_text_has_lines_that_the_runtime_and_python_read(call):
    code, out, _ = call("size", "decode_fwd", *SMALL)
    assert code == 0
    lines = dict(line.split("=", 1) for line in out.splitlines() if line.startswith("PTO2_"))
    assert list(lines) == ["PTO2_RING_HEAP", "PTO2_RING_TASK_WINDOW", "PTO2_RING_DEP_POOL"]
    sizes = RingSizes.resolve(environ=lines)
    snippet = re.search(r"RunConfig\(.*?\n\)", out, re.DOTALL)
    fields = eval(snippet[0], {"RunConfig": dict})
    assert list(fields) == ["ring_heap", "ring_task_window", "ring_dep_pool"]
    assert tuple(fields["ring_task_window"]) == sizes.window and tuple(fields["ring_dep_pool"]) == sizes.pool
    assert all(power >= size for power, size in zip(fields["ring_heap"], sizes.heap, strict=True))


def test_which_graph_gets_which_deployment():
    said = {"decode_fwd": "decode", "prefill_fwd": "prefill"}.get
    both = ["decode_fwd", "prefill_fwd"]
    assert deployments(both, None, said) == [(graph, None) for graph in both], "each its own"
    assert deployments(["prefill_fwd", "moe"], "decode", said) == [("prefill_fwd", "decode"), ("moe", "decode")]
    assert deployments(["moe@prefill", "moe"], "decode-mtp", said) == [("moe", "prefill"), ("moe", "decode-mtp")]
    assert deployments(["decode_fwd@decode-mtp", "prefill_fwd"], None, said) == [
        ("decode_fwd", "decode-mtp"),
        ("prefill_fwd", None),
    ]
    with pytest.raises(ConfigError) as caught:
        deployments(both, "decode-mtp", said)
    assert str(caught.value) == (
        "--deploy decode-mtp is given for graphs of several deployments: 'decode_fwd' for 'decode', 'prefill_fwd' for 'prefill'\n"
        "hint: give it to those that it is meant for, as in decode_fwd@decode-mtp"
    )


def test_an_unknown_graph_is_an_error(call):
    code, _, err = call("size", "decode_fwdd")
    assert code == 1 and "decode_fwdd" in err and "did you mean 'decode_fwd'?" in err


TOGETHER = [["qkv_proj_rope", "head"], ["attention_decode_swa", "moe"], ["decode_fwd", "prefill_fwd"]]


@pytest.mark.parametrize("graphs", sampled(TOGETHER, TOGETHER[:1]))
def test_minpeak_without_sharing_takes_more(call, graphs):
    """`size` hands the strategy's options on, and no arena is smaller than what lives at once."""
    totals = []
    for given in ((), ("--no-share",)):
        code, out, err = call("size", *graphs, *SMALL, "--scheduler", "minpeak", *given, "--json")
        assert code == 0, err
        totals.append(json.loads(out)["total_bytes"])
    _, out, _ = call("schedule", graphs[1], *SMALL, "--json")
    assert json.loads(out)["peak_live_bytes"] <= totals[0] < totals[1]
