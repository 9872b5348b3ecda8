"""This module gives a page the boxes of a graph: layers, in them stages, in them tasks, and what flows between tasks.

Layers that are alike are one box, drawn as their first; what flows between two tasks is told by tensors' last names, so that a
page can add up what flows between boxes that hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.base.errors import Mark
from runner.program.program import Program
from runner.report.dot.nodes import Drawing, Node
from runner.report.folding import layers
from runner.rings.schedule import Schedule

MAX_TASKS = 4_000
"""Boxes of tasks beyond which a page shows stages alone."""


def graph_json(schedule: Schedule, mark: Callable[[Mark | None], int]) -> dict[str, Any] | None:
    """Boxes by level, the outer ones first, and what flows.

    boxes        `parent` is an index among all of them, `first` the first task, `at` its submission (-1: none)
    edges        between the innermost boxes: `[from, to, {tensor: bytes}, times, whether it goes to another layer]`
    alike        layers one by one, with their submissions
    layer_edges  between layers one by one, and boxes outside of them: `[from, to, {tensor: bytes}]` by key
    """
    program = schedule.program
    assert program is not None
    at = {item.task: i for i, item in enumerate(schedule.submissions) if item.task is not None}
    drawings = [_drawn(schedule, program, level) for level in ("layer", "stage", "task")]
    if len(drawings[-1].nodes) > MAX_TASKS:
        drawings.pop()
    boxes: list[dict[str, Any]] = []
    index: dict[int, int] = {}  # of a node, by its identity
    for depth, drawing in enumerate(drawings):
        for node in sorted(drawing.nodes.values(), key=lambda node: node.tasks[0]):
            parent = -1 if depth == 0 else index[id(drawings[depth - 1].by_task[node.tasks[0]])]
            index[id(node)] = len(boxes)
            boxes.append(_box(program, node, depth, parent, mark) | {"at": at.get(node.tasks[0], -1)})
    each = _drawn(schedule, program, "layer", fold=False)
    layer_edges = [[*pair, _sizes(program, flows)] for pair, flows in each.edges().items()]
    edges = _edges(program, drawings[-1], index)
    return {"boxes": boxes, "edges": edges, "alike": _alike(program, at), "layer_edges": layer_edges}


def _drawn(schedule: Schedule, program: Program, level: str, *, fold: bool = True) -> Drawing:
    drawing = Drawing(schedule, program, level, fold=fold)
    drawing.walk(program.body)
    drawing.settled()
    return drawing


def _box(program: Program, node: Node, depth: int, parent: int, mark: Callable[[Mark | None], int]) -> dict[str, Any]:
    tensors, task = program.tensors, program.tasks[node.tasks[0]]
    names = [] if node.fold is None else list(node.fold.names)
    allocs = [[ring, sum(tensors[t].spec.size_bytes for t in held)] for ring, held in sorted(node.allocs.items())]
    return {
        "key": node.key,
        "label": node.label,
        "depth": depth,
        "parent": parent,
        "ring": node.ring,
        "trips": node.trips,
        "alike": names,
        "tasks": len(node.tasks),
        "task": task.path,
        "first": task.id,
        "bytes": sum(tensors[t].spec.size_bytes for t in node.created),
        "allocs": allocs,
        "mark": mark(task.mark),
    }


def _edges(program: Program, drawing: Drawing, index: dict[int, int]) -> list[list[Any]]:
    found = []
    for (source, target), flows in drawing.edges().items():
        ends = index[id(drawing.nodes[source])], index[id(drawing.nodes[target])]
        found.append([*ends, _sizes(program, flows), len(flows), all(first != second for first, second in flows)])
    return found


def _sizes(program: Program, flows: Mapping[tuple[int, int], set[int]]) -> dict[str, int]:
    """Bytes that flow once, by tensors' last names; a name stands for all tensors of it."""
    sizes: dict[str, int] = {}
    for tensor in max(flows.values(), key=len):
        held = program.tensors[tensor]
        name = held.name.rsplit(".", 1)[-1]
        sizes[name] = sizes.get(name, 0) + held.spec.size_bytes
    return sizes


def _alike(program: Program, at: Mapping[int, int]) -> list[dict[str, Any]]:
    """The layers one by one: name, tasks, first task, and their first submission and the one after their last."""
    found = []
    for trip in layers(program):
        tasks = [*trip.tasks()]
        made = [at[task] for task in tasks if task in at]
        if made:
            found.append({"name": trip.path, "tasks": len(tasks), "first": tasks[0], "from": min(made), "to": max(made) + 1})
    return found
