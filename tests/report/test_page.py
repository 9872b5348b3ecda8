"""The page: its columns read back, what it says of blocks, scopes and times follows from the schedule, and it is small."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
from places import DATA

from runner import Driver
from runner.base.errors import RinggraphError
from runner.driver.driver import Setup
from runner.driver.planning import PlanRequest
from runner.driver.view.view import view
from runner.report.page.blocks import blocks_of
from runner.report.page.columns import packed
from runner.rings.schedule import Begin, End, Submit

pytestmark = pytest.mark.usefixtures("short_searches")

CASES = {"moe": ("moe", ()), "qwen3": ("qwen3_decode", ("qwen3-tiny",)), "recorded": (str(DATA / "captures" / "03"), ())}
"""Each is planned as it is written."""


def written(tmp_path, *given, config=()):
    """The data of a page."""
    out = tmp_path / "page.html"
    size, _ = view(Setup(tuple(config)), list(given), PlanRequest(""), out)
    assert size == out.stat().st_size
    text = out.read_text(encoding="utf-8")
    assert "@@" not in text and "src=" not in text and "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    found = re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def unpacked(kept):
    """As the page's script does it, but written from the description of the format."""
    planes = zlib.decompress(base64.b64decode(kept["data"]))
    n = kept["n"]
    values = [int.from_bytes(bytes(planes[plane * n + i] for plane in range(4)), "little", signed=True) for i in range(n)]
    return np.cumsum(values).tolist() if kept["steps"] else values


@pytest.mark.parametrize("values", [[], [0], [-1, 5, 2**31 - 1, -(2**31)], list(range(5000)), [7] * 3000])
def test_columns_read_back(values):
    kept = packed({"x": np.array(values, np.int64)})["x"]
    found = [(v + 2**31) % 2**32 - 2**31 for v in unpacked(kept)]
    assert found == values
    assert len(kept["data"]) < 200 or len(values) < 10


def test_a_column_beyond_32_bits_is_refused():
    with pytest.raises(ValueError, match="column 'x' has numbers beyond 32 bits"):
        packed({"x": np.array([2**31])})


@pytest.mark.parametrize("case", CASES)
def test_blocks_live_as_the_schedule_says(case, tmp_path):
    """Against a walk written out by hand: scopes, first and last users, what pins a block, and when an older one keeps it."""
    graph, config = CASES[case]
    plan = Driver(config).plan(graph, progress="eager")
    schedule, blocks = plan.schedule, blocks_of(plan.schedule)
    stack, scope_of, closed, made = [], {}, {}, 0
    for step in schedule.steps:
        if isinstance(step, Begin):
            stack.append(step.scope)
        elif isinstance(step, End):
            closed[stack.pop()] = made
        elif isinstance(step, Submit):
            scope_of[step.submission] = stack[-1]
            made += 1
    latest = {}
    for i, item in enumerate(schedule.submissions):
        users = [k for k, other in enumerate(schedule.submissions) if i in other.holds]
        last, close = max([i, *users]), closed[scope_of[i]]
        assert blocks.scope[i] == scope_of[i] and blocks.last_use[i] == last
        assert blocks.first_use[i] == (i if item.core is not None or not users else users[0])
        assert blocks.end[i] == max(last + 1, close)
        assert blocks.pin[i] == (last if last + 1 > close else -1)
        ring = schedule.scopes[scope_of[i]].ring
        latest[ring] = max(latest.get(ring, 0), int(blocks.end[i]))
        assert blocks.gone[i] == latest[ring]
        assert (blocks.behind[i] >= 0) == (latest[ring] > blocks.end[i])
        assert blocks.behind[i] < 0 or blocks.end[blocks.behind[i]] == latest[ring]


@pytest.mark.parametrize("case", CASES)
def test_a_page_tells_what_the_plan_is(case, tmp_path):
    graph, config = CASES[case]
    data = written(tmp_path, graph, config=config)
    [side] = data["sides"]
    plan = Driver(config).plan(graph, ring_heap=None if case == "recorded" else "safe", progress="eager")
    columns = {name: unpacked(kept) for name, kept in side["columns"].items()}
    items = plan.schedule.submissions
    assert [size * 1024 for size in columns["size"]] == [-(-item.size_bytes // 1024) * 1024 for item in items]
    assert [offset * 1024 for offset in columns["offset"]] == list(plan.replay.offsets)
    assert _names(columns, "", side["templates"]) == [item.name for item in items]
    slots = [slot for item in items for slot in item.slots]
    assert columns["tensors"] == [len(item.slots) for item in items]
    assert _names(columns, "tensor_", side["tensor_templates"]) == [slot.name for slot in slots]
    assert [1024 * size for size in columns["tensor_size"]] == [-(-slot.size_bytes // 1024) * 1024 for slot in slots]
    assert [1024 * offset for offset in columns["tensor_offset"]] == [slot.offset for slot in slots]
    assert all(scope["kind"] in side["kinds"] for scope in (*side["scopes"], *side["written"]))
    assert sum(scope["bytes"] for scope in side["scopes"]) == sum(item.size_bytes for item in items)
    assert side["scopes"][0]["all"] == sum(item.size_bytes for item in items)
    for ring in range(4):
        peaks = [scope["peak"] for scope in side["scopes"] if scope["ring"] == ring]
        assert ring or max(peaks) >= plan.replay.peak_bytes[0]
    assert side["report"]["makespan_us"] == plan.report.makespan_us
    last = max(s + w + r for s, w, r in zip(columns["submit"], columns["wait"], columns["run"], strict=True))
    assert abs(last / 10 - plan.report.makespan_us) < 0.2
    assert abs(sum(to - since for since, to, *_ in side["stalls"]) / 10 - plan.report.stall_us) < 0.2 + 0.1 * len(side["stalls"])
    assert side["verdict"] and side["chain"]
    gaps = sum(us for *_, us in side["chain"]) + sum(columns["run"][task] for task, *_ in side["chain"]) / 10
    assert abs(gaps - plan.report.makespan_us) < 0.5 + 0.1 * len(side["chain"])


def _names(columns, start, templates):
    names = []
    for i, template in enumerate(columns[f"{start}name"]):
        numbers = iter(columns[name][i] for name in sorted(columns) if name.startswith(f"{start}number"))
        names.append(re.sub("#", lambda _, n=numbers: str(next(n)), templates[template]))
    return names


def test_scopes_have_one_colour_on_both_sides(tmp_path):
    first, second = written(tmp_path, "decode_fwd", "decode_fwd:minpeak")["sides"]
    common = first["kinds"].keys() & second["kinds"].keys()
    assert {"attention", "moe", "experts"} <= common
    assert all(first["kinds"][kind] == second["kinds"][kind] for kind in common)


def test_two_plans_are_set_side_by_side_with_what_differs(tmp_path):
    data = written(tmp_path, "moe", "moe:minpeak")
    assert [side["strategy"] for side in data["sides"]] == ["annotated", "minpeak"]
    assert data["differences"]["safe_total_bytes"][0] > data["differences"]["safe_total_bytes"][1]
    assert data["sides"][1]["certificate"]["objective"] == "balanced"


def test_a_file_of_a_plan_is_shown_without_blocks(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(Driver().plan("moe").as_json(), default=str))
    data = written(tmp_path, str(file), "moe")
    assert data["sides"][0]["num"] == 0 and data["sides"][0]["report"]["num_tasks"] == data["sides"][1]["report"]["num_tasks"]
    file.write_text("{}")
    with pytest.raises(RinggraphError, match="is not a schedule: no 'rings'"):
        written(tmp_path, str(file))


def test_a_deadlock_is_shown_up_to_where_it_comes(tmp_path):
    out = tmp_path / "page.html"
    view(Setup(), ["moe"], PlanRequest("", rings=("64KiB", None, None)), out)
    found = re.search(r'type="application/json">(.*?)</script>', out.read_text(), re.DOTALL)
    assert found is not None
    [side] = json.loads(found[1])["sides"]
    assert "DEADLOCK" in side["refused"] and side["verdict"].startswith("'moe' does not fit: it deadlocks on ring")
    assert -1 in unpacked(side["columns"]["offset"]) and "submit" not in side["columns"]


def test_text_of_a_file_cannot_end_the_script(tmp_path):
    graph = tmp_path / "g.yaml"
    graph.write_text(
        "graph: g\ndoc: '</script><script>alert(1)</script>'\ninputs: {x: 'f32[4]'}\nbody:\n  - alloc: {y: 'f32[4]'}\n"
    )
    data = written(tmp_path, str(graph))
    assert "</script>" in data["sides"][0]["files"][0]["text"]


@pytest.mark.slow
def test_a_page_of_43_layers_of_prefill_is_small(tmp_path):
    """`ringgraph view prefill_fwd --config flash`: all 621,521 submissions, 442,180 blocks, in less than 5 MB."""
    data = written(tmp_path, "prefill_fwd", config=("flash",))
    assert data["sides"][0]["num"] > 600_000
    assert (tmp_path / "page.html").stat().st_size < 5_000_000
