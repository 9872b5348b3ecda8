"""How much a loop's body is at least, before it is expanded: a small file's nested loops are refused before the first trip."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from runner.expansion.builder import MAX_USES_DEEP
from runner.expansion.names import Frame
from runner.expansion.trip_counts import taken_case
from runner.language.expressions import ExprError, parse
from runner.language.graph import For, Graph, Item, Scope, Switch, Text, Use


class Size(NamedTuple):
    """Trips of loops, and items with a body's own end, as `ProgramBuilder` counts them."""

    trips: int
    items: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """`values` are known at the loop, `frame` its tensors; a loop whose trips nobody can tell yet counts as none.

    graph     the loop's
    configured  values of the configuration, which used graphs see
    find      the graph that a name stands for in a graph, None where there is none that could be used
    sample    dynamic loops make three trips at most
    planned   dynamic loops may make fewer trips than their `max`
    using     graphs that are used around the loop
    sizes     of used graphs, by graph and params
    """

    graph: Graph
    values: Mapping[str, Any]
    frame: Frame | None
    configured: Mapping[str, Any]
    find: Callable[[Text, Graph], Graph | None]
    sample: bool
    planned: bool
    using: tuple[Graph, ...] = ()
    sizes: dict[object, Size] = field(default_factory=dict)

    def body(self, body: Sequence[Item], variables: Collection[str]) -> Size:
        """The least that a body comes to, inside of loops over `variables`, which stand for all that is not known yet."""
        trips, items = 0, len(body) + 1
        for item in body:
            if isinstance(item, Scope):
                inside = self.body(item.body, variables)
                trips, items = trips + inside.trips, items + inside.items
            elif isinstance(item, For) and (num := self.trips(item, variables)):
                inside = self.body(item.body, (*variables, item.variable))
                trips, items = trips + num + num * inside.trips, items + num * inside.items
            elif isinstance(item, Use | Switch):
                inside = self.used(item, variables) if isinstance(item, Use) else self.chosen(item, variables)
                trips, items = trips + inside.trips, items + inside.items
        return Size(trips, items)

    def chosen(self, item: Switch, variables: Collection[str]) -> Size:
        """The case that is taken, or the least of each number over all cases where that is not known yet."""
        expr = parse(item.value.value, item.value.mark)
        if expr.names() - self.values.keys() or expr.names() & set(variables):
            sizes = [self.body(case, variables) if case and not self.planned else Size(0, 0) for case in item.cases.values()]
            return Size(min((size.trips for size in sizes), default=0), min((size.items for size in sizes), default=0))
        try:
            taken = taken_case(item, expr.evaluate(self.values.__getitem__))
        except ExprError:
            return Size(0, 0)
        return Size(0, 0) if taken is None else self.body(taken, variables)

    def used(self, item: Use, variables: Collection[str]) -> Size:
        """What is inside of a used graph; nothing where it cannot be used."""
        graph = self.find(item.graph, self.graph)
        if graph is None or len(self.using) > MAX_USES_DEEP or any(graph is used for used in (self.graph, *self.using)):
            return Size(0, 0)
        values, unknown = dict(self.configured), set[str]()
        for name in graph.params:
            text = item.bindings.get(name, Text(name, item.mark))
            known = self.known(text, variables)
            if known is None:
                unknown.add(name)
                values.pop(name, None)
            else:
                values[name] = known
        key = graph.file, graph.name, tuple((name, values.get(name)) for name in graph.params)
        if key not in self.sizes:
            inside = replace(self, graph=graph, values=values, frame=None, using=(*self.using, self.graph))
            self.sizes[key] = inside.body(graph.body, unknown)
        return self.sizes[key]

    def loops(self, body: Sequence[Item], before: Size) -> Iterator[tuple[For, Size]]:
        """The outermost loops of a body and of the scopes in it, each with the least from where `before` counts to its end."""
        for item in body:
            if isinstance(item, Scope):
                inside = self.loops(item.body, before)
                for loop, before in inside:
                    yield loop, before
            elif isinstance(item, For):
                mine = self.body((item,), ())
                before = Size(before.trips + mine.trips, before.items + mine.items)
                yield item, before

    def trips(self, item: For, variables: Collection[str]) -> int:
        """How many trips a loop makes in each trip of those around it, 0 if that differs or is not known."""
        names = parse(item.range.value, item.range.mark).names() - self.values.keys() - set(variables)
        if not names:
            return self.value(item.range, variables)
        if self.planned or item.maximum is None or (self.frame is not None and not any(map(self.frame.knows, names))):
            return 0  # decided by a routing, refused, or read from what is made inside
        most = self.value(item.maximum, variables)
        return min(most, 3) if self.sample else most

    def value(self, text: Text, variables: Collection[str]) -> int:
        """A number of trips, 0 if it is none or not known yet."""
        return max(0, self.known(text, variables) or 0)

    def known(self, text: Text, variables: Collection[str]) -> int | None:
        """An integer of the configuration, the params and the loops around, None if it is none or not known yet."""
        try:
            expr = parse(text.value, text.mark)
            return None if expr.names() & set(variables) else expr.integer(self.values.__getitem__)
        except (ExprError, KeyError):
            return None
