"""A `Uses` knows which `use`s are open while a program is walked, and which of their names an operand's name comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from runner.base.errors import Mark
from runner.language.graph import Alloc, Declaration, For, Graph, Item, Op, Seen, Text, Use
from runner.language.notation import RegionRef, parse_binding, parse_region
from runner.language.walk import all_items
from runner.lint.look import Look
from runner.program.program import Region, Span, Task


@dataclass(slots=True)
class OpenUse:
    """One `use`: what each of its names is bound to here. `shared` are names bound to what another one, an output, is bound to.

    `written` is, by tensor, what the graph has written so far through its names.
    """

    item: Use
    graph: Graph
    bound: Mapping[str, str]
    shared: frozenset[str]
    written: dict[int, list[tuple[str, Region]]] = field(default_factory=dict)

    def mark(self, name: str) -> Mark:
        """Where it is said what a name is bound to."""
        text = self.item.bindings.get(name)
        return text.mark if text else self.item.mark


class Uses:
    """Rules that care tell it of every span."""

    def __init__(self, look: Look):
        self.look = look
        self.open: list[OpenUse] = []
        self._views: dict[str, Mapping[str, str]] = {}
        self._known: dict[tuple[Mark, Mark | None], tuple[Graph, Mapping[str, str], frozenset[str]]] = {}

    def enter(self, span: Span) -> None:
        if span.kind == "use":
            item = self.look.item_at(span.mark)
            assert isinstance(item, Use), "the span of a use stands where the item does"
            key = item.mark, item.mark.via
            if key not in self._known:
                self._known[key] = self._bindings(item)
            self.open.append(OpenUse(item, *self._known[key]))

    def leave(self, span: Span) -> None:
        if span.kind == "use":
            self.open.pop()

    def _bindings(self, item: Use) -> tuple[Graph, Mapping[str, str], frozenset[str]]:
        graph = self.look.library(item.graph, item.mark.file)
        own = {name for inner in all_items(graph.body) for name in _made(inner)}
        names = {*graph.inputs, *graph.outputs, *({*graph.weights, *graph.state} & set(item.bindings))} - own
        bound = {name: self.root(_root(item.bindings.get(name), name), item.mark.file) for name in names}
        written = {target for name, target in bound.items() if name in graph.outputs}
        counts = [target for target in bound.values() if target in written]
        shared = frozenset(name for name, target in bound.items() if counts.count(target) > 1)
        return graph, bound, shared

    def root(self, name: str, file: str) -> str:
        """The name of the tensor that a name shows in a file: what a view is of, and what that is of."""
        if file not in self._views:
            graphs = [graph for graph in self.look.library.graphs() if graph.file == file]
            items = [item for graph in graphs for item in all_items(graph.body)]
            self._views[file] = {item.name: parse_region(item.of).name for item in items if isinstance(item, Seen)}
        views, passed = self._views[file], {name}
        while name in views and views[name] not in passed:
            name = views[name]
            passed.add(name)
        return name

    def operand_names(self, item: Op, task: Task) -> Iterator[tuple[str, str, Region]]:
        """The operands of a task that stand for elements that were there before: operand, name in the text, region; a view
        has the name of what it shows."""
        for operand, region in task.operands.items():
            given = item.inputs.get(operand) or item.outputs.get(operand)
            is_empty = region.box is not None and any(lo >= hi for lo, hi in region.box)
            if isinstance(given, Text) and not is_empty:
                yield operand, self.root(parse_region(given).name, item.mark.file), region

    def names(self, name: str) -> Iterator[tuple[OpenUse, str]]:
        """What a name of an item is called in each open `use`, from the inside out, as far as that binds it."""
        for use in reversed(self.open):
            if name not in use.bound:
                return
            yield use, name
            name = use.bound[name]

    def are_bound_apart(self, one: str, other: str) -> bool:
        """Are two names of an item different names of one open `use`?"""
        ours = {id(use): name for use, name in self.names(one)}
        return any(ours.get(id(use), name) != name for use, name in self.names(other))


def _root(text: Text | None, name: str) -> str:
    """The name of what a name is bound to."""
    given = parse_binding(text) if text else None
    return given.name if isinstance(given, RegionRef) else text.value if text else name


def _made(item: Item) -> Iterator[str]:
    """Names that an item makes or carries, which stand for something else than what is bound from there on."""
    match item:
        case Op():
            yield from (made.name for made in item.outputs.values() if isinstance(made, Declaration))
        case Alloc():
            yield from (made.name for made in item.tensors)
        case For():
            yield from item.carry
