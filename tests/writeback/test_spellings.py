"""Spellings that once lost letters, were refused, or took the file of somebody else; each with what becomes of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from runner.base.errors import Mark, RinggraphError
from runner.driver.driver import Setup
from runner.driver.planning import MinpeakOptions, PlanRequest, plan
from runner.writeback.edits import write_files
from runner.writeback.rewrite import Edit, splices_of
from runner.writeback.splices import Splice, old_offset, spliced
from tests.writeback.test_styles import SETUP, findings, outcome

HEAD = 'graph: g\ninputs: {x: "f32[4, 256]"}\noutputs: {z: "f32[4, 256]"}\n'
FIRST, LAST = '{op: join, in: {a: x, b: x}, out: {y: "t: f32[4, 256]"}}', "{op: join, in: {a: t, b: x}, out: {y: z}}"

TAKEN_OUT = {
    "all in brackets": (
        f"body: [{{scope: a, body: [{{scope: b, body: [{FIRST}, {LAST},],}},]}}]\n",
        f"body: [{{scope: a, body: [{FIRST}, {LAST},]}}]\n",
    ),
    "brackets in a block": (
        f"body:\n  - scope: a\n    body:\n      - {{scope: b, body: [{FIRST}, # first\n         {LAST}]}}   # tail\n",
        f"body:\n  - scope: a\n    body:\n      - {FIRST} # first\n      - {LAST}   # tail\n",
    ),
    "a body in brackets": (
        f"body:\n  - scope: a\n    body:\n      - scope: b   # head\n        body: [{FIRST},\n           {LAST}]\n",
        f"body:\n  - scope: a\n    body:\n      -     # head\n        {FIRST}\n      - {LAST}\n",
    ),
    "the body first": (
        "body:\n  - scope: a\n    body:\n      - body:   # items\n"
        f"          - {FIRST}\n          - {LAST}\n        scope: b  # name\n",
        f"body:\n  - scope: a\n    body:\n      # items\n      - {FIRST}\n      - {LAST}\n        # name\n",
    ),
    "branches": (
        "body:\n- scope: a\n  body:\n  - if: 1 < 2\n    then:\n"
        f"      scope: b # c\n      body:\n      - {FIRST}\n      - {LAST}\n"
        f"    else: {{scope: c, body: [{{op: join, in: {{a: x, b: x}}, out: {{y: z}}}}]}}\n",
        f"body:\n- scope: a\n  body:\n  - if: 1 < 2\n    then:\n      # c\n      - {FIRST}\n      - {LAST}\n"
        f"    else: {{scope: c, body: [{{op: join, in: {{a: x, b: x}}, out: {{y: z}}}}]}}\n",
    ),
    "text further left": (
        "body:\n  - scope: a\n    body:\n      - scope: b\n        body:\n######## here ########\n          - op: join\n"
        '            doc: "First pass\n  over all rows."\n            in: {a: x, b: x}\n            out: {y: "t: f32[4, 256]"}\n'
        f"          - {LAST}",
        "body:\n  - scope: a\n    body:\n######## here ########\n      - op: join\n"
        '        doc: "First pass\n  over all rows."\n        in: {a: x, b: x}\n        out: {y: "t: f32[4, 256]"}\n'
        f"      - {LAST}",
    ),
    "blanks that are text": (
        "body:\n  - scope: a\n    body:\n      - scope: b\n        body:\n          - op: join\n            doc: |+\n"
        "              one\n                two\n\n                \n"
        '            in: {a: x, b: x}\n            out: {y: "t: f32[4, 256]"}\n'
        f"          - {LAST}\n   # left\n",
        "body:\n  - scope: a\n    body:\n      - op: join\n        doc: |+\n          one\n"
        '            two\n\n            \n        in: {a: x, b: x}\n        out: {y: "t: f32[4, 256]"}\n'
        f"      - {LAST}\n   # left\n",
    ),
    "old line ends": (
        f"body:\r  - scope: a\r    body:\r      - scope: b\r        body:\r          - {FIRST}\r          - {LAST}",
        f"body:\r  - scope: a\r    body:\r      - {FIRST}\r      - {LAST}",
    ),
}


@pytest.mark.parametrize("name", TAKEN_OUT)
def test_a_scope_is_taken_out(tmp_path: Path, name: str) -> None:
    before, after = TAKEN_OUT[name]
    path = tmp_path / "made.yaml"
    path.write_bytes((HEAD + before).encode())
    assert outcome(path, "unscoped") == "written"
    assert path.read_bytes().decode() == HEAD + after


BRANCH = """\
body:
  - if: 1 < 2
    then:
      # why
      op: join
      in: {a: x, b: x}
      out: {y: "m: f32[9, 256]"}   # c
    else: {op: join, in: {a: x, b: x}, out: {y: "m: f32[9, 256]"}}
  - {op: join, in: {a: m, b: x}, out: {y: z}}
"""
TRIPS = """\
body:
  - {op: join, in: {a: x, b: x}, out: {y: "s: f32[9, 256]"}}
  - for: i
    range: 2
    carry: {s: n}
    body:
      - alloc: {n: "f32[9, 256]"}
      -   op: join
          in: {a: s, b: x}
          out: {y: n}
  - {op: join, in: {a: s, b: x}, out: {y: z}}
"""


def test_autoscope_allocates_before_a_scope_what_outlives_it(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(HEAD + BRANCH)
    assert outcome(path, "autoscope") == "written"
    item = BRANCH[BRANCH.index("      # why") : BRANCH.index("    else")]
    scope = """\
      - alloc: {m: "f32[9, 256]"}
      - scope: if_branch
        body:
            # why
          - op: join
            in: {a: x, b: x}
            out: {y: m}   # c
"""
    assert path.read_text() == HEAD + BRANCH.replace(item, scope)
    path.write_text(HEAD + TRIPS)
    assert outcome(path, "autoscope") == "written"
    item = "      -   op: join\n          in: {a: s, b: x}\n          out: {y: n}\n"
    scope = "      - scope: i_trip\n        body:\n" + "".join(f"    {line}\n" for line in item.splitlines())
    assert path.read_text() == HEAD + TRIPS.replace(item, scope)
    other = '      - {op: join, in: {a: x, b: x}, out: {y: "w: f32[4, 256]"}}\n      - alloc'
    path.write_text(HEAD + TRIPS.replace("      - alloc", other).replace("{a: s, b: x}\n", "{a: s, b: w}\n"))
    before = path.read_bytes()
    assert findings(path) == [] and outcome(path, "autoscope") == "nothing to write, 1 left out: an alloc inside"
    assert path.read_bytes() == before


def test_an_alias_is_the_reason_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    shared = f"- &s\n      scope: a\n      body:\n      - {FIRST}\n      - {LAST}\n"
    path.write_text(f"{HEAD}body:\n  - scope: o\n    body:\n    {shared}  - scope: p\n    body: [*s]\n")
    (left,) = plan(SETUP, PlanRequest(path, "unscoped", write=True)).written.left_out
    assert re.search(r"made\.yaml:7:7: this scope cannot be taken out: .* alias '\*s' in line 13", left)
    assert outcome(path, "unscoped") == "nothing to write, 1 left out: an alias"


def write(path: Path, strategy: str, ops: bool = True) -> list[int]:
    minpeak = MinpeakOptions(objective="total")
    found = plan(SETUP if ops else Setup(), PlanRequest(path, strategy, minpeak=minpeak, write=True))
    write_files(found.texts)
    return [ring.safe_bytes for ring in found.report.rings]


# --- graphs of rms_norm that were refused, or written wrongly ---------------------------------------------------------

NORMS = 'graph: norms\ninputs: {x: "{act}[T, D]", q: "{act}[T, D]"}\nweights: {w: "{wd}[D]"}\n'
SWAPPED = f"""{NORMS}outputs: {{y: "{{act}}[T, D]", v: "{{act}}[T, D]"}}
body:
  - {{op: rms_norm, id: start_a, in: {{x: x, w: w}}, out: {{y: "a: {{act}}[T, D]"}}}}
  - {{op: rms_norm, id: start_b, in: {{x: q, w: w}}, out: {{y: "b: {{act}}[T, D]"}}}}
  - for: t
    range: 1
    carry: {{a: b, b: a}}
    body:
      - op: rms_norm
        in: {{x: a, w: w}}
        out: {{y: "spare: {{act}}[T, D]"}} # ringgraph: ignore[G314]
  - {{op: rms_norm, id: end_a, in: {{x: a, w: w}}, out: {{y: y}}}}
  - {{op: rms_norm, id: end_b, in: {{x: b, w: w}}, out: {{y: v}}}}
"""
READER = """graph: reader
inputs: {x: "{act}[T, D]", n: "i32[1]"}
weights: {w: "{wd}[D]"}
outputs: {y: "{act}[T, D]"}
body:
  - {op: rms_norm, in: {x: x, w: w}, out: {y: "a: {act}[T, D]"}}
  - {op: rms_norm, in: {x: a, w: w}, out: {y: "b: {act}[T, D]"}}
  - {op: rms_norm, in: {x: b, w: w}, out: {y: "c: {act}[T, D]"}}
  - {for: t, range: "n[0]", max: 5, body: [{op: rms_norm, in: {x: c, w: w}, out: {y: y}}]}
"""
SHARED = """graph: anchor
inputs: {x: "{act}[T, D]"}
weights: {w: "{wd}[D]"}
outputs: {y: "{act}[T, D]"}
body:
  - for: t
    range: 2
    body: &two
      - &one
        op: rms_norm
        in: {x: x, w: w}
        out: {y: "a: {act}[T, D]"}
      - op: rms_norm
        in: {x: a, w: w}
        out: {y: y}
  - for: s
    range: 2
    body: *two
"""


@pytest.mark.parametrize(
    ("text", "strategy", "rings"),
    [
        (SWAPPED, "minpeak", [2048, 2048, 2048, 1024]),
        (SWAPPED, "autoscope", [4096, 2048, 1024, 1024]),
        (READER, "minpeak", [2048, 2048, 1024, 1024]),
        (SHARED, "minpeak", [1024, 2048, 1024, 1024]),
        (SHARED, "autoscope", [1024, 2048, 1024, 1024]),
    ],
    ids=["swapped, minpeak", "swapped, autoscope", "reader", "shared, minpeak", "shared, autoscope"],
)
def test_what_was_refused_is_written_once_as_planned(tmp_path: Path, text: str, strategy: str, rings: list[int]) -> None:
    path = tmp_path / "norms.yaml"
    path.write_text(text)
    assert write(path, strategy, ops=False) == rings
    after = path.read_bytes()
    assert b"scope:" in after
    assert [ring.safe_bytes for ring in plan(Setup(), PlanRequest(path)).report.rings] == rings
    assert write(path, strategy, ops=False) == rings and path.read_bytes() == after


WIDE = f"""{HEAD}body:
-   op: join
    in: {{a: x, b: x}}
    out: {{y: "t: f32[4, 256]"}}
-
    use: stg
    with: {{rows: x, y: z}}
-   {{op: join, in: {{a: t, b: x}}, out: {{y: z}}, after: [stg]}}
"""


def test_a_use_that_after_names_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    (tmp_path / "stg.yaml").write_text(
        f'graph: stg\ninputs: {{rows: "f32[4, 256]"}}\noutputs: {{y: "f32[4, 256]"}}\n'
        f"body: [{FIRST.replace('x', 'rows')}, {LAST.replace('x', 'rows').replace('z', 'y')}]\n"
    )
    path.write_text(WIDE)
    write(path, "autoscope")
    use = "-\n    use: stg\n    with: {rows: x, y: z}\n"
    assert path.read_text() == WIDE.replace(
        use, "- scope: stg\n  body:\n" + "".join(f"    {line}\n" for line in use.splitlines())
    )


# --- files of others --------------------------------------------------------------------------------------------------

STAGE = HEAD.replace("graph: g", "graph: stage") + TRIPS


def test_installed_files_are_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "installed" / "stage.yaml"
    installed.parent.mkdir()
    installed.write_text(STAGE)
    monkeypatch.setattr("runner.language.library.shipped_graphs", lambda: {"stage": installed})
    items = [f'{{op: join, in: {{a: {a}, b: x}}, out: {{y: "{b}: f32[400, 256]"}}}}' for a, b in ("xt", "tu", "uv")]
    items += ['{op: join, in: {a: v, b: x}, out: {y: "w: f32[4, 256]"}}', "{use: stage, with: {x: w, z: z}}"]
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "body:\n" + "".join(f"  - {item}\n" for item in items))
    with pytest.raises(RinggraphError, match=r"stage\.yaml:\d+:\d+: .*mine\.yaml' go into this file too, which you did not name"):
        write(path, "autoscope")
    write(path, "minpeak")
    assert b"scope:" in path.read_bytes() and installed.read_text() == STAGE
    with pytest.raises(RinggraphError, match="'stage' is an installed graph"):
        write(Path("stage"), "unscoped")
    shutil.copy(installed, tmp_path)
    write(path, "autoscope")
    assert b"i_trip" in (tmp_path / "stage.yaml").read_bytes() and installed.read_text() == STAGE


# --- splices ----------------------------------------------------------------------------------------------------------


def test_edits_are_splices_of_bytes() -> None:
    data = b"\xef\xbb\xbf" + f"{HEAD}# \u2615\nbody:\n  - {FIRST}\n  - {LAST}".encode()
    first, last = Mark("f", 6, 5), Mark("f", 7, 5)
    splices = splices_of(data, [Edit("wrap", first, last, "one")])
    assert [splice.removed for splice in splices] == [b"", b""]
    assert [splice.inserted for splice in splices] == [b"  - scope: one\n    body:\n    ", b"    "]
    after = spliced(data, splices)
    assert after.startswith(data[: splices[0].offset]) and after.endswith(data[splices[1].offset :])
    assert old_offset(splices, len(after)) == len(data) and old_offset(splices, splices[0].offset + 3) == splices[0].offset


def test_offsets_are_those_before_the_splices() -> None:
    splices = [Splice(2, b"cd", b"X"), Splice(6, b"", b"YZ")]
    assert spliced(b"abcdefgh", splices) == b"abXefYZgh"
    assert [old_offset(splices, k) for k in range(10)] == [0, 1, 2, 4, 5, 6, 6, 6, 7, 8]


# --- what the layouts ask for -----------------------------------------------------------------------------------------

JOIN = "{{op: join, in: {{a: {}, b: x}}, out: {{y: {}}}}}"


def test_a_scope_deeper_than_the_rings_says_so(tmp_path: Path) -> None:
    body = "".join(f"{'    ' * k}  - for: i{k}\n{'    ' * k}    range: 1\n{'    ' * k}    body:\n" for k in range(4))
    items = [JOIN.format("x", '"t: f32[4, 256]"'), JOIN.format("t", "z")]
    path = tmp_path / "made.yaml"
    path.write_text(f"{HEAD}body:\n{body}" + "".join(f"{' ' * 18}- {item}\n" for item in items))
    assert outcome(path, "autoscope") == "written" and findings(path) == []
    heads = [line.strip() for line in path.read_text().splitlines() if "scope:" in line]
    note = "  # ringgraph: ignore[G317]"
    assert heads == ["- scope: i0_trip", "- scope: i1_trip", "- scope: i2_trip", "- scope: i3_trip" + note]


def test_a_tensor_that_outlives_two_bodies_is_allocated_before_the_outer_one(tmp_path: Path) -> None:
    made = JOIN.format("x", '"m: f32[9, 256]"')
    inner = f"        - if: 1 < 2\n          then: [{made}]\n"
    path = tmp_path / "made.yaml"
    path.write_text(f"{HEAD}body:\n  - if: 1 < 2\n    then:\n{inner}  - {JOIN.format('m', 'z')}\n")
    assert findings(path) == [] and outcome(path, "autoscope") == "written"
    text = path.read_text()
    assert text.count("alloc: {m:") == 1 and text.index("alloc: {m:") < text.index("scope:")


CHAIN = f"""{HEAD}body:
  - alloc: {{s: "f32[4, 256]"}}
  - scope: outer
    body:
      # about the inner one
      - scope: inner
        body:
          - {{op: join, id: one, in: {{a: x, b: x}}, out: {{y: "t: f32[4, 256]"}}}}
          - {{op: join, in: {{a: t, b: x}}, out: {{y: s}}, after: [one]}}
  - {{op: join, in: {{a: s, b: x}}, out: {{y: z}}, after: [outer]}}
"""


def test_manual_is_not_written_where_it_lacks_edges(tmp_path: Path) -> None:
    """The tensor of the inner scope would be allocated before it, in `outer`, where nothing keeps its block: who waits for
    `outer` comes when that has closed."""
    path = tmp_path / "made.yaml"
    for text in (CHAIN, CHAIN.replace(", after: [one]", "")):
        path.write_text(text)
        (left,) = plan(SETUP, PlanRequest(path, "manual", write=True)).written.left_out
        assert "nothing keeps the block of 't' until 'outer.inner.one' has completed" in left and path.read_text() == text
