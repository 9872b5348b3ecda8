"""Findings are written as text, JSON, GitHub workflow commands, or SARIF 2.1.0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from runner.base.errors import Diagnostic, Mark
from runner.lint.codes import RULES

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
        "source_line": finding.source_line,
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


def _sarif(findings: Sequence[Diagnostic]) -> dict[str, Any]:
    codes = sorted({finding.code for finding in findings})
    try:
        own_version = version("ringgraph")
    except PackageNotFoundError:
        own_version = "0"
    driver = {"name": "ringgraph", "version": own_version, "rules": [_rule(code) for code in codes]}
    results = [_result(finding, codes.index(finding.code)) for finding in findings]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _rule(code: str) -> dict[str, Any]:
    rule = RULES.get(code)
    if rule is None:
        return {"id": code}
    return {
        "id": code,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(finding: Diagnostic, rule: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": finding.severity,
        "message": {"text": _message(finding)},
    }
    if finding.mark:
        result["locations"] = [_location(finding.mark)]
    if finding.related:
        result["relatedLocations"] = [_location(mark) for mark in finding.related]
    return result


def _location(mark: Mark) -> dict[str, Any]:
    path = PurePath(mark.file)
    uri = Path(path).as_uri() if path.is_absolute() else quote(path.as_posix())
    region = {"startLine": mark.line, "startColumn": mark.column}
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}
