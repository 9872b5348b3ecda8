"""A comment `# ringgraph: ignore[CODE, ...]` accepts the findings that point at its line; one that accepts none is told."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from runner.base.errors import Diagnostic, Mark, did_you_mean
from runner.language.graph import Graph
from runner.lint.codes import RULES

_IGNORE = re.compile(r"#\s*ringgraph:\s*ignore\[([^\]]*)\]")
OWN_CODE = "G331"


def is_ignored(finding: Diagnostic) -> bool:
    """Does the line that the finding points at accept it?"""
    return finding.code in [code for code, _ in _accepted(finding.source_line or "")]


def _accepted(line: str) -> Iterator[tuple[str, int]]:
    """The codes that a line accepts, and the column of each, which counts from 1."""
    if match := _IGNORE.search(line):
        for code in re.finditer(r"[^,\s]+", match[1]):
            yield code[0], match.start(1) + code.start() + 1


def without_effect(graph: Graph, judged: Collection[str], findings: Collection[Diagnostic]) -> Iterator[Diagnostic]:
    """Codes in the comments of `graph` that do not exist, or that accept nothing of `findings`.

    `judged` are the codes that were looked for: of the others, nobody can say that they accept nothing.
    """
    accepted = [
        (Mark(graph.file, number, at), code) for number, line in enumerate(graph.lines, 1) for code, at in _accepted(line)
    ]
    if not accepted:
        return
    here = Path(graph.file).resolve()
    named = {f.mark.file for f in findings if f.mark}
    files = {file for file in named if Path(file).resolve() == here}
    found = {(f.mark.line, f.code) for f in findings if f.mark and f.mark.file in files}
    severity = RULES[OWN_CODE].severity
    for mark, code in accepted:
        if code not in RULES:
            yield Diagnostic(OWN_CODE, f"no lint rule is called '{code}'", mark, severity, did_you_mean(code, RULES))
        elif code in judged and code != OWN_CODE and (mark.line, code) not in found:
            hint = f"remove it, or add {OWN_CODE} to it if another configuration needs it"
            yield Diagnostic(OWN_CODE, f"nothing on this line is {code}, under this configuration", mark, severity, hint)
