"""Lint by cases: each `cases/CODE[-variant].yaml` with the exact output of `ringgraph lint`, and the docs made of them.

A case is linted by the command in its first line, or by `ringgraph lint FILE`, for the configuration `tiny` and the deployment
`decode`. A variant may be clean: its output is empty.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import DOCS, TESTS

from runner.lint.codes import RULES

CASES = TESTS / "lint" / "cases"
FILES = sorted(CASES.glob("G[0-9]*.yaml"))
CONFIG = ("--config", "tiny", "--deploy", "decode")
COMMAND = re.compile(r"# ringgraph (lint .*)\n")
PAGE = DOCS / "lint.md"
GENERATED = "<!-- What follows is written by `pytest tests/lint --update` from the rules and the files of tests/lint/cases. -->\n"


def command(case: Path) -> list[str]:
    """The arguments of the command that lints a case."""
    given = COMMAND.match(case.read_text())
    return given[1].split() if given else ["lint", case.name]


def output(case: Path) -> Path:
    return case.with_suffix(".out")


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.stem)
def test_case(case, call, monkeypatch, request):
    monkeypatch.chdir(CASES)
    status, printed, _ = call(*command(case), *CONFIG)
    if request.config.getoption("--update", default=False):
        output(case).write_text(printed)
    assert printed == output(case).read_text()
    assert status == bool(printed)


@pytest.mark.parametrize("code", RULES)
def test_every_code_has_a_case(code):
    assert (CASES / f"{code}.yaml").is_file(), f"write tests/lint/cases/{code}.yaml, then run: pytest tests/lint --update"
    found = re.findall(r"(\w+) (G\d+):", (CASES / f"{code}.out").read_text())
    assert set(found) == {(RULES[code].severity, code)}


def test_every_case_is_of_a_known_code_and_has_its_output():
    assert {case.stem.partition("-")[0] for case in FILES} <= set(RULES)
    assert {case.stem for case in FILES} == {path.stem for path in CASES.glob("*.out")}


# --- the docs ---


def section(code: str) -> str:
    """The docs of one code: its meaning, its first case with the graphs that it uses, and the output."""
    rule, case = RULES[code], CASES / f"{code}.yaml"
    text = case.read_text()
    used = [CASES / f"{name}.yaml" for name in re.findall(r"use: (\w+)", text) if name != code]
    only_command = COMMAND.fullmatch(text)
    blocks = [("sh", f"ringgraph {only_command[1]}\n")] if only_command else [("yaml", text)]
    blocks += [("yaml", path.read_text()) for path in used if path.is_file()]
    blocks.append(("text", output(case).read_text()))
    warning = " A warning." if rule.severity == "warning" else ""
    parts = [f"## {code}: {rule.title}\n", f"{rule.why}{warning}\n", *(f"```{kind}\n{block}```\n" for kind, block in blocks)]
    return "\n".join(parts)


def test_docs_show_every_code(request):
    written, marker, _ = PAGE.read_text().partition(GENERATED)
    assert marker, "the page has lost the line that says what is generated"
    page = written + marker + "\n" + "\n".join(map(section, RULES))
    if request.config.getoption("--update", default=False):
        PAGE.write_text(page)
    assert PAGE.read_text() == page
