"""A piece of a program, a trip of a loop or a used graph, as a template for others like it.

    - for: i
      range: 3
      body:
        - {op: f, id: f, in: {x: a}, out: {y: "d: f32[8]"}}
        - {op: g, id: g, in: {x: d, w: "w[i]"}, out: {y: s}}

       the first trip, expanded                   the second, copied: its tasks are 2 later, what it makes 1 later
              ┌───┐     ┌───┐                              ┌───┐     ┌───┐
        a ──► │ 0 │─ d ►│ 1 │──► s                   a ──► │ 2 │─ d ►│ 3 │──► s
              └───┘     └───┘                              └───┘     └───┘
                          ▲                                            ▲
                        w[0]                                         w[1]

    tensor  is                                            task 3 waits for
    d       settled: made in the piece, and dies with it  2, since 1 waits for 0 and all ids move alike
    a       steady: from outside, and only read           nobody, as its writers are asked for once a copy
    w[i]    varying: decided by the loop variable         nobody, as those are asked for in every copy
    s       live: from outside, and written               1, which wrote it last: written anew in every copy

What params are to a used graph, the loop variable is to a trip. A used graph is handed all of its tensors, a trip those that the
loop carries. `tests/expansion/test_pieces.py` runs the example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

from runner.base.errors import Mark
from runner.base.records import builder as record_builder
from runner.base.records import working_out
from runner.base.tensor_spec import TensorSpec
from runner.expansion.builder import NOWHERE, Position, ProgramBuilder
from runner.expansion.calls import OpCompiler
from runner.expansion.copying.likeness import Key, LoopForm, given_params, known_names
from runner.expansion.last_writers import Writers
from runner.expansion.names import Context, Frame, Resolved, View
from runner.expansion.trip_counts import DynamicRange
from runner.language.expressions import Expr
from runner.language.notation import RegionRef
from runner.program.program import Operands, Region, Span, Task, Tensor, Trips

T = TypeVar("T")
Pick = Callable[[Any], tuple[T, ...]]
"""What finds the things that a task of a copy has among all of the copy's."""


@dataclass(slots=True)
class Piece:
    """A piece that is expanded or copied: names that are `bound` to what is handed to it, and where it begins.

    `known` holds the pieces that it may be copied from, by what must be the same of both; `loop` is None for a used graph.
    """

    known: dict[Key, Piece]
    key: Key
    frame: Frame
    context: Context
    bound: dict[str, View]
    loop: LoopForm | None = None
    start: Position = NOWHERE
    end: Position = NOWHERE
    items: tuple[int | Span, ...] = ()
    is_fit: bool = True
    template: Template | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """What a task does to a region that is not settled, in a copy; `mark` is where the region is written, where that is known."""

    region: int
    is_read: bool
    is_write: bool
    mark: Mark | None


@dataclass(slots=True)
class Step:
    """A task of the template, its path in the piece, names and regions of its operands, what it creates, uses, reads and writes,
    by numbers, how many arguments it has, attrs that differ (names and numbers), and what it waits for.

    That is tasks `inside` the piece, found among a copy's (None for none), the writers of a group of `steady` regions, what
    follows from accesses, and those that it names itself (`after`). `root` is the task that was expanded, of which `old` may be
    a copy.
    """

    old: Task
    root: Task
    path: str
    names: tuple[str, ...]
    regions: Pick[Region]
    creates: Pick[int]
    uses: Pick[int]
    reads: Pick[int]
    writes: Pick[int]
    num_arguments: int
    attrs: tuple[tuple[str, int], ...]
    inside: Pick[int] | None
    steady: int
    accesses: tuple[Access, ...]
    after: tuple[int, ...]


_new_step = record_builder(Step)


@dataclass(slots=True)
class Copy:
    """What a copy has: the prefix of its paths, and by number (see `Template`) its tensors, its regions and values of attrs."""

    prefix: str
    values: list[Any]
    tensors: tuple[int, ...] = ()
    regions: tuple[Region, ...] = ()


def _attrs(task: CopiedTask) -> Mapping[str, object]:
    old, own = task.step.old.attrs, task.step.attrs
    return {**old, **{name: task.copy.values[number] for name, number in own}} if own else old


@working_out(
    path=lambda task: task.copy.prefix + task.step.path,
    **{name: attrgetter(f"step.root.{name}") for name in ("op", "core", "num_blocks", "mark", "doc", "device", "modes")},
    like=attrgetter("step"),
    among=attrgetter("copy.tensors"),
    names=attrgetter("step.names"),
    regions=lambda task: task.step.regions(task.copy.regions),
    operands=lambda task: Operands(task.names, task.regions),
    attrs=_attrs,
    creates=lambda task: task.step.creates(task.copy.tensors),
    uses=lambda task: task.step.uses(task.copy.tensors),
    reads=lambda task: task.step.reads(task.copy.tensors),
    writes=lambda task: task.step.writes(task.copy.tensors),
    num_arguments=attrgetter("step.num_arguments"),
)
class CopiedTask(Task):
    """A task of a copy, without edges by `after`. Programs have half a million, so it keeps only what no other has, and finds the
    rest."""

    __slots__ = ("copy", "id", "step", "waits")
    step: Step
    copy: Copy


@dataclass(slots=True)
class RangeStep:
    """The range of a dynamic loop or choice, after which that is entered; what it waits for is given as in `Step`."""

    old: Trips
    inside: tuple[int, ...]
    accesses: tuple[Access, ...]


@dataclass(slots=True)
class Template:
    """A piece with what copies need to know.

    makes       its local tensors, in runs, and between them numbers of `externals`
    tensors     the numbers of its tensors: local ones in order, then others that some task touches
    carried     names after a trip that the next may know
    fixed       tensors from outside that are the same in every copy
    regions     what steps call by number, after those of `makes` and before `views`; is each the same in every copy
    views       regions that vary: what their name stands for, and the type that they must have
    groups      numbers of regions whose writers a step waits for
    exprs       what gives the attrs that differ
    runs        the steps in order, each run after a range, or None at the end of a dynamic loop
    waits       the writers of each group, where they are the same in every copy
    """

    piece: Piece
    makes: list[list[Tensor] | int]
    tensors: dict[int, int]
    externals: list[Resolved]
    carried: dict[str, View]
    fixed: dict[int, int] = field(default_factory=dict)
    regions: list[tuple[Region, bool]] = field(default_factory=list)
    views: list[tuple[RegionRef, View, TensorSpec]] = field(default_factory=list)
    groups: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    exprs: list[tuple[Context, Expr]] = field(default_factory=list)
    runs: list[tuple[RangeStep | None, list[Step]]] = field(default_factory=list)
    waits: list[tuple[int, ...]] | None = None
    constants: dict[int, set[str]] = field(default_factory=dict)

    def constants_of(self, context: Context) -> set[str]:
        """Names that keep one value throughout a context of the piece and follow from the piece's own params."""
        known = self.constants.get(id(context))
        if known is None:
            params = set(context.graph.params)
            if context is not self.piece.context and context.parent is not None and context.item is not None:
                params = set(given_params(context.item, context.graph, self.constants_of(context.parent)))
            known = self.constants[id(context)] = known_names(context.graph, context.values, params)
        return known


def template(piece: Piece, builder: ProgramBuilder, ops: OpCompiler) -> Template | None:
    """How to copy a piece; None when copies may differ in more than can be told."""
    return _Analysis(piece, builder, ops).run()


class _Analysis:
    """Sorts the tensors of a piece, and says of each task what it waits for and what in it may differ."""

    def __init__(self, piece: Piece, builder: ProgramBuilder, ops: OpCompiler):
        start, end = piece.start, piece.end
        self.piece, self.builder, self.ops = piece, builder, ops
        self.tasks = builder.tasks[start.tasks : end.tasks]
        local = [tensor.id for tensor in builder.tensors[start.tensors : end.tensors] if tensor.is_local]
        self.inside = {tensor: number for number, tensor in enumerate(local)}
        self.bound = {view.tensor for view in piece.bound.values()}
        self.refs = piece.loop.refs if piece.loop else {}
        self.varying: dict[tuple[int, str], int] = {}
        self.numbers: dict[int, int] = {}
        self.far: set[int] = set()
        self.groups: dict[tuple[int, ...], int] = {(): 0}
        self.names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.picks: dict[tuple[int, ...], Pick[int]] = {}
        externals = [] if piece.loop else builder.externals[start.externals : end.externals]
        self.found = Template(piece, self.makes(externals), dict(self.inside), externals, self.carried())
        varying = piece.loop.varying if piece.loop else []
        self.uneven = {self.tasks[place].operands[name].tensor for place, name in varying}
        self.settled = self.inside.keys() - {view.tensor for view in self.found.carried.values()} - self.uneven
        self.live = {tensor for task in self.tasks for tensor in task.writes if tensor not in self.settled}
        if piece.loop:
            self.live |= self.bound

    def makes(self, externals: list[Resolved]) -> list[list[Tensor] | int]:
        """Local tensors and new externals, in the order in which they came."""
        piece, found = self.piece, list[list[Tensor] | int]()
        number, run = 0, list[Tensor]()
        for tensor in self.builder.tensors[piece.start.tensors : piece.end.tensors]:
            while number < len(externals) and externals[number].at <= tensor.id:
                found += [run, number]
                number, run = number + 1, []
            if tensor.is_local:
                run.append(tensor)
        return [*found, run, *range(number, len(externals))]

    def carried(self) -> dict[str, View]:
        loop, names = self.piece.loop, self.piece.frame.names
        wanted = {*loop.carry, *(text.value for text in loop.carry.values())} if loop else set()
        return {name: view for name, view in names.items() if name in wanted and view.tensor in self.inside}

    def run(self) -> Template | None:
        if self.piece.loop and not self.trips_are_alike(self.piece.loop):
            return None
        attrs = self.attrs()
        waits = self.settled_waits() if self.uneven & self.live else [self.own(task.waits) for task in self.tasks]
        steps = [self.step(task, inside, attrs) for task, inside in zip(self.tasks, waits, strict=True)]
        self.found.runs.append((None, []))
        self.runs(self.piece.items, steps)
        return self.found

    # --- what differs ---

    def trips_are_alike(self, loop: LoopForm) -> bool:
        """Finds tensors that are the same in every trip, and regions that vary; False when names may mean other tensors."""
        for (place, name), ref in loop.refs.items():
            tensor = self.tasks[place].operands[name].tensor
            if tensor in self.inside:
                continue
            is_bound = ref.name in self.piece.bound
            if is_bound != (tensor in self.bound):
                return False
            if not is_bound:
                self.found.fixed[tensor] = tensor
        for place, name in loop.varying:
            ref, region = loop.refs[place, name], self.tasks[place].operands[name]
            self.varying[place, name] = -len(loop.varying) + len(self.found.views)
            self.found.views.append((ref, self.base(ref.name, region.tensor), self.shown(region)))
        return True

    def base(self, name: str, tensor: int) -> View:
        """What the name of a region stands for."""
        frame = self.piece.frame
        known = self.piece.bound.get(name) or (frame.parent.find(name) if frame.parent else None)
        if tensor in self.inside or known is None:
            return View(tensor, self.builder.tensors[tensor].spec, Region(tensor))
        return known

    def shown(self, region: Region) -> TensorSpec:
        shown = region.shown(self.builder.tensors[region.tensor].spec)
        return self.builder.intern(shown.dtype, shown.shape)

    def attrs(self) -> dict[int, list[tuple[str, int]]]:
        """By place of a task, its attrs that differ and the numbers of their expressions."""
        piece, found = self.piece, dict[int, list[tuple[str, int]]]()
        numbers: dict[tuple[int, str], int] = {}

        def note(place: int, name: str, context: Context, expr: Expr) -> None:
            number = numbers.setdefault((id(context), expr.text), len(numbers))
            if number == len(self.found.exprs):
                self.found.exprs.append((context, expr))
            found.setdefault(place, []).append((name, number))

        if piece.loop:
            for place, name, expr in piece.loop.attrs:
                note(place, name, piece.context, expr)
            return found
        for task, context, given in self.builder.attrs[piece.start.attrs : piece.end.attrs]:
            constants = self.found.constants_of(context)
            for name, expr in given:
                if expr.names() <= constants:
                    note(task - piece.start.tasks, name, context, expr)
        return found

    # --- steps ---

    def step(self, task: Task, inside: tuple[int, ...], attrs: dict[int, list[tuple[str, int]]]) -> Step:
        place, known, far = task.id - self.piece.start.tasks, self.numbers, self.far
        regions = task.operands.values()
        numbers = [known[key] if (key := id(region)) in known else self.number(region) for region in regions]
        steady, accesses = 0, ()
        outer = () if far.isdisjoint(numbers) else tuple([number for number in numbers if number in far])
        if outer:
            group = self.groups.get(outer)
            if group is None:
                steady, accesses = self.outside(task, place, outer)
            else:
                steady = group
        if self.varying:
            numbers = [self.varying.get((place, name), number) for name, number in zip(task.operands, numbers, strict=True)]
        names = self.names.setdefault(tuple(task.operands), tuple(task.operands))
        path = task.path[len(self.piece.frame.prefix) :]
        touched = map(self.touched, (task.creates, task.uses, task.reads, task.writes))
        given = tuple(attrs[place]) if place in attrs else ()
        root = task.step.root if isinstance(task, CopiedTask) else task
        within = _pick([wait - self.piece.start.tasks for wait in inside]) if inside else None
        told = given, within, steady, accesses, task.after
        return _new_step(task, root, path, names, _pick(numbers), *touched, task.num_arguments, *told)

    def touched(self, tensors: tuple[int, ...]) -> Pick[int]:
        """What finds these among a copy's tensors."""
        known = self.picks.get(tensors)
        if known is None:
            numbers = self.found.tensors
            known = self.picks[tensors] = _pick([numbers.setdefault(tensor, len(numbers)) for tensor in tensors])
        return known

    def number(self, region: Region) -> int:
        """The number of a region that does not vary."""
        if region.box is None and region.part is None and region.seen is None and region.tensor in self.inside:
            number = self.numbers[id(region)] = self.inside[region.tensor]
            if region.tensor not in self.settled:
                self.far.add(number)
            return number
        number = self.numbers[id(region)] = len(self.inside) + len(self.found.regions)
        if region.tensor not in self.settled:
            self.far.add(number)
        self.found.regions.append((region, region.tensor in self.found.fixed))
        return number

    def outside(self, task: Task, place: int, outer: tuple[int, ...]) -> tuple[int, tuple[Access, ...]]:
        """The group of steady regions that a task reads, and what it does to others, in order."""
        modes = self.ops.modes(task.op) if task.op is not None else {}
        steady: list[int] = []
        accesses: list[Access] = []
        for name, region in task.operands.items():
            if region.tensor in self.settled or self.is_empty(region):
                continue
            number = self.varying.get((place, name))
            if number is None and region.tensor not in self.live:
                steady.append(self.numbers[id(region)])
                continue
            ref, mode = self.refs.get((place, name)), modes[name]
            is_read = mode != "out" and region.tensor not in task.creates
            number = self.numbers[id(region)] if number is None else number
            accesses.append(Access(number, is_read, mode != "in", ref.text.mark if ref else None))
        if accesses:
            return self.group(tuple(steady)), tuple(accesses)
        group = self.groups[outer] = self.group(tuple(steady))
        return group, ()

    def group(self, steady: tuple[int, ...]) -> int:
        number = self.groups.get(steady)
        if number is None:
            number = self.groups[steady] = len(self.found.groups)
            self.found.groups.append(steady)
        return number

    def is_empty(self, region: Region) -> bool:
        if region.box is not None:
            return any(lo >= hi for lo, hi in region.box)
        return 0 in self.builder.tensors[region.tensor].spec.shape

    def runs(self, items: tuple[int | Span, ...], steps: list[Step]) -> None:
        """The steps in order, cut at dynamic loops and choices."""
        first, runs = self.piece.start.tasks, self.found.runs
        for item in items:
            if isinstance(item, int):
                runs[-1][1].append(steps[item - first])
                continue
            if item.trips is not None:
                count = item.trips.evaluate
                assert isinstance(count, DynamicRange)
                read = [view.region for view in count.views.values()]
                outer = [region for region in read if region.tensor not in self.settled and not self.is_empty(region)]
                accesses = tuple(
                    [Access(self.numbers.get(id(region)) or self.number(region), True, False, None) for region in outer]
                )
                runs.append((RangeStep(item.trips, self.own(item.trips.waits), accesses), []))
            self.runs(item.items, steps)
            if item.trips is not None:
                runs.append((None, []))

    def own(self, waits: tuple[int, ...]) -> tuple[int, ...]:
        """Those of some tasks, in ascending order, that lie in the piece."""
        first = self.piece.start.tasks
        if not waits or waits[0] >= first:
            return waits
        return tuple([task for task in waits if task >= first])

    def settled_waits(self) -> Iterator[tuple[int, ...]]:
        """What each task waits for in the piece, except by regions of the same tensors that vary."""
        uneven = self.uneven & self.live
        last: dict[int, Writers] = {}
        for task in self.tasks:
            waits: set[int] = set()
            modes = self.ops.modes(task.op) if task.op is not None else {}
            for name, region in task.operands.items():
                if region.tensor in uneven or self.is_empty(region):
                    continue
                writers = last.setdefault(region.tensor, Writers(self.builder.tensors[region.tensor].spec.shape))
                if modes[name] != "out":
                    waits |= writers.of(region)
                if modes[name] != "in":
                    waits |= writers.write(region, task.id)
            yield tuple(sorted(waits - {task.id}))


def _pick(numbers: Sequence[int]) -> Pick[Any]:
    """What finds things in a tuple by their numbers, from its end where they are negative."""
    if len(numbers) > 1:
        return itemgetter(*numbers)
    return itemgetter(slice(numbers[0], numbers[0] + 1 or None) if numbers else slice(0))
