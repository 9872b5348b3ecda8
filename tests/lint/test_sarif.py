"""SARIF of every case and of odd findings, held against the schema and against what GitHub takes.

The official schema is OASIS's and not copied here. `SARIF_SCHEMA=FILE pytest tests/lint/test_sarif.py` holds everything against
it (`sarif-2.1/schema/sarif-schema-2.1.0.json` of the repository oasis-tcs/sarif-spec); `SCHEMA` below has of it what concerns us.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from jsonschema import Draft4Validator, Draft7Validator
from places import TESTS

from runner.base.errors import Diagnostic, Mark
from runner.lint import output
from runner.lint.codes import RULES
from runner.lint.output import MOST_RESULTS, format_findings

CASES = TESTS / "lint" / "cases"
FILES = sorted(CASES.glob("G[0-9]*.yaml"))


def closed(required: str, **properties) -> dict:
    """An object with these properties and no others."""
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


TEXT = {"type": "string", "minLength": 1}
LIMITED = closed("text", text={"type": "string", "minLength": 1, "maxLength": 1024})
ONE = {"type": "integer", "minimum": 1}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
REGION = closed("startLine startColumn endLine endColumn", startLine=ONE, startColumn=ONE, endLine=ONE, endColumn=ONE)
URI = {"type": "string", "pattern": r"^[A-Za-z0-9._~%/:@!$&'()*+,;=-]+$"}
PHYSICAL = closed("artifactLocation region", artifactLocation=closed("uri", uri=URI), region=REGION)
LOCATION = closed("physicalLocation", physicalLocation=PHYSICAL, id={"type": "integer", "minimum": -1})
RESULT = closed(
    "ruleId ruleIndex level message locations partialFingerprints",
    ruleId=TEXT,
    ruleIndex={"type": "integer", "minimum": 0},
    level=LEVEL,
    message=closed("text", text=TEXT),
    locations={"type": "array", "minItems": 1, "maxItems": 10, "items": LOCATION},
    relatedLocations={"type": "array", "minItems": 1, "uniqueItems": True, "items": LOCATION},
    partialFingerprints=closed(
        "primaryLocationLineHash", primaryLocationLineHash={"type": "string", "pattern": "^[0-9a-f]{16}:[0-9]+$"}
    ),
)
RULE = closed(
    "id name shortDescription fullDescription help defaultConfiguration",
    id={"type": "string", "maxLength": 255},
    name={"type": "string", "minLength": 1, "maxLength": 255},
    shortDescription=LIMITED,
    fullDescription=LIMITED,
    help=closed("text", text=TEXT),
    defaultConfiguration=closed("level", level=LEVEL),
)
DRIVER = closed("name version rules", name=TEXT, version=TEXT, rules={"type": "array", "uniqueItems": True, "items": RULE})
RUN = closed(
    "tool columnKind results",
    tool=closed("driver", driver=DRIVER),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results={"type": "array", "maxItems": 25_000, "items": RESULT},
)
SCHEMA = closed(
    "$schema version runs", version={"const": "2.1.0"}, runs={"type": "array", "minItems": 1, "maxItems": 1, "items": RUN}
)
SCHEMA["properties"]["$schema"] = TEXT


def checked(text: str) -> dict:
    """The log, once it keeps to the schema and to GitHub's rules."""
    log = json.loads(text)
    Draft7Validator(SCHEMA).validate(log)
    if "SARIF_SCHEMA" in os.environ:
        Draft4Validator(json.loads(Path(os.environ["SARIF_SCHEMA"]).read_text())).validate(log)
    run = log["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        for place in [*result["locations"], *result.get("relatedLocations", [])]:
            uri = place["physicalLocation"]["artifactLocation"]["uri"]
            assert urlparse(uri).scheme in ("", "file")
            assert ".." not in uri.split("/")
            assert urlparse(uri).scheme == "file" or not uri.startswith("/")
            region = place["physicalLocation"]["region"]
            assert region["endColumn"] > region["startColumn"]
    prints = [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]
    assert len(set(prints)) == len(prints)
    return run


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.stem)
def test_every_case(case, call, monkeypatch):
    monkeypatch.chdir(CASES)
    arguments = ("--config", "tiny", "--deploy", "decode")
    plain = json.loads(call("lint", case.name, *arguments, "--format", "json")[1])["findings"]
    run = checked(call("lint", case.name, *arguments, "--format", "sarif")[1])
    assert len(run["results"]) == len(plain)
    for found, result in zip(plain, run["results"], strict=True):
        place = result["locations"][0]["physicalLocation"]
        assert unquote(place["artifactLocation"]["uri"]) == found["file"]
        assert (place["region"]["startLine"], place["region"]["startColumn"]) == (found["line"], found["column"])
        assert len(result.get("relatedLocations", [])) == len(found["related"])


def test_every_rule_has_help():
    found = [Diagnostic(code, "message", Mark("f.yaml", 1)) for code in [*RULES, "C103"]]
    rules = checked(format_findings(found, "sarif"))["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["C103", *RULES]


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("a.yaml", "a.yaml"),
        ("./a.yaml", "a.yaml"),
        ("sub/../a.yaml", "a.yaml"),
        ("a b#1?.yaml", "a%20b%231%3F.yaml"),
        ("c:d.yaml", "c%3Ad.yaml"),
        ("é.yaml", "%C3%A9.yaml"),
        ("bad\udcff.yaml", "bad%FF.yaml"),
        ("/elsewhere/a.yaml", "file:///elsewhere/a.yaml"),
    ],
)
def test_places_of_files(file, uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in {file, str(tmp_path / file)}:
        run = checked(format_findings([Diagnostic("G101", "message", Mark(given, 3, 4))], "sarif"))
        assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_a_finding_without_a_place_has_one():
    run = checked(format_findings([Diagnostic("G101", "message")], "sarif"))
    assert len(run["results"][0]["locations"]) == 1


@pytest.mark.parametrize("most", [300, pytest.param(MOST_RESULTS, marks=pytest.mark.slow)])
def test_of_too_many_the_errors_are_kept(most, monkeypatch):
    assert RUN["properties"]["results"]["maxItems"] >= MOST_RESULTS
    monkeypatch.setattr(output, "MOST_RESULTS", most)
    found = [Diagnostic("G314", "m", Mark("f", n), "warning") for n in range(1, most + 1)]
    found.append(Diagnostic("G101", "the one error", Mark("f", 1)))
    results = checked(format_findings(found, "sarif"))["results"]
    assert (len(results), results[0]["ruleId"]) == (most, "G101")


def test_fingerprints_do_not_change_with_the_line_number():
    def prints(line: int) -> list[str]:
        found = [Diagnostic("G314", "m", Mark("f", line + n), "warning", source_line="  x: y") for n in (0, 5)]
        return [r["partialFingerprints"]["primaryLocationLineHash"] for r in checked(format_findings(found, "sarif"))["results"]]

    assert prints(3) == prints(70)
