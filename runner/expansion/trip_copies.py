"""Loops whose trips are all alike: the first trip is expanded, the others are copied from it.

A body of ops, allocs and scopes makes the same tasks in every trip. Of an op's operands, some are the same in every trip: they
are not made in the loop, do not depend on the loop variable, and nothing in the loop writes their tensor. Some move with the
trip: all of a tensor that the trip makes. The others are looked up anew in every trip, as are attrs that name the loop variable.
Ops of which more than that may differ are expanded in every trip.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Protocol

from runner.base.errors import Mark
from runner.base.records import builder
from runner.base.tensor_spec import TensorSpec
from runner.expansion.calls import NodeOp, OpCompiler, attr_value
from runner.expansion.last_writers import NOBODY, Writers
from runner.expansion.names import Context, Frame, View, ids
from runner.expansion.state import Recorder
from runner.language.expressions import Expr, ExprError
from runner.language.graph import Alloc, For, Item, Op, Scope
from runner.language.notation import RegionRef, parse_type
from runner.program.program import Region, Span, Task, Tensor

FEWEST_TRIPS = 3
"""Working out how to copy a trip takes about as long as expanding one."""

_new_region, _new_span, _new_task = builder(Region), builder(Span), builder(Task)
_new_tensor, _new_view = builder(Tensor), builder(View)

Pick = Callable[[Sequence[int]], tuple[int, ...]]
"""Picks some ids out of those that a trip knows."""


class Expander(Protocol):
    """What this needs of `runner.expansion.expander`'s walk."""

    ops: OpCompiler
    tasks: list[Task]
    tensors: list[Tensor]
    local: list[bool]
    last: list[int | Writers]
    recorders: list[Recorder]
    open_loops: set[int]
    work: int
    max_work: int

    def op(self, item: Op, frame: Frame, context: Context) -> int: ...

    def intern(self, dtype: str, shape: tuple[int, ...]) -> TensorSpec: ...

    def follow(self, view: View, waits: set[int]) -> bool: ...

    def read(self, view: View, waits: set[int], task: int | None) -> bool: ...

    def write(self, view: View, task: int, waits: set[int]) -> None: ...

    def record(self, view: View, is_write: bool, task: int | None) -> None: ...

    def note_unwritten(self, view: View, mark: Mark, path: str) -> None: ...


@dataclass(slots=True)
class _Loose:
    """An operand that is looked up in every trip; its type is that of the first trip's."""

    name: str
    ref: RegionRef
    spec: TensorSpec
    is_read: bool
    is_written: bool


@dataclass(slots=True)
class _Step:
    """One task of a trip, like `old` of the first.

    The tensors that a trip makes are known by slots. A Pick is None where the first trip's ids are right. `fixed` are the inputs
    that are the same in every trip. `is_expanded` steps only have `old`, `item`, `frame` and `slots`.
    """

    old: Task
    item: Op | Alloc
    frame: int
    slots: tuple[int, ...]  # of the tensors that it makes
    is_expanded: bool = False
    makes: tuple[tuple[int, str, TensorSpec, Mark | None, bool], ...] = ()  # slot, name, spec, mark, is it looked up by name
    fills: tuple[int, ...] = ()  # slots of older tensors that it writes
    moving: tuple[tuple[str, int], ...] = ()
    loose: tuple[_Loose, ...] = ()
    fixed: tuple[View, ...] = ()
    attrs: tuple[tuple[str, int], ...] = ()  # names, and numbers among `TripCopier.exprs`
    creates: Pick | None = None
    uses: Pick | None = None
    reads: Pick | None = None
    writes: Pick | None = None
    waits: Pick | None = None


@dataclass(slots=True)
class TripCopier:
    """Makes trips of one loop like its first.

    Picks find a trip's tensors by slot and then `outer_tensors`, its tasks by position and then `outer_tasks`.
    """

    expander: Expander
    context: Context
    first: int
    cut: int
    items: tuple[int | Span, ...]
    work: int
    scopes: list[tuple[int, Scope]] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)
    exprs: list[Expr] = field(default_factory=list)
    num_slots: int = 0
    outer_tensors: list[int] = field(default_factory=list)
    outer_tasks: list[int] = field(default_factory=list)

    def copy(self, inner: Frame) -> tuple[int | Span, ...] | None:
        """The items of another trip, whose names go to `inner`; None, with nothing done, when it has to be expanded."""
        e = self.expander
        if e.work + self.work > e.max_work:
            return None
        try:
            values = [attr_value(expr, self.context) for expr in self.exprs]
        except ExprError:
            return None
        e.work += self.work
        base = len(e.tasks)
        tasks = [*range(base, base + len(self.steps)), *self.outer_tasks]
        tensors = [NOBODY] * self.num_slots + self.outer_tensors
        regions: list[Region] = [_NO_REGION] * self.num_slots
        frames = self.frames(inner)
        for step in self.steps:
            views = () if step.is_expanded else self.look(step, frames) if step.loose else ()
            if step.is_expanded or views is None:
                self.expand(step, frames, tensors, regions)
            else:
                self.copy_task(step, frames, views, values, tasks, tensors, regions)
        if not self.scopes:
            return tuple(tasks[: len(self.steps)])
        return self.moved(self.items, base - self.first, inner.prefix)

    def frames(self, inner: Frame) -> list[Frame]:
        """The frame of the trip and those of the scopes in it."""
        frames = [inner]
        for parent, scope in self.scopes:
            around = frames[parent]
            frames.append(Frame(around, f"{around.prefix}{scope.name}.", scope.body, scope=scope.name))
        return frames

    def expand(self, step: _Step, frames: list[Frame], tensors: list[int], regions: list[Region]) -> None:
        e = self.expander
        assert isinstance(step.item, Op), "allocs can always be copied"
        made = e.tasks[e.op(step.item, frames[step.frame], self.context)].creates
        for slot, tensor in zip(step.slots, made, strict=False):  # scratch, which comes last, may differ
            tensors[slot], regions[slot] = tensor, _new_region(tensor, None, (), None)

    def look(self, step: _Step, frames: list[Frame]) -> list[View] | None:
        """What the loose operands show; None when one is not like in the first trip."""
        views = []
        for loose in step.loose:
            view = self.expander.ops.view(loose.ref, frames[step.frame], self.context)
            if view is None or view.spec is not loose.spec:
                return None
            views.append(view)
        return views

    def copy_task(
        self,
        step: _Step,
        frames: list[Frame],
        views: Sequence[View],
        values: list[Any],
        tasks: list[int],
        tensors: list[int],
        regions: list[Region],
    ) -> None:
        """Appends the task that is `step` in a trip; `views` are what its loose operands show, `values` those of `exprs`."""
        e, old = self.expander, step.old
        index = len(e.tasks)
        path = frames[step.frame].prefix + step.item.id
        waits = old.waits if step.waits is None else step.waits(tasks)
        if views:
            waits = self.access(step, views, index, path, waits)
        for slot, name, spec, mark, is_named in step.makes:
            tensor = tensors[slot] = len(e.tensors)
            region = regions[slot] = _new_region(tensor, None, (), None)
            e.tensors.append(_new_tensor(tensor, name, spec, "local", "", mark, None, None))
            e.local.append(True)
            e.last.append(NOBODY if old.op is None else index)
            if is_named:
                frames[step.frame].names[name] = _new_view(tensor, spec, region)
        for slot in step.fills:
            e.last[tensors[slot]] = index
        operands, attrs = old.operands, old.attrs
        if step.moving or views:
            operands = dict(operands)
            for name, slot in step.moving:
                operands[name] = regions[slot]
            for loose, view in zip(step.loose, views, strict=True):
                operands[loose.name] = view.region
        if step.attrs:
            attrs = dict(attrs)
            for name, number in step.attrs:
                attrs[name] = values[number]
        creates = old.creates if step.creates is None else step.creates(tensors)
        e.tasks.append(
            _new_task(
                index,
                path,
                old.op,
                old.core,
                operands,
                attrs,
                creates,
                old.uses if step.uses is None else step.uses(tensors),
                old.reads if step.reads is None else step.reads(tensors),
                old.writes if step.writes is None else creates if step.writes is step.creates else step.writes(tensors),
                waits,
                (),
                old.num_blocks,
                old.mark,
                old.doc,
                old.device,
            )
        )
        if e.recorders:
            self.record(step, index)

    def access(self, step: _Step, views: Sequence[View], index: int, path: str, waits: Iterable[int]) -> tuple[int, ...]:
        """What a task follows, with what follows from its loose operands; it becomes their last writer."""
        e, found = self.expander, set(waits)
        for loose, view in zip(step.loose, views, strict=True):
            if loose.is_read and not e.read(view, found, index):
                e.note_unwritten(view, loose.ref.text.mark, path)
            if loose.is_written:
                e.write(view, index, found)
        found.discard(index)
        return tuple(sorted(found))

    def record(self, step: _Step, index: int) -> None:
        """What recorders would have noted of the task beside its loose operands."""
        for view in step.fixed:
            self.expander.record(view, False, index)
        for recorder in self.expander.recorders:
            if step.old.id in recorder.attrs:
                recorder.attrs[index] = recorder.attrs[step.old.id]

    def moved(self, items: Sequence[int | Span], shift: int, prefix: str) -> tuple[int | Span, ...]:
        return tuple([item + shift if isinstance(item, int) else self.moved_span(item, shift, prefix) for item in items])

    def moved_span(self, span: Span, shift: int, prefix: str) -> Span:
        items = self.moved(span.items, shift, prefix)
        return _new_span(span.kind, prefix + span.path[self.cut :], items, span.mode, None, span.mark)


_NO_REGION = Region(NOBODY)


def trip_copier(
    expander: Expander,
    loop: For,
    frame: Frame,
    context: Context,
    prefix: str,
    first: int,
    items: tuple[int | Span, ...],
    work: int,
) -> TripCopier | None:
    """How to copy the trip of `loop` in `frame` that was just expanded; None when trips may differ in more than can be told.

    The trip's path begins with `prefix`, its tasks with `first`; its `items` took `work`.
    """
    copier = TripCopier(expander, context, first, len(prefix), items, work)
    body = list(_flat(loop.body, 0, copier.scopes))
    if not all(isinstance(item, Op | Alloc) for item, _ in body) or any(context.wants(name) for name in ids((loop,))):
        return None
    try:
        _Analysis(copier, loop, frame).run(body)
    except _UnlikeError:
        return None
    return copier


def _flat(body: Sequence[Item], frame: int, scopes: list[tuple[int, Scope]]) -> Iterator[tuple[Any, int]]:
    """All items but scopes, each with the number of its frame; fills `scopes` with the frames around and what opens them."""
    for item in body:
        if isinstance(item, Scope):
            scopes.append((frame, item))
            yield from _flat(item.body, len(scopes), scopes)
        else:
            yield item, frame


class _UnlikeError(Exception):
    """Trips may differ in more than can be told."""


class _Analysis:
    """Decides what becomes of each task of the first trip, in order.

    `slots` are the tensors that the trip makes, `writers` their last writers so far; `irregular` are those of them that something
    loose writes, so that who wrote what of it last may depend on the trip. `written` are all tensors that ops of the trip write.
    """

    def __init__(self, copier: TripCopier, loop: For, frame: Frame):
        self.copier = copier
        self.expander = copier.expander
        self.loop = loop
        self.frame = frame
        self.slots: dict[int, int] = {}
        self.writers: dict[int, int] = {}
        self.irregular: set[int] = set()
        self.written: set[int] = set()
        self.tasks: dict[int, int] = {}  # places among those that a pick of waits chooses from
        self.tensors: dict[int, int] = {}
        self.picks: dict[tuple[bool, tuple[int, ...]], Pick] = {}

    def run(self, body: Sequence[tuple[Op | Alloc, int]]) -> None:
        """Fills the copier; raises _UnlikeError."""
        copier = self.copier
        tasks = self.expander.tasks[copier.first :]
        for (item, _), task in zip(body, tasks, strict=True):
            self.note(item, task)
        self.tensors.update(self.slots)
        self.tasks.update((task.id, position) for position, task in enumerate(tasks))
        for (item, frame), task in zip(body, tasks, strict=True):
            step = _Step(task, item, frame, tuple([self.slots[tensor] for tensor in task.creates]))
            copier.steps.append(step)
            waits: set[int] = set()
            if isinstance(item, Op):
                self.operands(step, self.expander.ops.compiled(item, copier.context), waits)
                self.writers.update(dict.fromkeys(task.creates, task.id))
            self.pick_ids(step, waits)
        self.make_tensors()
        copier.num_slots = len(self.slots)
        copier.outer_tensors, copier.outer_tasks = list(self.tensors)[len(self.slots) :], list(self.tasks)[len(tasks) :]

    def note(self, item: Op | Alloc, task: Task) -> None:
        """What a task makes, and what it writes from outside."""
        for tensor in task.creates:
            self.slots[tensor] = len(self.slots)
        if isinstance(item, Alloc):
            kinds = [parse_type(declared.spec) for declared in item.tensors]
        else:
            node = self.expander.ops.compiled(item, self.copier.context)
            kinds = [kind for _, _, kind in node.created]
            if item.after or len(set(node.names)) < len(node.names) or not all(name in task.operands for name in node.names):
                raise _UnlikeError
            if any(ref.name in self.loop.carry for _, ref, _ in node.targets):
                raise _UnlikeError
            self.written.update(task.operands[name].tensor for name, _, _ in node.targets)
        if any(self.depends(kind.dims) for kind in kinds):
            raise _UnlikeError

    def depends(self, exprs: Iterable[Expr | None]) -> bool:
        return any(expr is not None and self.loop.variable in expr.names() for expr in exprs)

    def varies(self, ref: RegionRef) -> bool:
        """Does the region depend on the loop variable?"""
        ends = [end for index in ref.indices for end in (index if isinstance(index, tuple) else (index,))]
        return self.depends(ends) or self.depends(ref.part or ())

    # --- operands and attrs ---

    def operands(self, step: _Step, node: NodeOp, waits: set[int]) -> None:
        """What becomes of a task's operands and attrs; `waits` are its edges that do not come from loose operands."""
        task = step.old
        targets = {task.operands[name].tensor for name, _, _ in node.targets}
        is_carried = any(ref.name in self.loop.carry for _, ref in node.inputs)
        are_attrs_free = not node.rules_read_attrs and all(name in task.attrs for name, _ in node.attrs)
        step.is_expanded = is_carried or len(targets) < len(node.targets) or not (are_attrs_free or not node.attrs)
        if step.is_expanded:
            self.irregular |= targets
            return
        inputs = [(name, ref, True, False) for name, ref in node.inputs]
        for name, ref, is_read, is_written in [*inputs, *[(name, ref, is_inout, True) for name, ref, is_inout in node.targets]]:
            region = task.operands[name]
            if region.tensor in self.slots and self.is_regular(region, is_written):
                self.moving(step, region.tensor, is_written, waits)
            elif region.tensor in self.slots or region.tensor in self.written or self.varies(ref):
                step.loose += (_Loose(name, ref, self.shown(region).spec, is_read, is_written),)
                if is_written:
                    self.irregular.add(region.tensor)
            else:
                step.fixed += (self.shown(region),)
                self.expander.follow(step.fixed[-1], waits)
        step.attrs = tuple([(name, self.number(expr)) for name, expr in node.attrs if self.depends((expr,))])

    def shown(self, region: Region) -> View:
        spec = self.expander.tensors[region.tensor].spec
        if region.box is not None:
            kept = [hi - lo for axis, (lo, hi) in enumerate(region.box) if axis not in region.dropped]
            spec = self.expander.intern(spec.dtype, tuple(kept))
        return View(region.tensor, spec, region)

    def number(self, expr: Expr) -> int:
        """The place of an attr's expression among those that are evaluated once a trip."""
        exprs = self.copier.exprs
        texts = [known.text for known in exprs]
        if expr.text not in texts:
            exprs.append(expr)
            return len(texts)
        return texts.index(expr.text)

    def is_regular(self, region: Region, is_written: bool) -> bool:
        """Is it all of a tensor whose last writers do not depend on the trip, and if written, are they told by that alone?"""
        tensor = region.tensor
        if region.box is not None or region.part is not None or tensor in self.irregular:
            return False
        is_first = tensor not in self.writers or not self.expander.open_loops  # else it displaces one that may run instead
        return not is_written or (is_first and 0 not in self.expander.tensors[tensor].spec.shape)

    def moving(self, step: _Step, tensor: int, is_written: bool, waits: set[int]) -> None:
        if tensor in self.writers and 0 not in self.expander.tensors[tensor].spec.shape:
            waits.add(self.writers[tensor])
        if is_written:
            step.fills += (self.slots[tensor],)
            self.writers[tensor] = step.old.id

    # --- ids ---

    def pick_ids(self, step: _Step, waits: set[int]) -> None:
        """How to find the ids in a task; in ascending order of the first trip's, which is that of all trips'."""
        old = step.old
        step.creates = self.pick(self.tensors, self.slots, old.creates)
        step.uses = self.pick(self.tensors, self.slots, old.uses)
        step.reads = self.pick(self.tensors, self.slots, old.reads)
        step.writes = self.pick(self.tensors, self.slots, old.writes)
        step.waits = self.pick(self.tasks, range(self.copier.first, old.id), tuple(sorted(waits)), old.waits)
        step.moving = tuple([(name, self.slots[r.tensor]) for name, r in old.operands.items() if r.tensor in self.slots])

    def pick(
        self, places: dict[int, int], own: Container[int], wanted: tuple[int, ...], known: tuple[int, ...] | None = None
    ) -> Pick | None:
        """What picks `wanted` in a trip; None when these are ids from outside and equal `known`."""
        if not any(index in own for index in wanted) and known in (None, wanted):
            return None
        numbers = tuple([places.setdefault(index, len(places)) for index in wanted])
        key = (places is self.tasks, numbers)
        if key not in self.picks:
            self.picks[key] = _pick(numbers)
        return self.picks[key]

    def make_tensors(self) -> None:
        """What each task makes; what is looked up by name gets its names."""
        named = {*self.loop.carry, *(text.value for text in self.loop.carry.values())}
        for step in self.copier.steps:
            if (step.is_expanded or step.loose) and isinstance(step.item, Op):
                node = self.expander.ops.compiled(step.item, self.copier.context)
                named |= {ref.name for _, ref in node.inputs} | {ref.name for _, ref, _ in node.targets}
        for step in self.copier.steps:
            made = [self.expander.tensors[tensor] for tensor in step.old.creates]
            step.makes = tuple([(self.slots[t.id], t.name, t.spec, t.mark, t.name in named) for t in made])


def _pick(numbers: tuple[int, ...]) -> Pick:
    if len(numbers) < 2:
        return lambda known: tuple([known[number] for number in numbers])
    return itemgetter(*numbers)
