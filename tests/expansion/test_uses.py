"""A program is the same whether used graphs are copied or expanded every time."""

from __future__ import annotations

from operator import attrgetter
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops import register_all
from runner.config.config import load_config
from runner.expansion.copying.copies import Copier
from runner.expansion.expander import expand_all
from runner.expansion.trip_counts import DynamicRange
from runner.language.library import GraphLibrary, load_graph, shipped_graphs
from runner.program import lifetimes
from runner.program.ops import OpRegistry
from runner.program.program import Program, Span
from runner.program.signature import Match

REGISTRY = OpRegistry()
register_all(REGISTRY)
CONFIG = SimpleNamespace(values={"L": 6, "odd": [0, 1, 0, 1, 0, 1], "T": 8}, dtypes={"wq": "i8"})
OPS = OpRegistry()
OPS.op("touch", "x: {a}[...] -> y: {b}[...]", core="AIV", params={"k": 0, "e": 0})(lambda **_: None)
OPS.op("blocks", "x: {a}[N] -> y: {b}[M]", core="AIV", params={"k": 1}, num_blocks=lambda call: call.attrs["k"] + 1)(
    lambda **_: None
)


def spans(span: Span) -> list[tuple]:
    """A span tree as plain data, the ranges of dynamic loops spelt out."""
    found = []
    for item in span.items:
        if isinstance(item, int):
            found.append(item)
            continue
        trips = item.trips
        count = None
        if trips is not None:
            assert isinstance(trips.evaluate, DynamicRange)
            views = {name: view.region for name, view in trips.evaluate.views.items()}
            count = (trips.path, trips.reads, trips.waits, trips.bound, trips.evaluate.path, dict(trips.evaluate.values), views)
        found.append((item.kind, item.path, item.mode, item.mark, count, spans(item)))
    return found


def assert_same(graph, config, registry) -> Program:
    copied, plain = (expand_all(graph, config, registry, library=GraphLibrary(), stamp=stamp) for stamp in (True, False))
    assert copied.problems == plain.problems
    assert copied.program.tensors == plain.program.tensors
    for one, other in zip(copied.program.tasks, plain.program.tasks, strict=True):
        assert one == other
    assert spans(copied.program.body) == spans(plain.program.body)
    alike = {}
    for task in copied.program.tasks:
        first = alike.setdefault(id(task.like), task)
        assert common(copied.program, first) == common(copied.program, task)
        assert len(set(task.among)) == len(task.among)
    assert_columns(copied.program)
    return copied.program


def assert_columns(program):
    """Of copies one is asked what it touches: the others touch what they say themselves."""
    with patch.object(lifetimes, "ASKED_AT_ONCE", 0):
        columns = lifetimes.TaskColumns(program)
    for touched in (attrgetter("creates"), attrgetter("uses"), attrgetter("reads"), attrgetter("writes"), tensors_of):
        found, told = columns.tensors(touched), lifetimes.Rows.of([touched(task) for task in program.tasks])
        assert found.starts.tolist() == told.starts.tolist()
        assert found.values.tolist() == told.values.tolist()
    assert columns.is_alloc.tolist() == [task.op is None for task in program.tasks]


def tensors_of(task):
    return [region.tensor for region in task.regions]


def common(program, task):
    """What tasks that are alike (`Task.like`) have in common."""
    specs = [program.tensors[region.tensor].spec for region in task.regions]
    shown = [(spec, region.shown(spec)) for region, spec in zip(task.regions, specs, strict=True)]
    kinds = [(region.box is None, not region.box, region.part is None) for region in task.regions]
    places = [[known.index(region.tensor) if region.tensor in known else -1 for region in task.regions]
              for known in (task.reads, task.writes, task.creates)]  # fmt: skip
    return task.op, task.core, task.num_blocks, tuple(task.names), dict(task.modes), shown, kinds, places


@pytest.fixture
def copies(monkeypatch) -> list[str]:
    """The paths of all uses that were copied."""
    made: list[str] = []
    original = Copier.copy

    def copy(self, piece):
        items = original(self, piece)
        if items is not None and piece.loop is None:
            made.append(piece.frame.prefix[:-1])
        return items

    monkeypatch.setattr(Copier, "copy", copy)
    return made


@pytest.mark.parametrize("name", ["decode_fwd", "prefill_fwd"])
@pytest.mark.parametrize("sets", [[], ["precision=w8a8", "ep=4", "recv_layout=padded"]])
def test_shipped_programs(name, sets, copies):
    deploy = name.partition("_")[0]
    config = load_config(
        ["tiny"], sets=["num_hidden_layers=9", "compress_ratios=[0,4,128,4,128,0,4,128,0]", *sets], deploy=deploy
    )
    program = assert_same(load_graph(shipped_graphs()[name]), config, REGISTRY)
    assert len([path for path in copies if path.endswith("moe")]) == 7  # hashed and scored layers are expanded once each
    assert len([path for path in copies if path.startswith("layer") and path.count(".") == 2]) >= 6  # three kinds of attention
    assert {t.source for t in program.tensors if t.name == "wq_a"} == {f"layers.{layer}.attn.wq_a.weight" for layer in range(9)}


INNER = """\
graph: inner
params: {k: "0"}
inputs: {a: "f32[8]", b: "f32[8]", n: "i32[4]"}
weights: {w: {type: "{wq}[8, 4]", from: "w.{k}"}, v: {type: "f32[8]", from: "v.{odd[k]}"}}
state: {s: {type: "f32[8]", from: "FROM"}}
outputs: {y: "f32[8]", z: "f32[8]"}
body:
"""
TENSORS = ["a", "b", "w", "v", "s", "y", "z", "c", "w_scale", "a[0 : 4]", "s[2 : 6]", "y[4 : 8]", "c{k}", "y{1}", "z{2}"]


@st.composite
def nested_graphs(draw) -> tuple[str, str, str]:
    """A graph that uses another in a loop, on tensors that vary, with dynamic loops, shared states and a further graph inside."""
    lines = ['  - alloc: {c: "f32[8]"}']
    counter = iter(range(100))
    made: list[str] = []

    def body(indent: str, depth: int) -> None:
        for _ in range(draw(st.integers(1, 4))):
            kind = (
                draw(st.sampled_from(["op", "op", "op", "for", "dynamic", "if", "choice", "use", "scope", "new"]))
                if depth < 2
                else "op"
            )
            i = next(counter)
            head = {
                "for": [f"for: v{i}", "  range: 2", "  body:"],
                "dynamic": [f"for: v{i}", "  range: n[1]", "  max: 2", "  body:"],
                "if": ["if: odd[k]", "  then:"],
                "choice": ["if: n[2] > 0", "  then:"],
                "scope": [f"scope: s{i}", "  body:"],
            }.get(kind)
            x, y = (draw(st.sampled_from(TENSORS)) for _ in range(2))
            if head is not None:
                lines.extend([f"{indent}- {head[0]}", *(indent + line for line in head[1:])])
                body(indent + "    ", depth + 1)
            elif kind == "use":
                k, y = draw(st.sampled_from(["k", "1", "k + 1"])), draw(st.sampled_from("yzs"))
                lines.append(f"{indent}- {{use: deeper, with: {{k: {k}, a: a, y: {y}}}}}")
            elif kind == "new":
                lines.append(f'{indent}- {{op: touch, id: t{i}, in: {{x: "{x}"}}, out: {{y: "c: f32[8]"}}}}')
            else:
                attrs = draw(st.sampled_from(["", ", attrs: {k: k}", ', attrs: {e: 3, k: "odd[k] + 1"}']))
                after = f", after: [{draw(st.sampled_from(made))}]" if made and draw(st.booleans()) else ""
                made.extend([f"t{i}"] * (depth == 0))
                lines.append(f'{indent}- {{op: touch, id: t{i}, in: {{x: "{x}"}}, out: {{y: "{y}"}}{attrs}{after}}}')

    body("  ", 0)
    source = draw(st.sampled_from(["s", "s.{k}", "s.{odd[k]}", "w.{k}"]))
    outer = [
        "graph: outer",
        'inputs: {p: "f32[8]", q: "f32[8]", n: "i32[4]"}',
        'outputs: {r: "f32[8]"}',
        "body:",
        "  - for: k",
        "    range: L",
        "    body:",
    ]
    for _ in range(draw(st.integers(1, 2))):
        a, b, y, z = (draw(st.sampled_from("pqr")) for _ in range(4))
        outer.append(f"      - {{use: inner, with: {{k: k, a: {a}, b: {b}, y: {y}, z: {z}}}}}")
    deeper = (
        'graph: deeper\nparams: {k: "0"}\ninputs: {a: "f32[8]"}\nweights: {u: {type: "{wq}[3]", from: "u.{k}"}}\n'
        'outputs: {y: "f32[8]"}\nbody: [{op: touch, in: {x: u}, out: {y: y}}, {op: touch, in: {x: a}, out: {y: y}}]\n'
    )
    return "\n".join(outer) + "\n", INNER.replace("FROM", source) + "\n".join(lines) + "\n", deeper


@settings(max_examples=100, deadline=None)
@given(nested_graphs())
def test_random_programs(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("graphs")
    for name, text in zip(("outer", "inner", "deeper"), texts, strict=True):
        (folder / f"{name}.yaml").write_text(text)
    graph = load_graph(folder / "outer.yaml")
    with patch("runner.expansion.calls.Signature", AnyTypes):
        one, other = (expand_all(graph, CONFIG, OPS, library=GraphLibrary(), stamp=stamp) for stamp in (True, False))
    assert one.problems == []
    assert one.problems == other.problems
    assert one.program.tensors == other.program.tensors
    assert one.program.tasks == other.program.tasks
    assert spans(one.program.body) == spans(other.program.body)


class AnyTypes:
    """A signature that every call fits, so that random graphs are right by construction."""

    def __init__(self, *_):
        pass

    def match(self, specs) -> Match:
        return Match()


def test_rules_that_read_attrs_of_params_are_asked_every_time(tmp_path, copies):
    (tmp_path / "inner.yaml").write_text(
        'graph: inner\nparams: {k: "0"}\ninputs: {a: "f32[8]"}\n'
        'body: [{op: blocks, in: {x: a}, out: {y: "f32[8]"}, attrs: {k: k}}]\n'
    )
    (tmp_path / "top.yaml").write_text('graph: top\ninputs: {a: "f32[8]"}\nbody:\n  - {for: k, range: 3, body: [{use: inner}]}\n')
    program = assert_same(load_graph(tmp_path / "top.yaml"), CONFIG, OPS)
    assert [task.num_blocks for task in program.tasks] == [1, 2, 3]
    assert copies == []
