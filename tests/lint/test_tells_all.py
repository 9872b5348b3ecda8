"""Lint tells all that is wrong, each thing once, in its own place; comments that accept findings are looked at themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops import register_all
from runner.base.errors import Diagnostic
from runner.config.config import load_config
from runner.driver.face import Driver
from runner.lint.lint import lint
from runner.program.ops import OpRegistry

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
GOOD = HEAD + "  - {op: rms_norm, in: {x: x, w: w}, out: {y: y}}\n"
BAD = GOOD.replace("{x: x,", "{x: nowhere,")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def found(*paths: str | Path) -> list[Diagnostic]:
    return lint(paths, TINY, REGISTRY)


def heads(*paths: str | Path) -> list[str]:
    """The first line of each finding."""
    return [str(finding).splitlines()[0] for finding in found(*paths)]


def places(findings: list[Diagnostic]) -> list[str]:
    return [f"{finding.mark} {finding.code}" for finding in findings]


# --- all of them


def test_all_missing_inputs_and_params_of_a_use():
    sections = 'params: {n: 1, m: 2}\ninputs: {rows: "{act}[n, m]", more: "{act}[T, D]"}\noutputs: {y: "{act}[T, D]"}\n'
    Path("stage.yaml").write_text(f"graph: stage\n{sections}body: []\n")
    Path("example.yaml").write_text('graph: example\noutputs: {y: "{act}[T, D]"}\nbody:\n  - use: stage\n')
    messages = [finding.message for finding in found("example.yaml") if finding.code == "G308"]
    assert messages == [
        "use 'stage': input 'more' is not given, and no tensor here has that name",
        "use 'stage': input 'rows' is not given, and no tensor here has that name",
        "use 'stage': param 'm' is not given",
        "use 'stage': param 'n' is not given",
    ]


def test_all_outputs_of_a_use_that_do_not_fit():
    Path("stage.yaml").write_text('graph: stage\ninputs: {x: "i32[1]", w: "i32[2]"}\noutputs: {y: "i32[3]"}\nbody: []\n')
    Path("example.yaml").write_text(HEAD + "  - use: stage\n")
    messages = [finding.message for finding in found("example.yaml") if finding.code == "G303"]
    assert messages == [
        "use 'stage': input 'w' is f32[64], expected i32[2]",
        "use 'stage': input 'x' is f32[8, 64], expected i32[1]",
        "use 'stage': output 'y' is f32[8, 64], expected i32[3]",
    ]


def test_all_tensors_that_a_range_reads_before_they_are_written():
    Path("example.yaml").write_text(
        'graph: example\nbody:\n  - alloc: {a: "i32[1]", b: "i32[1]"}\n  - {for: t, range: "a[0] + b[0]", max: 3, body: []}\n'
    )
    assert [finding.message for finding in found("example.yaml") if finding.code == "G313"] == [
        "'t' reads 'a' before anything is written there",
        "'t' reads 'b' before anything is written there",
    ]


def test_an_unknown_deployment_hides_nothing():
    Path("example.yaml").write_text(BAD.replace("body:", "deploy: nosuch\nbody:"))
    findings = Driver("tiny").lint("example.yaml")
    assert [finding.code for finding in findings] == ["C103", "G306"]


def test_every_path_that_leads_nowhere():
    assert heads("one", "two") == [
        "one:1:1: error G100: no file and no shipped graph is called 'one'",
        "two:1:1: error G100: no file and no shipped graph is called 'two'",
    ]


@pytest.mark.parametrize(
    ("region", "name"),
    [("x[nope : 3]", "nope"), ("x[1 : 2 + nope]", "nope"), ("x{nope + 1, 2}", "nope"), ("x[ 0, nope]", "nope")],
)
def test_a_name_in_a_region_is_told_where_it_stands(region, name):
    Path("example.yaml").write_text(GOOD.replace("{x: x,", f'{{x: "{region}",'))
    (finding,) = found("example.yaml")
    assert finding.mark is not None and finding.source_line is not None
    assert finding.source_line[finding.mark.column - 1 :].startswith(name)


# --- each once


@pytest.mark.parametrize("own_deployment", [False, True])
def test_a_file_is_told_once_whatever_leads_to_it(own_deployment):
    line = 7 + own_deployment
    Path("sub").mkdir()
    Path("example.yaml").write_text(BAD.replace("body:", "deploy: prefill\nbody:") if own_deployment else BAD)
    Path("user.yaml").write_text(HEAD + "  - use: example\n")
    Path("link.yaml").symlink_to("example.yaml")
    Path("sub/link.yaml").symlink_to("../example.yaml")
    spellings = ["example.yaml", "./example.yaml", "sub/../example.yaml", Path("example.yaml").resolve(), "link.yaml", "sub", "."]
    for first in spellings[:5]:
        findings = Driver("tiny").lint(first, *spellings, "user.yaml")
        assert places(findings) == [f"{Path(first)}:{line - 1}:28 G306"]
    assert places(Driver("tiny").lint("user.yaml", "./example.yaml")) == [f"example.yaml:{line - 1}:28 G306"]


def test_an_unreadable_file_is_told_once():
    Path("stage.yaml").write_text("graph: stage\nbdy: []\n")
    Path("example.yaml").write_text(HEAD + "  - use: stage\n")
    findings = found("example.yaml", Path("stage.yaml").resolve(), "stage.yaml")
    assert [f.code for f in findings if f.code == "G103"] == ["G103"]


# --- folders


def test_a_folder_stands_for_all_graphs_below_it():
    for name in ("a.yaml", "b.yml", "deep/er/c.yaml", ".hidden/d.yaml", "config/e.yaml", "deep/family.yaml", "text.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(BAD)
    assert [finding.mark.file for finding in found(".") if finding.mark] == ["a.yaml", "b.yml", "deep/er/c.yaml"]


def test_a_folder_without_graphs_is_told(call):
    Path("empty/sub").mkdir(parents=True)
    status, printed, _ = call("lint", "empty")
    assert status == 1
    assert printed.startswith("empty:1:1: error G100: the folder holds no graph file, and no folder below it does\n")


def test_a_link_that_leads_nowhere_is_told():
    Path("gone.yaml").symlink_to("nowhere.yaml")
    Path("good.yaml").write_text(GOOD)
    assert heads(".") == ["gone.yaml:1:1: error G100: cannot read the file: no such file or directory"]


def test_a_graph_under_another_suffix_is_named():
    Path("stage.yml").write_text(GOOD)
    Path("example.yaml").write_text(HEAD + "  - use: stage\n")
    assert found("example.yaml")[0].hint == "rename 'stage.yml' to 'stage.yaml'"


# --- aliases

SHARED = """\
graph: example
inputs: {x: "{act}[T, D]"}
weights: {w: "{wd}[D]"}
outputs: {y: "{act}[T, D]"}
body:
  - alloc: {b: "{act}[T, D]"}
  - op: rms_norm
    in: {x: x, w: w}
    out: &made {y: y}
  - op: rms_norm
    in: *made
    out: {y: b}
  - op: rms_norm
    in: {x: b, w: w}
    out: {y: y}
"""


def test_what_an_alias_stands_for_is_told_at_the_alias():
    Path("example.yaml").write_text(SHARED)
    (finding,) = [f for f in found("example.yaml") if f.code == "G305"]
    assert str(finding).splitlines() == [
        "example.yaml:11:9: error G305: op 'rms_norm' has no input 'y' (in what the alias stands for, line 9)",
        "    in: *made",
        "        ^",
        "hint: 'y' is listed under 'out:'",
    ]
    assert [str(mark) for mark in finding.related] == ["example.yaml:9:20"]


def test_what_the_anchor_has_wrong_is_told_there_and_once():
    text = SHARED.replace("{x: x, w: w}\n    out: &made {y: y}", "&made {x: nx, w: w}\n    out: {y: y}")
    Path("example.yaml").write_text(text)
    assert places(found("example.yaml")) == ["example.yaml:8:19 G306"]


def test_an_alias_in_another_loop_is_looked_at_on_its_own():
    text = HEAD + "".join(
        f"  - for: {name}\n    range: 1\n    body: {body}\n"
        for name, body in (
            ("t", '&body [{op: rms_norm, in: {x: "x[t : t + 8]", w: w}, out: {y: y}}]'),
            ("u", "*body"),
        )
    )
    Path("example.yaml").write_text(text)
    (finding,) = found("example.yaml")
    assert (str(finding.mark), [str(mark) for mark in finding.related]) == ("example.yaml:11:11", ["example.yaml:8:44"])
    assert finding.code == "G301"


# --- comments that accept findings

NEVER = '  - {op: rms_norm, in: {x: x, w: w}, out: {y: "spare: {act}[T, D]"}}'


def notes(line: str) -> list[str]:
    """Codes and messages of what lint says of a graph with one line that has a G314."""
    Path("example.yaml").write_text(f"{GOOD}{line}\n")
    return [f"{finding.code} {finding.message}" for finding in found("example.yaml")]


TOLD = "G314 tensor 'spare' is never read"


@pytest.mark.parametrize(
    ("comment", "says"),
    [
        ("ignore[G314]", []),
        ("ignore[ G314 ]  since it is for people", []),
        ("ignore[G314, G328]", ["G331 nothing on this line is G328, under this configuration"]),
        ("ignore[G314, G328, G331]", []),
        ("ignore[G314, G331]", []),
        ("ignore[G314, G314]", ["G331 'G314' is named twice"]),
        ("ignore[g314]", [TOLD, "G331 no lint rule is called 'g314'"]),
        ("ignore[G399]", [TOLD, "G331 no lint rule is called 'G399'"]),
        ("ignore[never]", [TOLD, "G331 no lint rule is called 'never'"]),
        ("ignore", [TOLD, "G331 the directive names no code: 'ignore'"]),
        ("ignore[]", [TOLD, "G331 the directive names no code: 'ignore[]'"]),
        ("ignore[G314", [TOLD, "G331 the directive names no code: 'ignore[G314'"]),
        ("ignore G314", [TOLD, "G331 the directive names no code: 'ignore G314'"]),
        ("noqa", [TOLD, "G331 'noqa' is no directive"]),
        ("ignore[G314] # ringgraph: ignore[G328]", ["G331 a second directive on one line has no effect"]),
        ("ignore[G328] # ringgraph: ignore[G314]", [TOLD, "G331 a second directive on one line has no effect"]),
        ("ignore[G314][G328]", ["G331 a second directive on one line has no effect"]),
        ("ignore[G314] ringgraph: ignore[G328]", ["G331 a second directive on one line has no effect"]),
        ("ignore[G314], ignore [G328]", ["G331 a second directive on one line has no effect"]),
        ("ignore[G314]] we ignore what is [here]", []),
        ("ignore[G331]", [TOLD, "G331 nothing on this line is G331"]),
        ("ignore[G306]", [TOLD, "G331 G306 cannot be accepted: no command takes a graph with such a finding"]),
    ],
)
def test_comments(comment, says):
    got = notes(f"{NEVER} # ringgraph: {comment}")
    assert set(says) <= set(got)
    assert (TOLD in got) == (TOLD in says)
    assert len(got) == len(says) or comment.startswith("ignore[G328] ")  # whose G328 accepts nothing either


@pytest.mark.parametrize("comment", ["ringgraph ignore[G314]", "RingGraph  ignore [G314]", "ringgraph ignore(G314)"])
def test_a_directive_without_a_colon_is_told(comment):
    told = "G331 a directive has a colon behind 'ringgraph'"
    assert sorted(notes(f"{NEVER}  # {comment}")) == [TOLD, told]
    assert notes(f"{NEVER}  # ringgraph ignores this") == [TOLD]


@pytest.mark.parametrize(
    "line",
    [
        NEVER.replace("}}", "}, doc: 'a # ringgraph: ignore[G314]'}"),
        NEVER.replace("}}", '}, doc: "a # ringgraph: ignore[G314]"}'),
        NEVER.replace("}}", "}, doc: \"it''s # ringgraph: ignore[G314]\"}"),
        NEVER.replace("  - {", '  - {doc: "a\n    # ringgraph: ignore[G314]", '),
        "  - op: rms_norm\n    doc: a#ringgraph:ignore[G314]\n    in: {x: x, w: w}\n" + '    out: {y: "spare: {act}[T, D]"}',
    ],
)
def test_a_string_accepts_nothing(line):
    assert notes(line) == [TOLD]


def test_a_block_of_text_accepts_nothing_and_what_follows_does():
    doc = "  - op: rms_norm\n    doc: |  # ringgraph: ignore[G314]\n      # ringgraph: ignore[G399]\n"
    got = notes(f'{doc}    in: {{x: x, w: w}}\n    out: {{y: "spare: {{act}}[T, D]"}}')
    assert got == ["G331 nothing on this line is G314, under this configuration", TOLD]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GOOD.replace("graph:", "grph:", 1).replace("example\n", "example  # ringgraph: ignore[G103]\n", 1), "G103"),
        (GOOD.replace("{x: x, w: w}", "[x, w]").replace("y}}\n", "y}}  # ringgraph: ignore[G201]\n"), "G201"),
        (BAD.replace("y}}\n", "y}}  # ringgraph: ignore[G306]\n"), "G306"),
    ],
)
def test_what_keeps_a_graph_from_running_cannot_be_accepted(text, code):
    Path("example.yaml").write_text(text)
    assert {finding.code for finding in found("example.yaml")} >= {code, "G331"}


def test_comments_of_a_used_file_accept_there_and_are_not_judged():
    Path("stage.yaml").write_text(f"{GOOD.replace('example', 'stage')}{NEVER}  # ringgraph: ignore[G314, G328]\n")
    Path("example.yaml").write_text((HEAD + "  - use: stage\n").replace('weights: {w: "{wd}[D]"}\n', ""))
    assert found("example.yaml") == []
    assert [finding.code for finding in found("example.yaml", "stage.yaml")] == ["G331"]
