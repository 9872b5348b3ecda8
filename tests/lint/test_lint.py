"""Lint: every code's example in the docs, the rules about order against brute force, the shipped graphs, the output formats."""

from __future__ import annotations

import json
import re
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from ops import register_all
from runner.base.errors import Diagnostic, Mark, RinggraphError
from runner.config.config import load_config
from runner.expansion.expander import expand_all
from runner.language.library import GraphLibrary, load_graph, shipped_graphs
from runner.lint.codes import RULES, explain_rule
from runner.lint.lint import lint
from runner.lint.look import Look
from runner.lint.output import format_findings
from runner.lint.rules.order.write_after_read import WriteAfterRead
from runner.lint.walk import findings_of
from runner.program.ops import OpRegistry
from runner.program.program import Program

REGISTRY = OpRegistry()
register_all(REGISTRY)
TINY = load_config(["tiny"], deploy="decode")
HEAD = """\
graph: example
inputs: {x: "{act}[T, D]"}
weights: {w: "{wd}[D]"}
outputs: {y: "{act}[T, D]"}
body:
"""


def findings(tmp_path, monkeypatch, text: str, **options):
    monkeypatch.chdir(tmp_path)
    Path("example.yaml").write_text(text)
    return lint(["example.yaml"], TINY, REGISTRY, **options)


def codes(found) -> list[str]:
    return [finding.code for finding in found]


# --- the docs ---

SECTIONS = re.split(r"^## (?=G\d)", (ROOT / "docs" / "lint.md").read_text(), flags=re.MULTILINE)[1:]
DOCUMENTED = {section[:4]: section for section in SECTIONS}


def test_docs_list_every_rule():
    assert list(DOCUMENTED) == list(RULES)


@pytest.mark.parametrize("code", RULES)
def test_example_in_the_docs(code, tmp_path, monkeypatch):
    section, rule = DOCUMENTED[code], RULES[code]
    assert section.startswith(f"{code}: {rule.title}\n\n{rule.why}")
    assert ("A warning." in section) == (rule.severity == "warning")
    monkeypatch.chdir(tmp_path)
    for text in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL):
        named = re.match(r"# file: (\S+)\n", text)
        Path(named[1] if named else "example.yaml").write_text(text.removeprefix(named[0] if named else ""))
    command = re.search(r"```sh\nringgraph lint (\S+)(?: --ring-heap (\d+))?\n```", section)
    path, heap = (command[1], command[2]) if command else ("example.yaml", None)
    found = lint([path], TINY, REGISTRY, ring_heap=[int(heap)] * 4 if heap else None)
    expected = re.search(r"```text\n(.*?)\n```", section, re.DOTALL)
    assert expected and "\n".join(map(str, found)) == expected[1]
    assert {finding.severity for finding in found} == {rule.severity}


def test_rules_explain_themselves():
    assert explain_rule("g312").startswith("G312: write-after-read hazard (error, stage 3: meaning)")
    with pytest.raises(RinggraphError, match="no lint rule is called 'G399'"):
        explain_rule("G399")


# --- shipped graphs ---


@pytest.mark.parametrize(
    ("layers", "deploy", "sets"),
    [
        (["tiny"], "decode", []),
        (["tiny"], "decode-mtp", []),
        (["tiny"], "prefill", []),
        (["tiny"], "prefill", ["precision=w8a8", "recv_layout=padded", "ep=4"]),
        (["demo"], "decode", ["ep=8"]),
    ],
)
def test_shipped_graphs_have_no_errors(layers, deploy, sets):
    config = load_config(layers, sets=sets, deploy=deploy)
    found = lint([ROOT / "graphs" / "deepseek_v4"], config, REGISTRY)
    assert [str(finding) for finding in found if finding.severity == "error"] == []


AFTERS = [
    (name, i)
    for name, path in shipped_graphs().items()
    for i, line in enumerate(path.read_text().splitlines())
    if "after:" in line
]


@pytest.mark.parametrize(("name", "line"), AFTERS)
def test_every_after_of_the_shipped_graphs_is_needed(name, line, tmp_path):
    """... because without it there is a write-after-read hazard, whose hint puts it back."""
    for other, path in shipped_graphs().items():
        lines = path.read_text().splitlines()
        if other == name:
            ids = re.search(r"after: (\[.*?\])", lines[line])
            assert ids
            lines[line] = ""
        (tmp_path / f"{other}.yaml").write_text("\n".join(lines))
    config = load_config(["tiny"], deploy="prefill" if "prefill" in name else "decode")
    found = [f for f in lint([tmp_path / f"{name}.yaml"], config, REGISTRY) if f.code == "G312"]
    assert any(f"add 'after: {ids[1]}'" in (f.hint or "") for f in found)


# --- one rule at a time ---


def test_a_finding_in_a_used_graph_is_told_once(tmp_path, monkeypatch):
    (tmp_path / "stage.yaml").write_text(
        HEAD.replace("example", "stage") + "  - op: rms_norm\n    in: {x: x, w: v}\n    out: {y: y}\n"
    )
    text = HEAD + "  - for: layer\n    range: num_hidden_layers\n    body: [{use: stage}]\n"
    found = findings(tmp_path, monkeypatch, text)
    assert [str(f) for f in found] == [
        "stage.yaml:7:19: error G306: unknown tensor 'v'\n    in: {x: x, w: v}\n                  ^",
    ]


def test_all_findings_of_a_stage_at_once(tmp_path, monkeypatch):
    text = HEAD + "  - op: rms_nrm\n    in: {x: x, w: w}\n    out: {y: y}\n"
    text += "  - op: rms_norm\n    in: {x: z}\n    out: {y: y}\n  - use: nothing\n"
    assert codes(findings(tmp_path, monkeypatch, text)) == ["G302", "G304", "G306", "G311"]


def test_a_comment_accepts_a_finding_on_its_line_only(tmp_path, monkeypatch):
    op = '  - op: rms_norm\n    in: {x: x, w: w}\n    out: {y: "NAME: {act}[T, D]"}'
    text = HEAD + f"{op.replace('NAME', 'a')}  # ringgraph: ignore[G301, G314]\n{op.replace('NAME', 'b')}\n"
    text += "  - op: rms_norm\n    in: {x: x, w: w}\n    out: {y: y}\n"
    assert [f.message for f in findings(tmp_path, monkeypatch, text)] == ["tensor 'b' is never read"]


def test_inputs_weights_and_params_that_nothing_names(tmp_path, monkeypatch):
    text = """\
graph: example
params: {layer: "0", spare: "1"}
inputs: {x: "{act}[T, D]", z: "i32[T]"}
weights: {w: {type: "{wd}[D]", from: "layers.{layer}.norm"}, v: "f32[D]"}
outputs: {y: "{act}[T, D]"}
body:
  - op: rms_norm
    in: {x: x, w: w}
    out: {y: y}
"""
    messages = [f.message for f in findings(tmp_path, monkeypatch, text)]
    assert messages == ["param 'spare' is never used", "input 'z' is never read", "weight 'v' is never read"]


def test_the_last_trip_of_a_dynamic_loop_is_checked(tmp_path, monkeypatch):
    text = """\
graph: example
inputs: {x: "{act}[T * 100, D]", count: "i32[1]"}
weights: {w: "{wd}[D]"}
outputs: {y: "{act}[T * 99, D]"}
body:
  - for: t
    range: count[0]
    max: 100
    body:
      - op: rms_norm
        in: {x: "x[T * t : T * t + T]", w: w}
        out: {y: "y[T * t : T * t + T]"}
"""
    found = findings(tmp_path, monkeypatch, text)
    assert [f.message for f in found] == ["'y[T * t : T * t + T]' is outside 'y', which is f32[792, 64]: [792 : 800] of dim 0"]
    assert findings(tmp_path, monkeypatch, text.replace("T * 99", "T * 100")) == []


def test_a_scope_must_hold_all_trips_of_a_dynamic_loop(tmp_path, monkeypatch):
    text = """\
graph: example
inputs: {x: "{act}[T, D]", count: "i32[1]"}
weights: {w: "{wd}[D]"}
outputs: {y: "{act}[T, D]"}
body:
  - scope: tiles
    body:
      - for: t
        range: count[0]
        max: 100
        body:
          - op: rms_norm
            in: {x: x, w: w}
            out: {y: "z: {act}[T, D]"}
          - op: rms_norm
            in: {x: z, w: w}
            out: {y: y}
"""
    heap = [1 << 20, 100 * 2048, 1 << 20, 1 << 20]  # z takes 8 * 64 * 4 bytes
    assert findings(tmp_path, monkeypatch, text, ring_heap=heap) == []
    heap[1] -= 1
    found = findings(tmp_path, monkeypatch, text, ring_heap=heap)
    assert [f.message for f in found] == ["scope 'tiles' allocates 204,800 bytes before it closes, but ring 1 has 204,799"]


def test_scopes_beyond_the_last_ring_share_it(tmp_path, monkeypatch):
    text = HEAD
    for depth, name in enumerate("abcd"):
        text += "  " * (2 * depth + 1) + f"- scope: {name}\n" + "  " * (2 * depth + 2) + "body:\n"
        made = f"s{name}: {{act}}[T, D]"
        text += (
            "  " * (2 * depth + 3) + f'- {{op: rms_norm, in: {{x: x, w: w}}, out: {{y: "{made}"}}}}  # ringgraph: ignore[G314]\n'
        )
    text += "  - op: rms_norm\n    in: {x: x, w: w}\n    out: {y: y}\n"
    text = text.replace("- scope: d", "- scope: d  # ringgraph: ignore[G317]")
    assert findings(tmp_path, monkeypatch, text, ring_heap=[2048, 2048, 2048, 4096]) == []
    found = findings(tmp_path, monkeypatch, text, ring_heap=[2048, 2048, 2048, 4095])
    assert [f.message for f in found] == ["scope 'a.b.c' allocates 4,096 bytes before it closes, but ring 3 has 4,095"]


def test_a_folder_stands_for_its_graphs(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"graph: {name}\nbody: [{{op: nothing}}]\n")
    assert codes(lint([tmp_path], TINY, REGISTRY)) == ["G302", "G302"]


# --- order, against brute force ---

REGIONS = ["buf", "buf[0 : 4]", "buf[2 : 6]", "buf[:, 0 : 32]", "buf[4 : 8, 16 : 48]", "buf{1}", "buf{2}"]


@st.composite
def read_write_graphs(draw) -> str:
    """Ops that read and write regions of a few buffers, some of them in a manual scope, some with explicit edges."""
    small = OPS_ON_BUFFERS
    lines = ["graph: example", 'inputs: {a: "f32[8, 64]", b: "f32[8, 64]"}', "body:"]
    number = draw(st.integers(2, 9))
    for i in range(number):
        buffers = [draw(st.sampled_from("ab")) for _ in range(2)]
        source, target = (draw(st.sampled_from(REGIONS)).replace("buf", name) for name in buffers)
        lines += [
            f"  - op: {draw(st.sampled_from(small))}",
            f"    id: t{i}",
            f'    in: {{x: "{source}"}}',
            f'    out: {{y: "{target}"}}',
        ]
        if i and draw(st.booleans()):
            lines.append(f"    after: [t{draw(st.integers(0, i - 1))}]")
    return "\n".join(lines) + "\n"


OPS_ON_BUFFERS = ("buffer_op", "buffer_update")
BUFFERS = OpRegistry()
BUFFERS.op("buffer_op", "x: f32[..., N] -> y: f32[M, K]", core="AIV")(lambda **_: None)
BUFFERS.op("buffer_update", "x: f32[..., N] -> &y: f32[M, K]", core="AIV")(lambda **_: None)


def elements(program: Program, region) -> set:
    """The elements of a region, parts as elements of their own: (row, column) or ('part', key)."""
    shape = program.tensors[region.tensor].spec.shape
    if region.part is not None:
        return {("part", region.part)}
    box = region.box or tuple((0, size) for size in shape)
    found = {(row, column) for row in range(*box[0]) for column in range(*box[1])}
    return found | {("part", (1,)), ("part", (2,))}


def shares(program: Program, one, other) -> bool:
    if one.part is not None and other.part is not None:
        return one.part == other.part
    if one.part is not None or other.part is not None:
        return True
    return bool(elements(program, one) & elements(program, other) - {("part", (1,)), ("part", (2,))})


@settings(max_examples=150, deadline=None)
@given(read_write_graphs())
def test_write_after_read_hazards_are_all_found(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("graphs") / "example.yaml"
    path.write_text(text)
    graph, library = load_graph(path), GraphLibrary()
    expanded = expand_all(graph, TINY, BUFFERS, library=library)
    assert expanded.problems == []
    program = expanded.program
    edges = nx.DiGraph()
    edges.add_nodes_from(range(len(program.tasks)))
    edges.add_edges_from((other, task.id) for task in program.tasks for other in (*task.waits, *task.after))

    def hazards() -> set[tuple[int, int]]:
        after = {task: nx.descendants(edges, task) for task in edges}
        found = set()
        for task in program.tasks:
            for other in program.tasks[: task.id]:
                read = [r for n, r in other.operands.items() if n == "x" or other.op == "buffer_update"]
                if any(r.tensor == task.operands["y"].tensor and shares(program, r, task.operands["y"]) for r in read):
                    found |= {(task.id, other.id)} - {(w, r) for r in after for w in after[r]}
        return found

    found = findings_of(Look(graph, expanded, library, BUFFERS), [WriteAfterRead])
    told = {
        (int(pair[1]), int(pair[2])) for f in found if (pair := re.match(r"'t(\d+)' writes .* while 't(\d+)' may", f.message))
    }
    assert len(told) == len({f.message for f in found})
    assert told <= hazards()
    edges.add_edges_from((other, task) for task, other in told)
    assert hazards() == set()


def test_a_host_read_orders_what_comes_after(tmp_path, monkeypatch):
    """The loop's range waits for the counter, and with it for the reader of `buf` that made it."""
    text = """\
graph: example
inputs: {a: "f32[8, 64]"}
outputs: {out: "f32[8, 64]"}
body:
  - op: fill
    in: {x: a}
    out: {y: "buf: f32[8, 64]"}
  - op: count
    in: {x: buf}
    out: {n: "count: i32[1]"}
  - for: t
    range: count[0]
    max: 2
    body:
      - op: fill
        in: {x: a}
        out: {y: out}
  - op: fill
    id: again
    in: {x: a}
    out: {y: buf}
  - op: fill
    id: last
    in: {x: buf}
    out: {y: out}
"""
    registry = OpRegistry()
    registry.op("fill", "x: f32[8, 64] -> y: f32[8, 64]", core="AIV")(lambda **_: None)
    registry.op("count", "x: f32[8, 64] -> n: i32[1]", core="AIV")(lambda **_: None)
    monkeypatch.chdir(tmp_path)
    Path("example.yaml").write_text(text)
    assert lint(["example.yaml"], TINY, registry) == []
    Path("example.yaml").write_text(
        text.replace("range: count[0]\n    max: 2", "range: 2") + "  - op: count\n    in: {x: out}\n    out: {n: count}\n"
    )
    assert [f.message for f in lint(["example.yaml"], TINY, registry) if f.code == "G312"] == [
        "'again' writes 'buf' while 'count' may still read it"
    ]


def test_nobody_outside_waits_for_a_manual_scope(tmp_path, monkeypatch):
    text = (
        HEAD
        + """\
  - alloc: {buf: "{act}[T, D]"}
  - scope: fast
    mode: manual
    body:
      - op: rms_norm
        id: inside
        in: {x: x, w: w}
        out: {y: buf}
  - op: rms_norm
    id: outside
    in: {x: buf, w: w}
    out: {y: y}
"""
    )
    found = findings(tmp_path, monkeypatch, text)
    assert [(f.code, f.message, f.hint) for f in found] == [
        (
            "G318",
            "'outside' needs 'buf' from 'fast.inside', but in a manual scope only 'after' orders tasks",
            "add 'after: [fast.inside]' to 'outside'",
        )
    ]
    assert findings(tmp_path, monkeypatch, text + "    after: [fast.inside]\n") == []


def test_a_hazard_between_trips_is_mended_by_naming_the_trip_before(tmp_path, monkeypatch):
    text = (
        HEAD
        + """\
  - alloc: {buf: "{act}[T, D]"}
  - for: layer
    range: 3
    body:
      - op: rms_norm
        id: writer
        in: {x: x, w: w}
        out: {y: buf}
      - op: rms_norm
        id: reader
        in: {x: buf, w: w}
        out: {y: y}
"""
    )
    found = findings(tmp_path, monkeypatch, text)
    assert [(f.code, f.message, f.hint) for f in found] == [
        ("G312", "'layer_1.writer' writes 'buf' while 'layer_0.reader' may still read it", "add 'after: [reader]' to 'writer'")
    ]
    assert findings(tmp_path, monkeypatch, text.replace("id: writer", "id: writer\n        after: [reader]")) == []


# --- output formats ---


@pytest.fixture
def two(tmp_path, monkeypatch):
    op = '  - op: rms_norm\n    in: {x: x, w: w}\n    out: {y: "spare: {act}[T, D]"}\n'
    return findings(tmp_path, monkeypatch, HEAD + op + "  - op: rms_norm\n    in: {x: x, w: w}\n    out: {y: y}\n")


def test_text(two):
    text = format_findings(two, "text")
    assert text.splitlines() == [
        "example.yaml:8:15: warning G314: tensor 'spare' is never read",
        '    out: {y: "spare: {act}[T, D]"}',
        "              ^",
        "1 warning",
    ]
    assert format_findings([], "text") == ""


def test_json(two):
    assert json.loads(format_findings(two, "json")) == {
        "findings": [
            {
                "code": "G314",
                "severity": "warning",
                "message": "tensor 'spare' is never read",
                "file": "example.yaml",
                "line": 8,
                "column": 15,
                "source_line": '    out: {y: "spare: {act}[T, D]"}',
                "hint": None,
                "related": [],
            }
        ]
    }


def test_github(tmp_path, monkeypatch):
    found = findings(tmp_path, monkeypatch, HEAD + "  - op: rms_norm\n    in: {x: x, w: ww}\n    out: {y: y}\n")
    assert format_findings(found, "github") == (
        "::error file=example.yaml,line=7,col=19,title=G306::unknown tensor 'ww'%0Ahint: did you mean 'w'?"
    )
    assert format_findings([Diagnostic("G101", "50% off\nnow", Mark("a,b:c", 1, 2))], "github") == (
        "::error file=a%2Cb%3Ac,line=1,col=2,title=G101::50%25 off%0Anow"
    )


def test_sarif(two, tmp_path):
    sarif = json.loads(format_findings(two, "sarif"))
    assert (sarif["version"], len(sarif["runs"])) == ("2.1.0", 1)
    run = sarif["runs"][0]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["G314"]
    result = run["results"][0]
    assert (result["ruleId"], result["ruleIndex"], result["level"]) == ("G314", 0, "warning")
    place = result["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "example.yaml"}, "region": {"startLine": 8, "startColumn": 15}}
    assert json.loads(format_findings([], "sarif"))["runs"][0]["results"] == []
