"""This module draws a schedule with Graphviz: scopes are clusters, a ring has one colour, edges carry bytes.

Three levels of detail: a node is a layer (one trip of the outermost loop), a stage (one graph that was spliced in by `use`) or a
task. Layers that are alike are drawn once, in a cluster that says how many there are; loops without scopes or stages of their
own, such as row tiles and experts, likewise as nodes with their number of trips. What an alloc makes is drawn with what first
writes it. The text depends on the schedule alone, so that two runs give the same bytes.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.base.errors import RinggraphError
from runner.base.files import write_text
from runner.base.records import collector_off
from runner.base.units import human_bytes, short_name
from runner.program.program import Program, Span
from runner.report.colours import RING_COLOURS, RING_FILLS
from runner.report.dot.nodes import LEVELS, Drawing, Fold, Node
from runner.report.folding import layers
from runner.rings.schedule import Schedule

MANY_NODES = 500
"""From here on Graphviz is told to lay out quickly rather than well; it would take minutes."""


def to_dot(schedule: Schedule, level: str = "stage", layer: int | None = None, *, unfold: bool = False) -> str:
    """The schedule as DOT text; with `unfold` every layer by itself.

    Raises `RinggraphError` for an unknown level, a layer that the program does not have, or a schedule without a program
    (a recorded one, which has no tensors to draw).
    """
    program = schedule.program
    if program is None:
        raise RinggraphError(f"schedule '{schedule.name}' was recorded: it has no graph to draw")
    if level not in LEVELS:
        raise RinggraphError(f"level is '{level}', expected one of {', '.join(LEVELS)}")
    with collector_off():
        drawing = Drawing(schedule, program, level, fold=not unfold)
        drawing.walk(program.body if layer is None else _layer(program, layer))
        nodes = drawing.settled()
    title = f"{short_name(program.name)}\n{schedule.strategy} placement"
    lines = [
        f"digraph {_quote(program.name)} {{",
        f"  label={_quote(title)}; labelloc=t;",
        '  fontname="Helvetica";',
        f"  rankdir=TB; compound=true;{' nslimit=1; nslimit1=1; splines=line;' if len(nodes) > MANY_NODES else ''}",
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=10];',
        '  edge [fontname="Helvetica", fontsize=8, color="#555555"];',
        *_clusters(drawing, nodes, 0),
        *_edge_lines(drawing),
    ]
    return "\n".join((*lines, "}", ""))


def _layer(program: Program, layer: int) -> Span:
    trips = layers(program)
    if not 0 <= layer < len(trips):
        have = f"layers 0 to {len(trips) - 1}" if trips else "no layers"
        raise RinggraphError(f"layer is {layer}, but '{program.name}' has {have}")
    return trips[layer]


def _clusters(drawing: Drawing, nodes: Sequence[Node], depth: int) -> Iterator[str]:
    """Nodes inside the clusters of their scopes and layers, in submission order."""
    indent = "  " * (depth + 1)
    inside: dict[int | Fold, list[Node]] = {}
    for node in nodes:
        if len(node.chain) > depth:
            inside.setdefault(node.chain[depth], []).append(node)
    seen: set[int | Fold] = set()
    for node in nodes:
        if len(node.chain) == depth:
            yield indent + _node_line(drawing, node)
        elif (cluster := node.chain[depth]) not in seen:
            seen.add(cluster)
            yield f"{indent}subgraph {_quote(f'cluster_{cluster if isinstance(cluster, int) else cluster.key}')} {{"
            yield f"{indent}  {_cluster_line(drawing.schedule, cluster)}"
            yield from _clusters(drawing, inside[cluster], depth + 1)
            yield indent + "}"


def _cluster_line(schedule: Schedule, cluster: int | Fold) -> str:
    if isinstance(cluster, Fold):
        label, names = _quote(f"{short_name(cluster.title)} (x{len(cluster.names)})"), _quote(", ".join(cluster.names))
        return f'label={label}; tooltip={names}; color="#777777"; style="rounded,dotted"; penwidth=2;'
    info = schedule.scopes[cluster]
    style = "dashed" if info.mode == "manual" else "solid"
    label = _quote(f"{short_name('.'.join(info.name.split('.')[-2:]))} (ring {info.ring})")
    colour = _quote(RING_COLOURS[info.ring])
    return f"label={label}; tooltip={_quote(info.name)}; color={colour}; style={style}; penwidth=2;"


def _node_line(drawing: Drawing, node: Node) -> str:
    program, tensors = drawing.program, drawing.program.tensors
    label = [short_name(node.label) + (f" x{node.trips:,}" if node.trips > 1 else "")]
    if node.fold is not None:
        label = [short_name(node.fold.title), f"x{len(node.fold.names)}"]
    if drawing.level != "task" and len(node.tasks) > 1:
        label.append(f"{len(node.tasks):,} tasks")
    if size := sum(tensors[t].spec.size_bytes for t in node.created):
        label.append(human_bytes(size))
    for ring, held in sorted(node.allocs.items()):
        label.append(f"+ {human_bytes(sum(tensors[t].spec.size_bytes for t in held))} alloc, ring {ring}")
    task = program.tasks[node.tasks[0]]
    where = f" ({Path(task.mark.file).name}:{task.mark.line})" if task.mark else ""
    allocs = sorted({tensors[t].name.rsplit(".", 1)[-1] for held in node.allocs.values() for t in held})
    where += f"; allocs of {', '.join(allocs[:6])}{' ...' if len(allocs) > 6 else ''}" if allocs else ""
    text = _quote("\n".join(label))
    return (
        f"{_quote(node.key)} [label={text}, fillcolor={_quote(RING_FILLS[node.ring])}, "
        f"color={_quote(RING_COLOURS[node.ring])}, tooltip={_quote(node.key + where)}];"
    )


def _edge_lines(drawing: Drawing) -> Iterator[str]:
    """One line for each pair of nodes: bytes that flow, how often between copies of what is drawn once, and tensors' names.

    An edge to what is drawn further up leaves the order of boxes alone, and so do those between layers that stand side by side.
    """
    program = drawing.program
    for (source, target), all_flows in sorted(drawing.edges().items()):
        flows = {pair: tensors for pair, tensors in all_flows.items() if tensors} or all_flows
        sizes = [sum(program.tensors[t].spec.size_bytes for t in tensors) for tensors in flows.values()]
        names = sorted({program.tensors[t].name.rsplit(".", 1)[-1] for tensors in flows.values() for t in tensors})
        crossing = sum(first != second for first, second in flows)
        label = ("up to " if len({*sizes}) > 1 else "") + human_bytes(max(sizes)) + (f" x{crossing}" if crossing > 1 else "")
        style = f"label={_quote(label)}, tooltip={_quote(', '.join(names[:6]))}" if names else "style=dashed"
        if drawing.are_level(drawing.nodes[source], drawing.nodes[target]):
            style += ", constraint=false"
        yield f"  {_quote(source)} -> {_quote(target)} [{style}];"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


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
