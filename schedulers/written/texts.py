"""A program's bodies as they are written: the text of each once, and of its instances those that differ.

An item of a body is what has a place in a file: a task, a loop, a branch, a used graph, a scope. Items with the same marks belong
to one text, whichever layer, trip or use they are in, and whatever is decided about a text holds for all of them. `Node` is one
kind of instance of a body: the tensors that its items create, and the nodes inside them. Sizes are in units of 1,024 bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from runner.base.errors import Mark
from runner.base.tensor_spec import BLOCK_ALIGN, round_up
from runner.program.program import Program, Span, Task
from schedulers.lifetimes import host_reads, last_task

BODIES = ("root", "use", "scope", "if", "iteration")
"""Kinds of spans whose items are those of one text."""

FOREVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor as its body makes it: `item` creates it as its `number`th; the mark is None for scratch, which has no name."""

    item: int
    number: int


@dataclass(eq=False)
class Body:
    """The items of one text.

    kinds      per item `task`, `alloc` or the kind of its span, `manual` for a scope in that mode
    names      per item a name that it is known by
    last       per tensor made here the last item that touches it, in any instance: `len(items)` if it outlives the body
    from_item  per tensor the first item before which it could be allocated instead, `len(items)` for none
    together   pairs of items that every scope must hold both of, or none
    apart      items that no new scope may hold
    fixed      scopes (as items) that must stay
    label      the loop variable of a trip
    frozen     no scope may begin or end here: it lies in a manual scope, or has no place in a file
    """

    kind: str
    marks: tuple[Mark | None, ...]
    kinds: tuple[str, ...]
    names: tuple[str, ...]
    frozen: bool
    label: str = ""
    last: dict[Made, int] = field(default_factory=dict)
    from_item: dict[Made, int] = field(default_factory=dict)
    outlive: dict[int, int] = field(default_factory=dict)  # per item the last one that touches what is made inside it
    together: set[tuple[int, int]] = field(default_factory=set)
    apart: set[int] = field(default_factory=set)
    fixed: set[int] = field(default_factory=set)
    nodes: list[Node] = field(default_factory=list)

    @property
    def num_items(self) -> int:
        return len(self.marks)

    def allowed(self) -> np.ndarray:
        """bool[n + 1, n + 1]: whether items k to l - 1 may get a scope of their own."""
        n = self.num_items
        begin, end = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
        may = begin < end
        if self.frozen:
            return may & False

        def holds(item: int) -> np.ndarray:
            return (begin <= item) & (item < end)

        for made, last in self.last.items():
            may &= ~(holds(made.item) & (end <= last) & (begin < self.from_item[made]))
        for item, last in self.outlive.items():
            may &= ~(holds(item) & (end <= last))
        for one, other in self.together:
            may &= holds(one) == holds(other)
        for item in self.apart:
            may &= ~holds(item)
        for item, kind in enumerate(self.kinds):
            if kind in ("scope", "manual"):
                may[item, item + 1] = False
        if self.kind in ("root", "use", "scope") or (n == 1 and self.kind == "if"):
            may[0, n] = False  # a scope around it from outside, or around what it is, says the same
        return may


@dataclass(eq=False)
class Node:
    """Instances of a body that are alike. `children`: per item the nodes inside and how many of each."""

    body: Body
    number: int
    tensors: tuple[tuple[Made, int], ...]
    children: tuple[tuple[tuple[Node, int], ...], ...]
    count: int = 0
    """How many such instances the program holds."""


@dataclass(frozen=True)
class Written:
    """All bodies of a program, inner ones before those around them."""

    bodies: tuple[Body, ...]
    root: Node
    of_mark: dict[Mark, Body]

    def body_of(self, program: Program, span: Span) -> Body | None:
        mark = next((mark for item in span.items if (mark := mark_of(program, item)) is not None), None)
        return self.of_mark.get(mark) if mark is not None else None


def mark_of(program: Program, item: int | Span) -> Mark | None:
    return program.tasks[item].mark if isinstance(item, int) else item.mark


def numbered(program: Program, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Items of a span with their places in the text; the cases of a choice made at run time share one."""
    place, before = -1, None
    for item in span.items:
        mark = mark_of(program, item)
        if isinstance(item, int) or item.kind != "dynamic" or mark is None or mark != before:
            place += 1
        before = mark
        yield place, item


def scratch_of(task: Task) -> set[int]:
    """Tensors that the task creates and no operand names."""
    if task.op is None:
        return set()
    return set(task.creates) - {region.tensor for region in task.operands.values()}


def read_bodies(program: Program) -> Written:
    """The bodies of a program."""
    reader = _Reader(program)
    root = reader.body(program.body, 0, False).node
    assert root is not None
    root.count = 1
    for node in reversed(reader.nodes):  # what lies inside was made before
        for inside in node.children:
            for child, count in inside:
                child.count += count * node.count
    _keep_named(program, reader.of_mark)
    return Written(tuple(dict.fromkeys(node.body for node in reader.nodes)), root, reader.of_mark)


def last_touches(program: Program) -> list[int]:
    """Per tensor the time of its last touch: 2 t + 1 is task t's, 2 t that of a value read on the host just before it."""
    last = [-1] * len(program.tensors)
    for task in program.tasks:
        for tensor in (*task.creates, *task.uses):
            last[tensor] = 2 * task.id + 1
    for next_task, trips in host_reads(program.body):
        for tensor in trips.reads:
            last[tensor] = max(last[tensor], 2 * next_task)
    for tensor in program.outputs.values():
        last[tensor] = FOREVER
    return last


@dataclass(frozen=True, slots=True)
class _Read:
    """What is known of a span: its node, the time after it, ids of tensors of outside that it touches (or makes for outside),
    and the last touches of those that outlive it."""

    node: Node | None
    end: int
    touched: set[int]
    outliving: list[int]


class _Reader:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.last = last_touches(program)
        self.units = [round_up(t.spec.size_bytes) // BLOCK_ALIGN if t.is_local else 0 for t in program.tensors]
        self.nodes: list[Node] = []
        self.known: dict[tuple, Node] = {}
        self.of_mark: dict[Mark, Body] = {}
        self.made_in: dict[Mark | None, set[str]] = {}  # names that each scope's items make
        for scope in _scopes(program.body):
            made = self.made_in.setdefault(scope.mark, set())
            made.update(program.tensors[t].name for task in _own_tasks(scope) for t in program.tasks[task].creates)

    def body(self, span: Span, start: int, manual: bool) -> _Read:
        """Reads one instance of a body; `start` is the time of its begin."""
        program, tasks = self.program, self.program.tasks
        kinds: list[str] = []
        names: list[str] = []
        marks: list[Mark | None] = []
        ends: list[int] = []
        inside: list[dict[Node, int]] = []
        touched: list[set[int]] = []
        made: list[tuple[Made, int]] = []
        outliving: list[tuple[int, int]] = []
        time = start
        for place, item in numbered(program, span):
            if place == len(kinds):
                kinds.append(_kind(program, item))
                names.append((tasks[item].path if isinstance(item, int) else item.path).rpartition(".")[2])
                marks.append(mark_of(program, item))
                ends.append(time)
                inside.append({})
                touched.append(set())
            if isinstance(item, int):
                task = tasks[item]
                time = 2 * item + 2
                made += [(Made(place, number), tensor) for number, tensor in enumerate(task.creates)]
                touched[place].update(task.reads, task.writes, task.creates)
            else:
                within = manual or kinds[place] == "manual"
                parts = [item] if item.kind in BODIES else [part for part in item.items if isinstance(part, Span)]
                if item.trips is not None:
                    touched[place].update(item.trips.reads)
                for part in parts:
                    read = self.body(part, time, within)
                    time = read.end
                    touched[place] |= read.touched
                    outliving += [(place, last) for last in read.outliving]
                    if read.node is not None:
                        inside[place][read.node] = inside[place].get(read.node, 0) + 1
            ends[place] = time
        if not kinds:
            return _Read(None, time, set(), [])
        num = len(kinds)

        def place_of(moment: int) -> int:
            return num if moment > ends[-1] else min(bisect_right(ends, moment), num - 1)

        places = [(m, tensor, place_of(self.last[tensor])) for m, tensor in made]
        gone = [self.last[tensor] for _, tensor, last in places if last == num]
        gone += [last for _, last in outliving if place_of(last) == num]
        key = (
            marks[0] if marks[0] is not None else id(span),
            tuple((m, last, self.units[tensor]) for m, tensor, last in places),
            tuple(tuple(nodes.items()) for nodes in inside),
            tuple((item, place_of(last)) for item, last in outliving),
        )
        node = self.known.get(key)
        if node is None:
            body = self._text(span, marks, kinds, names, manual)
            self._note(body, places, [(item, place_of(last)) for item, last in outliving], touched)
            tensors = tuple((m, self.units[tensor]) for m, tensor, _ in places)
            node = Node(body, len(body.nodes), tensors, tuple(tuple(nodes.items()) for nodes in inside))
            body.nodes.append(node)
            self.nodes.append(node)
            self.known[key] = node
        own = {tensor for _, tensor, _ in places}
        seen = set().union(*touched)
        if span.kind in ("if", "iteration"):
            return _Read(node, time, seen if span.kind == "if" else seen - own, gone)
        return _Read(node, time, seen - own, [])

    def _text(self, span: Span, marks: list[Mark | None], kinds: list[str], names: list[str], manual: bool) -> Body:
        first = marks[0]
        body = self.of_mark.get(first) if first is not None else None
        if body is None:
            body = Body(span.kind, tuple(marks), tuple(kinds), tuple(names), manual or None in marks, _label(span))
            if first is not None:
                self.of_mark[first] = body
        body.frozen = body.frozen or manual
        return body

    def _note(
        self, body: Body, places: list[tuple[Made, int, int]], outliving: list[tuple[int, int]], touched: list[set[int]]
    ) -> None:
        """What an instance demands of the text."""
        tensors = self.program.tensors
        named: dict[str, list[tuple[int, int]]] = {}  # name -> (item, tensor) in order
        for item, ids in enumerate(touched):
            for tensor in ids:
                named.setdefault(tensors[tensor].name, []).append((item, tensor))
        for made, tensor, last in places:
            body.last[made] = max(body.last.get(made, 0), last)
            clash = max((i for i, t in named.get(tensors[tensor].name, ()) if t != tensor and i <= made.item), default=-1)
            first = clash + 1 if self._may_move(body, made, tensor) and clash < made.item else body.num_items
            body.from_item[made] = max(body.from_item.get(made, 0), first)
        for item, last in outliving:
            if last > item:
                body.outlive[item] = max(body.outlive.get(item, 0), last)
        for item, kind in enumerate(body.kinds):
            if kind == "manual" or (kind == "scope" and self._hides(item, touched, body)):
                body.fixed.add(item)

    def _may_move(self, body: Body, made: Made, tensor: int) -> bool:
        """Whether a file can create the tensor elsewhere: an op's operand names it."""
        return body.kinds[made.item] == "task" and self.program.tensors[tensor].mark != body.marks[made.item]

    def _hides(self, item: int, touched: list[set[int]], body: Body) -> bool:
        """Whether a name that is made in the scope `item` means something else after it."""
        later = {self.program.tensors[t].name for ids in touched[item + 1 :] for t in ids}
        return not later.isdisjoint(self.made_in.get(body.marks[item], ()))


def _scopes(span: Span) -> Iterator[Span]:
    if span.kind == "scope":
        yield span
    for item in span.items:
        if isinstance(item, Span):
            yield from _scopes(item)


def _own_tasks(span: Span) -> Iterator[int]:
    """Tasks whose names are the body's: its own and those of its branches."""
    for item in span.items:
        if isinstance(item, int):
            yield item
        elif item.kind == "if":
            yield from _own_tasks(item)


def _kind(program: Program, item: int | Span) -> str:
    if isinstance(item, int):
        return "task" if program.tasks[item].op is not None else "alloc"
    return "manual" if item.kind == "scope" and item.mode == "manual" else item.kind


# --- ids that `after:` names ------------------------------------------------------------------------------------------


def _keep_named(program: Program, of_mark: dict[Mark, Body]) -> None:
    """An id must stay where `after:` finds it: in the same body as its user, or one around it."""
    seen: set[tuple[Mark | None, Mark | None]] = set()
    for task in program.tasks:
        for other in task.after:
            key = (task.mark, program.tasks[other].mark)
            if key not in seen:
                seen.add(key)
                _keep_pair(program, of_mark, _way(program, task.id), _way(program, other))


Way = list[tuple[Span, int | Span, int]]
"""Spans around a task, outermost first, each with the item that leads to it and its place in the text."""


def _way(program: Program, task: int) -> Way:
    found: Way = []
    span = program.body
    while True:
        place, item = next(
            (place, item)
            for place, item in numbered(program, span)
            if item == task or (isinstance(item, Span) and _holds(item, task))
        )
        found.append((span, item, place))
        if isinstance(item, int):
            return found
        span = item


def _holds(span: Span, task: int) -> bool:
    return next(span.tasks(), task + 1) <= task <= last_task(span)


def _keep_pair(program: Program, of_mark: dict[Mark, Body], user: Way, named: Way) -> None:
    common = next((k for k, (a, b) in enumerate(zip(user, named, strict=False)) if a[1] is not b[1]), None)
    if common is None:  # a task that names itself, of an earlier trip
        return

    def text(step: tuple[Span, int | Span, int]) -> Body | None:
        mark = next((m for item in step[0].items if (m := mark_of(program, item)) is not None), None)
        return of_mark.get(mark) if mark is not None and step[0].kind in BODIES else None

    def bar(steps: Iterable[tuple[Span, int | Span, int]]) -> None:
        for step in steps:
            if (body := text(step)) is not None:
                body.apart.add(step[2])
                body.fixed.add(step[2])
            if isinstance(step[1], Span) and step[1].kind == "use":
                return  # ids inside a used graph cannot be named from outside

    body = text(user[common])
    if body is None:  # two trips of a loop: the one before is found only from the trip's own body
        bar(user[common + 1 :])
    else:
        place = named[common][2]
        body.together.add((user[common][2], place))
        body.together |= {(place, k) for k, name in enumerate(body.names) if _stem(name) == _stem(body.names[place])}
        body.fixed.add(place)
        if isinstance(named[common][1], Span) and named[common][1].kind == "use":  # type: ignore[union-attr]
            return
    bar(named[common + 1 :])


def _label(span: Span) -> str:
    """`layer` of the trip `layer_2`, `e` of `e3`."""
    name = span.path.rpartition(".")[2].rstrip("0123456789") if span.kind == "iteration" else ""
    return name.removesuffix("_") or name


def _stem(name: str) -> str:
    """An id without the number that tells it from others of its op."""
    head, _, number = name.rpartition("_")
    return head if head and number.isdecimal() else name
