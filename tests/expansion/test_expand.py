"""Expansion: edges against an element-wise oracle, names and views, loops, used graphs, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.base.errors import ExecutionError, GraphError
from runner.base.tensor_spec import TensorSpec
from runner.expansion.expander import expand, expand_all
from runner.language.library import load_graph
from runner.program.ops import OpRegistry
from runner.program.program import Program, Region, Span, Task

VALUES = {"T": 8, "D": 6, "E": 3, "L": 4, "eps_field": 0.5, "ratios": [0, 4, 128, 4], "layout": "ragged"}
CONFIG = SimpleNamespace(values=VALUES, dtypes={"act": "bf16", "wq": "i8"})

OPS = OpRegistry()


def register(name: str, signature: str, **fields) -> None:
    OPS.op(name, signature, core=fields.pop("core", "AIV"), **fields)(lambda **_: None)


register("make", "-> y: {any}[...]")
register("copy", "x: {any}[...] -> y: {any}[...]")
register("step", "x: {a}[...], w?: {b}[...] -> y: {c}[N, M]", core="AIC")
register("update", "x: {a}[M, N] -> &y: {b}[P, Q]")
register("norm", "x: {act}[T, D], w: f32[D] -> y: {act}[T, D]", params={"eps": "eps_field", "mode": 3})
register("count", "x: {a}[A, B] -> n: i32[E]", num_blocks=lambda call: call.dims["E"] * 2)
register("scratchy", "x: {a}[A, B] -> y: {a}[A, B]", workspace=lambda call: {"pipe": TensorSpec("f32", (call.dims["A"],))})
register("touch", "x: {a}[...] -> y: {b}[...]")  # on any two shapes: tests let its mismatches pass
register("touch_inout", "x: {a}[...] -> &y: {b}[...]")
register("attentive", "x: {a}[A, B] -> y: {a}[A, B]", params={"k": 1}, num_blocks=lambda call: call.attrs["k"] + 1)


def graph_of(text: str, tmp_path: Path, name: str = "example", **others: str):
    for other, content in {**others, name: text}.items():
        (tmp_path / f"{other}.yaml").write_text(f"graph: {other}\n{content}")
    return load_graph(tmp_path / f"{name}.yaml")


def program_of(text: str, tmp_path: Path, config=CONFIG, **options) -> Program:
    others = {key: options.pop(key) for key in list(options) if isinstance(options[key], str)}
    expanded = expand_all(graph_of(text, tmp_path, **others), config, OPS, **options)
    assert [problem for problem in expanded.problems if "op 'touch'" not in problem.message] == []
    return expanded.program


def paths(program: Program) -> list[str]:
    return [task.path for task in program.tasks]


def task(program: Program, path: str) -> Task:
    return next(task for task in program.tasks if task.path == path)


def errors(text: str, tmp_path: Path, **others: str) -> list[str]:
    found = expand_all(graph_of(text, tmp_path, **others), CONFIG, OPS).problems
    return [f"{d.code} {d.mark.line}: {d.message}" for d in found if d.mark]


# --- the oracle: who wrote each element last ---


class Elements:
    """Last writers, one array a tensor; parts are further elements of it, one a key."""

    def __init__(self, program: Program):
        self.program = program
        self.last = {tensor.id: np.full(tensor.spec.shape or (1,), -1) for tensor in program.tensors}
        self.parts: dict[int, dict[tuple[int, ...], int]] = {tensor.id: {} for tensor in program.tensors}
        self.keys = {
            tensor.id: sorted(
                {r.part for t in program.tasks for r in t.operands.values() if r.tensor == tensor.id and r.part is not None}
            )
            for tensor in program.tensors
        }
        for tensor, keys in self.keys.items():
            self.parts[tensor] = dict.fromkeys(keys, -1)

    def cells(self, region: Region) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        """A mask of elements, and the part keys that the region touches."""
        mask = np.zeros_like(self.last[region.tensor], dtype=bool)
        if region.part is not None:
            return mask, [region.part]
        mask[tuple(slice(lo, hi) for lo, hi in region.box) if region.box is not None else ...] = True
        return mask, self.keys[region.tensor]

    def writers(self, region: Region) -> set[int]:
        mask, keys = self.cells(region)
        return (set(self.last[region.tensor][mask].tolist()) | {self.parts[region.tensor][key] for key in keys}) - {-1}

    def write(self, region: Region, writer: int) -> None:
        mask, keys = self.cells(region)
        self.last[region.tensor][mask] = writer
        if region.part is not None or region.box is None:
            for key in keys:
                self.parts[region.tensor][key] = writer


def operand_regions(program: Program, item: Task) -> tuple[list[Region], list[Region]]:
    modes = {operand.name: operand.mode for operand in OPS[item.op].operands} if item.op else {}
    reads = [region for name, region in item.operands.items() if modes[name] != "out"]
    writes = [region for name, region in item.operands.items() if modes[name] != "in"]
    return reads, writes


def expected_waits(program: Program, ran: Iterable[int] | None = None) -> Iterator[tuple[Task, set[int]]]:
    """What each task has to wait for, when only `ran` of them run."""
    elements = Elements(program)
    for index in range(len(program.tasks)) if ran is None else ran:
        item = program.tasks[index]
        reads, writes = operand_regions(program, item)
        waits = set().union(*(elements.writers(region) for region in (*reads, *writes)))
        yield item, waits
        for region in writes:
            elements.write(region, item.id)


BOXES = ["", "[2]", "[0 : 4]", "[3 : 6]", "[:, 1 : 3]", "[2 : 5, 0 : 4]", "[7, 5]", "[4 : 4]", "[0 : 8, :]"]


@st.composite
def region_graphs(draw, boxes=BOXES) -> str:
    lines = ['inputs: {a: "f32[8, 6]"}', 'state: {b: "f32[8, 6]"}', "body:", '  - alloc: {c: "f32[8, 6]"}']
    for i in range(draw(st.integers(1, 12))):
        source, target = (draw(st.sampled_from("abc")) + draw(st.sampled_from(boxes)) for _ in range(2))
        op = draw(st.sampled_from(["touch", "touch_inout"]))
        lines += [f"  - op: {op}", f"    id: t{i}", f'    in: {{x: "{source}"}}', f'    out: {{y: "{target}"}}']
    return "\n".join(lines) + "\n"


@settings(max_examples=200, deadline=None)
@given(region_graphs())
def test_edges_are_those_of_the_last_writer_of_every_element(tmp_path_factory, text):
    program = expand_all(graph_of(text, tmp_path_factory.mktemp("g")), CONFIG, OPS).program
    for item, waits in expected_waits(program):
        assert set(item.waits) == waits, item.path


@settings(max_examples=100, deadline=None)
@given(region_graphs(boxes=["", "{1}", "{2}", "{1, 2}"]))
def test_parts_with_different_keys_never_overlap(tmp_path_factory, text):
    program = expand_all(graph_of(text, tmp_path_factory.mktemp("g")), CONFIG, OPS).program
    for item, waits in expected_waits(program):
        assert set(item.waits) == waits, item.path


def test_a_box_overlaps_every_part(tmp_path):
    program = expand_all(
        graph_of(
            """\
inputs: {a: "f32[8, 6]"}
body:
  - {op: touch, id: p1, in: {x: "a{3}"}, out: {y: "a{1}"}}
  - {op: touch, id: p2, in: {x: "a{3}"}, out: {y: "a{2}"}}
  - {op: touch, id: box, in: {x: "a{3}"}, out: {y: "a[0 : 2]"}}
  - {op: touch, id: p3, in: {x: "a{3}"}, out: {y: "a{1}"}}
  - {op: touch, id: whole, in: {x: a}, out: {y: a}}
  - {op: touch, id: p4, in: {x: "a{1}"}, out: {y: "a{2}"}}
""",
            tmp_path,
        ),
        CONFIG,
        OPS,
    ).program
    assert [set(item.waits) for item in program.tasks] == [set(), set(), {0, 1}, {0, 2}, {1, 2, 3}, {4}]


@st.composite
def dynamic_graphs(draw) -> str:
    """Ops inside and outside of dynamic loops and a dynamic if, on regions of a few tensors."""
    lines = ['inputs: {a: "f32[8, 6]", n: "i32[9]"}', 'state: {b: "f32[8, 6]"}', "body:", '  - alloc: {c: "f32[8, 6]"}']
    counter = iter(range(100))

    def op(indent: str) -> None:
        source, target = (draw(st.sampled_from("abc")) + draw(st.sampled_from(BOXES[:6])) for _ in range(2))
        i = next(counter)
        lines.append(f'{indent}- {{op: touch, id: t{i}, in: {{x: "{source}"}}, out: {{y: "{target}"}}}}')

    def body(indent: str, depth: int) -> None:
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from(["op", "op", "for", "if"])) if depth < 2 else "op"
            if kind == "op":
                op(indent)
            elif kind == "for":
                lines.extend(
                    [f"{indent}- for: v{next(counter)}", f"{indent}  range: n[0]", f"{indent}  max: 2", f"{indent}  body:"]
                )
                body(indent + "    ", depth + 1)
            else:
                lines.extend([f"{indent}- if: n[1] > 0", f"{indent}  then:"])
                body(indent + "    ", depth + 1)

    body("  ", 0)
    return "\n".join(lines) + "\n"


def runs(span: Span, choose) -> list[int]:
    """The tasks that run when every dynamic span makes `choose(span)` trips."""
    items = span.items[: choose(span)] if span.kind == "dynamic" else span.items
    found: list[int] = []
    for item in items:
        found += [item] if isinstance(item, int) else runs(item, choose)
    return found


@settings(max_examples=150, deadline=None)
@given(dynamic_graphs(), st.randoms(use_true_random=False))
def test_edges_hold_for_every_number_of_trips(tmp_path_factory, text, rng):
    """Whatever runs, a task is ordered after the last writers among those that run: by its edges and those of tasks that run."""
    program = expand_all(graph_of(text, tmp_path_factory.mktemp("g")), CONFIG, OPS).program
    for _ in range(4):
        ran = runs(program.body, lambda span: rng.randint(0, len(span.items)))
        edges = nx.DiGraph()
        edges.add_nodes_from(ran)
        edges.add_edges_from((other, index) for index in ran for other in program.tasks[index].waits if other in edges)
        for item, waits in expected_waits(program, ran):
            assert waits <= nx.ancestors(edges, item.id), (item.path, ran)


# --- tasks and tensors ---


def test_a_task_has_everything_that_schedulers_need(tmp_path):
    program = program_of(
        """\
inputs: {x: "{act}[T, D]"}
weights: {w: "f32[D]"}
outputs: {out: "{act}[T, D]"}
body:
  - alloc: {buf: "{act}[T, D]"}
  - op: norm
    id: first
    doc: Normalises.
    device: cpu
    in: {x: x, w: w}
    out: {y: "y1: {act}[T, D]"}
  - {op: norm, in: {x: y1, w: w}, out: {y: buf}, attrs: {mode: T + 1}}
  - {op: norm, in: {x: buf, w: w}, out: {y: out}, after: [first]}
""",
        tmp_path,
    )
    x, out, buf, w, y1 = (next(t.id for t in program.tensors if t.name == name) for name in ("x", "out", "buf", "w", "y1"))
    assert [t.id for t in program.tensors] == list(range(5)) and [t.id for t in program.tasks] == list(range(4))
    assert [t.kind for t in program.tensors] == ["input", "output", "local", "weight", "local"]
    assert (program.inputs, program.outputs) == ({"x": x}, {"out": out})
    alloc, first, second, third = program.tasks
    assert (alloc.path, alloc.op, alloc.creates, alloc.uses, alloc.writes) == ("alloc", None, (buf,), (), ())
    assert (first.path, first.op, first.core, first.doc, first.device) == ("first", "norm", "AIV", "Normalises.", "cpu")
    assert (first.reads, first.writes, first.creates, first.uses, first.waits) == ((x, w), (y1,), (y1,), (), ())
    assert first.attrs == {"eps": 0.5, "mode": 3} and second.attrs == {"eps": 0.5, "mode": 9}
    assert (second.path, second.reads, second.writes, second.uses, second.waits) == ("norm", (y1, w), (buf,), (y1, buf), (1,))
    assert (third.path, third.uses, third.waits, third.after) == ("norm_2", (buf,), (2,), (1,))
    assert third.operands == {"x": Region(buf), "w": Region(w), "y": Region(out)}


def test_workspaces_come_after_the_outputs_and_can_be_left_out(tmp_path):
    text = 'inputs: {x: "f32[8, 6]"}\nbody:\n  - {op: scratchy, in: {x: x}, out: {y: "f32[8, 6]"}}\n'
    program = program_of(text, tmp_path)
    assert [program.tensors[t].name for t in program.tasks[0].creates] == ["y", "pipe"]
    assert str(program.tensors[2].spec) == "f32[8]"
    config = SimpleNamespace(values={**VALUES, "workspace": False}, dtypes=CONFIG.dtypes)
    assert len(program_of(text, tmp_path, config).tasks[0].creates) == 1


def test_blocks_may_depend_on_attrs(tmp_path):
    text = """\
inputs: {x: "f32[8, 6]"}
body:
  - for: k
    range: 3
    body:
      - {op: attentive, in: {x: x}, out: {y: "f32[8, 6]"}, attrs: {k: 10 * k}}
  - {op: count, in: {x: x}, out: {n: "i32[5]"}}
"""
    assert [item.num_blocks for item in program_of(text, tmp_path).tasks] == [1, 11, 21, 10]


def test_views_of_views(tmp_path):
    program = program_of(
        """\
inputs: {x: "f32[8, 6, 4]"}
outputs: {y: "f32[8, 6]"}
body:
  - use: inner
    with: {a: "x[2 : 7, 3]", out: "y[1, :]"}
""",
        tmp_path,
        inner="""\
inputs: {a: "f32[5, 4]"}
outputs: {out: "f32[6]"}
body:
  - {op: touch, id: row, in: {x: "a[1]"}, out: {y: "out[2 : 4]"}}
  - {op: touch, id: column, in: {x: "a[1 : 3, 2]"}, out: {y: out}}
  - {op: touch, id: part, in: {x: "a{7}"}, out: {y: out}}
""",
    )
    assert [item.path for item in program.tasks] == ["inner.row", "inner.column", "inner.part"]
    row, column, part = (item.operands for item in program.tasks)
    assert row["x"] == Region(0, ((3, 4), (3, 4), (0, 4)), (0, 1))
    assert row["y"] == Region(1, ((1, 2), (2, 4)), (0,))
    assert column["x"] == Region(0, ((3, 5), (3, 4), (2, 3)), (1, 2))
    assert part["x"] == Region(0, ((2, 7), (3, 4), (0, 4)), (1,), (7,))


def test_a_quantised_weight_brings_its_scale_and_sources_are_shared(tmp_path):
    program = program_of(
        """\
body:
  - for: layer
    range: 2
    body:
      - use: stage
""",
        tmp_path,
        stage="""\
params: {layer: "0"}
weights:
  w: {type: "{wq}[E, D]", from: "layers.{layer}.experts.{expert}.w1.weight", stack: expert, shard: 0}
  norm: {type: "f32[D]", from: "norm.weight"}
  unused: "f32[1000]"
state: {cache: {type: "f32[D]", from: "cache.{ratios[layer]}"}}
body:
  - {op: touch, in: {x: w}, out: {y: "a: f32[D]"}}
  - {op: touch, in: {x: w_scale}, out: {y: cache}}
  - {op: touch, in: {x: norm}, out: {y: "b: f32[D]"}}
""",
    )
    outside = [(t.name, t.kind, t.source, str(t.spec), t.stack, t.shard) for t in program.tensors if not t.is_local]
    assert outside == [
        ("w", "weight", "layers.0.experts.{expert}.w1.weight", "i8[3, 6]", "expert", 0),
        ("w_scale", "weight", "layers.0.experts.{expert}.w1.scale", "f32[3]", "expert", 0),
        ("cache", "state", "cache.0", "f32[6]", None, None),
        ("norm", "weight", "norm.weight", "f32[6]", None, None),
        ("w", "weight", "layers.1.experts.{expert}.w1.weight", "i8[3, 6]", "expert", 0),
        ("w_scale", "weight", "layers.1.experts.{expert}.w1.scale", "f32[3]", "expert", 0),
        ("cache", "state", "cache.4", "f32[6]", None, None),
    ]


# --- names ---


def test_shadowing_holds_from_there_on_in_its_body(tmp_path):
    program = program_of(
        """\
inputs: {x: "f32[4]"}
body:
  - {op: touch, id: a, in: {x: x}, out: {y: "x: f32[5]"}}
  - scope: inner
    body:
      - {op: touch, id: b, in: {x: x}, out: {y: "x: f32[6]"}}
      - {op: touch, id: c, in: {x: x}, out: {y: "x: f32[7]"}}
  - {op: touch, id: d, in: {x: x}, out: {y: "z: f32[8]"}}
""",
        tmp_path,
    )
    assert [program.tensors[item.operands["x"].tensor].spec.shape for item in program.tasks] == [(4,), (5,), (6,), (5,)]


def test_branches_of_a_switch_share_names_with_the_body_around(tmp_path):
    text = """\
inputs: {x: "f32[4]"}
body:
  - switch: ratios[1]
    cases:
      4: {op: touch, id: four, in: {x: x}, out: {y: "made: f32[4]"}}
      default: {op: touch, id: other, in: {x: x}, out: {y: "made: f32[5]"}}
  - if: layout == 'padded'
    then: {op: touch, id: padded, in: {x: x}, out: {y: "f32[1]"}}
    else: [{op: touch, id: ragged, in: {x: made}, out: {y: "f32[1]"}}]
"""
    program = program_of(text, tmp_path)
    assert paths(program) == ["four", "ragged"]
    assert [span.kind for span in program.body.items if isinstance(span, Span)] == ["if", "if"]


def test_carried_names(tmp_path):
    program = program_of(
        """\
inputs: {x: "f32[4]"}
body:
  - {op: touch, id: start, in: {x: x}, out: {y: "hidden: f32[4]"}}
  - for: layer
    range: L
    carry: {hidden: next}
    body:
      - alloc: {next: "f32[4]"}
      - scope: work
        body: [{op: touch, in: {x: hidden}, out: {y: next}}]
  - {op: touch, id: end, in: {x: hidden}, out: {y: "f32[4]"}}
""",
        tmp_path,
    )
    chain = [item for item in program.tasks if item.op]
    for before, after in pairwise(chain):
        assert before.operands["y"].tensor == after.operands["x"].tensor
        assert after.waits == (before.id,)
    assert paths(program)[1:3] == ["layer_0.alloc", "layer_0.work.touch"]
    loop = program.body.items[1]
    assert isinstance(loop, Span) and (loop.kind, loop.path, len(loop.items)) == ("for", "layer", 4)


def test_paths(tmp_path):
    program = program_of(
        """\
params: {k: "2"}
inputs: {x: "f32[8, 6]"}
body:
  - for: layer
    range: 3
    body:
      - if: layer == k
        then:
          - scope: moe
            body:
              - use: moe
""",
        tmp_path,
        moe="""\
inputs: {x: "f32[8, 6]"}
body:
  - scope: experts
    body:
      - for: e
        range: 2
        body:
          - for: t
            range: 1
            body: [{op: touch, in: {x: x}, out: {y: "f32[1]"}}]
  - use: other
    with: {x: x}
""",
        other='inputs: {x: "f32[8, 6]"}\nbody: [{op: touch, in: {x: x}, out: {y: "f32[1]"}}]\n',
    )
    assert paths(program) == ["layer_2.moe.experts.e0.t0.touch", "layer_2.moe.experts.e1.t0.touch", "layer_2.moe.other.touch"]
    assert paths(expand(graph_of("body: []", tmp_path), CONFIG, OPS)) == []


def test_params_can_be_given_and_are_inherited(tmp_path):
    inner = 'params: {k: "9"}\nbody: [{op: make, out: {y: "f32[k + 1]"}}]\n'
    text = 'params: {k: "2"}\nbody: [{use: inner}, {use: inner, id: second, with: {k: k * 10}}]\n'
    shapes = [t.spec.shape for t in program_of(text, tmp_path, inner=inner).tensors]
    assert shapes == [(3,), (21,)]
    shapes = [t.spec.shape for t in program_of(text, tmp_path, inner=inner, params={"k": 5}).tensors]
    assert shapes == [(6,), (51,)]


# --- loops that read tensors ---

DYNAMIC = """\
inputs: {x: "f32[8, 6]"}
body:
  - {op: count, in: {x: x}, out: {n: "recv: i32[E]"}}
  - for: e
    range: E
    body:
      - for: t
        range: ceil(recv[e] / 16)
        max: 5
        body: [{op: touch, in: {x: x}, out: {y: "f32[1]"}}]
"""


def dynamic_spans(span: Span) -> list[Span]:
    found = [span] if span.kind == "dynamic" else []
    return found + [inner for item in span.items if isinstance(item, Span) for inner in dynamic_spans(item)]


def test_a_dynamic_loop_takes_its_bound_when_planned(tmp_path):
    spans = dynamic_spans(program_of(DYNAMIC, tmp_path).body)
    assert [(span.path, len(span.items)) for span in spans] == [("e0.t", 5), ("e1.t", 5), ("e2.t", 5)]
    trips = spans[1].trips
    assert trips is not None and (trips.bound, trips.reads, trips.waits) == (5, (1,), (0,))
    asked = []

    def element(tensor, index):
        asked.append((tensor, index))
        return 33

    assert trips.evaluate(element) == 3
    assert asked == [(1, (1,))]
    with pytest.raises(ExecutionError, match=r"'e1\.t' makes 6 trips at run time, its max is 5 \("):
        trips.evaluate(lambda *_: 81)


def test_planned_trips_are_exactly_those_asked_for(tmp_path):
    asked = []

    def trips(*args):
        asked.append(args)
        return [0, 2, None][len(asked) - 1]

    program = program_of(DYNAMIC, tmp_path, trips=trips)
    assert [given[:3] for given in asked] == [(f"e{e}.t", (("recv", (e,)),), 5) for e in range(3)]
    assert asked[1][3]({("recv", (1,)): 33}) == 3  # the range of the graph
    assert [len(span.items) for span in dynamic_spans(program.body)] == [0, 2, 5]
    with pytest.raises(GraphError, match=r"'e0\.t' is given 6 trips, expected 0 to 5"):
        program_of(DYNAMIC, tmp_path, trips=lambda *_: 6)


def test_a_dynamic_if_has_a_span_for_each_branch(tmp_path):
    text = """\
inputs: {x: "f32[8, 6]", n: "i32[2, 2]", flag: "i32[]"}
body:
  - if: n[1, 0] > 3
    then: {op: touch, id: yes_, in: {x: x}, out: {y: "f32[1]"}}
    else: {op: touch, id: no_, in: {x: x}, out: {y: "f32[1]"}}
  - switch: flag
    cases:
      0: {op: touch, id: zero, in: {x: x}, out: {y: "f32[1]"}}
      default: {op: touch, id: rest, in: {x: x}, out: {y: "f32[1]"}}
"""
    spans = dynamic_spans(program_of(text, tmp_path).body)

    def chosen(n: int, flag: int) -> list[int]:
        values = {(1, (1, 0)): n, (2, ()): flag}
        return [span.trips.evaluate(lambda tensor, index: values[tensor, index]) for span in spans if span.trips]

    assert paths(program_of(text, tmp_path)) == ["yes_", "no_", "zero", "rest"]
    assert chosen(4, 0) == [1, 0, 1, 0]
    assert chosen(3, 7) == [0, 1, 0, 1]


def test_a_range_through_a_view_reads_the_tensor_behind_it(tmp_path):
    program = program_of(
        'inputs: {n: "i32[4, 3, 2]"}\nbody: [{use: inner, with: {c: "n[1 : 3, 2]"}}]\n',
        tmp_path,
        inner='inputs: {c: "i32[2, 2]"}\nbody:\n  - for: t\n    range: c[1, 0]\n    max: 1\n    body: []\n',
    )
    (span,) = dynamic_spans(program.body)
    asked = []
    assert span.trips is not None
    span.trips.evaluate(lambda tensor, index: asked.append((tensor, index)) or 1)
    assert asked == [(0, (2, 2, 0))]


# --- after ---


def test_after_names_what_is_beside_around_or_inside(tmp_path):
    program = program_of(
        """\
inputs: {x: "f32[4]"}
body:
  - {op: make, id: a, out: {y: "f32[1]"}}
  - scope: s
    body:
      - {op: make, id: b, out: {y: "f32[1]"}, after: [a]}
      - for: t
        range: 2
        body: [{op: make, id: c, out: {y: "f32[1]"}}]
  - {op: make, id: d, out: {y: "f32[1]"}, after: [s, s.b]}
  - {op: make, id: e, out: {y: "f32[1]"}, after: [s.t.c]}
""",
        tmp_path,
    )
    assert [task(program, name).after for name in ("s.b", "d", "e")] == [(0,), (1, 2, 3), (2, 3)]


def test_edges_that_only_wait_are_told_from_those_that_keep(tmp_path):
    """In a loop too, copied or not; an id that both lists name keeps."""
    text = """\
inputs: {x: "f32[4]"}
body:
  - for: k
    range: 3
    body:
      - {op: make, id: a, out: {y: "f32[1]"}}
      - {op: make, id: b, out: {y: "f32[1]"}}
      - {op: make, id: c, out: {y: "f32[1]"}, after: [a], after_wait_only: [b, a]}
"""
    program = program_of(text, tmp_path)
    assert [(t.after, t.wait_only) for t in program.tasks[2::3]] == [((k, k + 1), (k + 1,)) for k in (0, 3, 6)]


def test_after_in_a_loop_may_mean_the_trip_before(tmp_path):
    program = program_of(
        """\
body:
  - for: k
    range: 3
    body:
      - {op: make, id: first, out: {y: "f32[1]"}, after: [last]}
      - scope: s
        body: [{op: make, id: middle, out: {y: "f32[1]"}, after: [first, last]}]
      - {op: make, id: last, out: {y: "f32[1]"}}
""",
        tmp_path,
    )
    assert [item.after for item in program.tasks] == [(), (0,), (), (2,), (2, 3), (), (5,), (5, 6), ()]


def test_after_itself_means_the_trip_before(tmp_path):
    text = 'body:\n  - for: k\n    range: 3\n    body: [{op: make, id: a, out: {y: "f32[1]"}, after: [a]}]\n'
    assert [item.after for item in program_of(text, tmp_path).tasks] == [(), (0,), (1,)]


def test_after_names_what_is_in_a_case_that_is_decided_at_run_time(tmp_path):
    """From behind it, another case, the next trip; an id of several cases means all of them, but in its own case that one."""
    text = """\
inputs: {n: "i32[2]"}
body:
  - for: k
    range: 2
    body:
      - switch: n[k]
        cases:
          0:
            - {op: make, id: a, out: {y: "f32[1]"}, after: [s.d]}
            - {op: make, id: b, out: {y: "f32[1]"}, after: [a]}
          1:
            - {op: make, id: c, out: {y: "f32[1]"}, after: [a, b]}
            - {op: make, id: a, out: {y: "f32[1]"}}
            - scope: s
              body: [{op: make, id: d, out: {y: "f32[1]"}, after: [a]}]
      - {op: make, id: e, out: {y: "f32[1]"}, after: [a, s.d]}
  - {op: make, id: f, out: {y: "f32[1]"}, after: [k.s.d], after_wait_only: [k.a]}
"""
    program = program_of(text, tmp_path)
    first = [(), (0,), (1,), (), (3,), (0, 3, 4)]
    second = [(4,), (6,), (0, 3, 7), (), (9,), (6, 9, 10)]
    assert [item.after for item in program.tasks] == [*first, *second, (0, 3, 4, 6, 9, 10)]
    assert program.tasks[-1].wait_only == (0, 3, 6, 9)


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('body: [{op: copy, in: {x: a}, out: {y: "f32[1]"}}]', ["G306 2: unknown tensor 'a'"]),
        (
            'inputs: {a: "f32[4]"}\nbody:\n  - {op: copy, in: {x: a}, out: {y: "b: f32[5]"}}\n'
            '  - {op: copy, in: {x: b}, out: {y: "i32[5]"}}',
            ["G303 4: op 'copy': output 'y' is f32[5], expected f32[4]",
             "G303 5: op 'copy': output 'y' is i32[5], expected f32[5]"],
        ),
        (
            'inputs: {x: "{act}[2, 3]", w: "f32[4]"}\nbody: [{op: norm, in: {x: x, w: w}, out: {y: "{act}[2, 3]"}}]',
            ["G303 3: op 'norm': input 'w' is f32[4], expected f32[3]"],
        ),
        (
            'inputs: {x: "f32[2, 3, 1]", w: "f32[3]"}\nbody: [{op: norm, in: {x: x, w: w}, out: {y: "{act}[2, 3]"}}]',
            ["G303 3: op 'norm': input 'x' is f32[2, 3, 1], expected bf16[2, 3]"],
        ),
        ('inputs: {x: "f32[T, missing]"}\nbody: []', ["G301 2: expression 'missing': unknown name 'missing'"]),
        ('inputs: {x: "f32[T / 3]"}\nbody: []', ["G310 2: expression 'T / 3': is 2.66667, expected an integer"]),
        ('inputs: {x: "f32[T - 9]"}\nbody: []', ["G310 2: expression 'T - 9': is -1, but a dim cannot be negative"]),
        ('inputs: {x: "f33[T]"}\nbody: []', ["G327 2: unknown dtype 'f33'"]),
        ('inputs: {x: "{acc}[T]"}\nbody: []', ["G327 2: unknown dtype parameter 'acc'"]),
        ("body:\n  - {for: t, range: T - 9, body: []}",
         ["G310 3: expression 'T - 9': is -1, but a loop cannot make fewer than 0 trips"]),
        (
            'inputs: {n: "i32[2]"}\nbody:\n  - {for: t, range: n, max: 3, body: []}',
            ["G326 4: the range reads all of tensor 'n', expected one element"],
        ),
        ("body:\n  - {switch: layout, cases: {0: []}}", ["G330 3: switch: no case for 'layout', which is ragged"]),
        ("body:\n  - {for: t, range: 2, carry: {a: b}, body: []}",
         ["G325 3: carry: no tensor 'b' at the end of the body of 'for t'"]),
        (
            'inputs: {a: "f32[1]"}\nbody:\n  - {for: t, range: 2, carry: {a: b}, body: [{alloc: {b: "f32[2]"}}]}',
            ["G325 4: carry: 'a' is f32[1], but 'b' is f32[2]"],
        ),
        ("body:\n  - {for: t, range: 30000000, body: []}",
         ["G329 3: the program is too large: more than 250,000 trips of loops"]),
        ('inputs: {x: "f32[4]"}\nbody: [{op: copy, in: {x: "x[1, 2]"}, out: {y: "f32[1]"}}]',
         ["G307 3: 'x[1, 2]' has 2 indices, but 'x' is f32[4]"]),
        ('inputs: {x: "f32[4]"}\nbody: [{op: copy, in: {x: "x[3 : 1]"}, out: {y: "f32[1]"}}]',
         ["G307 3: 'x[3 : 1]' is outside 'x', which is f32[4]: [3 : 1] of dim 0"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_located(text, expected, tmp_path):
    assert errors(text, tmp_path) == expected


def test_a_name_of_a_closed_body_says_so(tmp_path):
    text = """\
body:
  - scope: s
    body: [{op: make, out: {y: "a: f32[1]"}}]
  - for: t
    range: 1
    body: [{op: make, out: {y: "b: f32[1]"}}]
  - {op: copy, in: {x: a}, out: {y: "f32[1]"}}
  - {op: copy, in: {x: b}, out: {y: "f32[1]"}}
"""
    found = expand_all(graph_of(text, tmp_path), CONFIG, OPS).problems
    assert [(d.code, d.message, d.hint) for d in found] == [
        ("G315", "'a' is read after its scope 's' closed", "read it inside, or alloc it before scope 's'"),
        ("G306", "unknown tensor 'b'", "it is a name of for 't' alone; alloc it before, or carry it"),
    ]


def test_wrong_bindings_of_a_used_graph(tmp_path):
    inner = 'params: {k: "1"}\ninputs: {x: "f32[4]"}\noutputs: {out: "f32[1]"}\nbody: []\n'
    text = 'inputs: {a: "f32[5]"}\nbody:\n  - use: inner\n    with: {x: a, z: a}\n'
    assert errors(text, tmp_path, inner=inner) == [
        "G308 4: use 'inner': param 'k' is not given",
        "G308 4: use 'inner': output 'out' is not given, and no tensor here has that name",
        "G303 5: use 'inner': input 'x' is f32[5], expected f32[4]",
        "G308 5: graph 'inner' has no param, input or output 'z'",
    ]


def test_cycles_of_use(tmp_path):
    found = errors("body: [{use: a}]", tmp_path, a="body: [{use: b}]", b="body: [{use: a}]")
    assert found == ["G309 2: graph 'a' uses itself: example > a > b > a"]


def test_rules_of_ops_may_fail_without_a_traceback(tmp_path):
    ops = OpRegistry()
    ops.op("bad", "x: {a}[N] -> y: {a}[N]", core="AIC", num_blocks=lambda call: 1 // 0)(lambda **_: None)
    ops.op("never", "x: {a}[N] -> y: {a}[N]", core="AIC", check=lambda call: "'x' is not mine")(lambda **_: None)
    graph = graph_of(
        'inputs: {x: "f32[4]"}\nbody: [{op: bad, in: {x: x}, out: {y: "f32[4]"}}, {op: never, in: {x: x}, out: {y: "f32[4]"}}]',
        tmp_path,
    )
    assert [d.message for d in expand_all(graph, CONFIG, ops).problems] == [
        "op 'bad': its rules failed: ZeroDivisionError: integer division or modulo by zero",
        "op 'never': 'x' is not mine",
    ]


def test_expand_raises_everything_at_once(tmp_path):
    with pytest.raises(GraphError) as error:
        expand(graph_of("body: [{op: a}, {op: b}]", tmp_path), CONFIG, OPS)
    assert [d.code for d in error.value.diagnostics] == ["G302", "G302"]
    assert "body: [{op: a}, {op: b}]\n            ^" in str(error.value)
