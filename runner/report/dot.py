"""This module draws a schedule with Graphviz: scopes are clusters, a ring has one colour, edges carry bytes.

Three levels of detail: a node is a layer (one trip of the outermost loop), a stage (one graph that was spliced in by `use`) or a
task. Loops without scopes or stages of their own, such as row tiles and experts, are drawn once and labelled with their
number of trips. The text depends on the schedule alone, so that two runs give the same bytes.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runner.base.errors import RinggraphError
from runner.base.files import write_text
from runner.program.program import Program, Span
from runner.program.spans import spans_of
from runner.rings.schedule import Schedule, Submit
from runner.rings.steps import StepWalk

LEVELS = ("layer", "stage", "task")
RING_COLOURS = ("#4e79a7", "#59a14f", "#f28e2b", "#b07aa1")
RING_FILLS = ("#dbe6f1", "#ddf0da", "#fde6cc", "#eddcea")
MANY_NODES = 500
"""From here on Graphviz is told to lay out quickly rather than well; it would take minutes."""


@dataclass
class _Node:
    """Tasks that are drawn as one."""

    key: str
    label: str
    tasks: list[int] = field(default_factory=list)
    trips: int = 1
    scopes: tuple[int, ...] = ()
    created: set[int] = field(default_factory=set)


def layers(program: Program) -> list[Span]:
    """The trips of the outermost loop that holds scopes or stages: the model's layers."""
    for item in program.body.items:
        if isinstance(item, Span) and item.kind == "for" and not _is_plain(item):
            return [trip for trip in item.items if isinstance(trip, Span)]
    return []


def _is_plain(span: Span) -> bool:
    """Whether a loop holds nothing but tasks and plain loops."""
    return all(inner is span or inner.kind in ("for", "dynamic", "iteration", "read", "if") for inner in spans_of(span))


def _nodes_by_task(program: Program, level: str, only: Span | None) -> dict[int, _Node]:
    """The node of every task that is drawn."""
    nodes: dict[str, _Node] = {}
    by_task: dict[int, _Node] = {}
    top = {id(trip) for trip in layers(program)}

    def add(task: int, key: str, trips: int) -> None:
        node = nodes.setdefault(key, _Node(key, _label(key, level), trips=trips))
        node.tasks.append(task)
        node.created.update(program.tasks[task].creates)
        by_task[task] = node

    def walk(span: Span, rename: Callable[[str], str], stage: str | None, trips: int) -> None:
        """`rename` maps paths inside to keys: what is in a collapsed trip takes the keys of its loop's first one."""
        if span.kind == "use" or (level == "layer" and id(span) in top):
            stage = stage if level == "layer" and stage is not None else rename(span.path)
        collapse = span.kind in ("for", "dynamic") and _is_plain(span)
        inside = trips * (_num_trips(span) if collapse else 1)
        for i, item in enumerate(span.items):
            if isinstance(item, int):
                add(item, stage if stage is not None and level != "task" else rename(program.tasks[item].path), trips)
            elif collapse and i > 0:
                first = span.items[0]
                assert isinstance(first, Span)
                walk(item, _renamed(rename, item.path, first.path), stage, inside)
            else:
                walk(item, rename, stage, inside)

    walk(only or program.body, str, None, 1)
    return by_task


def _num_trips(loop: Span) -> int:
    """At most how often a loop runs; the program may hold fewer trips of a dynamic one."""
    return loop.trips.bound if loop.trips else len(loop.items)


def _renamed(rename: Callable[[str], str], old: str, new: str) -> Callable[[str], str]:
    return lambda path: rename(new + path.removeprefix(old))


def _label(key: str, level: str) -> str:
    """The last name of a path, and what it belongs to where it says little by itself."""
    parts = key.split(".")
    return key if level == "layer" else ".".join(parts[-2:]) if parts[-1].startswith("alloc") else parts[-1]


def _scopes_of_tasks(schedule: Schedule) -> dict[int, tuple[int, ...]]:
    """For each task, the scopes around it, outermost first, without the root."""
    found: dict[int, tuple[int, ...]] = {}
    walk = StepWalk(schedule)
    for step in walk:
        if isinstance(step, Submit):
            task = schedule.submissions[step.submission].task
            if task is not None:
                found[task] = tuple(walk.scopes[1:])
    return found


def _common_prefix(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    return first[:length]


def _edges(program: Program, by_task: dict[int, _Node]) -> dict[tuple[str, str], set[int]]:
    """Tensors that flow between nodes; an edge that only orders its tasks is an entry with no tensor."""
    edges: dict[tuple[str, str], set[int]] = {}
    for task in program.tasks:
        node = by_task.get(task.id)
        if node is None:
            continue
        reads = set(task.reads)
        for before in (*task.waits, *task.after):
            other = by_task.get(before)
            if other is not None and other is not node:
                tensors = edges.setdefault((other.key, node.key), set())
                tensors.update(reads.intersection(program.tasks[before].writes))
    return edges


def _edge_lines(program: Program, by_task: dict[int, _Node]) -> Iterator[str]:
    for (source, target), tensors in sorted(_edges(program, by_task).items()):
        size = sum(program.tensors[t].spec.size_bytes for t in tensors)
        names = ", ".join(sorted({program.tensors[t].name.rsplit(".", 1)[-1] for t in tensors})[:6])
        style = f"label={_quote(human_bytes(size))}, tooltip={_quote(names)}" if tensors else "style=dashed"
        yield f"  {_quote(source)} -> {_quote(target)} [{style}];"


def human_bytes(size_bytes: int) -> str:
    """`12.5 MiB`; exact below 1 KiB."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024 or unit == "GiB":
            return f"{size:.1f} {unit}"
    raise AssertionError


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _node_line(node: _Node, ring: int, program: Program, level: str) -> str:
    size = sum(program.tensors[t].spec.size_bytes for t in node.created)
    label = node.label
    if node.trips > 1:
        label += f" ×{node.trips}"
    if level != "task" and len(node.tasks) > 1:
        label += f"\n{len(node.tasks):,} tasks"
    if size:
        label += f"\n{human_bytes(size)}"
    task = program.tasks[node.tasks[0]]
    where = f" ({Path(task.mark.file).name}:{task.mark.line})" if task.mark else ""
    return (
        f"{_quote(node.key)} [label={_quote(label)}, fillcolor={_quote(RING_FILLS[ring])}, "
        f"color={_quote(RING_COLOURS[ring])}, tooltip={_quote(node.key + where)}];"
    )


def _clusters(schedule: Schedule, nodes: list[_Node], program: Program, level: str) -> Iterator[str]:
    """Nodes inside the clusters of their scopes, in submission order."""
    open_scopes: tuple[int, ...] = ()
    seen: set[int] = set()

    def indent() -> str:
        return "  " * (len(open_scopes) + 1)

    for node in sorted(nodes, key=lambda n: (n.scopes, n.tasks[0])):
        keep = len(_common_prefix(open_scopes, node.scopes))
        while len(open_scopes) > keep:
            open_scopes = open_scopes[:-1]
            yield indent() + "}"
        for scope in node.scopes[keep:]:
            info = schedule.scopes[scope]
            assert scope not in seen, "a scope's nodes are together"
            seen.add(scope)
            yield f"{indent()}subgraph {_quote(f'cluster_{scope}')} {{"
            open_scopes = (*open_scopes, scope)
            style = "dashed" if info.mode == "manual" else "solid"
            name = ".".join(info.name.split(".")[-2:])
            yield (
                f"{indent()}label={_quote(f'{name} (ring {info.ring})')}; tooltip={_quote(info.name)}; "
                f"color={_quote(RING_COLOURS[info.ring])}; style={style}; penwidth=2;"
            )
        ring = schedule.scopes[node.scopes[-1]].ring if node.scopes else 0
        yield indent() + _node_line(node, ring, program, level)
    while open_scopes:
        open_scopes = open_scopes[:-1]
        yield indent() + "}"


def to_dot(schedule: Schedule, level: str = "stage", layer: int | None = None) -> str:
    """The schedule as DOT text.

    Raises `RinggraphError` for an unknown level, a layer that the program does not have, or a schedule without a program
    (a recorded one, which has no tensors to draw).
    """
    program = schedule.program
    if program is None:
        raise RinggraphError(f"schedule '{schedule.name}' was recorded: it has no graph to draw")
    if level not in LEVELS:
        raise RinggraphError(f"level is '{level}', expected one of {', '.join(LEVELS)}")
    by_task = _nodes_by_task(program, level, None if layer is None else _layer(program, layer))
    nodes = list({id(node): node for node in by_task.values()}.values())
    _note_scopes(nodes, schedule, level)
    many = len(nodes) > MANY_NODES
    lines = [
        f"digraph {_quote(program.name)} {{",
        f"  label={_quote(f'{program.name}, {schedule.strategy} placement')}; labelloc=t;",
        f"  rankdir=TB; compound=true;{' nslimit=1; nslimit1=1; splines=line;' if many else ''}",
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=10];',
        '  edge [fontname="Helvetica", fontsize=8, color="#555555"];',
        *_clusters(schedule, nodes, program, level),
        *_edge_lines(program, by_task),
    ]
    return "\n".join((*lines, "}", ""))


def _layer(program: Program, layer: int) -> Span:
    trips = layers(program)
    if not 0 <= layer < len(trips):
        have = f"layers 0 to {len(trips) - 1}" if trips else "no layers"
        raise RinggraphError(f"layer is {layer}, but '{program.name}' has {have}")
    return trips[layer]


def _note_scopes(nodes: list[_Node], schedule: Schedule, level: str) -> None:
    """A node lies in the scopes around all of its tasks; at level `task`, where it stands for trips, in those of its first."""
    scopes = _scopes_of_tasks(schedule)
    for node in nodes:
        chains = [scopes[t] for t in node.tasks if t in scopes]
        node.scopes = chains[0] if chains else ()
        if level != "task":
            for chain in chains[1:]:
                node.scopes = _common_prefix(node.scopes, chain)


def render_svg(dot: str, out: Path, *, timeout_s: float = 600) -> None:
    """Render DOT text with Graphviz; raises `RinggraphError` that says how to install it when it is missing, OSError."""
    program = shutil.which("dot")
    if program is None:
        raise RinggraphError(
            "cannot render SVG: Graphviz's 'dot' is not on the PATH",
            hint="install Graphviz (Debian: apt-get install graphviz, macOS: brew install graphviz) or omit --svg",
        )
    try:
        done = subprocess.run([program, "-Tsvg"], input=dot, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RinggraphError(
            f"graphviz did not finish '{out}' within {timeout_s:g} s",
            hint="draw less, with --layer N or --level layer, or omit --svg and give the DOT to another layout, such as sfdp",
        ) from None
    if done.returncode != 0:
        raise RinggraphError(f"graphviz failed: {done.stderr.strip()}")
    write_text(out, done.stdout)
