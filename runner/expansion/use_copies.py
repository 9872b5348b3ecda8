"""Used graphs that expand alike are expanded once and then stamped: their tasks, tensors and spans are copied with other ids.

A layer of 14,000 tasks whose structure was seen before costs a copy of each task instead of its expansion. Two such uses may
differ in their path, in what their inputs, outputs, weights and states are, in who wrote those before, and in attrs; all that is
found anew. `tests/expansion/test_stamps.py` compares programs with and without stamping.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runner.base.records import builder
from runner.expansion.calls import attr_value
from runner.expansion.externals import Externals, Resolved
from runner.expansion.last_writers import NOBODY
from runner.expansion.names import Context, Frame, View
from runner.expansion.state import Access, Expansion, Recorder
from runner.expansion.trip_counts import DynamicRange
from runner.expansion.use_keys import ControlKeys, Key, given_params, known_names
from runner.language.library import GraphLibrary
from runner.program.program import Region, Span, Task, Trips

_new_region, _new_span, _new_task = builder(Region), builder(Span), builder(Task)


@dataclass(slots=True)
class Stamp:
    """One expanded use: what lies between two states of the expansion, and what it touched outside."""

    context: Context
    bound: dict[str, View]
    prefix: str
    first_tensor: int
    first_task: int
    first_loop: int
    work: int
    recorder: Recorder
    num_tensors: int = 0
    num_tasks: int = 0
    num_loops: int = 0
    items: list[int | Span] = field(default_factory=list)


@dataclass(slots=True)
class _Contexts:
    """Contexts of one copy by those of its stamp that they stand for (by `id`): `own` is the stamp's own.

    `constants` holds the names that keep one value throughout a context of the stamp, for those that were looked at.
    """

    own: int
    of: dict[int, Context]
    constants: dict[int, set[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Copy:
    """One copy under way: where ids of the stamp go."""

    stamp: Stamp
    prefix: str
    task_shift: int
    loop_shift: int
    tensors: dict[int, int]
    contexts: _Contexts
    open_loops: set[int]
    regions: dict[int, Region] = field(default_factory=dict)

    def path(self, old: str) -> str:
        return self.prefix + old[len(self.stamp.prefix) :]

    def region(self, old: Region) -> Region:
        new = self.tensors[old.tensor]
        if old.box is None and old.part is None:
            region = self.regions.get(new)
            if region is None:
                region = self.regions[new] = _new_region(new, None, (), None)
            return region
        return _new_region(new, old.box, old.dropped, old.part)

    def view(self, old: View) -> View:
        return View(self.tensors[old.tensor], old.spec, self.region(old.region))


class Stamps:
    """The stamps of one expansion."""

    def __init__(self, expansion: Expansion, externals: Externals, library: GraphLibrary):
        self.expansion = expansion
        self.externals = externals
        self.library = library
        self.keys = ControlKeys(library)
        self.known: dict[Key, Stamp] = {}

    def key(self, frame: Frame, context: Context) -> Key | None:
        """What two uses must share to be copies of each other; None for one that is expanded in any case."""
        control = self.keys.key(context)
        if control is None:
            return None
        first: dict[int, int] = {}
        bound: list[Any] = []
        for name, view in frame.names.items():
            region = view.region
            alias = first.setdefault(view.tensor, len(first))
            local = self.expansion.local[view.tensor]
            bound.append((name, alias, local, id(view.spec), region.box, region.dropped, region.part))
        return (id(context.graph), control, tuple(bound))

    def begin(self, frame: Frame, context: Context) -> Stamp:
        """Starts recording a use that is about to be expanded."""
        e = self.expansion
        recorder = Recorder(len(e.tensors), e.loop, frozenset(e.open_loops))
        e.recorders.append(recorder)
        return Stamp(context, dict(frame.names), frame.prefix, len(e.tensors), len(e.tasks), e.num_loops, e.work, recorder)

    def end(self, key: Key, stamp: Stamp, items: list[int | Span]) -> None:
        """Ends recording; the use can now be copied, unless something about it cannot."""
        e = self.expansion
        e.recorders.pop()
        stamp.items = items
        stamp.num_tensors, stamp.num_tasks = len(e.tensors) - stamp.first_tensor, len(e.tasks) - stamp.first_task
        stamp.num_loops, stamp.work = e.num_loops - stamp.first_loop, e.work - stamp.work
        if stamp.recorder.is_complete:
            self.known[key] = stamp

    # --- copying ---

    def copy(self, stamp: Stamp, frame: Frame, context: Context) -> list[int | Span] | None:
        """The items of a use like `stamp`; None, with nothing done, when its externals are not as distinct as the stamp's."""
        e = self.expansion
        contexts = _Contexts(id(stamp.context), {id(stamp.context): context})
        outside = {view.tensor: frame.names[name].tensor for name, view in stamp.bound.items()}
        resolved = [self.resolved(old, contexts) for old in stamp.recorder.externals]
        if not self.are_as_distinct(stamp, outside, resolved):
            return None
        shifts = len(e.tasks) - stamp.first_task, e.num_loops - stamp.first_loop
        copy = _Copy(stamp, frame.prefix, *shifts, outside, contexts, set(e.open_loops))
        e.num_loops += stamp.num_loops
        e.work += stamp.work
        if e.work > e.max_work:
            raise e.too_large(context.graph.mark)
        self.copy_tensors(copy, resolved)
        ranges = iter(stamp.recorder.ranges)
        return [self.copy_item(copy, item, ranges) for item in stamp.items]

    def resolved(self, old: Resolved, contexts: _Contexts) -> Resolved:
        context = self.context_of(old.context, contexts)
        return replace(old, context=context, source=self.externals.source(old.declared, context, old.is_scale))

    def context_of(self, old: Context, contexts: _Contexts) -> Context:
        """The context that stands for `old` in the copy: the same graph with the params that follow from the copy's own."""
        known = contexts.of.get(id(old))
        if known is None:
            assert old.parent is not None and old.item is not None, "the stamp's own context is known"
            parent = self.context_of(old.parent, contexts)
            values = dict(old.values)
            for name, expr in given_params(old.item, old.graph, self.constants(old.parent, contexts)).items():
                values[name] = expr.evaluate(parent.values.__getitem__)
            known = contexts.of[id(old)] = Context(old.graph, values, parent, old.item)
        return known

    def constants(self, old: Context, contexts: _Contexts) -> set[str]:
        """Names that keep one value throughout a context of the stamp and follow from the stamp's own params."""
        known = contexts.constants.get(id(old))
        if known is None:
            params = set(old.graph.params)
            if id(old) != contexts.own and old.parent is not None and old.item is not None:
                params = set(given_params(old.item, old.graph, self.constants(old.parent, contexts)))
            known = contexts.constants[id(old)] = known_names(old.graph, old.values, params)
        return known

    def are_as_distinct(self, stamp: Stamp, outside: dict[int, int], resolved: list[Resolved]) -> bool:
        """Would the copy's outside tensors be one for one the stamp's?"""
        found: dict[int, Any] = dict(outside)
        for old, new in zip(stamp.recorder.externals, resolved, strict=True):
            known = self.externals.known.get((new.kind, new.source))
            identity = known.tensor if known else (new.kind, new.source)
            if found.setdefault(old.tensor, identity) != identity:
                return False
        return len(set(found.values())) == len(found)

    def copy_tensors(self, copy: _Copy, resolved: list[Resolved]) -> None:
        """Local tensors and new externals, in the order of the stamp."""
        e, stamp = self.expansion, copy.stamp
        pending = list(zip(stamp.recorder.externals, resolved, strict=True))[::-1]
        for index in range(stamp.first_tensor, stamp.first_tensor + stamp.num_tensors + 1):
            while pending and pending[-1][0].at <= index:
                old, new = pending.pop()
                copy.tensors[old.tensor] = self.externals.resolve(new).tensor
            made = e.tensors[index] if index < stamp.first_tensor + stamp.num_tensors else None
            if made is not None and made.is_local:
                view = e.tensor(made.name, made.spec, made.mark)
                copy.tensors[index] = view.tensor
                copy.regions[view.tensor] = view.region

    def copy_item(self, copy: _Copy, item: int | Span, ranges: Iterator[list[Access]]) -> int | Span:
        """A task or span of the copy; in submission order, since each task follows what was written before it."""
        if isinstance(item, int):
            self.copy_task(copy, self.expansion.tasks[item])
            return item + copy.task_shift
        trips = self.copy_trips(copy, item.trips, next(ranges)) if item.trips else None
        items = tuple([self.copy_item(copy, inner, ranges) for inner in item.items])
        return _new_span(item.kind, copy.path(item.path), items, item.mode, trips, item.mark)

    def copy_trips(self, copy: _Copy, old: Trips, accesses: list[Access]) -> Trips:
        e, count = self.expansion, old.evaluate
        assert isinstance(count, DynamicRange)
        waits = {other + copy.task_shift for other in old.waits if other >= copy.stamp.first_task}
        e.begin_range()
        self.repeat(copy, accesses, None, waits)
        views = {name: copy.view(view) for name, view in count.views.items()}
        path = copy.path(old.path)
        moved = replace(count, path=path, views=views)
        return Trips(path, moved.reads, tuple(sorted(waits)), old.bound, moved, old.mark)

    def copy_task(self, copy: _Copy, old: Task) -> None:
        e, tensors, shift, region = self.expansion, copy.tensors, copy.task_shift, copy.region
        index = old.id + shift
        waits = {other + shift for other in old.waits if other >= copy.stamp.first_task}
        accesses = copy.stamp.recorder.accesses.get(old.id)
        if accesses:
            self.repeat(copy, accesses, index, waits)
        e.tasks.append(
            _new_task(
                index,
                copy.path(old.path),
                old.op,
                old.core,
                {name: region(shown) for name, shown in old.operands.items()},
                self.attrs(copy, old) if old.id in copy.stamp.recorder.attrs else old.attrs,
                tuple([tensors[tensor] for tensor in old.creates]),
                tuple([tensors[tensor] for tensor in old.uses]),
                tuple([tensors[tensor] for tensor in old.reads]),
                tuple([tensors[tensor] for tensor in old.writes]),
                tuple(sorted(waits)),
                tuple([other + shift for other in old.after]),
                old.num_blocks,
                old.mark,
                old.doc,
                old.device,
            )
        )

    def attrs(self, copy: _Copy, old: Task) -> Mapping[str, Any]:
        """The task's attrs, those that depend on params evaluated anew."""
        context, given = copy.stamp.recorder.attrs[old.id]
        new, constants = self.context_of(context, copy.contexts), self.constants(context, copy.contexts)
        attrs = dict(old.attrs)
        for name, expr in given:
            if expr.names() <= constants:
                attrs[name] = attr_value(expr, new)
        for recorder in self.expansion.recorders:
            recorder.attrs[old.id + copy.task_shift] = (new, given)
        return attrs

    def repeat(self, copy: _Copy, accesses: list[Access], task: int | None, waits: set[int]) -> None:
        """Do again what a task or range did to tensors outside of the use."""
        e = self.expansion
        for access in accesses:
            if not access.is_write and not e.recorders and e.last[copy.tensors[access.view.tensor]] == NOBODY:
                continue  # a weight
            view, outer = copy.view(access.view), (e.loop, e.open_loops)
            if access.open_loops:
                e.loop = access.loop + copy.loop_shift
                e.open_loops = copy.open_loops | {loop + copy.loop_shift for loop in access.open_loops}
            if not access.is_write:
                e.read(view, waits, task)
            elif task is not None:
                e.write(view, task, waits)
            e.loop, e.open_loops = outer
