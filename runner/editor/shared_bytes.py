"""What an editor shows of an entry of `share:`: where it lies, whose bytes it takes, who takes them next, who waits for that."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from runner.base.errors import Mark, RinggraphError
from runner.base.reading import overlaid
from runner.base.units import human_bytes
from runner.editor.reading.sharing import entries, flat
from runner.editor.workspace import Workspace
from runner.expansion.sharing.addresses import addresses, made_in
from runner.expansion.sharing.texts import Lists, Texts
from runner.language.library import GraphLibrary
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
        said = list(_lines(program, lives, _tensors(workspace, path, program, lives, mark))) or said
    return "\n".join((f"share   {name}", *(f"  {line}" for line in said)))


def _tensors(workspace: Workspace, path: str, program: Program, lives: Lives, mark: Mark) -> frozenset[int]:
    """The tensors of a program that lie in the entry at a place."""
    with overlaid(workspace.overlay()):
        library = GraphLibrary()
        texts = Texts(library.load(Path(path)), library)
        at = addresses(lives, made_in(program, texts), Lists(texts, texts.said()))
    place = mark.line, mark.column
    mine = [number for number, unit in at.units.items() if (unit.mark.line, unit.mark.column) == place and _is(unit.mark, mark)]
    return frozenset(at.tensors[np.isin(at.unit, mine).any(axis=1)].tolist())


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
