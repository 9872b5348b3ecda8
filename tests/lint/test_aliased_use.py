"""G332 and G333 against brute force: a used graph run on symbols, with tensors of its own and with those that it is bound to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from runner.config.config import load_config
from runner.lint.lint import lint
from runner.program.ops import OpRegistry

TINY = load_config(["tiny"], deploy="decode")
OPS = OpRegistry()
OPS.op("make", "a: f32[4], b: f32[4] -> c: f32[4]", core="AIV")(lambda **_: None)
OPS.op("update", "a: f32[4] -> &c: f32[4]", core="AIV")(lambda **_: None)
INPUTS, OUTPUTS, LOCALS = ("i", "j"), ("o", "p"), ("l", "m")


@dataclass(frozen=True)
class Step:
    op: str
    reads: tuple[str, ...]
    writes: str

    def line(self) -> str:
        given = "".join(f"{operand}: {name}, " for operand, name in zip("ab", self.reads, strict=False))
        return f"  - {{op: {self.op}, in: {{{given}}}, out: {{c: {self.writes}}}}}\n"


@st.composite
def steps(draw) -> list[Step]:
    """Nothing is read that was not written, and every output is written at last, so that each has a value to compare."""
    made: list[Step] = []
    for _ in range(draw(st.integers(0, 4))):
        known = (*INPUTS, *sorted({step.writes for step in made}))
        op = draw(st.sampled_from(["make", "update"] if made else ["make"]))
        reads = tuple(draw(st.sampled_from(known)) for _ in range(2 if op == "make" else 1))
        made.append(Step(op, reads, draw(st.sampled_from((*OUTPUTS, *LOCALS) if op == "make" else known[2:]))))
    return [*made, *(Step("make", (draw(st.sampled_from(INPUTS)),) * 2, name) for name in OUTPUTS)]


def values(program: list[Step], places: Mapping[str, str]) -> tuple[list[object], dict[str, object]] | None:
    """What each step reads, and the outputs; None where a step writes a place that it reads under another name.

    All inputs have one value: those bound to one tensor do.
    """
    held: dict[str, object] = {places[name]: "given" for name in INPUTS}
    seen: list[object] = []
    for number, step in enumerate(program):
        if any(places[name] == places[step.writes] and name != step.writes for name in step.reads):
            return None
        read = [held[places[name]] for name in step.reads] + ([held[places[step.writes]]] if step.op == "update" else [])
        seen.append(read)
        held[places[step.writes]] = number
    return seen, {name: held[places[name]] for name in OUTPUTS}


OWN = {name: name for name in (*INPUTS, *OUTPUTS, *LOCALS)}
BINDINGS = st.fixed_dictionaries({name: st.sampled_from(["s", "t", "u", "v"]) for name in (*INPUTS, *OUTPUTS)})


@pytest.mark.parametrize("depth", [1, 2])
@settings(max_examples=150, deadline=None)
@given(steps(), BINDINGS)
def test_a_finding_where_the_work_differs(tmp_path_factory, depth, program, bound):
    folder = tmp_path_factory.mktemp("graphs")
    shape = '"f32[4]"'
    declared = "".join(
        f"{kind}: {{{', '.join(f'{name}: {shape}' for name in names)}}}\n"
        for kind, names in (("inputs", INPUTS), ("outputs", OUTPUTS))
    )
    allocs = f"  - alloc: {{{', '.join(f'{name}: {shape}' for name in LOCALS)}}}\n"
    (folder / "used.yaml").write_text(f"graph: used\n{declared}body:\n{allocs}{''.join(step.line() for step in program)}")
    (folder / "between.yaml").write_text(f"graph: between\n{declared}body:\n  - use: used\n")
    given_ = ", ".join(f"{name}: {place}" for name, place in bound.items())
    tensors = ", ".join(f"{name}: {shape}" for name in "stuv")
    use = f"  - use: {'used' if depth == 1 else 'between'}\n    with: {{{given_}}}\n"
    (folder / "example.yaml").write_text(f"graph: example\nbody:\n  - alloc: {{{tensors}}}\n{use}")
    found = lint([folder / "example.yaml"], TINY, OPS)
    told = {finding.code for finding in found} & {"G332", "G333"}
    own, shared = values(program, OWN), values(program, {**OWN, **bound})
    assert ("G333" in told) == any(step.writes in step.reads for step in program)
    assert ("G332" in told) == (own != shared)


def test_the_file_of_the_issue(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    sections = 'inputs: {x: "{act}[T, D]"}\nweights: {w: "{wd}[D]"}\n'
    norm = "  - op: rms_norm\n    in: {x: x, w: w}\n    out: {y: %s}\n"
    Path("twice.yaml").write_text(
        f'graph: twice\n{sections}outputs: {{y: "{{act}}[T, D]", v: "{{act}}[T, D]"}}\nbody:\n{norm % "y"}{norm % "v"}'
    )
    uses = "  - use: twice\n    with: {x: h, y: h, v: z}\n  - use: twice\n    id: both\n    with: {x: h, y: y, v: y}\n"
    new = '"h: {act}[T, D]"'
    Path("inplace.yaml").write_text(
        f'graph: inplace\n{sections}outputs: {{y: "{{act}}[T, D]", z: "{{act}}[T, D]"}}\nbody:\n{norm % new}{uses}'
    )
    status, printed, _ = call("lint", "inplace.yaml")
    assert status == 1
    assert [line for line in printed.splitlines() if "G332" in line] == [
        "inplace.yaml:10:21: error G332: use 'twice': 'y' and 'x' are both 'h', and 'y' is written while 'x' is read",
        "inplace.yaml:13:27: error G332: use 'twice': 'v' and 'y' are both 'y', and 'v' is written over 'y'",
    ]


def test_a_range_that_is_read_after_the_tensor_was_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ops = OpRegistry()
    ops.op("count", "-> n: i32[4]", core="AIV")(lambda **_: None)
    body = '  - {op: count, out: {n: b}}\n  - {for: t, range: "a[0]", max: 3, body: []}\n'
    Path("used.yaml").write_text(f'graph: used\ninputs: {{a: "i32[4]"}}\noutputs: {{b: "i32[4]"}}\nbody:\n{body}')
    use = "  - {use: used, with: {a: n, b: n}}\n"
    Path("example.yaml").write_text(f'graph: example\nbody:\n  - {{op: count, out: {{n: "n: i32[4]"}}}}\n{use}')
    assert "G332" in {finding.code for finding in lint(["example.yaml"], TINY, ops)}


def test_shipped_graphs_share_nothing():
    found = lint([ROOT / "graphs"], TINY, OPS)
    assert {finding.code for finding in found} & {"G332", "G333"} == set()
