"""A program's bodies as they are written: the text of each once, and of its instances those that differ.

An item of a body is what has a place in a file: a task, a loop, a branch, a used graph, a scope. Items with the same marks belong
to one text, whichever layer, trip or use they are in, and whatever is decided about a text holds for all of them. `Node` is one
kind of instance of a body: the tensors that its items create, and the nodes inside them. Sizes are in units of 1,024 bytes.

Example: five tasks of four lines. The loop's second trip makes a smaller tensor in line 3, so its text has two nodes.

    line   text                         root        trip 0          trip 1
    1      head makes s                 t0
    2      for layer:
    3        wide reads s, makes w                  t1 (w: 8)       t3 (w: 6)
    4        last reads w                           t2              t4

    text of the trips, items 0 and 1: w is made in 0 and last touched in 1, so a scope may hold both, as the
    whole trip, or 0 alone, if w is allocated before it; of the root, items 0 and 1: s is made in 0 and last touched in 1

>>> from runner.base.tensor_spec import TensorSpec
>>> from runner.program.program import Tensor
>>> line = [Mark("five.yaml", number) for number in range(5)]
>>> units, lines = (4, 8, 6), (1, 3, 4, 3, 4)
>>> tensors = tuple(Tensor(t, name, TensorSpec("u8", (1024 * n,))) for t, (name, n) in enumerate(zip("sww", units)))
>>> made, read = ((0,), (1,), (), (2,), ()), ((), (0,), (1,), (0,), (2,))
>>> tasks = tuple(Task(t, f"t{t}", "op", creates=made[t], uses=read[t], reads=read[t], mark=line[lines[t]]) for t in range(5))
>>> trips = tuple(Span("iteration", f"layer_{k}", (2 * k + 1, 2 * k + 2)) for k in range(2))
>>> loop = Span("for", "layers", trips, mark=line[2])
>>> written = read_bodies(Program("five", tensors, tasks, Span("root", "five", (0, loop))))
>>> [(body.kind, [(node.count, [size for _, size in node.tensors]) for node in body.nodes]) for body in written.bodies]
[('iteration', [(1, [8]), (1, [6])]), ('root', [(1, [4])])]
>>> written.bodies[0].last, written.root.body.last
({Made(item=0, number=0): 1}, {Made(item=0, number=0): 1})
>>> np.argwhere(written.bodies[0].allowed()).tolist()  # runs of items that may get a scope of their own
[[0, 1], [0, 2], [1, 2]]
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from runner.base.errors import Mark
from runner.base.tensor_spec import BLOCK_ALIGN, round_up
from runner.program.program import Program, Span, Task
from runner.program.spans import host_reads, last_task, spans_of
from runner.writeback.annotations import NO_DEMANDS, Demands

BODIES = ("root", "use", "scope", "if", "iteration")
"""Kinds of spans whose items are those of one text."""

FOREVER = 1 << 62
"""When outputs are touched last: after every task."""


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
    frozen     no scope may begin or end here: it lies in a manual scope, has no place in a file, or must not be written to
    barred     runs of items that must not have a scope
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
    barred: set[tuple[int, int]] = field(default_factory=set)
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
        for run in self.barred:
            may[run] = False
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


Marks = tuple[Mark | None, ...]


@dataclass(frozen=True)
class Written:
    """All bodies of a program, inner ones before those around them."""

    bodies: tuple[Body, ...]
    root: Node
    of_marks: dict[Marks, Body]

    def body_of(self, program: Program, span: Span) -> Body | None:
        """The text of a span, None if no item of it has a place in a file."""
        return self.of_marks.get(marks_of(program, span))


def marks_of(program: Program, span: Span) -> Marks:
    """The marks of a body's items, which tell its text from others: an alias may put one item into several."""
    marks: list[Mark | None] = []
    for place, item in numbered(program, span):
        if place == len(marks):
            marks.append(mark_of(program, item))
    return tuple(marks)


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


MOST_BARRED = 2
"""Runs of a body that may be barred before the whole body is."""


def read_bodies(program: Program, demands: Demands = NO_DEMANDS) -> Written:
    """The bodies of a program; `demands` say what must stay in their texts."""
    reader = _Reader(program)
    root = reader.body(program.body, 0, False).node
    assert root is not None
    root.count = 1
    for node in reversed(reader.nodes):  # what lies inside was made before
        for inside in node.children:
            for child, count in inside:
                child.count += count * node.count
    _keep_named(program, reader.of_marks)
    bodies = tuple(dict.fromkeys(node.body for node in reader.nodes))
    for body in bodies:
        _heed(body, demands)
    return Written(bodies, root, reader.of_marks)


def _heed(body: Body, demands: Demands) -> None:
    """Keeps in a body what must stay."""
    places = {mark: place for place, mark in enumerate(body.marks)}
    barred = [(places[first], places[last]) for first, last in demands.barred if first in places and last in places]
    if len(barred) > MOST_BARRED or any(mark is not None and not demands.may_write(mark.file) for mark in body.marks):
        body.frozen = True
        body.fixed.update(range(body.num_items))
    body.barred.update((first, last + 1) for first, last in barred)
    body.fixed.update(first for first, last in barred if first == last)


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


class _Items:
    """The items of one instance of a body as far as they are read: lists have one entry per item.

    ends       time after the item        inside     nodes inside it, and how many of each
    touched    tensors that it touches    made       tensors that items create
    outliving  (item, last touch) of tensors that are made inside the item and outlive it
    """

    def __init__(self, start: int) -> None:
        self.time = start
        self.kinds: list[str] = []
        self.names: list[str] = []
        self.marks: list[Mark | None] = []
        self.ends: list[int] = []
        self.inside: list[dict[Node, int]] = []
        self.touched: list[set[int]] = []
        self.made: list[tuple[Made, int]] = []
        self.outliving: list[tuple[int, int]] = []

    def begin(self, program: Program, item: int | Span) -> None:
        path = program.tasks[item].path if isinstance(item, int) else item.path
        self.kinds.append(_kind(program, item))
        self.names.append(path.rpartition(".")[2])
        self.marks.append(mark_of(program, item))
        self.ends.append(self.time)
        self.inside.append({})
        self.touched.append(set())

    def add_task(self, place: int, task: Task) -> None:
        self.time = 2 * task.id + 2
        self.made += [(Made(place, number), tensor) for number, tensor in enumerate(task.creates)]
        self.touched[place].update(task.reads, task.writes, task.creates)

    def add_body(self, place: int, read: _Read) -> None:
        self.time = read.end
        self.touched[place] |= read.touched
        self.outliving += [(place, last) for last in read.outliving]
        if read.node is not None:
            self.inside[place][read.node] = self.inside[place].get(read.node, 0) + 1

    def place_of(self, moment: int) -> int:
        """The item in whose time a moment lies, their number if it comes after them."""
        num = len(self.kinds)
        return num if moment > self.ends[-1] else min(bisect_right(self.ends, moment), num - 1)


class _Reader:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.last = last_touches(program)
        self.units = [round_up(t.spec.size_bytes) // BLOCK_ALIGN if t.is_local else 0 for t in program.tensors]
        self.nodes: list[Node] = []
        self.known: dict[tuple, Node] = {}
        self.of_marks: dict[Marks, Body] = {}
        self.made_in: dict[Mark | None, set[str]] = {}  # names that each scope's items make
        for scope in [span for span in spans_of(program.body) if span.kind == "scope"]:
            made = self.made_in.setdefault(scope.mark, set())
            made.update(program.tensors[t].name for task in _own_tasks(scope) for t in program.tasks[task].creates)

    def body(self, span: Span, start: int, manual: bool) -> _Read:
        """Reads one instance of a body; `start` is the time of its begin."""
        items = _Items(start)
        for place, item in numbered(self.program, span):
            if place == len(items.kinds):
                items.begin(self.program, item)
            if isinstance(item, int):
                items.add_task(place, self.program.tasks[item])
            else:
                parts = [item] if item.kind in BODIES else [part for part in item.items if isinstance(part, Span)]
                if item.trips is not None:
                    items.touched[place].update(item.trips.reads)
                for part in parts:
                    items.add_body(place, self.body(part, items.time, manual or items.kinds[place] == "manual"))
            items.ends[place] = items.time
        return self._read(span, items, manual) if items.kinds else _Read(None, items.time, set(), [])

    def _read(self, span: Span, items: _Items, manual: bool) -> _Read:
        num = len(items.kinds)
        places = [(made, tensor, items.place_of(self.last[tensor])) for made, tensor in items.made]
        outliving = [(item, items.place_of(last)) for item, last in items.outliving]
        node = self._node(span, items, places, outliving, manual)
        own, seen = {tensor for _, tensor in items.made}, set().union(*items.touched)
        if span.kind not in ("if", "iteration"):
            return _Read(node, items.time, seen - own, [])
        gone = [self.last[tensor] for _, tensor, last in places if last == num]
        gone += [last for _, last in items.outliving if items.place_of(last) == num]
        return _Read(node, items.time, seen if span.kind == "if" else seen - own, gone)

    def _node(
        self, span: Span, items: _Items, places: list[tuple[Made, int, int]], outliving: list[tuple[int, int]], manual: bool
    ) -> Node:
        """The node of an instance, a new one if there is none like it."""
        tensors = tuple((made, self.units[tensor]) for made, tensor, _ in places)
        children = tuple(tuple(nodes.items()) for nodes in items.inside)
        text = tuple(items.marks) if items.marks[0] is not None else id(span)
        key = (text, tensors, tuple(last for _, _, last in places), children, tuple(outliving))
        node = self.known.get(key)
        if node is None:
            body = self._text(span, items.marks, items.kinds, items.names, manual)
            self._note(body, places, outliving, items.touched)
            node = self.known[key] = Node(body, len(body.nodes), tensors, children)
            body.nodes.append(node)
            self.nodes.append(node)
        return node

    def _text(self, span: Span, marks: list[Mark | None], kinds: list[str], names: list[str], manual: bool) -> Body:
        key = tuple(marks)
        body = self.of_marks.get(key) if key[0] is not None else None
        if body is None:
            body = Body(span.kind, key, tuple(kinds), tuple(names), manual or None in marks, _label(span))
            if key[0] is not None:
                self.of_marks[key] = body
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


def _keep_named(program: Program, of_marks: dict[Marks, Body]) -> None:
    """An id must stay where `after:` finds it: in the same body as its user, or one around it."""
    seen: set[tuple[Mark | None, Mark | None]] = set()
    for task in program.tasks:
        for other in task.after:
            key = (task.mark, program.tasks[other].mark)
            if key not in seen:
                seen.add(key)
                _keep_pair(program, of_marks, _way(program, task.id), _way(program, other))


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


def _keep_pair(program: Program, of_marks: dict[Marks, Body], user: Way, named: Way) -> None:
    common = next((k for k, (a, b) in enumerate(zip(user, named, strict=False)) if a[1] is not b[1]), None)
    if common is None:  # a task that names itself, of an earlier trip
        return

    def text(step: tuple[Span, int | Span, int]) -> Body | None:
        return of_marks.get(marks_of(program, step[0])) if step[0].kind in BODIES else None

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
