"""Which pieces of a program are alike, so that one can be copied from the other.

Two uses of a graph are alike when the values that shape what it expands to are the same: they differ only in names, ids, sources
and attrs. Two trips of a loop are alike when its body is plain enough to say beforehand what the loop variable decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from runner.base.errors import GraphError
from runner.expansion.builder import MAX_USES_DEEP, ProgramBuilder
from runner.expansion.calls import NodeOp, OpCompiler
from runner.expansion.names import Context, View, ids
from runner.language.expressions import Expr, parse
from runner.language.graph import Alloc, Declaration, For, Graph, Item, Op, Scope, Seen, Switch, Text, Use
from runner.language.library import GraphLibrary
from runner.language.notation import RegionRef, TensorType, parse_binding, parse_region, parse_type
from runner.language.walk import all_items

Key = tuple[Any, ...]

MAX_KEYS = 10_000
"""Combinations of a graph and its params; with more of them, graphs are not worth copying."""


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
    """Works out keys; what can be read off a graph alone is read once, and of a graph with the same params its key is known."""

    def __init__(self, library: GraphLibrary):
        self.library = library
        self._known: dict[Key, int | None] = {}
        self._numbers: dict[Key, int] = {}
        self._exprs: dict[int, tuple[list[Expr], list[Expr], list[Use]]] = {}

    def key(self, context: Context) -> Key | None:
        """Equal for two uses of a graph that expand alike; None where that cannot be said beforehand."""
        with suppress(GraphError):
            return self._key(context.graph, context.values, set(context.graph.params), ())
        return None

    def _number(self, graph: Graph, values: Mapping[str, Any], params: set[str], using: tuple[str, ...]) -> int | None:
        """A number in place of the key, which would hold that of a graph once for each chain of uses that leads to it."""
        asked = (id(graph), *((name, repr(values[name])) for name in sorted(params)))
        if asked not in self._known:
            if len(self._known) >= MAX_KEYS or len(using) >= MAX_USES_DEEP:
                return None
            key = self._key(graph, values, params, using)
            self._known[asked] = None if key is None else self._numbers.setdefault(key, len(self._numbers))
        return self._known[asked]

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

    def _used(self, item: Use, graph: Graph, values: Mapping[str, Any], known: set[str], using: tuple[str, ...]) -> int | None:
        used = self.library(item.graph, graph.file)
        given = given_params(item, used, known)
        inside = dict(values) | {name: expr.evaluate(values.__getitem__) for name, expr in given.items()}
        return self._number(used, inside, set(given), (*using, graph.file))

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


def shape(names: Mapping[str, View], builder: ProgramBuilder) -> Key:
    """What two pieces must share of the tensors that are handed to them: which are the same, which local, and what is seen."""
    first: dict[int, int] = {}
    found: list[Any] = []
    for name, view in names.items():
        region, alias = view.region, first.setdefault(view.tensor, len(first))
        found.append(
            (name, alias, builder.local[view.tensor], id(view.spec), region.box, region.dropped, region.part, region.seen)
        )
    return tuple(found)


@dataclass(slots=True)
class LoopForm:
    """A loop whose trips make the same tasks: its body holds ops, allocs and scopes, and what it makes always has the same type.

    `nodes` are its ops and allocs (None) in order. `varying` are the operands, by place and name, whose regions the loop variable
    decides, `attrs` the attrs (place, name, expression) that name it.
    """

    nodes: list[NodeOp | None]
    carry: Mapping[str, Text]
    refs: dict[tuple[int, str], RegionRef] = field(default_factory=dict)
    varying: list[tuple[int, str]] = field(default_factory=list)
    attrs: list[tuple[int, str, Expr]] = field(default_factory=list)

    @property
    def has_rules_that_vary(self) -> bool:
        """May what an op's rules say differ from trip to trip?"""
        return any((node := self.nodes[place]) is not None and node.rules_read_attrs for place, _, _ in self.attrs)


def loop_form(loop: For, context: Context, ops: OpCompiler) -> LoopForm | None:
    """What differs between trips of a loop; None when that cannot be said, or what `after` means would differ."""
    if any(context.wants(name) for name in ids((loop,))):
        return None

    def depends(exprs: Iterable[Expr]) -> bool:
        return any(loop.variable in expr.names() for expr in exprs)

    form = LoopForm([], loop.carry)
    for item in all_items(loop.body):
        place, node, kinds = len(form.nodes), None, list[TensorType]()
        if isinstance(item, Alloc):
            kinds = [parse_type(declared.spec) for declared in item.tensors]
        elif isinstance(item, Op) and not item.after and not item.after_wait_only:
            node = ops.compiled(item, context)
            kinds = [kind for _, _, kind in node.created]
            refs = {(place, name): ref for name, ref in (*node.inputs, *((name, ref) for name, ref, _ in node.targets))}
            form.refs |= refs
            form.varying += [where for where, ref in refs.items() if depends(_indices(ref))]
            form.attrs += [(place, name, expr) for name, expr in node.attrs if depends((expr,))]
        elif not isinstance(item, Scope):
            return None
        if any(depends(kind.dims) for kind in kinds):
            return None
        form.nodes += [node] * (not isinstance(item, Scope))
    return form


def _shaping(item: Item) -> Iterator[Expr]:
    """The expressions of an item that decide how many tasks there are and on what shapes and regions."""
    match item:
        case Op():
            for value in (*item.inputs.values(), *item.outputs.values()):
                yield from parse_type(value.spec).dims if isinstance(value, Declaration) else _indices(parse_region(value))
        case Alloc():
            for declared in item.tensors:
                yield from parse_type(declared.spec).dims
        case Seen():
            yield from (*_indices(parse_region(item.of)), *parse_type(item.spec).dims)
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
