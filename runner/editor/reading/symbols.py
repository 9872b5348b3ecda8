"""What names stand for: symbols, the places that name them, the bodies that have them, and what graphs take from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from runner.language.yaml_source import Node

Key = tuple[str, ...]
"""What a symbol is wherever it is named, as `("op", NAME)`; `("local", FILE, NUMBER)` for names that one body has."""


@dataclass(eq=False)
class Symbol:
    """Something that has a name. `kind` is in `KINDS`; `spec` the type of a tensor as written, `inner` the names inside an item.

    `is_implied`: an id that nobody wrote, after the op or graph of its item.
    """

    kind: str
    name: str
    key: Key
    spec: str = ""
    section: str = ""
    inner: Frame | None = None
    is_implied: bool = False
    has_scale: bool = False


TENSORS = frozenset({"input", "weight", "state", "output", "local"})
KINDS = TENSORS | {"graph", "param", "variable", "id", "scope", "group", "value", "dtype", "op"}


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A symbol is named by the text from `start` up to `end`.

    `form`: "" for the name itself, `scale` for NAME_scale of a quantised weight, `operand` where an output of an op creates a
    tensor that has the operand's name, `implied` where an item's id is what stands there.
    """

    start: int
    end: int
    symbol: Symbol
    is_definition: bool = False
    form: str = ""


@dataclass(frozen=True, slots=True)
class Implicit:
    """A `use` at `item`, the file's `number`-th, that takes the tensor or value `symbol` for a name which it does not give."""

    item: Node
    number: int
    member: Key
    name: str
    symbol: Symbol


@dataclass(eq=False)
class Frame:
    """The names of one body; branches belong to the body around them."""

    parent: Frame | None = None
    names: dict[str, Symbol] = field(default_factory=dict)
    variables: dict[str, Symbol] = field(default_factory=dict)
    ids: dict[str, list[Symbol]] = field(default_factory=dict)

    def chain(self) -> Iterator[Frame]:
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.parent

    def tensor(self, name: str) -> Symbol | None:
        return next((frame.names[name] for frame in self.chain() if name in frame.names), None)

    def variable(self, name: str) -> Symbol | None:
        return next((frame.variables[name] for frame in self.chain() if name in frame.variables), None)


@dataclass(frozen=True, slots=True)
class Visible:
    """What may be named at a place: tensors, params and loop variables by name, and ids."""

    tensors: Mapping[str, Symbol]
    variables: Mapping[str, Symbol]
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interface:
    """What a used graph takes: the file, its declared names by section (`params` and `SECTIONS`), and all of its nodes."""

    file: str
    sections: Mapping[str, Mapping[str, str]]
    root: Node


Finder = Callable[[str, str], Interface | None]
"""Gives the interface of a used graph by its name and the file that uses it."""
