"""Placements: what they say is what the schedule holds, in the form of their schema; limits are told on both sides."""

from __future__ import annotations

import json
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from runner.base.errors import ScheduleError
from runner.driver.device.placement import placement
from runner.driver.driver import Setup
from runner.driver.planning import MinpeakOptions, PlanRequest, place
from runner.report.placement.limits import limits_of
from runner.report.placement.steps import HANDED_ON
from runner.rings.devices.devices import device
from runner.rings.sizes import RingSizes

SETUP = Setup(["tiny"], deploy="decode")
A2A3 = device("a2a3")
SCHEMA = json.loads((files("graphs.schema") / "placement.schema.json").read_text("utf-8"))


def placed(graph: str, scheduler: str, **options: object):
    request = PlanRequest(graph, scheduler, minpeak=MinpeakOptions(objective="total"))
    return placement(SETUP, request, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler", ["annotated", "manual", "autoscope", "minpeak"])
def test_it_fits_its_schema_and_holds_every_submission(scheduler: str) -> None:
    request = PlanRequest("moe", scheduler, minpeak=MinpeakOptions(objective="total"), allow_missing_edges=True)
    found = placement(SETUP, request)
    data = found.as_json()
    jsonschema.validate(data, SCHEMA)
    made = [step for step in data["steps"] if step["do"] in ("submit", "alloc")]
    names = [step["name"] for step in made]
    assert len(set(names)) == len(names) and all(map(str.startswith, names, (s.name for s in found.schedule.submissions)))
    assert {
        name for step in data["steps"] for name in (*step.get("after", ()), *(dep["after"] for dep in step.get("deps", ())))
    } <= {*names}
    assert [step.get("bytes", 0) for step in made] == [s.size_bytes for s in found.schedule.submissions]
    depth = 0
    for step in data["steps"]:
        depth += {"open": 1, "close": -1}.get(step["do"], 0)
        assert step["do"] != "open" or step["ring"] == min(depth - 1, 3)
    assert depth == 0
    assert all(step["name"] in found.text() for step in made)


def test_edges_that_nothing_infers_are_all_there_with_the_tensors_that_need_them() -> None:
    found = placed("moe", "minpeak")
    program, schedule = found.schedule.program, found.schedule
    assert program is not None
    sub_of = {s.task: k for k, s in enumerate(schedule.submissions) if s.task is not None}
    wanted = {
        (schedule.submissions[wait].name, made.name)
        for made in schedule.submissions
        if made.task is not None
        for wait in made.waits
        if wait not in {sub_of[w] for w in program.tasks[made.task].waits if w in sub_of} and wait not in made.holds
    }
    edges = {(dep["after"], step["name"]): dep for step in found.steps for dep in step.get("deps", ()) if dep["why"] != HANDED_ON}
    assert set(edges) == wanted and wanted
    assert all("takes bytes of" in dep["why"] and not dep["keeps_block"] for dep in edges.values())
    replaced = [tensor for step in found.steps for tensor in step.get("tensors", ()) if "replaces" in tensor]
    assert replaced
    made = [(task.path, program.tensors[tensor].name) for task in program.tasks for tensor in task.creates]
    names = [name for _, name in made]
    known = {f"{path}.{name}" if names.count(name) > 1 else name for path, name in made}
    said = {old for tensor in replaced for old in tensor["replaces"]}
    assert said <= known and any("." in old for old in said), "each stands for one tensor"
    blocks = [step["tensors"] for step in found.steps if step.get("name", "").startswith("arena")]
    listed = {(tensor["task"], tensor["name"]) for block in blocks for tensor in block}
    assert listed and listed <= set(made)


def test_limits_on_both_sides() -> None:
    schedule = placed("moe", "annotated").schedule
    needed = {limit.name: limit.needed for limit in limits_of(schedule, RingSizes(), A2A3)}
    window, pool = needed["task window of ring 1"], needed["dependency pool of ring 1"]
    for less in (0, 1):
        sizes = RingSizes(window=(16384, window >> less, 16384, 16384), pool=(16384, pool - less, 16384, 16384))
        kept = {limit.name: limit.is_kept for limit in limits_of(schedule, sizes, A2A3)}
        assert kept["task window of ring 1"] == kept["dependency pool of ring 1"] == (not less)


HEAD = 'graph: g\ninputs: {x: "f32[4, 256]"}\nweights: {w: "f32[256]"}\noutputs: {z: "f32[4, 256]"}\nbody:\n  - alloc: MADE\n'
NORM = "  - {op: rms_norm, in: {x: x, w: w}, out: {y: z}}\n"


def limits(folder: Path, made: str) -> dict[str, tuple[int, bool]]:
    """What a graph of one alloc and one op needs of each limit, and whether that is kept."""
    path = folder / "g.yaml"
    path.write_text(HEAD.replace("MADE", made) + NORM)
    schedule = place(SETUP, PlanRequest(path)).schedule
    found = {limit.name: (limit.needed, limit.is_kept) for limit in limits_of(schedule, RingSizes(), A2A3)}
    with nullcontext() if all(is_kept for _, is_kept in found.values()) else pytest.raises(ScheduleError):
        placement(SETUP, PlanRequest(path))
    return found


@pytest.mark.parametrize("more", [0, 1])
def test_arguments_and_blocks_on_both_sides(tmp_path: Path, more: int) -> None:
    many = ", ".join(f'a{k}: "f32[4, 256]"' for k in range(32 + more))
    assert limits(tmp_path, f"{{{many}}}")["tensors of a submission"] == (32 + more, not more)
    rows = 2**21 - 1 + more  # of 1,024 bytes; a block has at most 2^31 - 1 bytes, of 1,024 a multiple
    assert limits(tmp_path, f'{{a: "i8[{rows}, 1024]"}}')["size of a block"] == (rows * 1024, not more)


@pytest.mark.parametrize(("limit", "name"), [("tensormap", "tensormap_entries"), ("scopes open at a time", "max_scopes")])
def test_the_map_and_open_scopes_on_both_sides(call, tmp_path: Path, limit: str, name: str) -> None:
    """The device says how much there is, in a file of the user's too."""
    schedule = placed("moe", "annotated").schedule
    needed = {one.name: one.needed for one in limits_of(schedule, RingSizes(), A2A3)}[limit]
    for less in (0, 1):
        (tmp_path / "mine.yaml").write_text(f"{name}: {needed - less}\n", encoding="utf-8")
        found = {one.name: one.is_kept for one in limits_of(schedule, RingSizes(), device(str(tmp_path / "mine.yaml")))}
        assert found[limit] == (not less)
        status, out, _ = call("placement", "moe", "--deploy", "decode", "--device", tmp_path / "mine.yaml")
        assert status == less and ("TOO MANY" in out) == bool(less) and "device mine" in out.splitlines()[0]


def test_the_card(call, tmp_path: Path) -> None:
    total = placed("moe", "annotated").memory.total
    for card, status in ((total, 0), (total - 1, 1)):
        out = tmp_path / "moe.json"
        code, printed, _ = call("placement", "moe", "--deploy", "decode", "--card", str(card), "-o", out)
        assert code == status and ("TOO MANY" in printed) == bool(status)
        memory = json.loads(out.read_text())["memory"]
        assert memory["card"] == card and memory["total"] == total
        assert sum(value for name, value in memory.items() if name not in ("card", "total")) == total
    code, _, err = call("placement", "moe", "--card", "much")
    assert code == 1 and "--card much" in err
