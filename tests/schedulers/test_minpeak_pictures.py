"""The examples of five tasks in the docstrings of `folding` and `reuse_edges`, drawn from what the code computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_programs import Builder

from runner.program.lifetimes import Lives, Rows, lives_of
from runner.program.order import predecessors
from runner.program.program import Program, Span
from schedulers.minpeak import folding, reuse_edges
from schedulers.minpeak.folding import fold, template, unfold_offsets, unfolded
from schedulers.minpeak.packing import Problem, pack
from schedulers.minpeak.reuse_edges import Edges, sharing_edges


def five_tasks(made: list[tuple[str, int, list[str]]]) -> Program:
    """A program whose task k makes the tensor `made[k]`: name, units, the tensors that it reads."""
    build = Builder()
    source, named = build.tensor(1, "input"), dict[str, int]()
    for name, units, reads in made:
        named[name] = build.tensor(units)
        build.task([build.whole(named[r]) for r in reads] or [build.whole(source)], [build.whole(named[name])], (named[name],))
    program = build.program()
    names = {tensor: name for name, tensor in named.items()}
    return replace(program, tensors=tuple(replace(t, name=names.get(t.id, t.name)) for t in program.tensors))


def waits_of(program: Program) -> Rows:
    return Rows.of([task.waits + task.after for task in program.tasks])


def occupied(lives: Lives, offsets: list[int]) -> list[list[str]]:
    """Per unit, the highest first, and per task the name of the tensor that lies there."""
    height = max(offset + int(size) for offset, size in zip(offsets, lives.size, strict=True))
    cells = [["."] * lives.num_times for _ in range(height)]
    for k, tensor in enumerate(lives.locals.tolist()):
        for unit in range(offsets[k], offsets[k] + int(lives.size[k])):
            for task in range(int(lives.first[k]), int(lives.end[k])):
                assert cells[unit][task] == "."
                cells[unit][task] = lives.program.tensors[tensor].name
    return cells[::-1]


def drawn(title: str, cells: list[str]) -> str:
    return f"    {title:<14}" + "".join(f"{'' if cell == '.' else cell:<4}" for cell in cells).rstrip()


def test_reuse_edges() -> None:
    made = [("a", 2, []), ("b", 1, ["a"]), ("c", 1, ["a"]), ("d", 2, ["b", "c"]), ("e", 1, ["c"])]
    program = five_tasks(made)
    lives, waits = lives_of(program), waits_of(program)
    names = [name for name, _, _ in made]
    offsets = pack(Problem(lives.first, lives.end, lives.size)).offsets
    before = predecessors(lives.locals - lives.locals[0], lives.first, offsets, lives.size)
    whole = unfolded(5)

    def edges(kept_only: bool) -> set[tuple[int, int]]:
        found = sharing_edges(whole, waits, lives.touches, before, kept_only)
        return set(zip(found.sources.tolist(), found.targets.tolist(), strict=True))

    wanted, kept = edges(False), edges(True)
    units = occupied(lives, offsets.tolist())
    lines = [drawn(f"unit {len(units) - 1 - k}", row) for k, row in enumerate(units)]
    lines += [drawn("task", list("01234")), ""]
    for tensor, olds in before.items():
        sources = sorted(source for source, target in wanted if target == tensor)
        state = "kept" if kept >= {(s, tensor) for s in sources} else "implied by its other edges"
        text = f"{names[tensor]} lies where {', '.join(names[o] for o in olds)} lay: task {tensor} waits for "
        lines.append(f"    {text}{', '.join(map(str, sources))}; {state}")
    assert kept == {(3, 4)} and kept < wanted
    assert "\n".join(lines) in (reuse_edges.__doc__ or ""), "\n".join(lines)


def test_folding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "MIN_SAVED", 1)
    straight = five_tasks([("x", 1, []), ("y0", 1, ["x"]), ("y1", 1, ["x"]), ("y2", 1, ["x"]), ("z", 1, [])])
    loop = Span("for", "loop", tuple(Span("iteration", f"loop.{k}", (1 + k,)) for k in range(3)))
    program = replace(straight, body=Span("root", "five", (0, loop, 4)))
    lives, waits = lives_of(program), waits_of(program)
    folded = fold(lives, waits)
    one = template(folded, lives)
    packing = pack(Problem(one.first, one.end, one.size))
    offsets = unfold_offsets(folded, one.tensors, packing.offsets, 5)
    in_template = {int(lives.first[k]): int(first) for k, first in zip(one.tensors.tolist(), one.first, strict=True)}
    units = occupied(lives, offsets.tolist())
    lines = [drawn(f"unit {len(units) - 1 - k}", row) for k, row in enumerate(units)]
    lines += [
        drawn("task", list("01234")),
        drawn("trip", [".", "0", "1", "2", "."]),
        drawn("stands in", [str(k) for k in folded.stands_in]),
        drawn("time", [str(in_template.get(k, ".")) for k in range(5)]),
    ]
    kept = sorted(set(folded.kept.tolist()))
    before = predecessors(np.flatnonzero(np.isin(lives.first, folded.kept)), lives.first, offsets, lives.size)
    edges = sharing_edges(folded, waits, lives.touches, before)
    lines += ["", f"    reuse edges: {text_of(edges)}"]
    assert kept == [0, 1, 2, 4]
    assert "\n".join(lines) in (folding.__doc__ or ""), "\n".join(lines)


def text_of(edges: Edges) -> str:
    return ", ".join(f"{s} -> {t}" for s, t in zip(edges.sources.tolist(), edges.targets.tolist(), strict=True))
