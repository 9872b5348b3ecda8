"""A walk over a graph as written gives all its items, and the names that it mentions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from runner.base.errors import GraphError
from runner.language.expressions import parse
from runner.language.graph import Alloc, Declaration, For, Graph, Item, Op, Scope, Seen, Switch, Text, Use
from runner.language.library import GraphLibrary
from runner.language.notation import RegionRef, parse_binding, parse_region, parse_type


def all_items(body: Sequence[Item]) -> Iterator[Item]:
    """The items of `body` and of everything inside it, in the order of the file."""
    for item in body:
        yield item
        match item:
            case Scope() | For():
                yield from all_items(item.body)
            case Switch():
                for branch in item.cases.values():
                    yield from all_items(branch)


def mentioned(graph: Graph, library: GraphLibrary) -> set[str]:
    """All names of tensors and values that the texts of `graph` use, those taken over by name in a `use` among them."""
    found: set[str] = set()
    for declared in (*graph.inputs.values(), *graph.weights.values(), *graph.state.values(), *graph.outputs.values()):
        found |= _declared(declared)
    for item in all_items(graph.body):
        found |= _names(item, graph, library)
    return found


def own_names(graph: Graph) -> set[str]:
    """All names that a graph itself declares: parameters, tensors, variables of loops."""
    found = {*graph.params, *(declared.name for declared in _declarations(graph))}
    found |= {item.name for item in all_items(graph.body) if isinstance(item, Seen)}
    return found | {item.variable for item in all_items(graph.body) if isinstance(item, For)}


def type_parameters(graph: Graph) -> set[str]:
    """The names of dtypes that are the configuration's: `act` of `{act}[T, D]`."""
    types = [declared.spec.value.strip() for declared in _declarations(graph)]
    types += [item.spec.value.strip() for item in all_items(graph.body) if isinstance(item, Seen)]
    return {text[1 : text.find("}")] for text in types if text.startswith("{")}


def used_graphs(graph: Graph, library: GraphLibrary) -> Iterator[Graph]:
    """Every graph that it uses, and that those use, each once; those that cannot be read are left out."""
    seen = {graph.file}
    pending = [graph]
    while pending:
        user = pending.pop()
        for item in all_items(user.body):
            if not isinstance(item, Use):
                continue
            with suppress(GraphError):
                used = library(item.graph, user.file)
                if used.file not in seen:
                    seen.add(used.file)
                    pending.append(used)
                    yield used


def _declarations(graph: Graph) -> Iterator[Declaration]:
    for declared in (graph.inputs, graph.weights, graph.state, graph.outputs):
        yield from declared.values()
    for item in all_items(graph.body):
        if isinstance(item, Alloc):
            yield from item.tensors
        elif isinstance(item, Op):
            yield from (value for value in item.outputs.values() if isinstance(value, Declaration))


def _expressions(texts: Iterable[Text]) -> set[str]:
    return {name for text in texts for name in parse(text.value, text.mark).names()}


def _declared(declared: Declaration) -> set[str]:
    found = {name for dim in parse_type(declared.spec).dims for name in dim.names()}
    source = declared.source.value if declared.source else ""
    for piece in source.split("{")[1:]:
        with suppress(GraphError):
            found |= parse(piece.partition("}")[0]).names()
    return found


def _region(region: RegionRef) -> set[str]:
    exprs = [*(region.part or ())]
    for index in region.indices:
        exprs += [end for end in (index if isinstance(index, tuple) else (index,)) if end is not None]
    return {region.name, *(name for expr in exprs for name in expr.names())}


def _names(item: Item, graph: Graph, library: GraphLibrary) -> set[str]:
    match item:
        case Op():
            found = _expressions(item.attrs.values())
            for value in (*item.inputs.values(), *item.outputs.values()):
                found |= _region(parse_region(value)) if isinstance(value, Text) else _declared(value)
            return found
        case Alloc():
            return set().union(*map(_declared, item.tensors))
        case Seen():
            return _region(parse_region(item.of)) | {name for dim in parse_type(item.spec).dims for name in dim.names()}
        case For():
            carried = {name for pair in item.carry.items() for name in (pair[0], pair[1].value)}
            return carried | _expressions([item.range, *([item.maximum] if item.maximum else [])])
        case Switch():
            return _expressions([item.value])
        case Use():
            return _used(item, graph, library)
    return set()


def _used(item: Use, graph: Graph, library: GraphLibrary) -> set[str]:
    found: set[str] = set()
    for text in item.bindings.values():
        given = parse_binding(text)
        found |= _region(given) if isinstance(given, RegionRef) else given.names()
    with suppress(GraphError):
        used = library(item.graph, graph.file)
        found |= {*used.params, *used.inputs, *used.outputs} - set(item.bindings)
    return found
