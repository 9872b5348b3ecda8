"""Files to graphs: what is built, what is found where, and that the schema is the one that editors use."""

from __future__ import annotations

import random
from pathlib import Path
from time import process_time

import pytest
import yaml
from jsonschema import Draft7Validator
from sampled import sampled

from runner.base.errors import GraphError, Mark, RinggraphError
from runner.language.graph import Alloc, Declaration, For, Op, Scope, Switch, Text, Use
from runner.language.library import GraphLibrary, check_source, find_graph, load_graph, shipped_graphs
from runner.language.structure import schema
from runner.language.yaml_source import MAX_BYTES


def build(text: str):
    graph, problems = check_source(text.encode(), "f.yaml")
    assert problems == []
    assert graph is not None
    return graph


def problems(text: str | bytes) -> list[str]:
    graph, found = check_source(text if isinstance(text, bytes) else text.encode(), "f.yaml")
    assert graph is None
    return [f"{problem.mark.line}:{problem.mark.column} {problem.code}" for problem in found if problem.mark]


def test_every_kind_of_item():
    graph = build("""\
graph: all
doc: >-
  What it
  does.
params: {layer: 0}
inputs: {x: "f32[T, D]"}
weights:
  w: {type: "{wq}[E, D]", from: "layers.{layer}.{expert}.w", stack: expert, shard: 1}
state: {cache: "f32[8]"}
outputs: {y: "f32[T, D]"}
body:
  - op: norm
    id: first
    doc: The first.
    in: {x: "x[0 : 4]"}
    out: {y: "made: f32[T, D]", z: "f32[T]", u: cache}
    attrs: {eps: 1.0e-6, layer: layer}
    after: [second, scope.third]
    device: cpu
  - alloc: {buf: "f32[8]"}
  - scope: inner
    mode: manual
    body: []
  - for: t
    range: count[0]
    max: T / 16
    carry: {x: made}
    body: []
  - if: layer < 3
    then: {op: norm}
  - switch: ratios[layer]
    cases: {0: [], -1: {op: norm}, default: []}
  - use: moe
    with: {layer: layer, x: "x[0]"}
""")
    op, alloc, scope, loop, branch, switch, use = graph.body
    assert (graph.name, graph.doc) == ("all", "What it does.")
    assert graph.params["layer"].value == "0"
    weight = graph.weights["w"]
    assert (weight.spec.value, str(weight.source), weight.stack, weight.shard) == (
        "{wq}[E, D]",
        "layers.{layer}.{expert}.w",
        "expert",
        1,
    )
    assert isinstance(op, Op) and (op.id, op.doc, op.device) == ("first", "The first.", "cpu")
    assert op.outputs["y"] == Declaration("made", Text("f32[T, D]", Mark("f.yaml", 16, 21)), Mark("f.yaml", 16, 15))
    made = op.outputs["z"]
    assert isinstance(made, Declaration) and made.name == "z"
    assert op.outputs["u"] == Text("cache", Mark("f.yaml", 16, 49))
    assert [str(text) for text in op.after] == ["second", "scope.third"]
    assert isinstance(alloc, Alloc) and (alloc.id, alloc.tensors[0].name) == ("alloc", "buf")
    assert isinstance(scope, Scope) and (scope.name, scope.mode) == ("inner", "manual")
    assert isinstance(loop, For) and (loop.variable, str(loop.range), str(loop.maximum)) == ("t", "count[0]", "T / 16")
    assert str(loop.carry["x"]) == "made"
    assert isinstance(branch, Switch) and branch.keyword == "if" and branch.cases[0] == () and len(branch.cases[1]) == 1
    assert isinstance(switch, Switch) and list(switch.cases) == [0, -1, None]
    assert isinstance(use, Use) and str(use.bindings["x"]) == "x[0]"


def ids(body) -> list[str]:
    found = []
    for item in body:
        found += [item.id] if isinstance(item, (Op, Alloc, Use)) else []
        inner = item.cases.values() if isinstance(item, Switch) else [item.body] if isinstance(item, (Scope, For)) else []
        found += [name for part in inner for name in ids(part)]
    return found


def test_default_ids_are_numbered_where_a_path_would_repeat():
    graph = build("""\
graph: g
body:
  - {op: a}
  - {op: a}
  - scope: s
    body: [{op: a}, {op: a}]
  - for: t
    range: 2
    body: [{op: a}]
  - for: t
    range: 2
    body: [{op: a}, {op: b}]
  - if: 1
    then: [{op: c}, {op: a}]
    else: [{op: c}]
  - {op: c}
  - {op: a, id: a_4}
  - {op: a}
""")
    assert ids(graph.body) == ["a", "a_2", "a", "a_2", "a", "a_2", "b", "c", "a_3", "c", "c_2", "a_4", "a_5"]


def test_a_second_explicit_id_is_refused():
    assert problems("graph: g\nbody:\n  - {op: a, id: x}\n  - {op: b, id: x}\n") == ["4:17 G205"]
    build("graph: g\nbody:\n  - if: 1\n    then: {op: a, id: x}\n    else: {op: b, id: x}\n")


def test_aliases_are_expanded():
    graph = build('graph: g\ninputs: {x: &type "f32[8]", y: *type}\nbody: []\n')
    assert [str(declared.spec) for declared in graph.inputs.values()] == ["f32[8]", "f32[8]"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("graph: g\nbody:\n\t- op: a\n", ["3:1 G101"]),
        ("graph: g\nbody: [}\n", ["2:8 G101"]),
        (b"graph: g\nbody: [{op: \xff}]\n", ["2:1 G101"]),
        (b"graph: g\nbody: [{op: \x00}]\n", ["2:13 G101"]),
        ("graph: g\nbody: []\n---\ngraph: h\n", ["3:1 G101"]),
        ("", ["1:1 G101"]),
        ("graph: *g\nbody: []\n", ["1:8 G101"]),
        ("graph: &g [*g]\nbody: []\n", ["1:12 G101"]),
        ("graph: g\nbody: " + "[" * 70 + "]" * 70, ["2:70 G105"]),
        ("- " * 5000, ["1:129 G105"]),
        ("graph: g\n[a]: b\n<<: {a: b}\n? {a: b}\n: c\nbody: []\n", ["2:1 G106", "3:1 G106", "4:3 G106"]),
        ("graph: g\nbody: []\nbody: []\ndoc: x\ndoc: y\n", ["3:1 G102", "5:1 G102"]),
        ("graph: on\nparams: {a: 0x10, b: 010, c: 1_000, d: 1:30, e: 2024-01-02, f: 1e-6, g: 0o17, yes: 1}\nbody: []\n",
         ["1:8 G104", *(f"2:{column} G104" for column in (13, 22, 30, 40, 49, 64, 73, 79))]),
        ("- 1\n", ["1:1 G201"]),
        ("graph: g\nbody: {}\n", ["2:7 G201"]),
        ("graph: ~\nbody:\n", ["1:8 G201", "2:6 G201"]),
        ("graph: g\nbody: [1, {}, {op: a, use: b}, {x: y}]\n", ["2:8 G201", "2:11 G204", "2:15 G204", "2:32 G204"]),
        ("graph: g\nbody: [{op: a, in: {'1x': a}, out: {y: ''}}]\n", ["2:22 G203", "2:41 G203"]),
        ("graph: g\nbody: [{switch: 1, cases: {a: []}}, {if: 1}, {for: e}]\n", 
         ["2:28 G203", "2:37 G202", "2:46 G202", "2:46 G202"]),
        ("graph: 9g\nparams: {a b: 1}\nbody: []\n", ["1:8 G203", "2:10 G203"]),
        ("graph: g\nweights: {w: {from: a}, v: {type: 'f32', shard: -1}}\nbody: []\n", ["2:14 G202", "2:36 G211", "2:49 G203"]),
        ("graph: g\nbody: [{op: a, in: {x: 'a[1 2]', y: 'b{c:d}', z: 'a b'}, attrs: {e: 1 +}}]\n",
         ["2:27 G210", "2:38 G212", "2:51 G212", "2:69 G210"]),
    ],
)  # fmt: skip
def test_places_and_codes(text, found):
    assert problems(text) == found


@pytest.mark.parametrize("item", ["{use: b, with: {y: TENSOR}}", "{op: b, in: {y: TENSOR}}"])
def test_a_tensor_that_only_an_op_could_create_is_to_be_allocated(item):
    text = f"graph: g\nbody: [{item}]\n".replace("TENSOR", "'o: f32[4, 2]'")
    _, (problem,) = check_source(text.encode(), "f.yaml")
    assert problem.code == "G212"
    assert """put '- alloc: {o: "f32[4, 2]"}' before it, and write 'o'""" in str(problem)


def test_large_files_are_refused():
    assert problems(b"#" * (MAX_BYTES + 1)) == ["1:1 G105"]


def test_an_alias_bomb_is_refused_before_it_expands():
    lines = ["x0: &x0 [a, a]"] + [f"x{i}: &x{i} [*x{i - 1}, *x{i - 1}]" for i in range(1, 60)]
    assert problems("\n".join(lines))[0].endswith("G105")


# --- finding ---


def package(folder, value):
    """An installed package `other` with an entry point of the group `ringgraph.graphs`, made by hand."""
    info = folder / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ringgraph.graphs]\nother = {value}\n")
    graphs = folder / "other_graphs" / "deep"
    graphs.mkdir(parents=True)
    for name in ("moe", "theirs"):
        (graphs / f"{name}.yaml").write_text("graph: theirs\ninputs: {x: 'f32[1]'}\nbody: [{use: embedding_of_nobody}]\n")
    return graphs


def test_graphs_of_installed_packages_have_names_but_ours_stay_ours(tmp_path, monkeypatch):
    ours, graphs = shipped_graphs(), package(tmp_path, "other_graphs")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert shipped_graphs() == {**ours, "theirs": graphs / "theirs.yaml"}
    assert find_graph("theirs") == graphs / "theirs.yaml" and find_graph("moe") == ours["moe"]


def test_a_package_without_its_graphs_is_named(tmp_path, monkeypatch):
    package(tmp_path, "no_such_graphs")
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = (
        "^graphs 'other' of package 'other' \\(no_such_graphs\\) cannot be found: No module named 'no_such_graphs'\n"
        "hint: mend or uninstall 'other'$"
    )
    with pytest.raises(RinggraphError, match=expected):
        find_graph("theirs")


def test_shipped_graphs_are_found_by_name_and_by_path():
    path = shipped_graphs()["prefill_fwd"]
    assert find_graph("prefill_fwd") == path
    assert find_graph(path) == path
    assert load_graph("prefill_fwd").name == "prefill_fwd"


def test_every_shipped_graph_names_the_schema_for_editors_and_itself():
    for name, path in shipped_graphs().items():
        first, second = path.read_text().splitlines()[:2]
        modeline, _, target = first.partition("$schema=")
        assert modeline == "# yaml-language-server: "
        assert (path.parent / target).resolve().name == "graph.schema.json"
        assert (path.parent / target).is_file()
        assert second == f"graph: {name}"


def test_a_missing_file_names_what_is_near(tmp_path):
    with pytest.raises(GraphError, match="no file and no shipped graph is called 'decode_fw'") as error:
        load_graph("decode_fw")
    assert str(error.value).endswith("hint: did you mean 'decode_fwd'?")


def test_a_tab_is_told_what_to_write_in_its_place():
    _, [found] = check_source(b"graph: t\nbody:\n\t- {op: linear}\n", "t.yaml")
    assert (found.code, found.mark, found.hint) == ("G101", Mark("t.yaml", 3, 1), "indent with spaces: YAML takes no tabs")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("mlp", "did you mean 'mlp.yaml'?"),
        ("mpl.yaml", "did you mean 'mlp.yaml'?"),
        ("sub/othr.yaml", "did you mean 'sub/other.yaml'?"),
        ("sub/zzz.yaml", "'sub' has no such file (in '{here}')"),
        ("graphs/deepseek_v4/moe.yaml", "there is no folder 'graphs' (in '{here}'); the shipped graph is called 'moe'"),
        ("tests/data/captures/03", "there is no folder 'tests' (in '{here}')"),
        ("zzz", "'ringgraph graph list' lists the shipped graphs; a file is given with its '.yaml'"),
        ("a\0b", "'ringgraph graph list' lists the shipped graphs; a file is given with its '.yaml'"),
    ],
)
def test_whoever_is_in_the_wrong_folder_is_told_where_it_was_looked_for(tmp_path, monkeypatch, given, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for file in ("mlp.yaml", "sub/other.yaml"):
        (tmp_path / file).write_text("graph: x\nbody: []\n")
    with pytest.raises(GraphError) as error:
        load_graph(given)
    assert str(error.value).partition("\nhint: ")[2] == hint.format(here=tmp_path)


def test_a_used_graph_is_looked_for_beside_its_user_first(tmp_path):
    (tmp_path / "moe.yaml").write_text("graph: moe\ndoc: mine\nbody: []\n")
    (tmp_path / "top.yaml").write_text("graph: top\nbody: []\n")
    library = GraphLibrary()
    mark = Mark("top.yaml", 1)
    assert library(Text("moe", mark), str(tmp_path / "top.yaml")).doc == "mine"
    assert library(Text("head", mark), str(tmp_path / "top.yaml")).name == "head"
    with pytest.raises(GraphError, match="no graph is called 'mo'"):
        library(Text("mo", mark), str(tmp_path / "top.yaml"))


def test_a_file_is_loaded_once(tmp_path):
    (tmp_path / "g.yaml").write_text("graph: g\nbody: []\n")
    library = GraphLibrary()
    assert library.load(tmp_path / "g.yaml") is library.load(tmp_path / ".." / tmp_path.name / "g.yaml")


# --- the schema ---


def test_the_schema_is_draft_7():
    Draft7Validator.check_schema(schema())
    assert schema()["$schema"] == "http://json-schema.org/draft-07/schema#"


def as_editors_see(text: str):
    """The data with text keys, as a language server validates it."""

    def keyed(value):
        if isinstance(value, dict):
            return {str(key): keyed(inner) for key, inner in value.items()}
        return [keyed(inner) for inner in value] if isinstance(value, list) else value

    return keyed(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@pytest.mark.parametrize("num", sampled((4, 12), (4,)))
def test_editors_and_the_loader_agree(num):
    """On structure: the schema alone accepts what the loader accepts, and refuses what its first two stages refuse."""
    validator, rng = Draft7Validator(schema()), random.Random(0)
    refused = 0
    for path in shipped_graphs().values():
        text = path.read_text()
        assert validator.is_valid(as_editors_see(text))
        lines = text.splitlines(keepends=True)
        for _ in range(num):
            at = rng.randrange(2, len(lines))
            mutated = "".join(lines[:at] + lines[at + 1 :])
            try:
                data = as_editors_see(mutated)
            except yaml.YAMLError:
                continue
            _, found = check_source(mutated.encode(), "f.yaml")
            structural = [p for p in found if p.code in ("G103", "G201", "G202", "G203", "G204")]
            if not [p for p in found if p.code in ("G101", "G102", "G104")]:
                assert validator.is_valid(data) == (not structural), (path, at)
                refused += bool(structural)
    assert refused > 5 * num // 12


def test_messages_are_the_same_without_libyaml(monkeypatch):
    text = "graph: g\nbody: [{op: a, in: {x: 'a}]\n"
    _, fast = check_source(text.encode(), "f.yaml")
    monkeypatch.setattr("runner.language.yaml_source._FAST_LOADER", yaml.SafeLoader)
    _, slow = check_source(text.encode(), "f.yaml")
    assert fast == slow != []
    assert build(Path(shipped_graphs()["moe"]).read_text()) == load_with(yaml.CSafeLoader, monkeypatch)


def load_with(loader, monkeypatch):
    monkeypatch.setattr("runner.language.yaml_source._FAST_LOADER", loader)
    return build(Path(shipped_graphs()["moe"]).read_text())


@pytest.mark.parametrize(
    ("text", "column", "given"),
    [
        ("x: {act}[T, D]", 4, "{act}[T, D]"),
        ("x: [{act}[T]]", 5, "{act}[T]"),
        ("y: h: {act}[T, D]", 4, "h: {act}[T, D]"),
        ("a: {x: {act}[T, D]}", 8, "{act}[T, D]"),
        ("a: {x: f32[T, D], y: z}", 8, "f32[T, D]"),
        ("a: {y: h: {act}[T, D]}", 8, "h: {act}[T, D]"),
        ("in: {x: x[0 : 3], w: w}", 9, "x[0 : 3]"),
        ("in: {x: x{e, t}, w: w}", 9, "x{e, t}"),
        ("w: {from: layers.{layer}.norm.weight}", 11, "layers.{layer}.norm.weight"),
        ("w: {from: a.{b}.c.{d}.e, stack: d}", 11, "a.{b}.c.{d}.e"),
    ],
)
def test_brackets_that_are_not_quoted(text, column, given):
    _, found = check_source(f"graph: g\n{text}\n".encode(), "f.yaml")
    assert [(problem.code, str(problem.mark), problem.hint) for problem in found] == [
        ("G101", f"f.yaml:2:{column}", f'quote it: "{given}"')
    ]
    assert found[0].message.startswith(f"'{given}' is not quoted, so that YAML reads its brackets: ")


YAML_NUMBERS = [".inf", ".Inf", "-.INF", ".nan", ".NaN", ".NAN", "1_0.5", "1_.5", "1._", "1__0.0", "1:30.5", "-1:3."]


@pytest.mark.parametrize("value", YAML_NUMBERS)
@pytest.mark.parametrize("line", ["deploy: [VALUE]", "inputs: {x: VALUE}", "doc: [VALUE]"])
def test_numbers_in_any_spelling_of_yaml_are_told_where_others_are_due(value, line):
    """None of them is an integer or a text, and Python reads few of them."""
    _, found = check_source(f"graph: g\n{line.replace('VALUE', value)}\nbody: []\n".encode(), "f.yaml")
    assert {problem.mark.line for problem in found if problem.mark} == {2}


@pytest.mark.parametrize("piece", ["a", "a.", "{a", "{a}", "a{", "a{}", "a: "])
def test_brackets_are_looked_for_near_the_place_alone(piece):
    """A line of 200,000 characters that YAML stumbles over takes no longer than any other."""
    start = process_time()
    _, found = check_source(f"graph: g\nx: {{y: {piece * (200_000 // len(piece))} {{}} [}}\n".encode(), "f.yaml")
    assert found
    assert process_time() - start < 5
