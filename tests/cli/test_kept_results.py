"""Results that are asked for again: the same text from the cache folder, and never one of something else."""

import signal

import pytest
from installed_family import on_path
from places import ROOT

from runner.base.result_cache import ResultCache
from runner.driver import planning
from runner.driver.cache import keys
from runner.report.frontier import Point
from schedulers.minpeak import planner

pytestmark = pytest.mark.usefixtures("short_searches")

COMMANDS = [
    ("schedule", "head", "--scheduler", "minpeak"),
    ("schedule", "moe", "--json"),
    ("schedule", "moe", "--ring-heap", "1KiB"),
    ("schedule", "tests/data/conformance/01_flat_alignment.json"),
    ("schedule-diff", "moe", "moe:auto"),
    ("size", "moe", "head"),
    ("frontier", "head", "--points", "1"),
]


@pytest.fixture
def counted(monkeypatch):
    """How many programs were expanded or opened."""
    import runner.driver.driver as driver
    import runner.driver.planning as planning
    import runner.driver.sizing as sizing

    calls = []
    for module in (driver, planning, sizing):
        work = module.program_of
        monkeypatch.setattr(module, "program_of", lambda *a, work=work, **k: calls.append(a) or work(*a, **k))
    work_too = planning.open_recorded
    monkeypatch.setattr(planning, "open_recorded", lambda *a: calls.append(a) or work_too(*a))
    return calls


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_repeated_command_says_the_same_without_working_it_out(arguments, call, counted, cache, monkeypatch):
    monkeypatch.chdir(ROOT)
    first = call(*arguments)
    done = len(counted)
    assert done and list(cache.iterdir())
    again = call(*arguments)
    assert len(counted) == done and again[:2] == first[:2]
    told = [line for line in first[2].splitlines() if not line.startswith(("planning: ", "found: "))]
    assert again[2].splitlines() == told
    assert call(*arguments, "--no-cache") == first and len(counted) > done


CHANGES = [
    ("--config", "demo"),
    ("--set", "decode.batch=2"),
    ("--scheduler", "auto"),
    ("--routing", "random:1"),
    ("--batch-allocs",),
    ("--json",),
]


@pytest.mark.parametrize("options", CHANGES, ids=" ".join)
def test_other_options_are_another_result(options, call, counted):
    call("schedule", "moe")
    done = len(counted)
    call("schedule", "moe", *options)
    assert len(counted) > done


INNER = """graph: inner
inputs: {x: "f32[T, 8]"}
outputs: {y: "f32[T, 1]"}
body:
  - op: hc_head_rms
    in: {x_fp32: x}
    out: {inv_rms: y}
"""
OUTER = """graph: outer
inputs: {x: "f32[T, 8]"}
outputs: {y: "f32[T, 1]"}
body:
  - use: inner
    with: {x: x, y: y}
"""


@pytest.mark.parametrize("what", ["nothing", "outer.yaml", "inner.yaml", "layer.yaml", "environment", "code"])
def test_other_inputs_are_another_result(what, call, counted, tmp_path, monkeypatch):
    for name, text in (("outer.yaml", OUTER), ("inner.yaml", INNER), ("layer.yaml", "rms_norm_eps: 0.001\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = ("schedule", tmp_path / "outer.yaml", "--config", "tiny", "--config", tmp_path / "layer.yaml")
    status, out, err = call(*command)
    assert status == 0, out + err
    done = len(counted)
    match what:
        case "environment":
            monkeypatch.setenv("PTO2_RING_HEAP", "2147483648")
        case "code":
            monkeypatch.setattr(keys, "code_of_packages", lambda: "changed")
        case "outer.yaml" | "inner.yaml" | "layer.yaml":
            path = tmp_path / what
            path.write_text(f"# a comment\n{path.read_text('utf-8')}", encoding="utf-8")
    call(*command)
    assert (len(counted) > done) == (what != "nothing")


STRATEGY = """
from runner import Layout, lower, place


def {name}(program, options):
    return lower(program, place(program, Layout(lambda span, depth, in_manual: {mode}, outlive=True)), "mine")
"""
OUTERMOST, EVERY = '"auto" if depth == 0 else None', '"auto" if span.kind in ("root", "scope") else None'


def test_another_strategy_of_an_installed_package_is_another_result(call, counted, tmp_path):
    """Its code is edited, or its name stands for another function of the same code."""
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    said = []
    one, two = (STRATEGY.format(name=name, mode=mode) for name, mode in (("one", OUTERMOST), ("two", EVERY)))
    for code, called in ((one, "one"), (one.replace(OUTERMOST, EVERY), "one"), (one + two, "one"), (one + two, "two")):
        (tmp_path / "mine_of_a_test.py").write_text(code, encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[ringgraph.schedulers]\nmine = mine_of_a_test:{called}\n", encoding="utf-8")
        keys.code_of_packages.cache_clear()
        with on_path(tmp_path):
            done = len(counted)
            first = call("schedule", "moe", "--scheduler", "mine")
            assert first[0] == 0 and len(counted) == done + 1, "it was worked out"
            assert call("schedule", "moe", "--scheduler", "mine") == first and len(counted) == done + 1
        said.append(first[1])
    keys.code_of_packages.cache_clear()
    assert said[0] == said[2] != said[1] == said[3]


def test_a_module_that_a_declared_package_imports_is_part_of_the_key(tmp_path):
    """Directly or not, from anywhere on the path; what is installed, and what cannot be parsed or found, is not looked into."""
    info = tmp_path / "declares_of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: declares-of-a-test\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[ringgraph.ops]\nmine = declares_of_a_test:register\n", encoding="utf-8")
    files = {
        "declares_of_a_test.py": "import torch, numpy.linalg, json, nowhere_of_a_test\nfrom costs_of_a_test.inner import cost",
        "costs_of_a_test/__init__.py": "from . import inner",
        "costs_of_a_test/inner.py": "import rates_of_a_test as r, declares_of_a_test",
        "rates_of_a_test.py": "def (",
        "unused_of_a_test.py": "",
    }
    (tmp_path / "costs_of_a_test").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")

    def digest():
        keys.code_of_packages.cache_clear()
        with on_path(tmp_path):
            return keys.code_of_packages()

    seen = [digest()]
    for name in files:
        (tmp_path / name).write_text(f"# changed\n{files[name]}", encoding="utf-8")
        assert (digest() in seen) == (name == "unused_of_a_test.py"), name
        seen.append(digest())
    keys.code_of_packages.cache_clear()


def test_what_writes_files_is_never_kept(call, cache, tmp_path):
    deps = tmp_path / "deps.json"
    for _ in range(2):
        status, _, err = call("schedule", "moe", "--deps", deps)
        assert status == 0 and deps.is_file(), err
        deps.unlink()
    assert not cache.exists()


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"out": "x"}', '{"out": "", "err": "", "status": "one"}', "null"])
def test_an_entry_of_somebody_else_is_worked_out_anew(text, call, cache, monkeypatch):
    first = call("schedule", "head")
    monkeypatch.setattr(ResultCache, "get", lambda self, key: text)
    assert call("schedule", "head") == first


def test_what_was_saved_meanwhile_is_not_kept_for_what_was_there_before(call, tmp_path, monkeypatch, cache):
    """A graph that an editor saves between the key and the plan, and that is what it was again afterwards."""
    path, work = tmp_path / "outer.yaml", planning.plan
    for name, text in (("outer.yaml", OUTER), ("inner.yaml", INNER)):
        (tmp_path / name).write_text(text, encoding="utf-8")

    def saved(*given, **options):
        path.write_text(OUTER.replace("graph: outer", "graph: other"), encoding="utf-8")
        return work(*given, **options)

    monkeypatch.setattr(planning, "plan", saved)
    assert "other" in call("schedule", path, "--config", "tiny")[1] and not cache.exists()
    monkeypatch.setattr(planning, "plan", work)
    path.write_text(OUTER, encoding="utf-8")
    assert "other" not in call("schedule", path, "--config", "tiny")[1]


def test_a_cache_that_cannot_be_written_is_no_problem(call, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RINGGRAPH_CACHE", str(tmp_path / "file"))
    assert call("schedule", "moe") == call("schedule", "moe")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_frontier_says_what_it_has_and_is_not_kept(number, call, monkeypatch, cache):
    work, calls = planner.Planner.shortest, []
    before = signal.signal(signal.SIGTERM, lambda *_: calls.append("SIGTERM"))

    def interrupted(self, budget):
        calls.append(budget)
        if len(calls) == 2:
            signal.raise_signal(number)
        return work(self, budget)

    monkeypatch.setattr(planner.Planner, "shortest", interrupted)
    status, out, err = call("frontier", "head")
    signal.raise_signal(signal.SIGTERM)
    assert calls[-1] == "SIGTERM", "what was there before is there again"
    signal.signal(signal.SIGTERM, before)
    assert status == 130 and "minpeak, fewest bytes" in out and "autoscope" not in out
    assert err.count("found: ") == 2 and not cache.exists()
    if number == signal.SIGTERM:
        return
    monkeypatch.setattr(planner.Planner, "shortest", work)
    whole = call("frontier", "head", "--points", "1", "--json")[1]
    assert '"is_whole": true' in whole


def test_each_placement_is_shown_when_it_is_found():
    from runner import Driver

    seen: list[Point] = []
    planned: list[int] = []
    found = Driver().frontier("head", 1, say=lambda label: planned.append(len(seen)), shown=seen.append)
    assert planned[:3] == [0, 1, 2] and found.is_whole
    assert {point.label for point in found.points} <= {point.label for point in seen}
