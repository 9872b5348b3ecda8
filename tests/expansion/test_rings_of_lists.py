"""`ring: N` in lists of shared bytes: tensors pass through one piece of memory in the order in which they are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.base.errors import GraphError
from runner.driver.driver import Setup
from runner.language.library import check_source
from runner.program.lifetimes import lives_of
from runner.program.sharing import former_tenants
from runner.writeback.sharing.text import share_splices
from runner.writeback.splices import spliced

NORM = '{{op: rms_norm, in: {{x: {}, w: w}}, out: {{y: "{}"}}}}'
PART = f"""graph: part
inputs: {{x: "f32[4, 256]"}}
weights: {{w: "f32[256]"}}
outputs: {{z: "f32[4, 256]"}}
share: [keys, sums]
body:
  - {NORM.format("x", "keys: f32[4, 256]")}
  - {NORM.format("keys", "sums: f32[4, 256]")}
  - {NORM.format("sums", "z")}
"""
GRAPH = f"""graph: main
inputs: {{x: "f32[4, 256]", y: "f32[2, 256]"}}
weights: {{w: "f32[256]"}}
outputs: {{z: "f32[4, 256]", v: "f32[2, 256]"}}
share: SHARE
body:
  - for: e
    range: 3
    body:
      - {NORM.format("x", "a: f32[4, 256]")}
      - {NORM.format("a", "b: f32[4, 256]")}
      - {NORM.format("b", "z")}
      - {NORM.format("y", "c: f32[2, 256]")}
      - {NORM.format("c", "v")}
  - {{use: part, id: tile, with: {{x: x}}}}
"""


def places(folder: Path, share: str) -> list[tuple[str, int]]:
    """Names and offsets in KiB, in the order in which tensors are made."""
    (folder / "main.yaml").write_text(GRAPH.replace("SHARE", share))
    (folder / "part.yaml").write_text(PART)
    program = Setup(["tiny"]).program(folder / "main.yaml")
    found = {t: offset // 1024 for arena in program.arenas for t, offset in zip(arena.tensors, arena.offsets, strict=True)}
    lives = lives_of(program, allocs_touch=False)
    sizes = [spec.size_bytes // 1024 for spec in (tensor.spec for tensor in program.tensors)]
    for new, olds in former_tenants(program, lives).items():
        one, others = int(lives.locals[new]), [int(lives.locals[old]) for old in olds]
        assert all(found[one] < found[t] + sizes[t] and found[t] < found[one] + sizes[one] for t in others)
    return [(program.tensors[tensor].name, found[tensor]) for tensor in sorted(found) if program.tensors[tensor].name in "abc"]


def passing(sizes: dict[str, int], size: int, trips: int) -> list[tuple[str, int]]:
    """What a ring comes to, tensor by tensor."""
    found, head = [], 0
    for name, units in [*sizes.items()] * trips:
        low = head if head + units <= size else 0
        found.append((name, low))
        head = low + units
    return found


@pytest.mark.parametrize("ring", range(2, 9))
def test_tensors_take_places_in_turn(tmp_path: Path, ring: int) -> None:
    assert places(tmp_path, f"[r: {{ring: {ring}, share: [a, b]}}]") == passing({"a": 4, "b": 4}, 4 * ring, 3)
    if ring > 2:  # else `b`, which begins again at the bottom, meets `a` there
        assert places(tmp_path, f"[r: {{ring: {ring}, share: [a, b, c]}}]") == passing({"a": 4, "b": 4, "c": 2}, 4 * ring, 3)


def test_each_copy_of_a_group_has_its_ring(tmp_path: Path) -> None:
    found = places(tmp_path, "[g: {copies: 2, share: [c, r: {ring: 2, share: [a, b]}]}]")
    assert found == [entry for trip in (0, 10, 0) for entry in (("a", trip + 2), ("b", trip + 6), ("c", trip))]


def test_what_is_beside_a_ring_lies_above_it(tmp_path: Path) -> None:
    found = places(tmp_path, "[r: {ring: 3, share: [a, b]}, c]")
    assert [low for name, low in found if name == "c"] == [12] * 3


def test_entries_of_used_graphs_pass_through_rings(tmp_path: Path) -> None:
    (tmp_path / "main.yaml").write_text(GRAPH.replace("SHARE", "[r: {ring: 2, share: [a, tile.keys, tile.sums]}, tile: r]"))
    (tmp_path / "part.yaml").write_text(PART)
    (arena,) = Setup(["tiny"]).program(tmp_path / "main.yaml").arenas
    assert [offset // 1024 for _, offset in sorted(zip(arena.tensors, arena.offsets, strict=True))] == [0, 4, 0, 4, 0]


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("[r: {ring: 1, share: [a, b]}]", "the ring 'r' is too small: 'a' is in use: 'e0.rms_norm_2'.* uses 'a' when"),
        ("[r: {ring: 2, copies: 2, share: [a, b]}]", "the ring 'r' has copies"),
        ("[r: {ring: 2}]", "the ring 'r' holds nothing"),
        ("[r: {ring: 2, share: []}]", "the ring 'r' holds nothing"),
        ("[r: {ring: 2, share: [a, b: a]}]", "'b' lies in the ring 'r', which holds tensors, by their names alone"),
        ("[r: {ring: 2, share: [a, tile]}]", "'tile' lies in the ring 'r', which holds tensors"),
        ("[r: {ring: 2, share: [a, g: {share: [b]}]}]", "'g' lies in the ring 'r', which holds tensors"),
        ("[r: {ring: 0, share: [a, b]}]", "ring"),
        ("[r: {ring: two, share: [a, b]}]", "ring"),
    ],
)
def test_other_rings_are_refused(tmp_path: Path, share: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        places(tmp_path, share)


@pytest.mark.parametrize("share", ("[r: {ring: 2, share: [a, b]}]", "[g: {copies: 3, share: [r: {ring: 5, share: [c]}]}, a]"))
def test_what_is_written_is_read_again(share: str) -> None:
    graph, _ = check_source(GRAPH.replace("SHARE", share).encode(), "main.yaml")
    assert graph is not None
    for before in (GRAPH.replace("SHARE", "[z]"), GRAPH.replace("share: SHARE\n", "")):
        again, problems = check_source(spliced(before.encode(), share_splices(before.encode(), graph.share)), "main.yaml")
        assert again is not None and not problems
        assert [(e.name, e.ring, e.copies) for e in again.share] == [(e.name, e.ring, e.copies) for e in graph.share]
        assert [e.inside and [(i.name, i.ring) for i in e.inside] for e in again.share] == [
            e.inside and [(i.name, i.ring) for i in e.inside] for e in graph.share
        ]
