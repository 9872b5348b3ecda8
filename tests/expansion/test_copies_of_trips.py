"""`copies: N` in lists of shared bytes: of the trips that are made, whichever loops they are of, N lie side by side."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from runner.base.errors import GraphError
from runner.driver.driver import Setup
from runner.language.library import check_source
from runner.writeback.sharing.text import share_splices
from runner.writeback.splices import spliced

NORM = '{{op: rms_norm, in: {{x: {}, w: w}}, out: {{y: "{}"}}}}'
GRAPH = f"""graph: main
inputs: {{x: "f32[4, 256]"}}
weights: {{w: "f32[256]"}}
outputs: {{z: "f32[4, 256]"}}
share: SHARE
body:
  - for: e
    range: 4
    body:
      - for: t
        range: 0 if e == 1 else e + 1
        body:
          - {NORM.format("x", "a: f32[4, 256]")}
          - {NORM.format("a", "b: f32[4, 256]")}
          - {NORM.format("b", "z")}
"""
TRIPS = [(e, t) for e in range(4) for t in range(0 if e == 1 else e + 1)]


def places(folder: Path, share: str) -> list[tuple[str, int]]:
    """Names and offsets in KiB, trip by trip."""
    (folder / "main.yaml").write_text(GRAPH.replace("SHARE", share))
    program = Setup(["tiny"]).program(folder / "main.yaml")
    (arena,) = program.arenas
    found = dict(zip(arena.tensors, (offset // 1024 for offset in arena.offsets), strict=True))
    return [(program.tensors[tensor].name, found[tensor]) for tensor in sorted(found)]


@pytest.mark.parametrize("copies", range(1, 6))
def test_trips_take_places_in_turn(tmp_path: Path, copies: int) -> None:
    found = places(tmp_path, f"[a: {{copies: {copies}}}]")
    assert found == [("a", 4 * (k % copies)) for k in range(len(TRIPS))]
    by_variable = places(tmp_path, f"[a: {{copies: {{e: {copies}}}}}]")
    assert by_variable == [("a", 4 * (e % copies)) for e, _ in TRIPS]


@pytest.mark.parametrize("copies", (2, 3))
def test_groups_take_places_in_turn(tmp_path: Path, copies: int) -> None:
    found = places(tmp_path, f"[trips: {{copies: {copies}, share: [a, b]}}]")
    assert found == [(name, 8 * (k % copies) + 4 * (name == "b")) for k, name in itertools.product(range(len(TRIPS)), "ab")]


def test_copies_without_a_loop(tmp_path: Path) -> None:
    text = GRAPH.replace("SHARE", "[a: {copies: 2}]")
    body = f"body: [{NORM.format('x', 'a: f32[4, 256]')}, {NORM.format('a', 'z')}]\n"
    (tmp_path / "main.yaml").write_text(text[: text.index("body:")] + body)
    with pytest.raises(GraphError, match="'a' has copies, and this graph has no loop"):
        Setup(["tiny"]).program(tmp_path / "main.yaml")


@pytest.mark.parametrize("share", ("[a: {copies: 2}]", "[g: {copies: 3, share: [b]}, a: {copies: {e: 2, t: 3}, replaces: g}]"))
def test_what_is_written_is_read_again(share: str) -> None:
    graph, _ = check_source(GRAPH.replace("SHARE", share).encode(), "main.yaml")
    assert graph is not None
    data = GRAPH.replace("SHARE", "[z]").encode()
    again, problems = check_source(spliced(data, share_splices(data, graph.share)), "main.yaml")
    assert again is not None and not problems
    assert [(entry.name, entry.copies) for entry in again.share] == [(entry.name, entry.copies) for entry in graph.share]


@pytest.mark.parametrize("copies", ("0", "-1", "two", "[2]", "1.5"))
def test_other_copies_are_refused(copies: str) -> None:
    graph, problems = check_source(GRAPH.replace("SHARE", f"[a: {{copies: {copies}}}]").encode(), "main.yaml")
    assert graph is None or problems


PART = f"""graph: part
inputs: {{x: "f32[4, 256]"}}
weights: {{w: "f32[256]"}}
outputs: {{z: "f32[4, 256]"}}
share: [m]
body:
  - {NORM.format("x", "m: f32[4, 256]")}
  - {NORM.format("m", "z")}
"""


@pytest.mark.parametrize("copies", range(1, 6))
def test_used_graphs_take_places_in_turn(tmp_path: Path, copies: int) -> None:
    (tmp_path / "part.yaml").write_text(PART)
    head, tail = GRAPH[: GRAPH.index("          - {op")], "          - {use: part, with: {x: x, w: w, z: z}}\n"
    (tmp_path / "main.yaml").write_text(head.replace("SHARE", f"[part: {{copies: {copies}}}]") + tail)
    (arena,) = Setup(["tiny"]).program(tmp_path / "main.yaml").arenas
    found = dict(zip(arena.tensors, arena.offsets, strict=True))
    assert [found[tensor] // 4096 for tensor in sorted(found)] == [k % copies for k in range(len(TRIPS))]
