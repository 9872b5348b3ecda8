"""Loops and choices that tensors decide at run time: what they read and wait for, and how many trips are planned."""

from __future__ import annotations

from collections.abc import Sequence

from runner.base.errors import Diagnostic, GraphError, Mark
from runner.expansion.builder import ProgramBuilder
from runner.expansion.names import Context, Frame
from runner.expansion.trip_counts import DynamicRange, is_decided
from runner.language.expressions import Expr, ExprError
from runner.models.protocols import DecidesLoop, TripCounts
from runner.program.program import Trips


class RunTimeTrips:
    """Trips that only a run knows; `trips` decides those that it `decides`, or all of them."""

    def __init__(self, builder: ProgramBuilder, trips: TripCounts | None, decides: DecidesLoop | None):
        self.builder = builder
        self.is_given = trips is not None
        self._trips = trips
        self._decides = decides

    def planned(self, trips: Trips) -> int:
        """The number of trips that the program holds."""
        assert isinstance(trips.evaluate, DynamicRange)
        if self._trips is None or (self._decides is not None and not is_decided(trips, self.builder, self._decides)):
            return trips.bound
        try:
            num = self._trips(trips.path, trips.evaluate.elements(), trips.bound, trips.evaluate.planned)
        except ExprError as error:
            self.builder.report_error(error)
            return trips.bound
        if num is not None and not 0 <= num <= trips.bound:
            raise GraphError(Diagnostic("G326", f"'{trips.path}' is given {num} trips, expected 0 to {trips.bound}", trips.mark))
        return trips.bound if num is None else num

    def trips(self, expr: Expr, path: str, read: Sequence[str], bound: int, frame: Frame, context: Context, mark: Mark) -> Trips:
        """How often something runs whose number of trips `expr` reads the tensors named `read`."""
        views = {name: view for name in read if (view := frame.find(name)) is not None}
        values = {name: context.values[name] for name in expr.names() if name in context.values}
        waits: set[int] = set()
        for name, view in views.items():
            if name not in expr.indexed() and view.spec.shape:
                message = f"the range reads all of tensor '{name}', expected one element"
                self.builder.report("G326", message, expr.mark, f"write {name}[...]", name)
            if view.spec.dtype != (own := self.builder.tensors[view.tensor].spec.dtype):
                message = f"the range reads '{name}', a view that shows {own} as {view.spec.dtype}"
                self.builder.report("G326", message, expr.mark, "read the tensor itself", name)
            if not self.builder.read(view, waits):
                self.builder.note_unwritten(view.tensor, expr.mark or mark, path)
            if any((writer, view.tensor) in self.builder.untold for writer in waits):
                message = f"the range reads '{name}', whose writer is no_dep: the runtime does not wait for it"
                self.builder.report("G336", message, expr.mark, "take the mode away", name)
        count = DynamicRange(expr, path, values, views, bound, mark)
        return Trips(path, count.reads, tuple(sorted(waits)), bound, count, mark)
