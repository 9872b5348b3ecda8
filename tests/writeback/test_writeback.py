"""`ringgraph schedule --write`: the files say what the strategy placed, and nothing else in them changes."""

import json
import shutil
from pathlib import Path

import pytest
from sampled import sampled

from runner.language.library import shipped_graphs

SMALL = ("--config", "tiny", "--set", "num_hidden_layers=3")
FIGURES = ("safe_bytes", "robust_bytes", "least_bytes", "num_blocks", "num_tasks", "high_water_bytes", "peak_slots")

NESTED = """\
# a file of somebody else
graph: nested
inputs: {x: "f32[4, 256]"}
weights: {w: "f32[256]"}
outputs: {z: "f32[4, 256]"}
body:
  - alloc: {y: "f32[4, 256]"}     # stays
  - scope: outer   # why it is there
    body:
      # about the inner one
      - scope: inner   # of the first row
        mode: auto
        body:
          - op: rms_norm
            in: {x: x, w: w}
            out: {y: "a: f32[4, 256]"}

          # and into y
          - op: rms_norm
            in: {x: a, w: w}
            out: {y: y}
      - op: rms_norm
        in: {x: y, w: w}
        out: {y: z}
"""


@pytest.fixture
def shipped(tmp_path):
    for path in shipped_graphs().values():
        shutil.copy(path, tmp_path)
    return tmp_path


def texts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rings(call, path: Path, scheduler: str, *options):
    code, out, err = call("schedule", path, *SMALL, "--scheduler", scheduler, "--json", *options)
    assert code == 0, err
    return [[ring[name] for name in FIGURES] for ring in json.loads(out)["rings"]]


@pytest.mark.parametrize(
    ("graph", "scheduler", "layers"),
    [
        ("moe", "autoscope", 3),
        ("o_proj_decode", "autoscope", 3),
        ("decode_fwd", "unscoped", 1),
        pytest.param("decode_fwd", "unscoped", 3, marks=pytest.mark.slow),
    ],
)
def test_a_reloaded_graph_has_the_strategys_figures_and_writing_again_changes_nothing(call, shipped, graph, scheduler, layers):
    sets = ("--set", f"num_hidden_layers={layers}")
    path = shipped / f"{graph}.yaml"
    before = texts(shipped)
    wanted = rings(call, path, scheduler, *sets, "--write")
    after = texts(shipped)
    assert after != before
    assert rings(call, path, "annotated", *sets) == wanted
    rings(call, path, scheduler, *sets, "--write")
    assert texts(shipped) == after
    code, out, err = call("lint", path, *SMALL, *sets)
    found = {line.split()[2] for line in out.splitlines() if line.startswith(str(shipped))}
    assert code == bool(found) and found <= {"G317:"}, out + err  # deep scopes share the last ring


def test_nothing_but_scopes_and_indentation_is_added(call, shipped):
    path = shipped / "moe.yaml"
    old = path.read_text()
    rings(call, path, "autoscope", "--write")
    left = [line.strip() for line in old.splitlines()]
    added = []
    for line in path.read_text().splitlines():
        if left and line.strip() == left[0]:
            left.pop(0)
        else:
            added.append(line.strip())
    assert not left
    assert added and all(line == "body:" or line.startswith("- scope: ") for line in added)
    assert sum(line == "body:" for line in added) == len(added) // 2


def test_a_scope_is_taken_out_with_its_comments_kept(call, tmp_path):
    path = tmp_path / "nested.yaml"
    path.write_text(NESTED)
    wanted = rings(call, path, "unscoped", "--write")
    expected = NESTED.replace(
        "      - scope: inner   # of the first row\n        mode: auto\n        body:\n", "      # of the first row\n"
    )
    head, first, inner = expected.partition("          - op: rms_norm\n")
    inner, last, tail = inner.partition("      - op: rms_norm\n        in: {x: y")
    dedented = "".join(line[4:] if line.strip() else line for line in (first + inner).splitlines(keepends=True))
    assert path.read_text() == head + dedented + last + tail
    assert rings(call, path, "annotated") == wanted


def test_a_changed_mode_is_one_line(call, tmp_path):
    path = tmp_path / "nested.yaml"
    manual = NESTED.replace("mode: auto", "mode: manual").replace(
        "            in: {x: a", "            after: [rms_norm]\n            in: {x: a"
    )
    path.write_text(manual)
    wanted = rings(call, path, "auto", "--write")
    assert path.read_text() == manual.replace("        mode: manual\n", "")
    assert rings(call, path, "annotated") == wanted


def test_line_ends_and_permissions_are_kept(call, tmp_path):
    path = tmp_path / "nested.yaml"
    path.write_bytes(NESTED.replace("\n", "\r\n").encode())
    path.chmod(0o640)
    rings(call, path, "unscoped", "--write")
    data = path.read_bytes()
    assert b"inner one" in data and b"scope: inner" not in data
    assert data.count(b"\n") == data.count(b"\r\n")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["nested.yaml"]


def test_what_files_do_not_bear_is_left_out_and_the_rest_written(call, shipped):
    path, before, layer = shipped / "decode_fwd.yaml", texts(shipped), ("--set", "num_hidden_layers=1")
    code, _, err = call("schedule", path, *SMALL, *layer, "--scheduler", "autoscope", "--write")
    assert (
        code == 0 and "note: left as it is: " in err and "its alloc stands inside" in err and "attention_decode_swa.yaml:" in err
    )
    after = texts(shipped)
    assert after != before
    wanted = rings(call, path, "annotated", *layer)
    assert rings(call, path, "autoscope", *layer, "--write") == wanted and texts(shipped) == after


WRITE_SCOPES = ("--scheduler", "minpeak", "--no-share", "--write")
"""Scopes around runs of items, without lists that share bytes."""


@pytest.mark.parametrize("options", [("--budget", "1MiB"), ("--objective", "makespan")])
def test_minpeak_writes_for_bytes_only(call, shipped, options):
    before = texts(shipped)
    code, _, err = call("schedule", shipped / "moe.yaml", *SMALL, *WRITE_SCOPES, *options)
    assert code == 1 and "total or worst" in err
    assert texts(shipped) == before


GRAPHS = ["moe", "sparse_attn_prefill", "o_proj_decode", "head", "qkv_proj_rope"]


@pytest.mark.parametrize("graph", sampled(GRAPHS, GRAPHS[2:]))
def test_minpeak_writes_what_it_plans_once(call, shipped, graph):
    path = shipped / f"{graph}.yaml"
    as_written = rings(call, path, "annotated")
    code, _, err = call("schedule", path, *SMALL, *WRITE_SCOPES)
    assert code == 0, err
    wanted = rings(call, path, "annotated")
    assert sum(ring[0] for ring in wanted) <= sum(ring[0] for ring in as_written)
    after = texts(shipped)
    code, _, err = call("schedule", path, *SMALL, *WRITE_SCOPES)
    assert code == 0 and "nothing to write" in err
    assert texts(shipped) == after
    code, _, err = call("lint", path, *SMALL)
    assert code == 0, err


HOISTED = """\
graph: hoisted
inputs: {x: "f32[64, 256]"}
weights: {w: "f32[256]"}
outputs: {z: "f32[64, 256]"}
body:
  - op: rms_norm   # the first
    in: {x: x, w: w}
    out: {y: "a: f32[64, 256]"}   # gone soon
  # about b
  - op: rms_norm
    in: {x: a, w: w}
    out:
      y: 'f32[64, 256]'      # stays
  - {op: rms_norm, in: {x: y, w: w}, out: {y: "c: f32[64, 256]"}}
  - {op: rms_norm, in: {x: c, w: w}, out: {y: z}}
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_tensor_that_outlives_a_new_scope_is_allocated_before_it(call, tmp_path, newline):
    path = tmp_path / "hoisted.yaml"
    path.write_bytes(HOISTED.replace("\n", newline).encode())
    code, _, err = call("schedule", path, *SMALL, *WRITE_SCOPES)
    assert code == 0, err
    expected = """\
  - alloc: {y: "f32[64, 256]"}
  - scope: rms_norm_scope
    body:
      - op: rms_norm   # the first
        in: {x: x, w: w}
        out: {y: "a: f32[64, 256]"}   # gone soon
      # about b
      - op: rms_norm
        in: {x: a, w: w}
        out:
          y: y      # stays
"""
    head, _, rest = HOISTED.partition("  - op: rms_norm   # the first")
    tail = "  - scope: rms_norm_scope_2\n    body:\n"
    tail += rest[rest.index("  - {op: rms_norm, in: {x: y") :].replace("  - {", "      - {")
    data = path.read_bytes()
    assert data.count(b"\n") == data.count(newline.encode())
    assert data.decode().replace("\r\n", "\n") == head + expected + tail


@pytest.mark.parametrize(("graph", "made"), sampled((("head", "logits"), ("moe", "x_next")), [("head", "logits")]))
def test_a_written_graph_runs_on_its_smaller_rings_with_the_same_result(call, shipped, graph, made):
    path, results = shipped / f"{graph}.yaml", []
    for name in ("before", "after"):
        out = shipped / f"{name}.safetensors"
        code, _, err = call("run", path, *SMALL, "--seed", 3, "--ring-heap", "safe", "--dump", made, "--out", out)
        assert code == 0, err
        results.append(out.read_bytes())
        code, _, err = call("schedule", path, *SMALL, *WRITE_SCOPES)
        assert code == 0 and ("wrote" if name == "before" else "nothing to write") in err
    assert results[0] == results[1]


CASES = Path(__file__).parents[1] / "lint" / "cases"


@pytest.mark.parametrize("code", ["G312", "G333", "G328", "G318", "G316"])
@pytest.mark.parametrize("strategy", ["minpeak", "autoscope", "annotated"])
def test_a_graph_with_errors_of_lint_is_not_written(code, strategy, tmp_path, call):
    path = Path(shutil.copy(CASES / f"{code}.yaml", tmp_path))
    data = path.read_bytes()
    status, _, err = call("schedule", path, "--scheduler", strategy, "--write", "--config", "tiny")
    if "nothing to write" not in err:
        assert status == 1 and f"error {code}:" in err and "nothing is written to a graph with errors" in err
    assert path.read_bytes() == data


@pytest.mark.parametrize("code", ["G316", "G318", "G318-outside"])
def test_a_strategy_may_mend_what_scopes_decide(code, tmp_path, call):
    path = Path(shutil.copy(CASES / f"{code}.yaml", tmp_path))
    assert call("lint", path, "--config", "tiny")[0] == 1
    assert call("schedule", path, "--scheduler", "unscoped", "--write", "--config", "tiny")[0] == 0
    assert call("lint", path, "--config", "tiny")[0] == 0


def test_errors_are_told_before_anything_is_planned(tmp_path, call, monkeypatch):
    path = Path(shutil.copy(CASES / "G312.yaml", tmp_path))
    monkeypatch.setattr("runner.driver.planning.place", lambda *given, **options: pytest.fail("it was planned"))
    assert "error G312:" in call("schedule", path, "--write", "--config", "tiny")[2]
