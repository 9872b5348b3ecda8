"""What the `share:` lists of a graph name: tensors, scratch memory of ops, used graphs and groups, here and in used graphs.

In all lists of a file a name stands for one entry; what it names has the key `("shared", FILE, NAME)` wherever that is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from runner.base.errors import Mark
from runner.editor.reading.nodes import bodies
from runner.editor.reading.symbols import Finder, Interface, Key, Symbol
from runner.language.builder import KEYWORDS, Ids
from runner.language.yaml_source import Node

_SAYS = ("replaces", "apart")
"""The keys of an entry whose values are names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: the node of its name, what it says (names by key, loop variables of `copies`), of a group the entries inside."""

    node: Node
    said: Mapping[str, tuple[Node, ...]]
    inside: tuple[Entry, ...] | None = None

    @property
    def name(self) -> str:
        return self.node.value


@dataclass(eq=False)
class Made:
    """What lists of a graph may name: tensors that it makes, ids of used graphs and of ops, loop variables; all by name."""

    tensors: dict[str, list[Symbol]] = field(default_factory=dict)
    uses: dict[str, list[Symbol]] = field(default_factory=dict)
    ops: dict[str, list[tuple[Symbol, str, Mark]]] = field(default_factory=dict)
    loops: dict[str, list[Symbol]] = field(default_factory=dict)
    groups: dict[str, Symbol] = field(default_factory=dict)

    def symbols(self, name: str) -> list[Symbol]:
        """Those that an entry `name` without a dot may mean."""
        return [*self.tensors.get(name, ()), *self.uses.get(name, ()), *([self.groups[name]] if name in self.groups else ())]

    def all(self) -> Iterator[Symbol]:
        """Whatever an entry without a dot may mean."""
        for name in dict.fromkeys((*self.tensors, *self.uses, *self.groups)):
            yield from self.symbols(name)


def entries(section: Node | None) -> tuple[Entry, ...]:
    """The entries of a list, whatever else stands there."""
    found = []
    for node in section.value if section is not None and section.kind == "list" else ():
        for key, value in ((node, None),) if node.kind == "text" else node.value if node.kind == "map" else ():
            if key.kind == "text":
                found.append(_entry(key, value))
    return tuple(found)


def _entry(key: Node, value: Node | None) -> Entry:
    if value is None or value.kind != "map":
        return Entry(key, {"replaces": _names(value)})
    said = {name: _names(value.get(name)) for name in _SAYS}
    copies = value.get("copies")
    said["copies"] = tuple(name for name, _ in copies.value if name.kind == "text") if copies and copies.kind == "map" else ()
    inside = value.get("share")
    return Entry(key, said, entries(inside) if inside is not None else None)


def _names(node: Node | None) -> tuple[Node, ...]:
    """A name, or a list of them."""
    if node is None or node.kind == "map":
        return ()
    return tuple(each for each in ((node,) if node.kind == "text" else node.value) if each.kind == "text")


def flat(found: tuple[Entry, ...]) -> Iterator[Entry]:
    """Entries, and those inside of groups."""
    for entry in found:
        yield entry
        yield from flat(entry.inside or ())


def heads(root: Node) -> dict[str, tuple[str, str]]:
    """By id the ops and used graphs of a file: the item's keyword, and the name behind it."""
    found: dict[str, tuple[str, str]] = {}
    _heads(root.get("body"), Ids(), found)
    return found


def _heads(body: Node | None, ids: Ids, found: dict[str, tuple[str, str]]) -> None:
    for item in () if body is None else body.value if body.kind == "list" else (body,):
        keyword = next((name for name in KEYWORDS if item.get(name)), None) if item.kind == "map" else None
        head, given = (item.get(keyword), item.get("id")) if keyword is not None else (None, None)
        if keyword in ("op", "use", "alloc") and head is not None:
            default = head.value if head.kind == "text" else "alloc"
            if given is not None and given.kind == "text":
                ids.explicit[given.value] = given.mark
            name = given.value if given is not None and given.kind == "text" else ids.free(default)
            if head.kind == "text":
                found.setdefault(name, (keyword, head.value))
        elif keyword in ("scope", "for") and head is not None and head.kind == "text":
            _heads(item.get("body"), ids.below(head.value), found)
        elif keyword is not None:
            branches = list(bodies(item))
            forks = [ids.fork() for _ in branches]
            for branch, fork in zip(branches, forks, strict=True):
                _heads(branch, fork, found)
            for fork in forks:
                ids.merge(fork)


@dataclass(frozen=True, slots=True)
class Listing:
    """Entries of one list, and the graph that they stand in."""

    entries: tuple[Entry, ...]
    graph: Interface

    def below(self, entry: Entry, used: Finder) -> Listing | None:
        """The list of a group, or that of a used graph."""
        if entry.inside is not None:
            return Listing(entry.inside, self.graph)
        return self.of_use(entry.name, used)

    def of_use(self, name: str, used: Finder) -> Listing | None:
        """The list of a graph that this one uses, by the id, `ID.ID` for one further inside."""
        use, _, inside = name.partition(".")
        keyword, graph = heads(self.graph.root).get(use, ("", ""))
        face = used(graph, self.graph.file) if keyword == "use" else None
        found = Listing(entries(face.root.get("share")), face) if face is not None else None
        return found.of_use(inside, used) if found is not None and inside else found

    def way(self, text: str, used: Finder, is_here: bool = True) -> list[tuple[Entry, Interface]]:
        """The entries that `apart` names by `text`, from outside inwards, as far as there are such entries.

        The first is one of this list, unless not `is_here`; those behind it may lie in groups, which are not named."""
        found = [*(self.entries if is_here else flat(self.entries))]
        for entry in sorted(found, key=lambda entry: -len(entry.name)):
            if text == entry.name:
                return [(entry, self.graph)]
            if text.startswith(f"{entry.name}."):
                below = self.below(entry, used)
                more = below.way(text[len(entry.name) + 1 :], used, False) if below is not None else []
                return [(entry, self.graph), *more]
        return []


class Naming:
    """Notes what the lists of a graph name. `note`, `outer` and `local` are those of the index of the file."""

    def __init__(self, indexer, made: Made, here: Interface) -> None:
        self.indexer, self.made, self.here = indexer, made, here

    def run(self) -> None:
        listed = entries(self.here.root.get("share"))
        for entry in flat(listed):
            self.defined(entry)
        self.lists(listed)

    def key(self, file: str, name: str) -> Key:
        return "shared", file, name

    def defined(self, entry: Entry) -> None:
        """All that an entry names gets its key."""
        owner, _, scratch = entry.name.partition(".")
        if scratch:
            for symbol, _, _ in self.made.ops.get(owner, ()):
                symbol.key = "scratch", self.here.file, owner
            for symbol in self.made.uses.get(owner, ()):
                symbol.key = self.key(self.here.file, owner)
            return
        if entry.inside is not None:
            self.made.groups[entry.name] = self.indexer.local("group", entry.name)
        for symbol in self.made.symbols(entry.name):
            if symbol.key[0] == "local":
                symbol.key = self.key(self.here.file, entry.name)

    def lists(self, found: tuple[Entry, ...]) -> None:
        beside = Listing(found, self.here)
        for entry in found:
            self.named(entry.node, 0, entry, self.here, entry.inside is not None)
            for text in entry.said.get("replaces", ()):
                self.said(text, [(other, self.here) for other in found if other.name == text.value])
            for text in entry.said.get("apart", ()):
                self.said(text, beside.way(text.value, self.indexer.used))
            for variable in entry.said.get("copies", ()):
                loops = self.made.loops.get(variable.value, [])
                for other in loops[1:]:
                    other.key = loops[0].key
                self.indexer.note(variable, loops[0] if loops else self.indexer.outer("unknown id", variable.value))
            self.lists(entry.inside or ())

    def said(self, node: Node, way: list[tuple[Entry, Interface]], at: int = 0) -> None:
        """A name of another entry, which begins at `at` in the node, with those that lead to it."""
        for entry, face in way:
            self.named(node, at, entry, face)
            at += len(entry.name) + 1
        if at <= len(node.value):
            self.indexer.note(node, self.indexer.outer("unknown", node.value[at:]), (at, len(node.value)))

    def named(self, node: Node, at: int, entry: Entry, face: Interface, is_definition: bool = False) -> None:
        """The name of an entry stands from `at` on."""
        owner, _, scratch = entry.name.partition(".")
        part = at, at + len(owner)
        if not scratch:
            self.indexer.note(node, self.symbol(entry.name, face), part, is_definition)
            return
        below = Listing((), face).of_use(owner, self.indexer.used)
        if below is not None:  # an entry of a used graph's list
            self.indexer.note(node, self.symbol(owner, face), part)
            self.said(node, below.way(scratch, self.indexer.used, False), part[1] + 1)
            return
        first = next((each for each in self.made.ops.get(owner, []) if face.file == self.here.file), None)
        op = first[1] if first is not None else heads(face.root).get(owner, ("", ""))[1]
        known = first[0] if first is not None else self.indexer.outer("scratch", face.file, owner)
        self.indexer.note(node, known, part)
        self.indexer.note(node, self.indexer.outer("operand", op, scratch), (part[1] + 1, part[1] + 1 + len(scratch)))

    def symbol(self, name: str, face: Interface) -> Symbol:
        if face.file != self.here.file:
            return self.indexer.outer(*self.key(face.file, name))
        symbols = self.made.symbols(name)
        return symbols[0] if symbols else self.indexer.outer("unknown", name)
