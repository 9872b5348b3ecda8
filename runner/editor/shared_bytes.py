"""What an editor shows of an entry of `share:`: where it lies, whose bytes it takes, who takes them next, who waits for that."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from runner.base.errors import Mark, RinggraphError
from runner.base.units import human_bytes
from runner.editor.reading.sharing import entries, flat
from runner.editor.workspace import Workspace
from runner.expansion.sharing.addresses import addresses, made_in
from runner.expansion.sharing.texts import Lists, Unit
from runner.language.graph import EVERY
from runner.program.lifetimes import Lives, lives_of
from runner.program.program import Program
from runner.program.sharing import certain_waits, former_tenants, reuse_edges
from runner.report.explain import listed


def shared_text(workspace: Workspace, path: str, file: str, name: str) -> str:
    """What the program of a graph says of the entry `name` in the list of `file`; "" where there is no such entry."""
    tree = workspace.tree(file)
    found = next((entry for entry in flat(entries(tree[0].get("share"))) if entry.name == name), None) if tree else None
    if found is None:
        return ""
    said = [f"takes the bytes of {', '.join(text.value for text in found.said['replaces'])}"] if found.said["replaces"] else []
    program = workspace.program(path)
    if not isinstance(program, RinggraphError) and program.arenas:
        mark = Mark(file, found.node.mark.line, found.node.mark.column)
        lives = lives_of(program, allocs_touch=False)
        mine, way = _tensors(workspace, path, program, lives, mark)
        said = [*_placed(way), *_lines(program, lives, mine)] or said
    return "\n".join((f"share   {name}", *(f"  {line}" for line in said)))


def _tensors(
    workspace: Workspace, path: str, program: Program, lives: Lives, mark: Mark
) -> tuple[frozenset[int], tuple[Unit, ...]]:
    """The tensors of a program that lie in the entry at a place, and that entry behind the groups around it."""
    texts = workspace.texts(path)
    lists = Lists(texts, texts.said())
    at = addresses(lives, made_in(program, texts), lists)
    place = mark.line, mark.column
    ways = (way for ways in lists.ways.values() for way in ways.values())
    found = [way for way in ways if (way[-1].mark.line, way[-1].mark.column) == place and _is(way[-1].mark, mark)]
    mine = frozenset(at.tensors[np.isin(at.unit, [way[-1].number for way in found]).any(axis=1)].tolist())
    return mine, next(iter(found), ())


def _placed(way: Sequence[Unit]) -> Iterator[str]:
    """Copies and rings of an entry, and of the groups around it."""
    for unit in way:
        whose = "" if unit is way[-1] else f" of '{unit.name}'"
        if unit.ring:
            size = f"as large as {unit.ring} of its largest tensors"
            yield f"a ring, {size}" if not whose else f"passes through the ring '{unit.name}', {size}"
        for variable, count in unit.copies.items():
            yield f"{count} copies{whose}, of {f'trips of {variable}' if variable != EVERY else 'all trips'}, side by side"


def _is(mark: Mark, other: Mark) -> bool:
    return os.path.realpath(mark.file) == os.path.realpath(other.file)


def _lines(program: Program, lives: Lives, mine: frozenset[int]) -> Iterable[str]:
    """What is told of some tensors of a program, all in one entry."""
    for arena in program.arenas:
        ends = [
            (at, at + program.tensors[each].spec.size_bytes)
            for each, at in zip(arena.tensors, arena.offsets, strict=True)
            if each in mine
        ]
        if ends:
            low, high = min(low for low, _ in ends), max(high for _, high in ends)
            where = f" of '{arena.path}'" if arena.path else ""
            yield f"bytes {low:,} to {high:,} of the arena{where}, {human_bytes(arena.size_bytes)}"
            break
    before: list[int] = []
    behind: list[int] = []
    late: set[int] = set()
    for new, olds in former_tenants(program, lives).items():
        tenant, gone = int(lives.locals[new]), [int(lives.locals[old]) for old in olds]
        if tenant in mine:
            late.add(tenant)
            before += [old for old in gone if old not in mine]
        elif mine.intersection(gone):
            behind.append(tenant)
    for verb, tensors in (("takes bytes of", before), ("gives bytes to", behind)):
        if tensors:
            yield f"{verb} {listed(list(dict.fromkeys(program.tensors[each].name for each in tensors)))}"
    edges = reuse_edges(program, certain_waits(program)) if late else {}
    for task, waits in sorted(edges.items()):
        if late.intersection((*program.tasks[task].creates, *program.tasks[task].uses)):
            yield f"{program.tasks[task].path} waits for {listed([program.tasks[each].path for each in waits])}"
            return
