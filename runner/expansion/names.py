"""What names stand for while a graph is expanded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.base.tensor_spec import TensorSpec
from runner.language.graph import Alloc, Declaration, For, Graph, Item, Op, Scope, Switch, Use
from runner.program.program import Region


@dataclass(frozen=True, slots=True)
class View:
    """What a name shows: a tensor or a box of one. `spec` is the type of what is shown."""

    tensor: int
    spec: TensorSpec
    region: Region
    whole: tuple[int, ...] = ()
    """The tensor's shape, where a view shows it."""

    def element(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """The place in the tensor of an element of what is shown."""
        if self.region.seen is not None:
            return self.region.seen.place(index, self.whole)
        if self.region.box is None:
            return index
        inner = iter(index)
        return tuple(lo if axis in self.region.dropped else lo + next(inner) for axis, (lo, _) in enumerate(self.region.box))


@dataclass(slots=True)
class Frame:
    """The names of one body (of a graph, scope or trip); branches of a `switch` belong to the body around it.

    `prefix` is the path of what is inside, with a dot; `ids` are the tasks that `after` may name; `previous` is the trip before.
    `unused` makes the weights and states that nothing has named yet: a program holds only those that it needs.
    """

    parent: Frame | None
    prefix: str
    body: Sequence[Item]
    scope: str = ""
    previous: Frame | None = None
    loop: str = ""
    names: dict[str, View] = field(default_factory=dict)
    ids: dict[str, list[int]] = field(default_factory=dict)
    unused: dict[str, Callable[[], View]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.previous is not None:
            self.previous.previous = None  # only the last trip is ever asked for

    def find(self, name: str) -> View | None:
        """What `name` stands for here."""
        frame: Frame | None = self
        while frame is not None:
            view = frame.names.get(name)
            if view is not None:
                return view
            if name in frame.unused:
                view = frame.names[name] = frame.unused.pop(name)()
                return view
            frame = frame.parent
        return None

    def knows(self, name: str) -> bool:
        """Whether `find` would find it; makes nothing."""
        frame: Frame | None = self
        while frame is not None:
            if name in frame.names or name in frame.unused:
                return True
            frame = frame.parent
        return False

    def visible(self) -> set[str]:
        """All tensor names that can be used here."""
        return {*self.names, *self.unused} | (self.parent.visible() if self.parent else set())

    def find_tasks(self, name: str) -> list[int] | None:
        """The tasks that an id stands for here: of this trip, else of the one before, else of the bodies around."""
        frame: Frame | None = self
        while frame is not None:
            if name in frame.ids:
                return frame.ids[name]
            if frame.previous is not None and name in frame.previous.ids:
                return frame.previous.ids[name]
            frame = frame.parent
        return None

    def declared_ids(self) -> set[str]:
        """All ids in this body and those around, whether expanded yet or not."""
        return set(ids(self.body)) | (self.parent.declared_ids() if self.parent else set())


def ids(body: Sequence[Item]) -> Iterator[str]:
    """The ids that `after` may use beside the items of `body`: theirs, and dotted ones for what lies in scopes and loops."""
    for item in body:
        match item:
            case Op() | Alloc() | Use():
                yield item.id
            case Scope() | For():
                name = item.name if isinstance(item, Scope) else item.variable
                yield name
                yield from (f"{name}.{inner}" for inner in ids(item.body))
            case Switch():
                for branch in item.cases.values():
                    yield from ids(branch)


def wanted_ids(body: Sequence[Item]) -> set[str]:
    """All ids that some `after` or `after_wait_only` in `body` names, and the ends of dotted ones."""
    found: set[str] = set()
    for item in body:
        match item:
            case Op():
                for text in (*item.after, *item.after_wait_only):
                    parts = text.value.split(".")
                    found |= {".".join(parts[i:]) for i in range(len(parts))}
            case Scope() | For():
                found |= wanted_ids(item.body)
            case Switch():
                found = found.union(*(wanted_ids(branch) for branch in item.cases.values()))
    return found


class Context:
    """One graph being expanded: `values` are the configuration's, its params and the loop variables of the moment.

    `item` is the `use` that it is expanded for, in the context `parent`.
    """

    __slots__ = ("_wanted", "graph", "item", "parent", "values")

    def __init__(self, graph: Graph, values: dict[str, Any], parent: Context | None = None, item: Use | None = None):
        self.graph = graph
        self.values = values
        self.parent = parent
        self.item = item
        self._wanted = wanted_ids(graph.body)

    def wants(self, name: str) -> bool:
        """Does any `after` of the graph name this id?"""
        return name in self._wanted


@dataclass(frozen=True, slots=True)
class Resolved:
    """An external tensor as a graph names it; `tensor` is what that stands for, `at` how many tensors there were before."""

    kind: str
    name: str
    source: str
    spec: TensorSpec
    declared: Declaration
    is_scale: bool
    context: Context
    tensor: int = -1
    at: int = -1
