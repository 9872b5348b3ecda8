"""What orders tasks, against brute force, and what a read on the host orders."""

from __future__ import annotations

import re
from pathlib import Path

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config.config import load_config
from runner.expansion.expander import expand_all
from runner.language.library import GraphLibrary, load_graph
from runner.lint.lint import lint
from runner.lint.look import Look
from runner.lint.rules.order.write_after_read import WriteAfterRead
from runner.lint.walk import findings_of
from runner.program.ops import OpRegistry
from runner.program.program import Program

TINY = load_config(["tiny"], deploy="decode")
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
