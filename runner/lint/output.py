"""Findings are written as text, JSON, GitHub workflow commands, or SARIF 2.1.0."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runner.base.errors import Diagnostic, Mark, excerpt
from runner.lint.codes import RULES, explain_rule
from runner.lint.rule import Description

FORMATS = ("text", "json", "github", "sarif")


def format_findings(findings: Sequence[Diagnostic], kind: str = "text") -> str:
    """The findings in one of FORMATS; nothing for no findings as text or GitHub commands."""
    match kind:
        case "text":
            return "\n".join([*map(str, findings), summary(findings)]) if findings else ""
        case "json":
            return json.dumps({"findings": [to_dict(finding) for finding in findings]}, indent=2)
        case "github":
            return "\n".join(map(_command, findings))
        case "sarif":
            return json.dumps(_sarif(findings), indent=2)
    raise ValueError(f"format is '{kind}', expected one of {', '.join(FORMATS)}")


def summary(findings: Sequence[Diagnostic]) -> str:
    """`2 errors, 1 warning`; what there is none of is left out."""
    counts = [(sum(f.severity == severity for f in findings), severity) for severity in ("error", "warning")]
    return ", ".join(f"{count} {severity}{'s' * (count != 1)}" for count, severity in counts if count) or "no findings"


def to_dict(finding: Diagnostic) -> dict[str, Any]:
    """A finding as plain data; places count from 1."""
    place = finding.mark
    return {
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "file": place.file if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
        "source_line": None if finding.source_line is None else excerpt(finding.source_line, place.column - 1 if place else 0)[0],
        "hint": finding.hint,
        "related": [{"file": mark.file, "line": mark.line, "column": mark.column} for mark in finding.related],
    }


def _message(finding: Diagnostic) -> str:
    return f"{finding.message}\nhint: {finding.hint}" if finding.hint else finding.message


def _command(finding: Diagnostic) -> str:
    """`::error file=F,line=L,col=C,title=CODE::MESSAGE`, escaped as GitHub wants it."""
    properties = {"title": finding.code}
    if finding.mark:
        properties = {"file": finding.mark.file, "line": finding.mark.line, "col": finding.mark.column, **properties}
    listed = ",".join(
        f"{key}={_escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}" for key, value in properties.items()
    )
    return f"::{finding.severity} {listed}::{_escaped(_message(finding))}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


MOST_RESULTS = 25_000
"""Results of one run that GitHub takes: of more, it takes none. Errors come first then."""
_CONFIGURATION = Description(
    "", "no such configuration", "The configuration that the graph asks for cannot be had; docs/configuration.md lists the codes."
)
"""What codes mean that configurations have, and not graphs."""


def _sarif(findings: Sequence[Diagnostic]) -> dict[str, Any]:
    """A log with one run, as the schema and GitHub want it: each result has a place, a rule with help, and a fingerprint."""
    if len(findings) > MOST_RESULTS:
        findings = sorted(findings, key=lambda finding: finding.severity != "error")[:MOST_RESULTS]
    codes = sorted({finding.code for finding in findings})
    numbers = {code: number for number, code in enumerate(codes)}
    try:
        own_version = version("ringgraph")
    except PackageNotFoundError:
        own_version = "0"
    driver = {"name": "ringgraph", "version": own_version, "rules": [_rule(code) for code in codes]}
    seen: Counter[str] = Counter()
    results = [_result(finding, numbers[finding.code], seen) for finding in findings]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _rule(code: str) -> dict[str, Any]:
    rule = RULES.get(code, _CONFIGURATION)
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in re.findall(r"\w+", rule.title)),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": explain_rule(code) if code in RULES else f"{code}: {rule.title}\n\n{rule.why}"},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(finding: Diagnostic, rule: int, seen: Counter[str]) -> dict[str, Any]:
    """`seen` counts fingerprints, so that the second of two like findings has another."""
    mark = finding.mark or Mark(".", 1)
    told = (finding.code, _uri(mark.file), _told_line(finding.source_line or ""), finding.message)
    fingerprint = sha256("\0".join(told).encode(errors="surrogateescape")).hexdigest()[:16]
    seen[fingerprint] += 1
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": finding.severity,
        "message": {"text": _message(finding)},
        "locations": [_location(mark, finding.source_line or "")],
        "partialFingerprints": {"primaryLocationLineHash": f"{fingerprint}:{seen[fingerprint]}"},
    }
    if finding.related:
        result["relatedLocations"] = [{"id": number, **_location(other)} for number, other in enumerate(finding.related, 1)]
    return result


@lru_cache(16)
def _told_line(line: str) -> str:
    """A line as it goes into fingerprints: a long one, on which there may be many findings, is digested once."""
    line = line.strip()
    return line if len(line) <= 500 else sha256(line.encode(errors="surrogateescape")).hexdigest()


def _location(mark: Mark, line: str = "") -> dict[str, Any]:
    """The place, up to the end of `line` where that is known."""
    start, end = mark.column, max(mark.column + 1, len(line.rstrip()) + 1)
    region = {"startLine": mark.line, "startColumn": start, "endLine": mark.line, "endColumn": end}
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(mark.file)}, "region": region}}


def _uri(file: str) -> str:
    """The file's place below the working folder, where code hosts look for it; of files elsewhere, the whole place."""
    return _uri_from(file, os.getcwd())


@lru_cache(16)
def _uri_from(file: str, folder: str) -> str:
    path = Path(os.path.normpath(Path(folder, file)))
    with suppress(ValueError):
        return quote(os.fsencode(path.relative_to(folder).as_posix()))
    return f"file://{quote(os.fsencode(path.as_posix()))}"
