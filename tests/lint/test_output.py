"""The formats of findings: text, JSON, GitHub workflow commands and SARIF."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ops import register_all
from runner.base.errors import Diagnostic, Mark
from runner.config.config import load_config
from runner.lint.lint import lint
from runner.lint.output import format_findings
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


def findings(tmp_path, monkeypatch, text: str, **options):
    monkeypatch.chdir(tmp_path)
    Path("example.yaml").write_text(text)
    return lint(["example.yaml"], TINY, REGISTRY, **options)


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
    region = {"startLine": 8, "startColumn": 15, "endLine": 8, "endColumn": 35}
    assert place == {"artifactLocation": {"uri": "example.yaml"}, "region": region}
    assert json.loads(format_findings([], "sarif"))["runs"][0]["results"] == []
