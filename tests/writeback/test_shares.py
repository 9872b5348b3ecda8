"""Random graphs in random styles, whose plans are written as `share:` lists, or as scopes where these take less: the files say
the same plan, do the same work, give the same results, and are not changed again.

`pytest -m slow tests/writeback/test_shares.py` takes 300 graphs; RINGGRAPH_SEEDS=200:400 takes others.
"""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from sampled import sampled

from runner.driver.driver import Setup
from runner.driver.planning import MinpeakOptions, PlanRequest, PlanResult, TimedOptions, plan
from runner.execution.executor import execute
from runner.execution.storage import TORCH_DTYPES
from runner.program.equivalence import refuse_other_work
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.verify.verify import verify
from runner.writeback.edits import write_files
from schedulers import get_scheduler
from tests.writeback.test_styles import cheap as cheap
from tests.writeback.test_styles import check_only_scopes_changed, flat, loaded, written_graph
from tests.writeback.test_styles import findings as found_by_lint

pytestmark = pytest.mark.usefixtures("short_searches")

KIB = 1024

OPS = OpRegistry()


@OPS.op("join", "a: f32[N, M], b: f32[K, M] -> y: f32[P, M]", core="AIV")
def join(a, b, *, y):
    """Something that tells its operands apart: each row of the result from the means of both."""
    rows = torch.arange(1, y.shape[0] + 1, dtype=torch.float32)[:, None]
    y.copy_(torch.sin(rows * (2.0 * a.mean(0) + 3.0 * b.mean(0)) + 0.5))


SETUP = Setup(ops=OPS)
OBJECTIVES = ("balanced", "total", "makespan")


def results(program: Program, workers: int) -> list[torch.Tensor]:
    """What a run leaves outside, from inputs that are always the same."""
    generator = torch.Generator().manual_seed(0)
    externals = {
        tensor.id: torch.randn(tensor.spec.shape, generator=generator).to(TORCH_DTYPES[tensor.spec.dtype])
        for tensor in program.tensors
        if not tensor.is_local
    }
    execute(get_scheduler("annotated")(program, {}), OPS, externals, workers=workers)
    return [externals[tensor] for tensor in sorted(externals)]


def total(found: PlanResult) -> int:
    return sum(ring.safe_bytes for ring in found.report.rings)


def check(path: Path, objective: str) -> None:
    """Plans with `--write`, writes, and checks all of it."""
    texts = {file: file.read_bytes() for file in path.parent.iterdir()}
    before = SETUP.program(path)
    wanted = results(before, 1)
    request = PlanRequest(path, "minpeak", write=True, minpeak=MinpeakOptions(objective=objective))
    found = plan(SETUP, request)
    write_files(found.texts)
    assert found.plan is not None
    for file, data in texts.items():
        ONLY_CHANGED[found.plan.found_by](data, file.read_bytes())
    assert found_by_lint(path) == []
    after = SETUP.program(path)
    refuse_other_work(before, after)
    assert verify(get_scheduler("annotated")(after, {})) == []
    written = plan(SETUP, PlanRequest(path))
    assert abs(total(written) - total(found)) <= 3 * KIB
    assert written.report.makespan_us == pytest.approx(found.report.makespan_us, rel=0.02)
    for one, other in zip(wanted, results(after, 3), strict=True):
        assert torch.equal(one, other)
    assert plan(SETUP, request).texts == {}


def assert_only_lists_changed(before: bytes, after: bytes) -> None:
    old, new = (loaded(data) for data in (before, after))
    assert {key: value for key, value in new.items() if key != "share"} == {k: v for k, v in old.items() if k != "share"}
    assert old.get("share") is not None or kept_comments(before) <= kept_comments(after)
    old_lines, new_lines = before.splitlines(), iter(after.splitlines())
    assert before == after or all(any(line == other for other in new_lines) for line in old_lines) or b"{" in before[:40]


def assert_only_scopes_and_lists_changed(before: bytes, after: bytes) -> None:
    old, new = (loaded(data) for data in (before, after))
    written = ("share", "body")
    assert {key: v for key, v in old.items() if key not in written} == {key: v for key, v in new.items() if key not in written}
    assert flat(old["body"]) == flat(new["body"])
    assert old.get("share") is not None or kept_comments(before) <= kept_comments(after)


ONLY_CHANGED = {
    "annotated": assert_only_lists_changed,
    "lists that files can say": assert_only_lists_changed,
    "scopes that files can say": check_only_scopes_changed,
    "scopes and lists that files can say": assert_only_scopes_and_lists_changed,
}


def kept_comments(data: bytes) -> set[bytes]:
    return {line.partition(b"#")[2] for line in data.splitlines() if b"#" in line}


def campaign(folder: Path, seeds: range, whole: bool) -> None:
    """Under each objective, or under one of them each."""
    for seed in seeds:
        path = written_graph(folder, seed)
        texts = {file: file.read_bytes() for file in folder.iterdir()}
        for objective in OBJECTIVES if whole else (OBJECTIVES[seed % len(OBJECTIVES)],):
            for file, data in texts.items():
                file.write_bytes(data)
            try:
                check(path, objective)
            except Exception as error:
                raise AssertionError(f"seed {seed}, {objective}: {error!r}\n{path.read_text()}") from error


def test_written_lists_say_the_plan(tmp_path: Path) -> None:
    campaign(tmp_path, range(3), whole=False)


@pytest.mark.slow
def test_written_lists_say_the_plan_of_many_graphs(tmp_path: Path) -> None:
    first, _, end = os.environ.get("RINGGRAPH_SEEDS", "0:300").partition(":")
    campaign(tmp_path, range(int(first), int(end)), whole=True)


# --- shipped graphs ---------------------------------------------------------------------------------------------------


SHIPPED = {
    "decode_fwd": ("deepseek_v4", "logits", ("--config", "tiny", "--set", "num_hidden_layers=3", "--deploy", "decode")),
    "prefill_fwd": ("deepseek_v4", "logits", ("--config", "tiny", "--set", "num_hidden_layers=3", "--deploy", "prefill")),
    "qwen3_decode": ("qwen3", "logits", ("--config", "qwen3-tiny")),
}


@pytest.mark.parametrize("graph", [pytest.param(name, marks=[pytest.mark.slow] * (name != "qwen3_decode")) for name in SHIPPED])
def test_written_shipped_graphs_give_the_same_logits_in_smaller_rings(call, tmp_path: Path, graph: str) -> None:
    family, logits, options = SHIPPED[graph]
    for file in (Path(str(files("graphs"))) / family).glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path, results, totals = tmp_path / f"{graph}.yaml", [], []
    for name in ("before", "after"):
        out = tmp_path / f"{name}.safetensors"
        code, _, err = call("run", path, *options, "--seed", 3, "--ring-heap", "safe", "--dump", logits, "--out", out)
        assert code == 0, err
        results.append(out.read_bytes())
        code, printed, err = call("schedule", path, *options, "--json", "--no-cache")
        assert code == 0, err
        totals.append(json.loads(printed)["safe_total_bytes"])
        code, _, err = call("schedule", path, *options, "--scheduler", "minpeak", "--objective", "total", "--write")
        assert code == 0 and ("wrote" if name == "before" else "nothing to write") in err, err
        code, printed, err = call("lint", path, *options)
        assert code == 0, printed + err
    assert results[0] == results[1]
    assert totals[1] < 0.6 * totals[0]


def test_a_list_under_another_configuration(call, tmp_path: Path) -> None:
    """Lists hold where sizes, layers and routing are others than those they were planned for."""
    for file in (Path(str(files("graphs"))) / "deepseek_v4").glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "moe.yaml"
    planned = ("--config", "tiny", "--deploy", "decode", "--routing", "random:0")
    code, _, err = call("schedule", path, *planned, "--scheduler", "minpeak", "--objective", "total", "--write")
    assert code == 0 and "wrote" in err, err
    for options in (
        ("--config", "tiny", "--deploy", "prefill"),
        ("--config", "tiny", "--deploy", "decode", "--set", "chunked=true"),
        ("--config", "flash", "--deploy", "decode", "--ep", "8", "--routing", "random:7"),
        ("--config", "flash", "--config", "seed", "--deploy", "prefill", "--ep", "2", "--routing", "random:1"),
    ):
        code, _, err = call("schedule", path, *options, "--ring-heap", "safe")
        assert code == 0, (options, err)


# --- used graphs in loops, and budgets --------------------------------------------------------------------------------


PART = """graph: part
inputs: {x: "f32[64, 256]", k: "f32[64, 256]"}
outputs: {y: "f32[64, 256]"}
body:
  - {op: join, in: {a: x, b: k}, out: {y: "keys: f32[512, 256]"}}
  - {op: join, in: {a: keys, b: k}, out: {y: "values: f32[256, 256]"}}
  - {op: join, in: {a: values, b: x}, out: {y: y}}
"""
TILES = """graph: tiles
inputs: {x: "f32[768, 256]", k: "f32[64, 256]"}
outputs: {y: "f32[768, 256]"}
body:
  - for: t
    range: 12
    body:
      - {use: part, id: tile, with: {x: "x[64 * t : 64 * t + 64]", y: "y[64 * t : 64 * t + 64]"}}
"""


def tiles(folder: Path) -> Path:
    (folder / "part.yaml").write_text(PART)
    (folder / "tiles.yaml").write_text(TILES)
    return folder / "tiles.yaml"


WITHIN = (
    ("2100KiB", "aic=2,aiv=3", {"tile.keys": 3, "tile.values": 2}),
    ("2660KiB", "unlimited", {"t_trips": 3}),
)


@pytest.mark.parametrize(("budget", "cores", "copies"), WITHIN)
def test_what_a_used_graph_makes_has_copies_of_its_own(tmp_path: Path, budget: str, cores: str, copies: dict[str, int]) -> None:
    """Within a budget as many trips of a used graph run side by side as fit, of some tensors more than of others; lists are as
    fast as the plan."""
    path = tiles(tmp_path)
    timed = TimedOptions(task_us=10, cores=cores)
    request = PlanRequest(path, "minpeak", write=True, minpeak=MinpeakOptions(budget=budget), timed=timed)
    wanted = results(SETUP.program(path), 1)
    found = plan(SETUP, request)
    write_files(found.texts)
    entries = [entry.items() for entry in loaded(path.read_bytes())["share"] if isinstance(entry, dict)]
    assert {name: said["copies"] for entry in entries for name, said in entry} == copies
    assert found_by_lint(path) == []
    after = SETUP.program(path)
    assert verify(get_scheduler("annotated")(after, {})) == []
    assert all(torch.equal(one, other) for one, other in zip(wanted, results(after, 3), strict=True))
    free = found.unwritten
    assert free is not None and found.report.makespan_us is not None
    assert found.report.makespan_us <= 1.02 * free["makespan_us"]


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "cores", "_"), WITHIN)
def test_copies_within_a_budget_are_not_changed_again(tmp_path: Path, budget: str, cores: str, _: object) -> None:
    timed = TimedOptions(task_us=10, cores=cores)
    request = PlanRequest(tiles(tmp_path), "minpeak", write=True, minpeak=MinpeakOptions(budget=budget), timed=timed)
    write_files(plan(SETUP, request).texts)
    assert plan(SETUP, request).texts == {}


@pytest.mark.slow
@pytest.mark.parametrize("cores", ["aic=2,aiv=3", "unlimited"])
def test_what_a_used_graph_makes_passes_through_a_ring(tmp_path: Path, cores: str) -> None:
    """Where one and a half trips of a used graph fit, no copies of its tensors are as fast as the plan, a ring is."""
    path = tiles(tmp_path)
    (tmp_path / "part.yaml").write_text(PART.replace("values: f32[256, 256]", "values: f32[512, 256]"))
    request = PlanRequest(
        path,
        "minpeak",
        write=True,
        minpeak=MinpeakOptions(budget="1640KiB"),
        timed=TimedOptions(task_us=10, cores=cores),
    )
    wanted = results(SETUP.program(path), 1)
    found = plan(SETUP, request)
    write_files(found.texts)
    assert loaded(path.read_bytes())["share"] == [{"tile_ring": {"ring": 3, "share": ["tile.keys", "tile.values"]}}]
    assert found_by_lint(path) == []
    after = SETUP.program(path)
    assert verify(get_scheduler("annotated")(after, {})) == []
    assert all(torch.equal(one, other) for one, other in zip(wanted, results(after, 3), strict=True))
    free = found.unwritten
    assert free is not None and found.report.makespan_us is not None
    assert found.report.makespan_us <= 1.02 * free["makespan_us"]
    assert plan(SETUP, request).texts == {}


BUDGETS = (("deepseek_v4", "moe", "tiny", 150), ("qwen3", "qwen3_decode", "qwen3-tiny", 90))


@pytest.mark.parametrize(("family", "graph", "config", "budget_kib"), sampled(BUDGETS, BUDGETS[1:]))
def test_a_budget_after_scopes(call, tmp_path: Path, family: str, graph: str, config: str, budget_kib: int) -> None:
    """Lists within a budget are as fast as the plan, whatever scopes were written before."""
    for file in (Path(str(files("graphs"))) / family).glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    given = ("schedule", tmp_path / f"{graph}.yaml", "--config", config, "--deploy", "decode", "--scheduler", "minpeak")
    printed = ""
    for options in (("--no-share",), ("--budget", f"{budget_kib}KiB")):
        code, printed, err = call(*given, *options, "--write", "--json")
        assert code == 0, err
    found = json.loads(printed)
    assert found["safe_total_bytes"] <= budget_kib * KIB
    assert found["makespan_us"] <= 1.02 * found["unwritten"]["makespan_us"]
