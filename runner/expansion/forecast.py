"""How much a loop's body is at least, before it is expanded: a small file's nested loops are refused before the first trip."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from runner.expansion.names import Frame
from runner.language.expressions import ExprError, parse
from runner.language.graph import For, Item, Scope, Text


class Size(NamedTuple):
    """Trips of loops, and items with a body's own end, as `ProgramBuilder` counts them."""

    trips: int
    items: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """`values` are known at the loop, `frame` its tensors; a loop whose trips nobody can tell yet counts as none.

    sample    dynamic loops make three trips at most
    planned   dynamic loops may make fewer trips than their `max`
    """

    values: Mapping[str, Any]
    frame: Frame
    sample: bool
    planned: bool

    def body(self, body: Sequence[Item], variables: Collection[str]) -> Size:
        """The least that a body comes to, inside of loops over `variables`; used graphs and cases count as one item each."""
        trips, items = 0, len(body) + 1
        for item in body:
            if isinstance(item, Scope):
                inside = self.body(item.body, variables)
                trips, items = trips + inside.trips, items + inside.items
            elif isinstance(item, For) and (num := self.trips(item, variables)):
                inside = self.body(item.body, (*variables, item.variable))
                trips, items = trips + num + num * inside.trips, items + num * inside.items
        return Size(trips, items)

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
        if self.planned or item.maximum is None or not any(map(self.frame.knows, names)):
            return 0  # decided by a routing, refused, or read from what is made inside
        most = self.value(item.maximum, variables)
        return min(most, 3) if self.sample else most

    def value(self, text: Text, variables: Collection[str]) -> int:
        """An integer of the configuration, the params and the loops around, 0 if it is none or not known yet."""
        try:
            expr = parse(text.value, text.mark)
            known = not expr.names() & set(variables)
            return max(0, expr.integer(self.values.__getitem__)) if known else 0
        except (ExprError, KeyError):
            return 0
