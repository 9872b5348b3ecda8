"""Entries of a used graph's list that lie in its user's list, `ID.NAME`: places of their own, copies over all trips around."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.base.errors import GraphError
from runner.driver.driver import Setup
from runner.program.program import Program
from runner.rings.capacity import ring_loads, safe_heap
from runner.verify.verify import verify
from schedulers import get_scheduler

NORM = '{{op: rms_norm, in: {{x: {}, w: w}}, out: {{y: "{}"}}}}'
HEAD = """inputs: {x: "f32[4, 256]"}
weights: {w: "f32[256]"}
outputs: {y: "f32[4, 256]"}
"""
STEP = f"""graph: step
{HEAD}share: [m, n]
body:
  - {NORM.format("x", "m: f32[4, 256]")}
  - {NORM.format("m", "n: f32[4, 256]")}
  - {NORM.format("n", "y")}
"""
TILES = f"""graph: tiles
{HEAD}share: SHARE
body:
  - for: t
    range: 3
    body:
      - {{use: step, id: part, with: {{x: x, w: w, y: y}}}}
"""
MAIN = f"""graph: main
{HEAD}SHARE
body:
  - alloc: {{u: "f32[4, 256]"}}
  - for: layer
    range: 2
    body:
      - {{use: tiles, with: {{x: x, w: w, y: u}}}}
  - {NORM.format("u", "b: f32[4, 256]")}
  - {NORM.format("b", "y")}
"""


def program_of(folder: Path, tiles: str, main: str) -> Program:
    (folder / "step.yaml").write_text(STEP)
    (folder / "tiles.yaml").write_text(TILES.replace("share: SHARE", f"share: {tiles}" if tiles else ""))
    (folder / "main.yaml").write_text(MAIN.replace("SHARE", f"share: {main}"))
    return Setup(["tiny"]).program(folder / "main.yaml")


def places(program: Program) -> dict[str, list[int]]:
    """Offsets in KiB by name, in the order in which tensors are made, of the one arena."""
    (arena,) = program.arenas
    found: dict[str, list[int]] = {}
    for tensor, at in sorted(zip(arena.tensors, arena.offsets, strict=True)):
        found.setdefault(program.tensors[tensor].name, []).append(at // 1024)
    return found


@pytest.mark.parametrize(
    ("tiles", "main", "m", "n"),
    [
        ("[part]", "[u, tiles]", [4] * 6, [8] * 6),
        ("[{part: {copies: 2}}]", "[u, tiles]", [4, 12, 4] * 2, [8, 16, 8] * 2),
        ("[{part.m: {copies: 2}}, part.n]", "[u, tiles]", [4, 8, 4] * 2, [12] * 6),  # m alone has copies
        ("[part, {part.m: {copies: 2}}]", "[u, tiles]", [8, 12, 8] * 2, [4] * 6),  # part without m
        ("[part.m, part.n]", "[u, tiles, {tiles.part.m: {copies: 4}}]", [8, 12, 16, 20, 8, 12], [4] * 6),  # trips of both loops
        ("[part.m, part.n]", "[u, {tiles.part.m: {copies: {layer: 2}}}, tiles]", [4, 4, 4, 8, 8, 8], [12] * 6),
        ("[part]", "[u, tiles.part]", [4] * 6, [8] * 6),  # a used graph further inside
        ("[part]", "[u, {tiles.part: {copies: 2}}, tiles.part.n]", [4, 8] * 3, [12] * 6),
        ("[part]", "[u, {g: {copies: 2, share: [tiles.part.m, tiles.part.n]}}]", [4, 12] * 3, [8, 16] * 3),
    ],
)
def test_where_they_lie(tmp_path: Path, tiles: str, main: str, m: list[int], n: list[int]) -> None:
    program = program_of(tmp_path, tiles, main)
    found = places(program)
    assert (found["u"], found["m"], found["n"]) == ([0], m, n)
    schedule = get_scheduler("annotated")(program, {})
    assert verify(schedule) == []
    assert safe_heap(ring_loads(schedule)[0]) >= program.arenas[0].size_bytes


@pytest.mark.parametrize(
    ("tiles", "main", "said"),
    [
        ("[part]", "[u, tiles.part.k]", "the list of the graph that 'tiles' uses has no 'part.k'"),
        ("[part]", "[u, tiles.m]", "the list of the graph that 'tiles' uses has no 'm'"),
        ("", "[u, tiles.part]", "the graph that 'tiles' uses shares nothing"),
        ("[part]", "[u, tile.part]", "neither a tensor that this graph makes nor the id of a graph that it uses"),
        ("[part]", "[{u: tiles.part.m}, tiles.part]", "which is not beside it"),
        ("[part]", "[u, {tiles.part.m: {copies: {t: 2}}}]", "no loop of this graph counts 't'"),
        ("[part.m, part.n, {part: part.m}]", "[u, tiles]", None),
    ],
)
def test_what_cannot_be_said(tmp_path: Path, tiles: str, main: str, said: str | None) -> None:
    if said is None:
        program_of(tmp_path, tiles, main)
        return
    with pytest.raises(GraphError) as caught:
        program_of(tmp_path, tiles, main)
    assert "G340" in str(caught.value) and said in str(caught.value), caught.value


def test_bytes_in_use_are_told(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"'part.n' would take the bytes of 'part.m' while they are in use"):
        program_of(tmp_path, "[part.m, {part.n: part.m}]", "[u, tiles]")
