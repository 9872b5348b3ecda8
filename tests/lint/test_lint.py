"""Lint of the shipped graphs and of folders, and what a code's explanation says."""

from __future__ import annotations

import re

import pytest
from places import ROOT

from ops import register_all
from runner import Driver
from runner.base.errors import RinggraphError
from runner.config.config import load_config
from runner.language.library import shipped_graphs
from runner.lint.codes import RULES, explain_rule
from runner.lint.lint import lint
from runner.lint.rules import all_rules
from runner.program.ops import OpRegistry

REGISTRY = OpRegistry()
register_all(REGISTRY)
TINY = load_config(["tiny"], deploy="decode")


def test_rules_explain_themselves():
    assert explain_rule("g312").startswith("G312: write-after-read hazard (error, stage 3: meaning)")
    with pytest.raises(RinggraphError, match="no lint rule is called 'G399'"):
        explain_rule("G399")


def test_every_module_of_rules_is_found():
    modules = {path.stem for path in (ROOT / "runner" / "lint" / "rules").rglob("*.py")} - {"__init__"}
    assert {rule.__module__.rpartition(".")[2] for rule in all_rules()} == modules
    assert all(RULES[rule.about.code] is rule.about for rule in all_rules())


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


def test_a_folder_stands_for_its_graphs(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"graph: {name}\nbody: [{{op: nothing}}]\n")
    assert [finding.code for finding in lint([tmp_path], TINY, REGISTRY)] == ["G302", "G302"]


def test_progress_goes_through_all_graphs(tmp_path):
    for number in range(3):
        (tmp_path / f"g{number}.yaml").write_text(f"graph: g{number}\nbody: []\n")
    told = []
    Driver("tiny").linted(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3)]
