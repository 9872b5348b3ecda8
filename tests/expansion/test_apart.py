"""`apart` in lists of shared bytes: what might share keeps bytes of its own, whole entries and single ones of used graphs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from runner.driver.driver import Setup
from runner.program.program import Program

NORM = '{{op: rms_norm, in: {{x: {}, w: w}}, out: {{y: "{}"}}}}'
PART = f"""graph: part
inputs: {{x: "f32[4, 256]"}}
weights: {{w: "f32[256]"}}
outputs: {{y: "f32[4, 256]"}}
share: [m, n, o: m]
body:
  - {NORM.format("x", "m: f32[4, 256]")}
  - {NORM.format("m", "n: f32[4, 256]")}
  - {NORM.format("n", "o: f32[4, 256]")}
  - {NORM.format("o", "y")}
"""
MAIN = f"""graph: main
inputs: {{x: "f32[4, 256]"}}
weights: {{w: "f32[256]"}}
outputs: {{z: "f32[4, 256]"}}
share: [u, part, b: SAID]
body:
  - alloc: {{u: "f32[4, 256]"}}
  - {{use: part, with: {{x: x, w: w, y: u}}}}
  - {NORM.format("u", "b: f32[4, 256]")}
  - {NORM.format("b", "z")}
"""


def places(folder: Path, said: str) -> tuple[dict[str, int], int]:
    """Offsets in KiB by name, and the size of the arena."""
    (folder / "part.yaml").write_text(PART)
    main = MAIN.replace("SAID", said)
    (folder / "main.yaml").write_text(main.replace("u, part,", "u, group: {share: [part]},") if "group" in said else main)
    program: Program = Setup(["tiny"]).program(folder / "main.yaml")
    (arena,) = program.arenas
    names = [program.tensors[tensor].name for tensor in arena.tensors]
    return {name: at // 1024 for name, at in zip(names, arena.offsets, strict=True)}, arena.size_bytes // 1024


@pytest.mark.parametrize(
    ("said", "b", "size"),
    [
        ("part", 4, 12),  # where m was, and o in its place
        ("{replaces: part, apart: part.m}", 8, 12),
        ("{replaces: part, apart: [part.m, part.o]}", 8, 12),
        ("{replaces: part, apart: part.n}", 4, 12),
        ("{replaces: part, apart: [part.m, part.n]}", 12, 16),
        ("{replaces: part, apart: part}", 12, 16),
        ("{replaces: group, apart: group.part.m}", 8, 12),
        ("{replaces: group, apart: [group.part.m, group.part.n]}", 12, 16),
        ("{replaces: group, apart: group.part}", 12, 16),
    ],
)
def test_what_keeps_apart(tmp_path: Path, said: str, b: int, size: int) -> None:
    found, height = places(tmp_path, said)
    assert (found["b"], height) == (b, size)
    for one, other in itertools.combinations(("u", "b"), 2):
        assert abs(found[one] - found[other]) >= 4
