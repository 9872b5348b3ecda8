"""How often something runs whose number of trips reads tensors: what `Trips.evaluate` calls at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from runner.base.errors import ExecutionError, Mark
from runner.expansion.names import View
from runner.language.expressions import Expr, ExprError
from runner.language.graph import Item, Switch
from runner.models.protocols import DecidesLoop, Element
from runner.program.program import Task, Tensor, Trips


@dataclass(frozen=True, slots=True)
class DynamicRange:
    """A range as it stands in one trip of the loops around it: `values` of names that are numbers, `views` of tensors."""

    expr: Expr
    path: str
    values: Mapping[str, Any]
    views: Mapping[str, View]
    bound: int
    mark: Mark

    @property
    def reads(self) -> tuple[int, ...]:
        """The tensors that it reads."""
        return tuple(view.tensor for view in self.views.values())

    def __call__(self, element: Callable[[int, tuple[int, ...]], int]) -> int:
        """The number of trips, by a function from a tensor and an index to an element; raises ExecutionError above the bound."""

        def look(name: str) -> Any:
            if name in self.values:
                return self.values[name]
            view = self.views[name]
            if not view.spec.shape:
                return element(view.tensor, view.element(()))
            return lambda at: element(view.tensor, view.element(at))

        num = self.expr.integer(look)
        if not 0 <= num <= self.bound:
            raise ExecutionError(f"'{self.path}' makes {num} trips at run time, its max is {self.bound} ({self.mark})")
        return num

    def elements(self) -> tuple[Element, ...]:
        """The elements of one tensor that it reads, each once, where they are 0; () where it reads more than one tensor."""
        found: dict[Element, None] = {}

        def element(name: str, at: tuple[int, ...]) -> int:
            found.setdefault((name, at))
            return 0

        if len(self.views) == 1:
            with suppress(ExprError):  # of 0 rows
                self._value(element)
        return tuple(found)

    def planned(self, values: Mapping[Element, int]) -> int:
        """The number of trips for values of elements, of which those that are not given are 0; raises ExprError."""
        return self._value(lambda name, at: values.get((name, at), 0))

    def _value(self, element: Callable[[str, tuple[int, ...]], int]) -> int:
        def look(name: str) -> Any:
            if name in self.values:
                return self.values[name]
            return partial(element, name) if name in self.expr.indexed() else element(name, ())

        return self.expr.integer(look)


class Made(Protocol):
    """A program, or as much of one as there is."""

    @property
    def tensors(self) -> Sequence[Tensor]: ...
    @property
    def tasks(self) -> Sequence[Task]: ...


def is_decided(trips: Trips, made: Made, decides: DecidesLoop) -> bool:
    """Whether `decides` is for a dynamic loop of a program: one that reads a single tensor."""
    if len(set(trips.reads)) != 1:
        return False
    names = {made.tensors[tensor].name for tensor in trips.reads}
    return decides(names, {made.tasks[task].op for task in trips.waits})


def taken_case(item: Switch, value: object) -> Sequence[Item] | None:
    """The body that runs where the value is known, None if there is none for it."""
    value = bool(value) if item.keyword == "if" else value
    return item.cases.get(value, item.cases.get(None)) if isinstance(value, int) else None


def case_test(item: Switch, case: int | None) -> str:
    """An expression that is 1 when `case` is the one that runs."""
    if item.keyword == "if":
        return f"1 if ({item.value}) else 0" if case else f"0 if ({item.value}) else 1"
    if case is not None:
        return f"1 if ({item.value}) == {case} else 0"
    others = " or ".join(f"({item.value}) == {other}" for other in item.cases if other is not None)
    return f"0 if {others} else 1" if others else "1"
