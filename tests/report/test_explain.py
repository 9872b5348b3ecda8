"""What a node is, in text and as data; and the examples of the page on the graph format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator
from places import DATA, ROOT

from ops import register_all
from runner import Driver
from runner.base.errors import GraphError
from runner.config.config import load_config
from runner.expansion.expander import expand
from runner.expansion.sharing.texts import texts_of
from runner.language.library import load_graph
from runner.language.structure import schema
from runner.lint.lint import lint
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.report.explain import explain

REGISTRY = OpRegistry()
register_all(REGISTRY)
TINY = load_config(["tiny"], deploy="decode")

TEXT = """\
graph: example
inputs: {x: "{act}[T, D]"}
weights: {w: {type: "{wd}[D]", from: "norm.weight"}}
outputs: {y: "{act}[T, D]"}
body:
  - scope: rows
    body:
      - alloc: {buf: "{act}[T, D]"}
      - op: rms_norm
        id: first
        doc: Normalises once.
        in: {x: "x[:, 0 : D]", w: w}
        out: {y: "buf[0 : T]"}
      - for: layer
        range: 2
        body:
          - op: rms_norm
            in: {x: buf, w: w}
            out: {y: "made: {act}[T, D]"}
          - op: rms_norm
            id: last
            in: {x: made, w: w}
            out: {y: y}
            after: [first]
"""


@pytest.fixture
def program(tmp_path, monkeypatch) -> Program:
    monkeypatch.chdir(tmp_path)
    Path("example.yaml").write_text(TEXT)
    return expand(load_graph("example.yaml"), TINY, REGISTRY)


def test_a_task_in_text(program):
    assert str(explain(program, REGISTRY, "rows.first")).splitlines() == [
        "rows.first",
        "  op      rms_norm (AIV, 1 block)",
        "  doc     Normalises once.",
        "  place   example.yaml:9:9",
        "  scopes  example (auto, ring 0) > rows (auto, ring 1)",
        "  attrs   eps=1e-06",
        "  in      x: input x, f32[8, 64], 2,048 bytes",
        "  in      w: weight w (norm.weight), f32[64], 256 bytes",
        "  out     y: buf, f32[8, 64], 2,048 bytes",
        "          read by rows.layer_0.rms_norm, rows.layer_1.rms_norm",
        "  block   0 bytes",
    ]


def test_a_task_as_data(program):
    data = json.loads(json.dumps(explain(program, REGISTRY, "layer_1.last").to_dict()))
    assert (data["path"], data["op"], data["core"], data["after"]) == ("rows.layer_1.last", "rms_norm", "AIV", ["rows.first"])
    made, _, out = data["operands"]
    assert made["written_by"] == ["rows.layer_1.rms_norm"]
    assert (made["tensor"], made["bytes"], made["shape"], made["dtype"], made["mode"]) == ("made", 2048, [8, 64], "f32", "in")
    assert (out["kind"], out["source"], out["read_by"]) == ("output", "y", [])


def test_a_created_tensor_has_a_block(program):
    node = explain(program, REGISTRY, "rows.layer_0.rms_norm")
    assert node.block_bytes == 2048
    assert "  out     y: creates made, f32[8, 64], 2,048 bytes" in str(node).splitlines()


def test_an_alloc_names_its_writers_and_readers(program):
    (use,) = explain(program, REGISTRY, "rows.alloc").operands
    assert use.written_by == ("rows.first",)
    assert use.read_by == ("rows.layer_0.rms_norm", "rows.layer_1.rms_norm")


def test_a_scope_is_a_node_too(program):
    node = explain(program, REGISTRY, "rows")
    assert (node.kind, node.num_tasks, node.block_bytes) == ("scope", 6, 3 * 2048)
    assert explain(program, REGISTRY, "rows.layer_1").num_tasks == 2


def test_an_ending_finds_the_first_of_several(program):
    node = explain(program, REGISTRY, "last")
    assert (node.path, node.others) == ("rows.layer_0.last", 1)
    assert str(node).startswith("rows.layer_0.last  (and 1 more node with this ending)")


@pytest.mark.parametrize(
    ("node", "hint"),
    [
        ("rows.frist", "did you mean 'rows.first'?"),
        ("row.first", "did you mean 'rows.'?"),
        ("rows.layer_0.zzz", "in 'rows.layer_0' are: last, rms_norm, ..."),
        ("zzz", "the graph begins with: rows, ..."),
        ("frist", "did you mean 'first'?"),
        ("layer_1.lats", "did you mean 'layer_1.last'?"),
        ("made", "'made' is a tensor; 'rows.layer_0.rms_norm' is the first that writes it"),
        ("w", "'w' is a tensor; 'rows.first' is the first that reads it"),
    ],
)
def test_an_unknown_node_names_what_is_near(program, node, hint):
    with pytest.raises(GraphError) as error:
        explain(program, REGISTRY, node)
    assert str(error.value) == f"no node of 'example' is called '{node}'\nhint: {hint}"


@pytest.mark.parametrize(
    ("node", "hint"),
    [("k1", "in 'k1' are: 1, 10, "), ("k1.", "in 'k1' are: 1, 10, "), ("k2", "the graph begins with: alloc, k1, ...")],
)
def test_tasks_of_a_recording_are_called_by_kernel_and_number(node, hint):
    with pytest.raises(GraphError) as error:
        Driver().explain(DATA / "captures" / "layers_1", node)
    assert str(error.value).splitlines()[1].startswith(f"hint: {hint}")


def test_scratch_and_parts_of_a_shipped_graph():
    program = expand(load_graph("moe"), load_config(["tiny"], sets=["precision=w8a8"], deploy="prefill"), REGISTRY)
    act = explain(program, REGISTRY, "experts.e1.t0.exp_w2_act")
    assert "  out     recv_y: recv_y{1, 0}," in str(act)
    assert act.attrs == {"expert": 1, "tile": 0, "first": 0}
    assert any(use.mode == "scratch" and use.tensor.startswith("gm_pipe") for use in explain(program, REGISTRY, "gate").operands)


SHARING = """\
graph: sharing
inputs: {x: "{act}[T, D]"}
weights: {w: {type: "{wd}[D]", from: "norm.weight"}}
outputs: {y: "{act}[T, D]"}
share:
  - buf
  - part: buf
  - trips: {copies: {layer: 2}, share: [made]}
  - rows: {ring: 3, share: [one, two]}
body:
  - op: rms_norm
    id: first
    in: {x: x, w: w}
    out: {y: "buf: {act}[T, D]"}
  - for: layer
    range: 3
    body:
      - op: rms_norm
        id: make
        in: {x: buf, w: w}
        out: {y: "made: {act}[T, D]"}
      - op: rms_norm
        id: pass
        in: {x: made, w: w}
        out: {y: "one: {act}[T, D]"}
      - op: rms_norm
        id: last
        in: {x: one, w: w}
        out: {y: "two: {act}[T, D]"}
  - use: inner
    id: part
    with: {x: x, w: w, y: y}
"""

INNER = """\
graph: inner
inputs: {x: "{act}[T, D]", w: "{wd}[D]"}
outputs: {y: "{act}[T, D]"}
share: [held]
body:
  - op: rms_norm
    id: hold
    in: {x: x, w: w}
    out: {y: "held: {act}[T, D]"}
  - op: rms_norm
    id: give
    in: {x: held, w: w}
    out: {y: y}
"""


def test_entries_of_lists_that_operands_lie_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sharing.yaml").write_text(SHARING)
    Path("inner.yaml").write_text(INNER)
    program = expand(load_graph("sharing.yaml"), TINY, REGISTRY)

    def entries(node: str) -> dict[str, list[str]]:
        shared = explain(program, REGISTRY, node, lambda: texts_of("sharing.yaml")).shared
        return {one.tensor.rpartition(".")[2]: [str(entry) for entry in one.entries] for one in shared}

    buf = ["'buf' (sharing.yaml:6:5), gives them to part"]
    for trip, copy in ((0, 1), (1, 2), (2, 1)):
        made = [f"'trips' (sharing.yaml:8:5), copy {copy} of 2, of trips of layer", "'made' (sharing.yaml:8:41)"]
        assert entries(f"layer_{trip}.make") == {"buf": buf, "made": made}
        passed = entries(f"layer_{trip}.last")
        for name, column in (("one", 29), ("two", 34)):
            ring = "'rows' (sharing.yaml:9:5), a ring as large as 3 of its largest tensors"
            assert passed[name] == [ring, f"'{name}' (sharing.yaml:9:{column})"]
    held = ["'part' (sharing.yaml:7:5), takes the bytes of buf", "'held' (inner.yaml:4:9)"]
    assert entries("part.hold") == {"held": held}
    node = explain(program, REGISTRY, "layer_1.pass", lambda: texts_of("sharing.yaml"))
    one, made = json.loads(json.dumps(node.to_dict()))["shared"]
    assert (made["entries"][0]["copies"], made["entries"][0]["copy"], made["entries"][0]["units"]) == ({"layer": 2}, 1, None)
    assert (one["entries"][0]["ring"], one["entries"][0]["units"]) == (3, [4, 6])
    assert one["offset"] % 1024 == 0
    assert "          entry 'made' (sharing.yaml:8:41)" in str(node).splitlines()
    assert explain(program, REGISTRY, "layer_1.pass").shared[0].entries == ()


# --- docs/graph-format.md ---

BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "graph-format.md").read_text(), re.DOTALL)
FILES = [block for block in BLOCKS if "\ngraph: " in block]
FRAGMENTS = [block for block in BLOCKS if "\ngraph: " not in block]


def test_the_page_has_examples():
    assert (len(FILES), len(FRAGMENTS)) == (2, 8)


def test_whole_examples_are_clean_and_expand(tmp_path):
    for text in FILES:
        name = re.search(r"^graph: (\w+)", text, re.MULTILINE)
        assert name
        (tmp_path / f"{name[1]}.yaml").write_text(text)
    assert [str(finding) for finding in lint([tmp_path], TINY, REGISTRY)] == []
    program = expand(load_graph(tmp_path / "example_stack.yaml"), TINY, REGISTRY)
    assert "layer_0.attention_tail.rows.again" in [task.path for task in program.tasks]


@pytest.mark.parametrize("text", FRAGMENTS)
def test_fragments_fit_the_schema(text):
    def keyed(value):
        if isinstance(value, dict):
            return {str(key): keyed(inner) for key, inner in value.items()}
        return [keyed(inner) for inner in value] if isinstance(value, list) else value

    Draft7Validator(schema()).validate({"graph": "page", "body": keyed(yaml.safe_load(text))})
