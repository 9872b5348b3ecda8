"""From a `Graph`, a registry and a configuration to a `Program`: loops unrolled, used graphs spliced in, edges found.

Time is linear in the size of the program: what an item means is compiled once (`calls`), what a call of an op needs is
worked out once per combination of operand shapes, and last writers are found by bisection (`last_writers`).
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from runner.base.errors import Diagnostic, GraphError, Mark, did_you_mean
from runner.base.limits import Limits
from runner.base.records import LARGE, builder, collector_off
from runner.base.stopping import stop_if_needless
from runner.expansion.builder import ProgramBuilder, StopExpansionError
from runner.expansion.calls import OpCompiler, closed_in
from runner.expansion.copying.copies import Copier
from runner.expansion.copying.pieces import Piece
from runner.expansion.externals import Externals
from runner.expansion.forecast import Forecast, Size
from runner.expansion.names import Context, Frame, View, ids
from runner.expansion.run_time import RunTimeTrips
from runner.expansion.sharing.texts import Texts
from runner.expansion.tasks import TaskMaker
from runner.expansion.trip_counts import case_test, taken_case
from runner.language.expressions import Expr, ExprError, parse
from runner.language.graph import Alloc, For, Graph, Item, Op, Scope, Seen, Switch, Text, Use
from runner.language.library import GraphLibrary, first_findings, with_source_lines
from runner.models.protocols import DecidesLoop, Settings, TripCounts
from runner.program.ops import OpRegistry
from runner.program.program import Program, Span, Trips

_new_span = builder(Span)


def expand(
    graph: Graph,
    config: Settings,
    registry: OpRegistry,
    *,
    library: GraphLibrary | None = None,
    trips: TripCounts | None = None,
    decides: DecidesLoop | None = None,
    params: Mapping[str, int] | None = None,
) -> Program:
    """The program of `graph`; raises GraphError with everything that is wrong.

    `trips` decides dynamic loops, all or those that it `decides`; others make the most trips that they can. `params` replaces
    defaults of the graph's params.
    """
    expanded = expand_all(graph, config, registry, library=library, trips=trips, decides=decides, params=params)
    if expanded.problems:
        raise GraphError(expanded.problems)
    return expanded.program


@dataclass(frozen=True, slots=True)
class Expanded:
    """As much of the program as could be made, what is wrong (each finding once), and reads of what nobody has written.

    `unwritten` maps the place of such a read, with the alias through which it is there and the name, to the tensor and the path
    of the task or loop.
    """

    program: Program
    problems: list[Diagnostic]
    unwritten: Mapping[tuple[Mark, Mark | None, str], tuple[int, str]]


def expand_all(
    graph: Graph,
    config: Settings,
    registry: OpRegistry,
    *,
    library: GraphLibrary | None = None,
    trips: TripCounts | None = None,
    decides: DecidesLoop | None = None,
    params: Mapping[str, int] | None = None,
    limits: Limits | None = None,
    sample: bool = False,
    stamp: bool = True,
) -> Expanded:
    """Like `expand`, but never raises. With `sample`, dynamic loops make their first two trips and their last, for lint.

    `limits` are the current ones if none are given. `stamp` only changes how long it takes: used graphs and trips that expand
    alike are expanded once and copied.
    """
    library = library or GraphLibrary()
    library.add(graph)
    builder = ProgramBuilder(config, limits or Limits.current())
    walk = _Walk(builder, OpCompiler(builder, registry), library, trips, decides, sample=sample, copies=stamp)
    with collector_off():
        program = walk.program(graph, params or {})
        builder.forget_program()
        if len(program.tasks) > LARGE:
            gc.freeze()
    lines = {used.file: used.lines for used in library.graphs()}
    problems = first_findings(sorted(builder.problems.values(), key=_order), builder.limits.findings)
    problems = with_source_lines(problems, lines)
    return Expanded(program, problems, builder.unwritten)


def _order(problem: Diagnostic) -> tuple[Mark, str]:
    return problem.mark or Mark("", 0, 0), problem.code


class _Walk:
    """Walks the items of a graph and hands what they mean to the builder."""

    def __init__(
        self,
        builder: ProgramBuilder,
        ops: OpCompiler,
        library: GraphLibrary,
        trips: TripCounts | None,
        decides: DecidesLoop | None,
        *,
        sample: bool,
        copies: bool,
    ):
        self.builder = builder
        self.ops = ops
        self.library = library
        self.tasks = TaskMaker(builder, ops)
        self.run_time = RunTimeTrips(builder, trips, decides)
        self.sample = sample
        self.depth = 0
        self.using: list[Graph] = []
        self.num_cases: dict[str, int] = {}
        """Of choices at run time, how many cases begin with a path."""
        self.sizes: dict[object, Size] = {}
        """What used graphs come to at least (`Forecast`)."""
        self.counted: Context | None = None
        """Where a loop is being expanded that has counted the trips of loops inside."""
        self.externals = Externals(builder, ops)
        self.copier = Copier(builder, ops, self.externals, library)
        self.copies = copies
        self.copies_uses = copies and not sample and trips is None  # else loops of like uses may make different trips

    # --- the program ---

    def program(self, graph: Graph, params: Mapping[str, int]) -> Program:
        builder = self.builder
        frame = Frame(None, "", graph.body)
        builder.grant(graph)
        items: list[int | Span] = []
        with suppress(StopExpansionError):
            context = Context(graph, self.values(graph, params))
            self.declare(graph, context, frame)
            self.using.append(graph)
            for loop, size in self.forecast(context, frame).loops(graph.body, Size(0, 0)):
                builder.expect(size.trips, size.items, (loop.maximum or loop.range).mark)
            self.body(graph.body, frame, context, items)
            builder.refuse_blocks()
        inputs, outputs = (
            {name: frame.names[name].tensor for name in names if name in frame.names} for names in (graph.inputs, graph.outputs)
        )
        body = Span("root", "", tuple(items), mark=graph.mark)
        program = Program(graph.name, tuple(builder.tensors), tuple(builder.tasks), body, inputs, outputs)
        if builder.problems:
            return program
        return self.shared(program, Texts(graph, self.library))

    def shared(self, program: Program, texts: Texts) -> Program:
        """The program with the arenas that its graphs say."""
        if not texts.said():
            return program
        from runner.expansion.sharing.arenas import arenas_of  # which needs numpy

        arenas, problems = arenas_of(program, texts)
        for problem in problems:
            self.builder.note(problem)
        return replace(program, arenas=arenas)

    def declare(self, graph: Graph, context: Context, frame: Frame) -> None:
        """The tensors of the program from outside; its inputs and outputs exist whether anybody uses them or not."""
        sections = {"input": graph.inputs, "output": graph.outputs, "weight": graph.weights, "state": graph.state}
        for kind, declarations in sections.items():
            self.externals.declare(declarations, kind, context, frame)
        for name in (*graph.inputs, *graph.outputs):
            frame.find(name)

    def values(self, graph: Graph, params: Mapping[str, int]) -> dict[str, Any]:
        """The configuration's values and the graph's params."""
        builder, values = self.builder, dict(self.builder.config.values)
        for name, text in graph.params.items():
            given = params.get(name)
            values[name] = builder.integer(text, Context(graph, dict(builder.config.values))) if given is None else given
        for name in set(params) - set(graph.params):
            hint = did_you_mean(name, graph.params)
            builder.report("G308", f"graph '{graph.name}' has no param '{name}'", graph.mark, hint, name)
        return values

    def body(self, body: Sequence[Item], frame: Frame, context: Context, items: list[int | Span]) -> None:
        """Expand `body` into `items`."""
        mark = body[0].mark if body else context.graph.mark
        self.builder.enter(len(body), mark)
        self.builder.nest(self.depth, mark)
        self.depth += 1
        for item in body:
            if type(item) is Op:
                items.append(self.tasks.op(item, frame, context))
            else:
                self.structure(item, frame, context, items)
        self.depth -= 1

    def structure(self, item: Item, frame: Frame, context: Context, items: list[int | Span]) -> None:
        match item:
            case Alloc():
                items.append(self.tasks.alloc(item, frame, context))
            case Seen():
                view = self.ops.seen(item, frame, context)
                if view is not None:
                    frame.names[item.name] = view
            case Scope():
                items.append(self.scope(item, frame, context))
            case For():
                items.append(self.loop_span(item, frame, context))
            case Switch():
                items += self.switch(item, frame, context)
            case Use():
                self.use(item, frame, context, items)

    def scope(self, item: Scope, frame: Frame, context: Context) -> Span:
        inner = Frame(frame, f"{frame.prefix}{item.name}.", item.body, scope=item.name)
        items: list[int | Span] = []
        first = len(self.builder.tasks)
        self.body(item.body, inner, context, items)
        self.remember(item.name, inner, frame, context, first)
        return Span("scope", inner.prefix[:-1], tuple(items), item.mode, mark=item.mark)

    def remember(self, name: str, inner: Frame, frame: Frame, context: Context, first: int) -> None:
        """Let `after` name what was just expanded: as a whole, and by dotted names what is inside."""
        if context.wants(name):
            frame.ids.setdefault(name, []).extend(range(first, len(self.builder.tasks)))
        for below, tasks in inner.ids.items():
            if context.wants(f"{name}.{below}"):
                frame.ids.setdefault(f"{name}.{below}", []).extend(tasks)

    # --- loops ---

    def loop_span(self, item: For, frame: Frame, context: Context) -> Span:
        expr = parse(item.range.value, item.range.mark)
        read = [name for name in sorted(expr.names()) if name not in context.values and frame.find(name) is not None]
        path = f"{frame.prefix}{item.variable}"
        if read and item.maximum is None:
            message = f"the range reads tensor '{read[0]}', so the loop needs 'max'"
            self.builder.report("G326", message, item.range.mark, "add 'max:' with the largest number of trips")
            return Span("for", path, mark=item.mark)
        if not read:
            num = self.builder.integer(item.range, context)
            if num < 0:
                self.builder.report(
                    "G310", f"expression '{item.range}': is {num}, but a loop cannot make fewer than 0 trips", item.range.mark
                )
            self.count(num, item, item.range.mark, frame, context)
            return Span("for", path, self.iterations(item, range(num), frame, context), mark=item.mark)
        assert item.maximum is not None
        if item.carry:
            self.builder.report(
                "G325", "a loop with a range known only at run time cannot carry a tensor", next(iter(item.carry.values())).mark
            )
        bound = max(self.builder.integer(item.maximum, context), 0)
        trips = self.run_time.trips(expr, path, read, bound, frame, context, item.mark)
        return self.dynamic_span(path, trips, self.run_time.planned(trips), item, frame, context)

    def dynamic_span(self, path: str, trips: Trips, num: int, item: For, frame: Frame, context: Context) -> Span:
        chosen = sorted({trip for trip in (0, 1, num - 1) if 0 <= trip < num}) if self.sample else range(num)
        self.count(len(chosen), item, item.maximum.mark if item.maximum else item.range.mark, frame, context)
        with self.builder.dynamic_loop():
            items = self.iterations(item, chosen, frame, context)
        return Span("dynamic", path, items, trips=trips, mark=item.mark)

    def count(self, num: int, item: For, mark: Mark, frame: Frame, context: Context) -> None:
        """So many trips are about to be made; the outermost loop of a graph counts those inside too, and is refused at once."""
        trips, items = num, num * (len(item.body) + 1)
        if self.counted is not context:
            inside = self.forecast(context, frame).body(item.body, (item.variable,))
            trips, items = num + num * inside.trips, num * inside.items
        self.builder.expect(trips, items, mark)
        self.builder.trips += num

    def forecast(self, context: Context, frame: Frame) -> Forecast:
        how = self.builder.config.values, self.findable, self.sample, self.run_time.is_given
        return Forecast(context.graph, context.values, frame, *how, tuple(self.using), self.sizes)

    def findable(self, name: Text, graph: Graph) -> Graph | None:
        """The graph that a `use` means, whose file allows for more items; None where expansion will tell what is wrong."""
        try:
            found = self.library(name, graph.file)
        except GraphError:
            return None
        self.builder.grant(found)
        return found

    def iterations(self, item: For, trips: Sequence[int], frame: Frame, context: Context) -> tuple[Span, ...]:
        spans = []
        variable, had = item.variable, context.values.get(item.variable)
        joint = "" if len(variable) == 1 else "_"
        previous: Frame | None = None
        carried: dict[str, View] = {}
        loop = self.copier.loop(item, context, len(trips)) if self.copies else None
        counted, self.counted = self.counted, context
        for trip in trips:
            stop_if_needless()
            context.values[variable] = trip
            inner = Frame(frame, f"{frame.prefix}{variable}{joint}{trip}.", item.body, previous=previous, loop=variable)
            inner.names.update(carried)
            first = len(self.builder.tasks)
            piece = self.copier.trip(loop, inner) if loop is not None else None
            items = self.piece(piece, item.body, inner, context)
            spans.append(_new_span("iteration", inner.prefix[:-1], items, "auto", None, item.mark))
            self.remember(variable, inner, frame, context, first)
            if item.carry:
                self.carry(item, inner, carried)
            previous = inner
        self.counted = counted
        frame.names.update(carried)
        if had is None:
            context.values.pop(variable, None)
        else:
            context.values[variable] = had
        return tuple(spans)

    def piece(self, piece: Piece | None, body: Sequence[Item], frame: Frame, context: Context) -> tuple[int | Span, ...]:
        """The items of a trip or of a used graph: copied where a piece like it was expanded before."""
        copied = self.copier.copy(piece) if piece is not None else None
        if copied is not None:
            return copied
        items: list[int | Span] = []
        if piece is not None:
            self.copier.begin(piece)
        self.body(body, frame, context, items)
        if piece is not None:
            self.copier.end(piece, items)
        return tuple(items)

    def carry(self, item: For, inner: Frame, carried: dict[str, View]) -> None:
        """Rebind carried names after a trip; the tensor must have the type that the name stood for."""
        for name, text in item.carry.items():
            before, view = inner.find(name), inner.find(text.value)
            hint = None
            if view is None:
                closed = closed_in(item.body, text.value)
                hint = f"alloc it before {closed[0]} '{closed[1]}', where it is a name of that alone" if closed else None
                message = f"no tensor '{text}' at the end of the body of 'for {item.variable}'"
            elif before is None:
                message = f"no tensor '{name}' before 'for {item.variable}'"
            elif before.spec is not view.spec:
                message = f"'{name}' is {before.spec}, but '{text}' is {view.spec}"
            else:
                carried[name] = view
                continue
            self.builder.report("G325", f"carry: {message}", text.mark, hint)

    # --- switch and use ---

    def switch(self, item: Switch, frame: Frame, context: Context) -> list[Span]:
        expr = parse(item.value.value, item.value.mark)
        read = [name for name in sorted(expr.names()) if name not in context.values and frame.find(name) is not None]
        path = f"{frame.prefix}{item.keyword}"
        if read:
            return self.dynamic_switch(item, expr, read, path, frame, context)
        try:
            value = expr.evaluate(context.values.__getitem__)
        except ExprError as error:
            self.builder.report_error(error, list(context.values))
            return []
        body = taken_case(item, value)
        if body is None:
            cases = ", ".join("default" if case is None else str(case) for case in item.cases)
            self.builder.report(
                "G330", f"switch: no case for '{item.value}', which is {value}", item.value.mark, f"cases: {cases}"
            )
            return []
        items: list[int | Span] = []
        self.body(body, frame, context, items)
        return [Span("if", path, tuple(items), mark=item.mark)]

    def dynamic_switch(
        self, item: Switch, expr: Expr, read: Sequence[str], path: str, frame: Frame, context: Context
    ) -> list[Span]:
        """One dynamic span per case, of which one runs; what a case creates is not visible after it, for it may not exist.

        Where ids of a case are those of one before, its tasks are called behind the case.
        """
        spans: list[Span] = []
        made: dict[str, list[int]] = {}
        taken: set[str] = set()
        for case, body in item.cases.items():
            if not body:
                continue
            test = parse(case_test(item, case), expr.mark)
            trips = self.run_time.trips(test, path, read, 1, frame, context, item.mark)
            own = set(ids(body))
            prefix = self.prefix_of_case(item, case, frame) if own & taken else frame.prefix
            inner = Frame(frame, prefix, body, ids={name: tasks for name, tasks in made.items() if name not in own})
            taken |= own
            items: list[int | Span] = []
            num = self.run_time.planned(trips)
            with self.builder.dynamic_loop():
                if num:
                    self.body(body, inner, context, items)
            branch = (Span("iteration", path, tuple(items), mark=item.mark),) * num
            spans.append(Span("dynamic", path, branch, trips=trips, mark=item.mark))
            for name in own & inner.ids.keys():
                made[name] = made.get(name, []) + inner.ids[name]
        for name, tasks in made.items():
            frame.ids.setdefault(name, []).extend(tasks)
        return spans

    def prefix_of_case(self, item: Switch, case: int | None, frame: Frame) -> str:
        """The path of what is inside of a case that is decided at run time, with a number where a choice before has that path."""
        name = "else" if item.keyword == "if" else "default" if case is None else f"case_{case}"
        prefix = f"{frame.prefix}{name}"
        self.num_cases[prefix] = number = self.num_cases.get(prefix, 0) + 1
        return f"{prefix}." if number == 1 else f"{prefix}_{number}."

    def use(self, item: Use, frame: Frame, context: Context, items: list[int | Span]) -> None:
        try:
            graph = self.library(item.graph, context.graph.file)
        except GraphError as error:
            self.builder.report_error(error)
            return
        if any(used is graph for used in self.using):
            cycle = " > ".join([used.name for used in self.using] + [graph.name])
            self.builder.report("G309", f"graph '{graph.name}' uses itself: {cycle}", item.graph.mark)
            return
        self.builder.use(len(self.using), item.mark)
        self.builder.grant(graph)
        path = frame.prefix[:-1] if frame.scope == item.id and len(frame.body) == 1 else f"{frame.prefix}{item.id}"
        inner, used = self.externals.bind(item, graph, frame, context, f"{path}.")
        first = len(self.builder.tasks)
        self.using.append(graph)
        piece = self.copier.use(inner, used) if self.copies_uses else None
        inside = self.piece(piece, graph.body, inner, used)
        self.using.pop()
        if context.wants(item.id):
            frame.ids.setdefault(item.id, []).extend(range(first, len(self.builder.tasks)))
        items.append(Span("use", path, inside, mark=item.mark))
