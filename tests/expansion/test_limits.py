"""What a small file may ask for: refused by name, at its place, with a hint; and what many findings cost."""

import difflib
import random

import pytest

from runner.base.errors import MOST_OF_A_LINE, ConfigError, Diagnostic, Mark, did_you_mean
from runner.base.limits import VARIABLE, Limits
from runner.config.config import load_config
from runner.driver.driver import registry
from runner.expansion import expander
from runner.expansion.builder import ProgramBuilder
from runner.expansion.expander import expand_all
from runner.language.library import GraphLibrary, check_source, load_graph
from runner.lint.lint import lint

HEAD = 'graph: g\ninputs: {n: "i32[4]"}\n'
ALLOC = '{alloc: {b: "f32[4]"}}'
CHAIN = {f"h{level}.yaml": f"graph: h{level}\nbody: [{f'{{use: h{level + 1}}}, ' * 10}]\n" for level in range(9)}
FILES = CHAIN | {"h9.yaml": f"graph: h9\nbody: [{ALLOC}]\n"}

DENSE = "100,000 items and 50 for each byte of its files"
DYNAMIC = '{for: t, range: "n[0]", max: 3, body: ['
TOO_LARGE = {
    f"body: [{{for: t, range: 1000000000000, body: [{ALLOC}]}}]": "g.yaml:3:24: more than 250,000 trips of loops",
    f"body: [{{for: t, range: 1000000, body: [{ALLOC}]}}]": "g.yaml:3:24: more than 250,000 trips of loops",
    f'body: [{{for: t, range: "n[0]", max: 1000000000000, body: [{ALLOC}]}}]': "g.yaml:3:37: more than 250,000 trips of loops",
    f"body: [{'{for: t, range: 1000, body: [' * 8}{']}' * 8}]": "g.yaml:3:24: more than 250,000 trips of loops",
    f"body: [{DYNAMIC * 14}{ALLOC}{']}' * 14}]": "g.yaml:3:37: more than 250,000 trips of loops",
    f"body: [{{for: t, range: 40000, body: [{ALLOC}, {ALLOC}]}}]": f"g.yaml:3:24: more than {DENSE}",
    f"body: [{{for: t, range: 200000, body: [{', '.join([ALLOC] * 10)}]}}] # {'x' * 40_000}": (
        "g.yaml:3:24: more than 2,000,000 items"
    ),
    f"body: [{{for: t, range: 9000, body: [{'{scope: s, body: [' * 20}{']}' * 20}, {'{scope: s, body: []}, ' * 300}]}}]": (
        f"g.yaml:3:24: more than {DENSE}"
    ),
    "body: [{use: h0}]": "h8.yaml:2:63: more than 20,000 used graphs",
    (
        f"body: [{{scope: s, body: [{{for: t, range: 3000, body: [{ALLOC}]}}]}}, {{for: t, range: 3000, body: "
        '[{op: cast, after: [s], in: {x: n}, out: {y: "f32[4]"}}]}]'
    ): "g.yaml:3:112: more than 5,000,000 edges between tasks",
}


@pytest.mark.parametrize("body", TOO_LARGE, ids=range(len(TOO_LARGE)))
def test_a_small_file_that_asks_for_much(body, tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    path = tmp_path / "g.yaml"
    path.write_text(f"{HEAD}{body}\n")
    found = expand_all(load_graph(path), load_config(["tiny"]), registry(), library=GraphLibrary()).problems
    problem = next(problem for problem in found if problem.code == "G329")
    place, what = TOO_LARGE[body].split(": ")
    assert str(problem.mark).endswith(place) and problem.message == f"the program is too large: {what}"
    name = "density" if "each byte" in what else {"used": "uses"}.get(what.split()[3], what.split()[3])
    assert problem.hint == f"if it is meant to be so large, set {VARIABLE}={name}=N"


def _nested(rng: random.Random, levels: int, variables: tuple[str, ...] = ()) -> str:
    """A body of loops, scopes and choices, whose ranges are constants or depend on the loops around, on values or on tensors."""
    items = [ALLOC] * rng.randint(0, 2)
    for number in range(rng.randint(1, 2) if levels else 0):
        name = f"t{levels}_{number}"
        count = rng.choice(["0", "3", "p", "TOPK - p + 1", *variables, *(f"2 - {variable}" for variable in variables)])
        most = rng.choice(["", ", max: 3", ", max: p"])
        heads = [f'for: {name}, range: "{"n[0]" if most else count}"{most}', "scope: s", 'if: "n[1]"', f'if: "{count} == 1"']
        head = rng.choice([heads[0], *heads])
        inside = (*variables, name) if head.startswith("for") and not most else variables
        items.append(f"{{{head}, {'then' if 'if' in head else 'body'}: [{_nested(rng, levels - 1, inside)}]}}")
    return ", ".join(items)


def _used(rng: random.Random, users: str, names: list[str]) -> str:
    """The body `users` with `use` of one of these graphs in place of some allocs; the param `p` is given, or the default."""
    parts = users.split(ALLOC)
    joined = parts[0]
    for part in parts[1:]:
        bound = rng.choice(["n: n", "n: n, p: 1", "n: n, p: p + 1"])
        joined += (f"{{use: {rng.choice(names)}, with: {{{bound}}}}}" if names and rng.random() < 0.5 else ALLOC) + part
    return joined


@pytest.mark.parametrize("seed", range(20))
def test_what_used_graphs_come_to_is_no_more_than_comes(seed, tmp_path, monkeypatch):
    """As below, with graphs in graphs; `trips=` or `items=` less than the least is refused before the first trip."""
    rng, names = random.Random(seed), []
    for name in ("u2", "u1", "u0", "g"):
        body = _used(rng, _nested(rng, 2), names)
        (tmp_path / f"{name}.yaml").write_text(f"{HEAD.replace(': g', f': {name}')}params: {{p: 2}}\nbody: [{body}]\n")
        names.append(name)
    graph, config, made = load_graph(tmp_path / "g.yaml"), load_config(["tiny"]), []
    monkeypatch.setattr(expander, "ProgramBuilder", lambda *given: made.append(ProgramBuilder(*given)) or made[-1])
    for how in ({}, {"stamp": False}, {"sample": True}):

        def problems(limits: Limits, how: dict[str, bool] = how) -> list[str]:
            found = expand_all(graph, config, registry(), limits=limits, library=GraphLibrary(), **how).problems
            return [problem.message for problem in found]

        assert not problems(Limits())
        trips, items = made[-1].trips, made[-1].items
        assert not problems(Limits(trips=trips, items=items))
        assert problems(Limits(items=items - 1))
        assert not trips or problems(Limits(trips=trips - 1))


def test_loops_of_used_graphs_are_counted_before_the_first_trip(tmp_path):
    """Two graphs deep, in a case that the configuration decides, by a param that is passed on."""
    inner = "graph: inner\nparams: {many: 1}\nbody: [{for: k, range: many, body: [{alloc: {b: 'f32[4]'}}]}]\n"
    outer = "graph: outer\nparams: {many: 1}\nbody: [{if: TOPK > 0, then: [{use: inner, with: {many: many * 1000}}]}]\n"
    (tmp_path / "inner.yaml").write_text(inner)
    (tmp_path / "outer.yaml").write_text(outer)
    path = tmp_path / "g.yaml"
    path.write_text("graph: g\nbody:\n  - for: t\n    range: 100\n    body: [{use: outer, with: {many: 3}}]\n")
    found = expand_all(load_graph(path), load_config(["tiny"]), registry(), library=GraphLibrary())
    assert [(p.code, p.mark.line) for p in found.problems] == [("G329", 4)] and not found.program.tasks


def test_bodies_are_nested_so_deep_and_no_deeper(tmp_path):
    """31 graphs of 26 scopes each, one in the other, recursed beyond what Python does."""
    for level in range(31):
        inside = f"{{use: d{level + 1}}}" if level < 30 else ALLOC
        (tmp_path / f"d{level}.yaml").write_text(f"graph: d{level}\nbody: [{'{scope: s, body: [' * 26}{inside}{']}' * 26}]\n")
    for first, codes in ((0, ["G329"]), (28, [])):
        graph = load_graph(tmp_path / f"d{first}.yaml")
        found = expand_all(graph, load_config(["tiny"]), registry(), library=GraphLibrary())
        assert [problem.code for problem in found.problems] == codes


@pytest.mark.parametrize("seed", range(60))
def test_what_is_counted_before_a_loop_is_no_more_than_comes(seed, tmp_path, monkeypatch):
    """A program may have exactly what it has, and no less; whether trips are copied or not, sampled or not."""
    path = tmp_path / "g.yaml"
    path.write_text(f"{HEAD}params: {{p: 2}}\nbody: [{_nested(random.Random(seed), 4)}]\n")
    graph, config, made = load_graph(path), load_config(["tiny"]), []
    monkeypatch.setattr(expander, "ProgramBuilder", lambda *given: made.append(ProgramBuilder(*given)) or made[-1])

    def problems(limits: Limits, **how: bool) -> list[str]:
        return [problem.message for problem in expand_all(graph, config, registry(), limits=limits, **how).problems]

    for how in ({}, {"stamp": False}, {"sample": True}):
        assert not problems(Limits(), **how)
        trips, items = made[-1].trips, made[-1].items
        assert not problems(Limits(trips=trips, items=items), **how)
        assert problems(Limits(items=items - 1), **how)
        assert not trips or problems(Limits(trips=trips - 1), **how)


def test_a_dynamic_loop_of_a_trillion_lints(tmp_path):
    path = tmp_path / "g.yaml"
    body = f'{{for: t, range: "n[0]", max: 1000000000000, body: [{ALLOC}]}}'
    path.write_text(f"{HEAD}body: [{body}]\n")
    assert [finding.code for finding in lint([path], load_config(["tiny"]), registry())] == ["G314"]


def test_the_environment_raises_limits_and_lowers_them(tmp_path, monkeypatch):
    path = tmp_path / "g.yaml"
    path.write_text(f"{HEAD}body: [{{for: t, range: 300, body: [{ALLOC}]}}]\n")
    graph, config = load_graph(path), load_config(["tiny"])
    assert not expand_all(graph, config, registry(), library=GraphLibrary()).problems
    for given, ok in (("trips=299", False), ("trips=300 items=602", True), ("items=601,trips=300", False)):
        monkeypatch.setenv(VARIABLE, given)
        assert (not expand_all(graph, config, registry(), library=GraphLibrary()).problems) == ok, given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("trip=3", "no limit is called 'trip'\nhint: did you mean 'trips'?"),
        ("trips", "'trips' gives no number, expected 'trips=N'"),
        ("trips=-1", "'trips=-1' gives no number, expected 'trips=N'"),
        (f"trips={'9' * 5000}", f"'trips={'9' * 5000}' gives no number, expected 'trips=N'"),
    ],
)
def test_a_limit_that_is_none(given, message):
    with pytest.raises(ConfigError) as refused:
        Limits.current({VARIABLE: given})
    assert str(refused.value) == f"environment variable {VARIABLE}: {message}"


# --- findings ---------------------------------------------------------------------------------------------------------

MANY = 5_000
MANY_FINDINGS = {
    "unknown keys": "{graph: g, body: [], " + ", ".join(f"key{i}: 1" for i in range(MANY)) + "}",
    "no integers": "{graph: g, body: [" + "0x_, " * MANY + "]}",
    "no items": "{graph: g, body: [" + "1, " * MANY + "]}",
    "items of no kind": "{graph: g, body: [" + "{a: b}, " * MANY + "]}",
    "no types": "{graph: g, body: [], inputs: {" + ", ".join(f"n{i}: q" for i in range(MANY)) + "}}",
    "no names": "{graph: g, body: [], inputs: {" + ", ".join(f'"{i}-": "f32[]"' for i in range(MANY)) + "}}",
    "names twice": "{graph: g, body: [" + ", ".join(["{op: a, id: b}"] * MANY) + "]}",
    "bad expressions": "{graph: g, body: [" + ", ".join(["{alloc: {b: 'f32[1 +]'}}"] * MANY) + "]}",
}


@pytest.mark.parametrize("name", MANY_FINDINGS)
def test_many_findings_of_a_file(name):
    """The first thousand, one that says that there are more, and of the one line no more than a part each."""
    _, found = check_source(MANY_FINDINGS[name].encode(), "g.yaml")
    most = Limits().findings
    assert len(found) == most + 1
    assert found[-1].message == f"more than {most:,} findings: those from here on are not told" and found[-1].mark
    assert len("\n".join(map(str, found))) < most * 2_000


def test_many_findings_of_an_expansion(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(HEAD + "body:\n" + "".join(f"  - {{op: unknown{number}}}\n" for number in range(MANY)))
    found = expand_all(load_graph(path), load_config(["tiny"]), registry(), library=GraphLibrary()).problems
    assert [problem.code for problem in found] == ["G302"] * Limits().findings + ["G105"]


def test_a_long_line_is_shown_around_the_place():
    line = "".join(chr(ord("a") + index % 26) for index in range(10_000))
    for column in (1, 2, 150, 201, 202, 400, 401, 5_000, 9_900, 10_000):
        shown = str(Diagnostic("G1", "m", Mark("f", 1, column), source_line=line)).splitlines()
        assert shown[1][shown[2].index("^")] == line[column - 1] and len(shown[1]) <= MOST_OF_A_LINE + 8, column


@pytest.mark.parametrize("num", [1_000, pytest.param(5_000, marks=pytest.mark.slow)])
def test_hints_are_those_of_difflib(num):
    rng = random.Random(5)
    known = [
        "rms_norm",
        "num_hidden_layers",
        "inputs",
        "outputs",
        "weights",
        "a",
        "",
        *("".join(rng.choices("abc_", k=5)) for _ in range(20)),
    ]
    for _ in range(num):
        name = list(rng.choice(known))
        for _ in range(rng.randint(0, 4)):
            at = rng.randrange(len(name) + 1)
            name[at : at + rng.randint(0, 1)] = rng.choice(("", rng.choice("abcxyz\u20ac")))
        near = difflib.get_close_matches("".join(name), [other for other in known if other != "".join(name)], n=1, cutoff=0.6)
        assert did_you_mean("".join(name), known) == (f"did you mean '{near[0]}'?" if near else None), name


def test_blocks_follow_from_shapes_and_have_a_limit(tmp_path, monkeypatch):
    path = tmp_path / "g.yaml"
    inputs = 'w: "f32[4]", x: "f32[2000000000, 4]"'
    body = "[{op: rms_norm, in: {x: x, w: w}, out: {y: y}}]"
    path.write_text(f'graph: g\ninputs: {{{inputs}}}\noutputs: {{y: "f32[2000000000, 4]"}}\nbody: {body}\n')

    def codes():
        return [p.code for p in expand_all(load_graph(path), load_config(["tiny"]), registry(), library=GraphLibrary()).problems]

    assert codes() == ["G329"]
    monkeypatch.setenv("RINGGRAPH_LIMITS", "blocks=100000")
    assert codes() == []


def test_loops_in_sequence_are_counted_before_the_first_trip(tmp_path):
    path = tmp_path / "g.yaml"
    loop = '{for: t, range: 1000, body: [{alloc: {b: "f32[4]"}}]}'
    path.write_text("graph: g\nbody:\n" + f"  - {loop}\n" * 300 + "  - {scope: s, body: [" + loop + "]}\n")
    found = expand_all(load_graph(path), load_config(["tiny"]), registry(), library=GraphLibrary())
    assert [(p.code, p.mark.line) for p in found.problems] == [("G329", 2 + 251)] and not found.program.tasks
