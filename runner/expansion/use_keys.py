"""Which values shape what a used graph expands to: two uses with the same ones differ only in names, ids and sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from runner.base.errors import GraphError
from runner.expansion.names import Context
from runner.language.expressions import Expr, parse
from runner.language.graph import Alloc, Declaration, For, Graph, Item, Op, Switch, Use
from runner.language.library import GraphLibrary
from runner.language.notation import RegionRef, parse_binding, parse_region, parse_type
from runner.language.walk import all_items

Key = tuple[Any, ...]


def known_names(graph: Graph, values: Mapping[str, Any], params: set[str]) -> set[str]:
    """The names that have one value throughout the graph: all in `values` but loop variables and params not in `params`."""
    loops = {item.variable for item in all_items(graph.body) if isinstance(item, For)}
    return set(values) - loops - (set(graph.params) - params)


def given_params(item: Use, graph: Graph, known: set[str]) -> dict[str, Expr]:
    """The params of a used graph whose values follow from `known` names of the user, as expressions over those."""
    found = {}
    for name in graph.params:
        text = item.bindings.get(name)
        expr = parse(text.value, text.mark) if text else parse(name)
        if expr.names() <= known:
            found[name] = expr
    return found


class ControlKeys:
    """Works out keys; what can be read off a graph alone is read once."""

    def __init__(self, library: GraphLibrary):
        self.library = library
        self._exprs: dict[int, tuple[list[Expr], list[Expr], list[Use]]] = {}

    def key(self, context: Context) -> Key | None:
        """Equal for two uses of a graph that expand alike; None where that cannot be said beforehand."""
        with suppress(GraphError):
            return self._key(context.graph, context.values, set(context.graph.params), ())
        return None

    def _key(self, graph: Graph, values: Mapping[str, Any], params: set[str], using: tuple[str, ...]) -> Key | None:
        if graph.file in using:
            return None
        known = known_names(graph, values, params)
        shaping, attrs, uses = self._texts(graph)
        shaping = [*shaping, *(expr for item in uses for expr in self._bound_regions(item, graph))]
        key: list[Any] = []
        for expr in (*shaping, *attrs):
            own = expr.names() & params
            if own and not expr.names() <= known:  # it has no value outside of loops, but one for each value of the params
                key.append(tuple(repr(values[name]) for name in sorted(own)))
        for expr in shaping:
            if expr.names() & params and expr.names() <= known:
                key.append(repr(expr.evaluate(values.__getitem__)))
        for item in uses:
            inner = self._used(item, graph, values, known, using)
            if inner is None:
                return None
            key.append(inner)
        return tuple(key)

    def _bound_regions(self, item: Use, graph: Graph) -> Iterator[Expr]:
        """The indices by which a use gives slices of tensors."""
        params = self.library(item.graph, graph.file).params
        for name, text in item.bindings.items():
            if name not in params:
                given = parse_binding(text)
                yield from _indices(given) if isinstance(given, RegionRef) else ()

    def _used(self, item: Use, graph: Graph, values: Mapping[str, Any], known: set[str], using: tuple[str, ...]) -> Key | None:
        used = self.library(item.graph, graph.file)
        given = given_params(item, used, known)
        inside = dict(values) | {name: expr.evaluate(values.__getitem__) for name, expr in given.items()}
        return self._key(used, inside, set(given), (*using, graph.file))

    def _texts(self, graph: Graph) -> tuple[list[Expr], list[Expr], list[Use]]:
        found = self._exprs.get(id(graph))
        if found is None:
            declared = (*graph.inputs.values(), *graph.weights.values(), *graph.state.values(), *graph.outputs.values())
            shaping = [expr for each in declared for expr in parse_type(each.spec).dims]
            attrs: list[Expr] = []
            uses = []
            for item in all_items(graph.body):
                shaping += _shaping(item)
                if isinstance(item, Op):
                    attrs += [parse(text.value, text.mark) for text in item.attrs.values()]
                elif isinstance(item, Use):
                    uses.append(item)
            found = self._exprs[id(graph)] = (shaping, attrs, uses)
        return found


def _shaping(item: Item) -> Iterator[Expr]:
    """The expressions of an item that decide how many tasks there are and on what shapes and regions."""
    match item:
        case Op():
            for value in (*item.inputs.values(), *item.outputs.values()):
                yield from parse_type(value.spec).dims if isinstance(value, Declaration) else _indices(parse_region(value))
        case Alloc():
            for declared in item.tensors:
                yield from parse_type(declared.spec).dims
        case For():
            for text in (item.range, item.maximum):
                if text is not None:
                    yield parse(text.value, text.mark)
        case Switch():
            yield parse(item.value.value, item.value.mark)


def _indices(region: RegionRef) -> Iterator[Expr]:
    yield from region.part or ()
    for index in region.indices:
        for end in index if isinstance(index, tuple) else (index,):
            if end is not None:
                yield end
