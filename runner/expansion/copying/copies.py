"""Pieces of a program that expand alike are expanded once and copied: trips of loops, and used graphs.

A copy differs from its piece in its path, in the ids of what it makes, in the tensors handed to it, in who wrote those before, in
regions that the loop variable decides, and in attrs; all that is found anew, and everything that could go wrong is tried before
anything is made. `tests/expansion/test_uses.py` and `test_trips.py` compare programs with and without copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runner.base.records import builder as record_builder
from runner.expansion.builder import ProgramBuilder
from runner.expansion.calls import OpCompiler, attr_value
from runner.expansion.copying.likeness import ControlKeys, Key, LoopForm, given_params, loop_form, shape
from runner.expansion.copying.pieces import Access, CopiedTask, Copy, Piece, RangeStep, Step, Template, template
from runner.expansion.externals import Externals
from runner.expansion.last_writers import NOBODY
from runner.expansion.names import Context, Frame, Resolved, View
from runner.expansion.trip_counts import DynamicRange
from runner.language.expressions import ExprError
from runner.language.graph import For
from runner.language.library import GraphLibrary
from runner.program.program import Region, Span, Trips

FEWEST_TRIPS = 3
"""Working out how to copy a trip takes about as long as expanding one."""

EXPLICIT = "after", "wait_only"
"""Names of the edges that a graph asks for."""

_new_region, _new_span, _new_task = record_builder(Region), record_builder(Span), record_builder(CopiedTask)


@dataclass(slots=True)
class Loop:
    """The trips of one loop, in one place of the program."""

    form: LoopForm
    context: Context
    left: int
    known: dict[Key, Piece] = field(default_factory=dict)


class Copier:
    """The pieces of one program that others may be copied from."""

    def __init__(self, builder: ProgramBuilder, ops: OpCompiler, externals: Externals, library: GraphLibrary):
        self.builder = builder
        self.ops = ops
        self.externals = externals
        self.keys = ControlKeys(library)
        self.known: dict[Key, Piece] = {}
        self.forms: dict[int, LoopForm | None] = {}

    # --- pieces ---

    def use(self, frame: Frame, context: Context) -> Piece | None:
        """A used graph that is about to be expanded; None when it has to be in any case, and so do those like it."""
        control = self.keys.key(context)
        if control is None:
            return None
        key = (id(context.graph), control, shape(frame.names, self.builder))
        return Piece(self.known, key, frame, context, dict(frame.names))

    def loop(self, item: For, context: Context, num_trips: int) -> Loop | None:
        """A loop of `num_trips` whose trips may be copied."""
        if num_trips < FEWEST_TRIPS:
            return None
        if id(item) not in self.forms:
            self.forms[id(item)] = loop_form(item, context, self.ops)
        form = self.forms[id(item)]
        return Loop(form, context, num_trips) if form is not None else None

    def trip(self, loop: Loop, frame: Frame) -> Piece | None:
        """The next trip of a loop; None when it has to be expanded."""
        loop.left -= 1
        if not frame.names.keys() >= loop.form.carry.keys():  # the first: what it carries over has no other name yet
            return None
        key = shape(frame.names, self.builder)
        if loop.left < FEWEST_TRIPS - 1 and key not in loop.known:
            return None
        return Piece(loop.known, key, frame, loop.context, dict(frame.names), loop.form)

    def begin(self, piece: Piece) -> None:
        """The piece is about to be expanded."""
        piece.start = self.builder.position

    def end(self, piece: Piece, items: Sequence[int | Span]) -> None:
        """The piece was expanded, and others can be copied from it unless something about it cannot."""
        piece.end, piece.items = self.builder.position, tuple(items)
        varies = piece.loop is not None and piece.loop.has_rules_that_vary
        if piece.end.obstacles == piece.start.obstacles and not varies:
            piece.known.setdefault(piece.key, piece)

    # --- copying ---

    def copy(self, piece: Piece) -> tuple[int | Span, ...] | None:
        """The items of a piece, copied from one known to be alike; None, with nothing done, when it has to be expanded."""
        original = piece.known.get(piece.key)
        if original is None or self.builder.has_modes:
            return None
        if original.template is None and original.is_fit:
            original.template = template(original, self.builder, self.ops)
            original.is_fit = original.template is not None
        found = original.template
        if found is None:
            return None
        contexts = _Contexts(found, piece.context)
        try:
            values = [attr_value(expr, contexts.of(context)) for context, expr in found.exprs]
        except ExprError:
            return None
        resolved = [self.resolved(old, contexts) for old in found.externals] if found.externals else []
        outside = {old.tensor: piece.bound[name].tensor for name, old in original.bound.items()}
        if (outside or resolved) and not self.is_as_distinct(found, outside, resolved):
            return None
        views = [self.ops.shown(ref, base, piece.context) for ref, base, _ in found.views]
        if not all(view is not None and view.spec is spec for view, (_, _, spec) in zip(views, found.views, strict=True)):
            return None
        if not self.builder.has_room(original.start, original.end):
            return None
        copy = _Copy(self.builder, found, piece.frame.prefix, found.fixed | outside, values)
        copy.make_tensors(self.externals, resolved)
        copy.make_tasks([view.region for view in views if view])
        if original.start.attrs < original.end.attrs:
            for task, context, given in self.builder.attrs[original.start.attrs : original.end.attrs]:
                self.builder.attrs.append((task + copy.shift, contexts.of(context), given))
        for name, view in found.carried.items():
            piece.frame.names[name] = copy.view(view)
        return copy.items(original.items)

    def resolved(self, old: Resolved, contexts: _Contexts) -> Resolved:
        context = contexts.of(old.context)
        return replace(old, context=context, source=self.externals.source(old.declared, context, old.is_scale))

    def is_as_distinct(self, found: Template, outside: dict[int, int], resolved: list[Resolved]) -> bool:
        """Would the copy's outside tensors be one for one the template's?"""
        tensors: dict[int, Any] = outside | found.fixed
        for old, new in zip(found.externals, resolved, strict=True):
            known = self.externals.known.get((new.kind, new.source))
            identity = known.tensor if known else (new.kind, new.source)
            if tensors.setdefault(old.tensor, identity) != identity:
                return False
        return len(set(tensors.values())) == len(tensors)


class _Contexts:
    """Contexts of a copy by those of its template that they stand for."""

    def __init__(self, found: Template, own: Context):
        self.template = found
        self.known = {id(found.piece.context): own}

    def of(self, old: Context) -> Context:
        """The same graph with the params that follow from the copy's own."""
        known = self.known.get(id(old))
        if known is None:
            assert old.parent is not None and old.item is not None, "the template's own context is known"
            parent = self.of(old.parent)
            values = dict(old.values)
            for name, expr in given_params(old.item, old.graph, self.template.constants_of(old.parent)).items():
                values[name] = expr.evaluate(parent.values.__getitem__)
            known = self.known[id(old)] = Context(old.graph, values, parent, old.item)
        return known


class _Copy:
    """One copy under way: where ids of the template go."""

    def __init__(self, builder: ProgramBuilder, found: Template, prefix: str, tensors: dict[int, int], values: list[Any]):
        self.builder = builder
        self.template = found
        self.prefix = prefix
        self.cut = len(found.piece.frame.prefix)
        self.shift = len(builder.tasks) - found.piece.start.tasks
        self.numbers = builder.numbered(found.piece.end.tasks + self.shift)
        self.own = tuple(self.numbers[len(builder.tasks) : found.piece.end.tasks + self.shift])  # its tasks
        self.next = iter(self.own)
        self.tensors = tensors
        self.copy = Copy(prefix, values)
        self.regions: list[Region] = []
        self.trips: list[Trips] = []

    def make_tensors(self, externals: Externals, resolved: list[Resolved]) -> None:
        """Local tensors and new externals, in the template's order."""
        for made in self.template.makes:
            if isinstance(made, int):
                self.tensors[self.template.externals[made].tensor] = externals.resolve(resolved[made]).tensor
            elif made:
                ids = self.builder.add_like(made)
                self.tensors.update(zip([old.id for old in made], ids, strict=True))
                self.regions += [_new_region(tensor, None, (), None, None) for tensor in ids]
        self.copy.tensors = tuple([self.tensors[old] for old in self.template.tensors])

    def make_tasks(self, varying: list[Region]) -> None:
        """Tasks in submission order, since each follows what was written before it; and the trips of dynamic loops."""
        found, tensors = self.template, self.tensors
        regions, new = self.regions, _new_region
        for old, is_fixed in found.regions:
            regions.append(old if is_fixed else new(tensors[old.tensor], old.box, old.dropped, old.part, old.seen))
        regions += [new(tensors[old.tensor], old.box, old.dropped, old.part, old.seen) for old in varying]
        self.copy.regions = tuple(regions)
        if found.waits is None or found.piece.bound or found.externals:
            found.waits = [self.writers(group) for group in found.groups]
        loops: list[int] = []
        for number, (ahead, steps) in enumerate(found.runs):
            if ahead is not None:
                self.trips.append(self.range(ahead))
                loops.append(self.builder.open_loop())
            elif number:
                self.builder.close_loop(loops.pop())
            self.run(steps, found.waits)

    def writers(self, group: Sequence[int]) -> tuple[int, ...]:
        """Who wrote steady regions last."""
        waits: set[int] = set()
        for number in group:
            self.builder.follow(self.regions[number], waits)
        return tuple(sorted(waits))

    def run(self, steps: Sequence[Step], steady: Sequence[tuple[int, ...]]) -> None:
        tasks, copy, own = self.builder.tasks, self.copy, self.own
        edges, most_edges = self.builder.edges, self.builder.limits.edges
        for step, index in zip(steps, self.next, strict=False):
            waits = steady[step.steady]
            if step.inside is not None:
                waits += step.inside(own)
            if step.accesses:
                waits = self.access(step.accesses, index, step.path, waits)
            edges += len(waits) + len(step.after)
            if edges > most_edges:
                raise self.builder.too_large("edges", step.root.mark)
            tasks.append(_new_task(copy, index, step, waits))
            if step.after:
                moved = {name: [self.numbers[task + self.shift] for task in getattr(step.old, name)] for name in EXPLICIT}
                explicit = {name: tuple(found) for name, found in moved.items()}
                tasks[-1] = replace(tasks[-1], **explicit)
        self.builder.edges = edges

    def access(self, accesses: Sequence[Access], task: int, path: str, waits: Sequence[int]) -> tuple[int, ...]:
        """What a task or range with a path in the copy waits for, with what it does to live and varying regions."""
        found, builder = set(waits), self.builder
        for access in accesses:
            region = self.regions[access.region]
            if access.is_read and not builder.follow(region, found) and access.mark is not None:
                builder.note_unwritten(region.tensor, access.mark, self.prefix + path)
            if access.is_write:
                builder.overwrite(region, task, found)
        found.discard(task)
        return tuple(sorted(found))

    def range(self, step: RangeStep) -> Trips:
        old, count = step.old, step.old.evaluate
        assert isinstance(count, DynamicRange)
        inner = old.path[self.cut :]
        path = self.prefix + inner
        moved = replace(count, path=path, views={name: self.view(view) for name, view in count.views.items()})
        waits = self.access(step.accesses, NOBODY, inner, [self.numbers[task + self.shift] for task in step.inside])
        return Trips(path, moved.reads, waits, old.bound, moved, old.mark)

    def view(self, old: View) -> View:
        tensor, region = self.tensors[old.tensor], old.region
        return View(tensor, old.spec, Region(tensor, region.box, region.dropped, region.part, region.seen), old.whole)

    def items(self, items: Sequence[int | Span]) -> tuple[int | Span, ...]:
        """Ids and spans, once the tasks are made."""
        numbers, shift = self.numbers, self.shift
        return tuple([numbers[item + shift] if isinstance(item, int) else self.span(item) for item in items])

    def span(self, old: Span) -> Span:
        trips = self.trips.pop(0) if old.trips is not None else None
        return _new_span(old.kind, self.prefix + old.path[self.cut :], self.items(old.items), old.mode, trips, old.mark)
