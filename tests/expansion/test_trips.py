"""A program is the same whether trips of loops are copied or each is expanded."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from zlib import crc32

import pytest
from sampled import sampled

from ops import register_all
from runner.base.limits import Limits
from runner.base.tensor_spec import TensorSpec
from runner.config.config import load_config
from runner.expansion.copying.copies import Copier
from runner.expansion.expander import Expanded, expand_all
from runner.expansion.trip_counts import DynamicRange
from runner.language.graph import Graph
from runner.language.library import GraphLibrary, load_graph, shipped_graphs
from runner.models.protocols import Settings
from runner.program.ops import OpRegistry
from runner.program.program import Program, Span
from runner.program.signature import Match

REGISTRY = OpRegistry()
register_all(REGISTRY)
CONFIG: Any = SimpleNamespace(values={"T": 8, "odd": [0, 1, 0, 1, 0, 1]}, dtypes={"wq": "i8"})
OPS = OpRegistry()
OPS.op("touch", "x: {a}[...] -> y: {b}[...]", core="AIV", params={"k": 0, "m": 2})(lambda **_: None)
OPS.op("update", "x: {a}[...], w?: {c}[...] -> &y: {b}[...]", core="AIC", params={"k": 0})(lambda **_: None)
OPS.op(
    "attentive",
    "x: {a}[...] -> y: {b}[...]",
    core="AIV",
    params={"k": 1},
    num_blocks=lambda call: call.attrs["k"] + 1,
    workspace=lambda call: {"pipe": TensorSpec("f32", (4 + call.attrs["k"],))} if call.attrs["k"] % 2 else {},
)(lambda **_: None)
OPS.op("scratchy", "x: {a}[...] -> y: {b}[...]", core="AIV", workspace=lambda call: {"pipe": TensorSpec("f32", (4,))})(
    lambda **_: None
)


class AnyTypes:
    """A signature that every call fits, so that random graphs are right by construction."""

    def __init__(self, *_):
        pass

    def match(self, specs) -> Match:
        return Match()


@pytest.fixture
def any_types():
    with patch("runner.expansion.calls.Signature", AnyTypes):
        yield


@pytest.fixture
def made(monkeypatch) -> Counter[str]:
    """How many tasks of trips were copied, and expanded in trips that could have been copied."""
    counts: Counter[str] = Counter()
    copy, end = Copier.copy, Copier.end

    def copied(self, piece):
        first = len(self.builder.tasks)
        items = copy(self, piece)
        if items is not None and piece.loop is not None:
            counts["copied"] += len(self.builder.tasks) - first
        return items

    def expanded(self, piece, items):
        end(self, piece, items)
        if piece.loop is not None:
            counts["expanded"] += len(self.builder.tasks) - piece.start.tasks

    monkeypatch.setattr(Copier, "copy", copied)
    monkeypatch.setattr(Copier, "end", expanded)
    return counts


def spans(span: Span) -> list[object]:
    """A span tree as plain data, the ranges of dynamic loops spelt out."""
    found: list[object] = [(span.kind, span.path, span.mode, span.mark)]
    if span.trips is not None:
        assert isinstance(span.trips.evaluate, DynamicRange)
        trips, count = span.trips, span.trips.evaluate
        found.append((trips.path, trips.reads, trips.waits, trips.bound, count.path, dict(count.values), count.views))
    return found + [item if isinstance(item, int) else spans(item) for item in span.items]


def assert_same(graph: Graph, config: Settings = CONFIG, registry: OpRegistry = OPS, **options) -> Program:
    copied, plain = (
        expand_all(graph, config, registry, library=GraphLibrary(), stamp=stamp, **options) for stamp in (True, False)
    )
    assert as_data(copied) == as_data(plain)
    return copied.program


def as_data(expanded: Expanded) -> tuple:
    program = expanded.program
    return program.tensors, program.tasks, spans(program.body), expanded.problems, expanded.unwritten


def loop(body: list[str], tmp_path, head: str = "range: 5", after: str = ""):
    """A graph with one loop over `i` around some items in YAML's short form."""
    items = "".join(f"      - {item}\n" for item in body)
    (tmp_path / "top.yaml").write_text(
        'graph: top\ninputs: {a: "f32[8]", n: "i32[4]"}\nstate: {s: "f32[8]"}\nweights: {w: {type: "{wq}[6, 8]", from: "w"}}\n'
        f'body:\n  - alloc: {{c: "f32[8]"}}\n  - for: i\n    {head}\n    body:\n{items}{after}'
    )
    return load_graph(tmp_path / "top.yaml")


def op(x: str, y: str, name: str = "touch", **more: str) -> str:
    rest = "".join(f", {key}: {value}" for key, value in more.items())
    return f'{{op: {name}, id: t{crc32((x + y + name).encode())}, in: {{x: "{x}"}}, out: {{y: "{y}"}}{rest}}}'


D, E = "d: f32[8]", "e: f32[8]"
ALLOC = '{alloc: {d: "f32[8]"}}'
# one loop of five trips each: its body, and how many tasks of the four later trips are copied
BODIES = {
    "made in the trip": ([op("a", D), op("d", E)], 8),
    "alloc": ([ALLOC, op("a", "d"), op("d", "d")], 12),
    "alloc read first": ([ALLOC, op("d", "d", "update")], 8),
    "weight of the trip": ([op("w[i]", D, attrs="{k: i}")], 4),
    "part of the trip": ([op("a", "c{i}")], 4),
    "box of the trip": ([op("c[i : i + 2]", "c[i + 1 : i + 3]")], 4),
    "box that shrinks": ([op("c[i : min(i + 3, 6)]", D)], 3),
    "written outside": ([op("s", "c", "update"), op("c", "s")], 8),
    "part of what the trip makes": ([ALLOC, op("a", "d[i : i + 2]"), op("d[0 : 2]", "s")], 12),
    "whole after parts": ([ALLOC, op("a", "d[2]"), op("d", E)], 12),
    "scratch": ([op("a", D, "scratchy"), op("d", "s")], 8),
    "rules that read attrs": ([op("a", D, "attentive", attrs="{k: i}"), op("d", E)], 0),
    "scopes": (
        [f"{{scope: p, body: [{op('a', D)}, {{scope: q, mode: manual, body: [{op('d', 'c{i}')}]}}]}}", op("a", D)],
        12,
    ),
    "a name that is shadowed": ([op("c", "c: f32[8]"), op("c", "c{1}")], 8),
    "nothing in a tensor": (['{alloc: {d: "f32[0]"}}', op("a", "d"), op("d", "s")], 12),
    "read before it is written": ([op("c{i - 2}", "c{i}")], 4),
    "dims of the trip": ([op("a", "d: f32[i + 1]")], 0),
    "after": ([op("a", "c{i}"), op("a", "s[i]", after=f"[t{crc32(b'ac{i}touch')}]")], 0),
    "a loop inside": ([f"{{for: j, range: 2, body: [{op('a', 'c{i, j}')}]}}"], 0),
}


@pytest.mark.parametrize("head", ["range: 5", 'range: "n[0]"\n    max: 5'])
@pytest.mark.parametrize("name", BODIES)
def test_bodies(name, head, tmp_path, made, any_types):
    body, copied = BODIES[name]
    readers = f"  - {op('c', 'a')}\n  - {op('s', 'a[0 : 2]')}\n"
    assert_same(loop(body, tmp_path, head, readers))
    assert made["copied"] == copied


def test_carried_names(tmp_path, made, any_types):
    graph = loop([op("c", D), op("d", E)], tmp_path, "range: 5\n    carry: {c: e}", f"  - {op('c', 's')}\n")
    program = assert_same(graph)
    assert [task.waits for task in program.tasks[1:]] == [(), *[(i,) for i in range(1, 11)]]
    assert made["copied"] == 6  # the first trip carries what is not made in a loop


def test_a_carried_name_that_is_written_may_be_any_tensor(tmp_path, made, any_types):
    assert_same(loop([op("a", "c")], tmp_path, "range: 5\n    carry: {c: s, s: c}"))
    assert made["copied"] == 2  # every other trip is alike


def test_loops_in_a_loop_that_may_not_run(tmp_path, made, any_types):
    """Who reads after both waits for every writer that may have been the last."""
    body = ", ".join([ALLOC, op("a", "d"), op("d", "d"), op("d", "c", "update")])
    outer = 'range: "n[0]"\n    max: 3'
    assert_same(loop([f"{{for: j, range: 4, body: [{body}]}}"], tmp_path, outer, f"  - {op('c', 's')}\n"))
    assert made["copied"] == 3 * 3 * 4


@pytest.mark.parametrize("step", sampled((7, 1), (7,)))
def test_the_limit_is_told_as_ever(step, tmp_path, any_types):
    graph = loop([f"{{scope: o, body: [{op('a', 'c{i}')}]}}"], tmp_path, "range: 40")
    for most in range(40, 180, step):
        assert_same(graph, limits=Limits(items=most))
        assert_same(graph, limits=Limits(edges=most - 40))
        assert_same(graph, limits=Limits(trips=most - 40))


def test_an_attr_that_has_no_value_in_a_later_trip(tmp_path, any_types):
    graph = loop([op("a", "c{i}", attrs='{k: "odd[i + 2]"}')], tmp_path)
    assert_same(graph)
    assert [found.code for found in expand_all(graph, CONFIG, OPS, library=GraphLibrary()).problems] == ["G310"]


def test_a_region_that_is_outside_in_a_later_trip(tmp_path, made, any_types):
    graph = loop([op("w[i + 3]", D), op("d", "s")], tmp_path)
    assert_same(graph)
    assert [found.code for found in expand_all(graph, CONFIG, OPS, library=GraphLibrary()).problems] == ["G307"]


def test_row_tiles_of_experts_are_copied(made):
    sets = ["recv_layout=padded", "num_hidden_layers=1", "compress_ratios=[0]"]
    config = load_config(["tiny"], sets, "prefill", 2)
    assert_same(load_graph(shipped_graphs()["prefill_fwd"]), config, REGISTRY)
    assert config.values["RECV_TILES"] > 3
    assert made["copied"] >= 7 * (config.values["RECV_TILES"] - 1) * config.values["E"]


# --- random programs ---


class RandomGraph:
    """Nested loops over ops on boxes and parts that vary, with allocs, scopes, carried names, `after`, `if` and `use` between."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.count = 0
        self.lines = [
            "graph: top",
            'inputs: {a: "f32[8, 6]", n: "i32[9]"}',
            'state: {b: "f32[8, 6]", lazy: {type: "f32[8, 6]", from: "lazy"}}',
            'weights: {q: {type: "{wq}[8, 6]", from: "q"}}',
            'outputs: {o: "f32[8, 6]"}',
            "body:",
            '  - alloc: {c: "f32[8, 6]"}',
        ]
        self.body("  ", 0, ["a", "b", "c"], [], [])

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def number(self) -> int:
        self.count += 1
        return self.count

    def expr(self, variables: list[str], top: int) -> str:
        if not variables or self.rng.random() < 0.3:
            return str(self.rng.randrange(top))
        v = self.rng.choice(variables)
        return self.rng.choice([v, f"{v} + 1", f"min({v}, {top})", f"{v} * 2 % {top}", f"{v} // 2", f"odd[{v} % 4] % {top}"])

    def region(self, names: list[str], variables: list[str]) -> str:
        name, kind = self.rng.choice(names), self.rng.random()
        low = self.expr(variables, 5)
        if kind < 0.4:
            return name
        if kind < 0.6:
            return f"{name}{{{self.expr(variables, 3)}, {low}}}"
        return (
            f"{name}[{low} : ({low}) + {self.rng.randrange(1, 4)}]" if kind < 0.8 else f"{name}[:, {self.rng.randrange(3)} : 5]"
        )

    def op(self, indent: str, names: list[str], variables: list[str], ids: list[str]) -> None:
        rng, op, index = self.rng, self.rng.choice(["touch", "touch", "update", "scratchy", "attentive"]), self.number()
        line = f'{indent}- {{op: {op}, id: t{index}, in: {{x: "{self.region([*names, "lazy", "q"], variables)}"'
        line += f', w: "{self.region(names, variables)}"' if op == "update" and rng.random() < 0.4 else ""
        if rng.random() < 0.45 and op != "update":
            new = rng.choice(["c", "d", "e", "h"])
            names.append(new)
            rows = rng.choice(["8", "8", "8", "8", f"{self.expr(variables, 5)} + 8"])
            line += f'}}, out: {{y: "{new}: f32[{rows}, 6]"}}'
        else:
            line += f'}}, out: {{y: "{self.region([*names, "o"], variables)}"}}'
        line += f', attrs: {{k: "{self.expr(variables, 4)}"}}' if rng.random() < 0.4 and op != "scratchy" else ""
        line += f", after: [{rng.choice(ids)}]" if ids and rng.random() < 0.1 else ""
        self.lines.append(line + "}")
        ids.append(f"t{index}")

    def loop(self, indent: str, depth: int, names: list[str], variables: list[str], ids: list[str]) -> None:
        rng, v = self.rng, self.rng.choice(["i", "j", f"v{self.number()}"])
        if rng.random() < 0.5:
            head = [f'range: "n[{self.expr(variables, 9)}]"', f"max: {rng.choice([2, 5, 7])}"]
        else:
            head = [f"range: {rng.choice([0, 1, 3, 4, 6])}"]
        carried, new = rng.choice(names), f"z{self.number()}"
        carries = len(head) == 1 and rng.random() < 0.4
        head += [f"carry: {{{carried}: {new}}}"] * carries
        self.lines += [f"{indent}- for: {v}", *[f"{indent}  {line}" for line in head], f"{indent}  body:"]
        self.body(indent + "    ", depth + 1, names, [*variables, v], ids)
        if carries:
            made = f'{{op: touch, id: {new}, in: {{x: {carried}}}, out: {{y: "{new}: f32[8, 6]"}}}}'
            self.lines.append(f"{indent}    - {made}")

    def body(self, indent: str, depth: int, names: list[str], variables: list[str], ids: list[str]) -> None:
        rng, names, ids = self.rng, list(names), list(ids)
        for _ in range(rng.randint(1, 4 + 3 * (depth < 2))):
            kind, index = rng.random(), self.number()
            if kind < 0.6 or depth >= 3:
                self.op(indent, names, variables, ids)
            elif kind < 0.68:
                names.append(rng.choice(["c", "d", "g"]))
                self.lines.append(f'{indent}- {{alloc: {{{names[-1]}: "f32[8, 6]", x{index}: "i32[2]"}}, id: al{index}}}')
            elif kind < 0.75:
                self.lines += [f"{indent}- scope: s{index}", f"{indent}  body:"]
                self.body(indent + "    ", depth + 1, names, variables, ids)
            elif kind < 0.93:
                self.loop(indent, depth, names, variables, ids)
            elif kind < 0.97:
                test = rng.choice(["n[1] > 0", f"{self.expr(variables, 2)} > 0"])
                self.lines += [f'{indent}- if: "{test}"', f"{indent}  then:"]
                self.body(indent + "    ", depth + 1, names, variables, ids)
            else:
                given = f'{{p: "{self.expr(variables, 3)}", x: {rng.choice(names)}, y: {rng.choice(names)}}}'
                self.lines.append(f"{indent}- {{use: other, id: u{index}, with: {given}}}")


OTHER = """\
graph: other
params: {p: "0"}
inputs: {x: "f32[8, 6]"}
weights: {w: {type: "f32[8, 6]", from: "w.{p}"}}
outputs: {y: "f32[8, 6]"}
body:
  - {op: touch, in: {x: x}, out: {y: "m: f32[8, 6]"}, attrs: {k: p}}
  - for: i
    range: 4
    body:
      - {op: update, id: one, in: {x: m, w: w}, out: {y: "y[i]"}, attrs: {k: p}}
      - {op: update, id: two, in: {x: "y[i]"}, out: {y: m}}
      - {op: touch, in: {x: w}, out: {y: "e: f32[8]"}}
"""


@pytest.mark.parametrize("group", sampled(range(4), [0]))
def test_random_programs(group, tmp_path, made, any_types):
    (tmp_path / "other.yaml").write_text(OTHER)
    for seed in range(60):
        (tmp_path / "top.yaml").write_text(RandomGraph(60 * group + seed).text)
        graph = load_graph(tmp_path / "top.yaml")
        assert_same(graph)
        assert_same(graph, trips=lambda path, elements, bound, count: random.Random(path).randint(0, bound))
    assert made["copied"] > 1000 and made["expanded"] > 50
