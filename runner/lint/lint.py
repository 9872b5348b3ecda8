"""Lint: everything that can be said about graph files without running them, in three stages (see `docs/lint.md`).

Stages 1 and 2 are the loader's. Stage 3 expands each graph for the given configuration and looks at the program. Dynamic loops
are expanded with their first two trips and their last one only: trips of one loop run the same items on regions that move by the
same step, so that two trips touch each other's data only if neighbours do, and a region that fits in the last trip fits in all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.base.errors import Diagnostic, GraphError, Mark
from runner.expansion.expander import Expanded, expand_all
from runner.expansion.state import Settings
from runner.language.graph import Graph, Item, Op
from runner.language.library import GraphLibrary, check_file, find_graph, with_source_lines
from runner.language.walk import all_items, mentioned
from runner.lint.codes import RULES
from runner.lint.hints import after_hint
from runner.lint.order import Hazard, Order, missing_in_manual, write_after_read
from runner.lint.scopes import scope_findings
from runner.program.ops import OpRegistry
from runner.program.program import Program, Task

MAX_WORK = 1_000_000
"""Items and trips that lint expands at most."""

_HARMLESS = ("G303", "G305", "G321", "G322", "G323", "G324")
"""Problems that leave the program's tasks, regions and names as they are meant."""

_IGNORE = re.compile(r"#\s*ringgraph:\s*ignore\[([^\]]*)\]")


def lint(
    paths: Sequence[str | Path],
    config: Settings,
    registry: OpRegistry,
    *,
    ring_heap: Sequence[int] | None = None,
    library: GraphLibrary | None = None,
) -> list[Diagnostic]:
    """All findings in the graphs at `paths` (files, folders or shipped names) and the graphs that they use, in order of place.

    `ring_heap` gives the bytes of the four rings that scopes have to fit; without it that is not checked.
    """
    library = library or GraphLibrary()
    found: list[Diagnostic] = []
    lines: dict[str, tuple[str, ...]] = {}
    for path in paths:
        for file in _files(path, found):
            graph, problems = check_file(file)
            found += problems
            if graph is not None:
                library.add(graph)
                found += lint_graph(graph, config, registry, library, ring_heap)
    lines |= {graph.file: graph.lines for graph in library.graphs()}
    unique = {(d.code, d.mark, d.related): d for d in reversed(with_source_lines(found, lines))}
    return sorted((d for d in unique.values() if not _ignored(d)), key=lambda d: (d.mark or Mark("", 0), d.code, d.message))


def _files(path: str | Path, found: list[Diagnostic]) -> list[Path]:
    """The graph files that an argument names; a folder stands for its YAML files."""
    if Path(path).is_dir():
        return sorted(Path(path).glob("*.yaml"))
    try:
        return [find_graph(path)]
    except GraphError as error:
        found += error.diagnostics
        return []


def _ignored(finding: Diagnostic) -> bool:
    match = _IGNORE.search(finding.source_line or "")
    return match is not None and finding.code in [code.strip() for code in match[1].split(",")]


def lint_graph(
    graph: Graph, config: Settings, registry: OpRegistry, library: GraphLibrary, ring_heap: Sequence[int] | None = None
) -> list[Diagnostic]:
    """Stage 3 for one graph and those that it uses.

    Who reads what, and what orders whom, cannot be said while operands are missing: those rules wait until all are there.
    """
    expanded = expand_all(graph, config, registry, library=library, max_work=MAX_WORK, sample=True)
    look = _Look(graph, expanded, library)
    findings = [
        *expanded.problems,
        *_unwritten(look),
        *scope_findings(look.program, ring_heap),
    ]
    if all(problem.code in _HARMLESS for problem in expanded.problems):
        findings += [*_unread(look, registry), *_unused_names(graph, library)]
        findings += [*_unwritten_outputs(look), *_hazards(look, registry)]
    return findings


@dataclass
class _Look:
    """A program with the items and graphs that it was made from, by place."""

    graph: Graph
    expanded: Expanded
    library: GraphLibrary

    def __post_init__(self) -> None:
        self.program: Program = self.expanded.program
        graphs = list(self.library.graphs())
        self.items: Mapping[Mark, Item] = {item.mark: item for graph in graphs for item in all_items(graph.body)}

    def operand_mark(self, task: Task, tensor: int) -> Mark | None:
        """Where the item of `task` names `tensor`."""
        item = self.items.get(task.mark) if task.mark else None
        if isinstance(item, Op):
            for name, region in task.operands.items():
                if region.tensor == tensor:
                    text = item.outputs.get(name) or item.inputs.get(name)
                    if name in item.outputs and tensor not in task.writes:
                        continue
                    return text.mark if text else task.mark
        return task.mark


def _finding(code: str, message: str, mark: Mark | None, hint: str | None = None, related: tuple[Mark, ...] = ()) -> Diagnostic:
    return Diagnostic(code, message, mark, RULES[code].severity, hint, related=related)


def _unwritten(look: _Look) -> Iterator[Diagnostic]:
    for mark, (tensor, path) in look.expanded.unwritten.items():
        name = look.program.tensors[tensor].name
        yield _finding("G313", f"'{path}' reads '{name}' before anything is written there", mark)


def _unread(look: _Look, registry: OpRegistry) -> Iterator[Diagnostic]:
    """Created tensors that no task reads, in no layer or trip, unless the op says that they are its own scratch."""
    program = look.program
    read = {tensor for task in program.tasks for tensor in task.reads}
    read |= {tensor for trips in _all_trips(program) for tensor in trips}
    places: dict[Mark, tuple[str, bool]] = {}
    for task in program.tasks:
        item = look.items.get(task.mark) if task.mark else None
        scratch = registry[task.op].scratch if task.op is not None and task.op in registry else ()
        own = {region.tensor: name for name, region in task.operands.items()}
        for tensor in task.creates:
            made = program.tensors[tensor]
            if made.mark is None or (task.op is not None and tensor not in own) or own.get(tensor) in scratch:
                continue  # a workspace, or scratch
            if isinstance(item, Op) or task.op is None:
                places[made.mark] = (made.name, places.get(made.mark, ("", False))[1] or tensor in read)
    for mark, (name, is_read) in places.items():
        if not is_read:
            yield _finding("G314", f"tensor '{name}' is never read", mark)


def _all_trips(program: Program) -> Iterator[tuple[int, ...]]:
    pending = [program.body]
    while pending:
        span = pending.pop()
        if span.trips is not None:
            yield span.trips.reads
        pending += [item for item in span.items if not isinstance(item, int)]


def _unused_names(graph: Graph, library: GraphLibrary) -> Iterator[Diagnostic]:
    """Inputs, weights, state and params that the graph's text never names."""
    named = mentioned(graph, library)
    sections = {"input": graph.inputs, "weight": graph.weights, "state": graph.state}
    for kind, declarations in sections.items():
        for name, declared in declarations.items():
            if name not in named and f"{name}_scale" not in named:
                yield _finding("G314", f"{kind} '{name}' is never read", declared.mark)
    for name, text in graph.params.items():
        if name not in named:
            yield _finding("G314", f"param '{name}' is never used", text.mark)


def _unwritten_outputs(look: _Look) -> Iterator[Diagnostic]:
    written = {tensor for task in look.program.tasks for tensor in task.writes}
    for name, tensor in look.program.outputs.items():
        if tensor not in written:
            yield _finding("G328", f"output '{name}' is never written", look.program.tensors[tensor].mark)


def _hazards(look: _Look, registry: OpRegistry) -> Iterator[Diagnostic]:
    program = look.program
    order = Order(program)
    for hazard in write_after_read(program, order, registry):
        name, (writer, reader) = program.tensors[hazard.tensor].name, _paths(program, hazard)
        message = f"'{writer}' writes '{name}' while '{reader}' may still read it"
        yield _located("G312", message, look, hazard)
    for hazard in missing_in_manual(program, order):
        name, (task, other) = program.tensors[hazard.tensor].name, _paths(program, hazard)
        message = f"'{task}' needs '{name}' from '{other}', but in a manual scope only 'after' orders tasks"
        yield _located("G318", message, look, hazard)


def _paths(program: Program, hazard: Hazard) -> tuple[str, str]:
    return program.tasks[hazard.task].path, program.tasks[hazard.other].path


def _located(code: str, message: str, look: _Look, hazard: Hazard) -> Diagnostic:
    task, other = look.program.tasks[hazard.task], look.program.tasks[hazard.other]
    hint = after_hint(look.program, look.items, hazard.task, hazard.other)
    related = (other.mark,) if other.mark else ()
    return _finding(code, message, look.operand_mark(task, hazard.tensor), hint, related)
