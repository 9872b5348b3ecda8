"""What graphs say of shared bytes, as lists of entries that know each other, and what stands where in their texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from runner.base.errors import Diagnostic, GraphError, Mark, did_you_mean
from runner.language.graph import EVERY, Alloc, Declaration, For, Graph, Op, Shared, Text, Use, flat
from runner.language.library import GraphLibrary, find_graph
from runner.language.walk import all_items


@dataclass(eq=False)
class Unit:
    """An entry of a list: a tensor, a used graph, or a group. `copies` are by variable of a loop; `inside` is a group's list."""

    name: str
    number: int
    mark: Mark
    replaces: tuple[Text, ...]
    copies: Mapping[str, int]
    inside: Stack | None = None
    used: Stack | None = None
    """Of a used graph its list."""
    apart: tuple[Text, ...] = ()
    ring: int = 0
    """Of a ring how many of its largest tensors have room in it."""

    @property
    def num_copies(self) -> int:
        total = self.ring or 1
        for copies in self.copies.values():
            total *= copies
        return total

    def copy(self, values: Mapping[str, int]) -> int:
        """The copy of the trips with these numbers."""
        found = 0
        for variable, copies in self.copies.items():
            found = found * copies + values.get(variable, 0) % copies  # `EVERY` stands for the number of the trip
        return found


@dataclass(eq=False)
class Stack:
    """One list, whose entries are placed in its order (`stacking`), or in a ring, where each lies where it does at the bottom."""

    file: str
    units: list[Unit] = field(default_factory=list)
    is_ring: bool = False

    def may_share(self) -> set[tuple[int, int]]:
        """Numbers of units, smaller first, of which one takes the bytes of the other, or of one that takes them."""
        if self.is_ring:
            return set(combinations(sorted(unit.number for unit in self.units), 2))
        return closure({unit.name: [text.value for text in unit.replaces] for unit in self.units}, self.units)


def closure(replaced: Mapping[str, Sequence[str]], units: Sequence[Unit]) -> set[tuple[int, int]]:
    """Numbers of units, smaller first, of which one replaces the other, or one that replaces it, and so on."""
    numbers = {unit.name: unit.number for unit in units}
    found: set[tuple[int, int]] = set()
    for name in replaced:
        pending, seen = list(replaced[name]), {name}
        while pending:
            old = pending.pop()
            if old not in seen and old in numbers:
                seen.add(old)
                pending += replaced.get(old, ())
                found.add((min(numbers[name], numbers[old]), max(numbers[name], numbers[old])))
    return found


class Texts:
    """Graphs by the places of what they say.

    names    tensor that a declaration makes, by its place      ops     id of an op
    uses     id of a used graph, and that graph's file          loops   variable of a loop
    """

    def __init__(self, graph: Graph, library: GraphLibrary) -> None:
        self.graphs: dict[str, Graph] = {}
        self.names: dict[Mark, str] = {}
        self.ops: dict[Mark, str] = {}
        self.uses: dict[Mark, tuple[str, str]] = {}
        self.loops: dict[Mark, str] = {}
        self._read(graph, library)

    def _read(self, graph: Graph, library: GraphLibrary) -> None:
        self.graphs[graph.file] = graph
        for item in all_items(graph.body):
            match item:
                case Op():
                    self.ops[item.mark] = item.id
                    self.names |= {made.mark: made.name for made in item.outputs.values() if isinstance(made, Declaration)}
                case Alloc():
                    self.names |= {made.mark: made.name for made in item.tensors}
                case For():
                    self.loops[item.mark] = item.variable
                case Use():
                    with suppress(GraphError):
                        used = library(item.graph, graph.file)
                        self.uses[item.mark] = item.id, used.file
                        if used.file not in self.graphs:
                            self._read(used, library)

    @cached_property
    def used_in(self) -> dict[str, dict[str, str]]:
        """By file and id the file of a used graph."""
        found: dict[str, dict[str, str]] = {}
        for mark, (use, file) in self.uses.items():
            found.setdefault(mark.file, {})[use] = file
        return found

    def used(self, file: str, name: str) -> str:
        """The file of the graph that an id stands for in another's, `ID.ID` for one that it uses in turn; "" if it is none."""
        for use in name.split("."):
            file = self.used_in.get(file, {}).get(use, "")
        return file

    def name_of(self, tensor: Any) -> str:
        """What lists call a tensor of a program: its name, or `ID.NAME` where an op needs it as scratch memory."""
        declared = self.names.get(tensor.mark)
        return declared if declared is not None else f"{self.ops.get(tensor.mark, '')}.{tensor.name}"

    def said(self) -> dict[str, tuple[Shared, ...]]:
        """The lists of all graphs that have one, by file."""
        return {file: graph.share for file, graph in self.graphs.items() if graph.share}


def texts_of(path: str | Path) -> Texts:
    """Of a graph's file, or a shipped graph, and of all that it uses."""
    library = GraphLibrary()
    return Texts(library.load(find_graph(path)), library)


class Lists:
    """The lists of several graphs. `ways` says per file and name what leads to an entry: the groups around it, and itself."""

    def __init__(self, texts: Texts, said: Mapping[str, Iterable[Shared]]) -> None:
        self.stacks: dict[str, Stack] = {}
        self.ways: dict[str, dict[str, tuple[Unit, ...]]] = {}
        self.num_units = 0
        for file, entries in said.items():
            self.ways[file] = {}
            self.stacks[file] = self._stack(file, entries, ())
        for file, ways in self.ways.items():
            for name, way in ways.items():
                way[-1].used = self.stacks.get(texts.used(file, name))

    def _stack(self, file: str, entries: Iterable[Shared], around: tuple[Unit, ...]) -> Stack:
        stack = Stack(file)
        for entry in entries:
            said = {"apart": entry.apart, "ring": entry.ring}
            unit = Unit(entry.name, self.num_units, entry.mark, entry.replaces, entry.copies, **said)
            self.num_units += 1
            stack.units.append(unit)
            way = self.ways[file][entry.name] = (*around, unit)
            if entry.inside is not None:
                unit.inside = self._stack(file, entry.inside, way)
                unit.inside.is_ring = entry.ring > 0
        return stack


def problems_of(texts: Texts) -> Iterator[Diagnostic]:
    """What is wrong with the lists of graphs whatever the configuration: names that nothing has, and copies of no loop."""
    said = texts.said()
    for file, entries in said.items():
        here = {mark: name for mark, name in texts.names.items() if mark.file == file}
        known = {*here.values(), *(id for mark, (id, _) in texts.uses.items() if mark.file == file)}
        ops = {id for mark, id in texts.ops.items() if mark.file == file}
        loops = {variable for mark, variable in texts.loops.items() if mark.file == file}
        bare = {id for mark, (id, used) in texts.uses.items() if mark.file == file and used not in said}
        yield from _problems(entries, known, ops, set(texts.used_in.get(file, {})), loops, bare - set(here.values()))
        yield from _wrong_rings(texts, file, entries)
    lists = Lists(texts, said)
    for file, stack in lists.stacks.items():
        yield from _unknown_lifted(texts, lists, file)
        yield from _unknown_inside(stack)


def _unknown_lifted(texts: Texts, lists: Lists, file: str) -> Iterator[Diagnostic]:
    """Entries for what no list of a used graph has."""
    for name, way in lists.ways[file].items():
        use, _, inside = name.partition(".")
        used = texts.used_in.get(file, {}).get(use)
        stack = lists.stacks.get(used or "")
        if not inside or used is None:
            continue
        if stack is None:
            hint = "write a 'share' there, or leave it out here"
            yield Diagnostic("G340", f"share: the graph that '{use}' uses shares nothing", way[-1].mark, hint=hint)
        elif inside not in (known := dict.fromkeys(_names_in(stack))):
            message = f"share: '{name}' is unknown: the list of the graph that '{use}' uses has no '{inside}'"
            yield Diagnostic("G340", message, way[-1].mark, hint=did_you_mean(inside, known))


def _unknown_inside(stack: Stack) -> Iterator[Diagnostic]:
    """Names of `apart` that nothing inside of an entry has."""
    beside = {unit.name: unit for unit in stack.units}
    for unit in stack.units:
        for text in unit.apart:
            name, _, inside = text.value.partition(".")
            if text.value in beside or not inside or name not in beside or name == unit.name:
                continue
            known = dict.fromkeys(_names_below(beside[name]))
            if inside not in known:
                what = f"in '{name}' no entry is called '{inside}'" if known else f"'{name}' has no entries inside"
                message = f"share: '{unit.name}' keeps apart from '{text}': {what}"
                yield Diagnostic("G340", message, text.mark, hint=did_you_mean(inside, known))
        if unit.inside is not None:
            yield from _unknown_inside(unit.inside)


def _wrong_rings(texts: Texts, file: str, entries: Iterable[Shared]) -> Iterator[Diagnostic]:
    """Rings of anything but tensors, all of whose places the ring itself says."""
    for entry in flat(entries):
        if entry.ring and not entry.inside:
            hint = "list the tensors that pass through it under 'share'"
            yield Diagnostic("G340", f"share: the ring '{entry.name}' holds nothing", entry.mark, hint=hint)
        if entry.ring and entry.copies:
            hint = "make the ring larger in place of that"
            yield Diagnostic("G340", f"share: the ring '{entry.name}' has copies", entry.mark, hint=hint)
        for one in entry.inside or () if entry.ring else ():
            if one.copies or one.replaces or one.apart or one.inside is not None or one.ring or texts.used(file, one.name):
                message = f"share: '{one.name}' lies in the ring '{entry.name}', which holds tensors, by their names alone"
                yield Diagnostic("G340", message, one.mark)


def _names_below(unit: Unit) -> Iterator[str]:
    """What `apart` calls the entries inside of one: those of groups by their names alone."""
    below = unit.inside or unit.used
    return _names_in(below) if below is not None else iter(())


def _names_in(stack: Stack) -> Iterator[str]:
    for inner in stack.units:
        yield inner.name
        yield from (name if inner.inside is not None else f"{inner.name}.{name}" for name in _names_below(inner))


_ITSELF = {"replaces": "trips take the bytes of earlier ones anyway", "keeps apart from": "'copies' keeps its trips apart"}
"""What helps an entry that names itself."""


def _problems(
    entries: Iterable[Shared], known: set[str], ops: set[str], uses: set[str], loops: set[str], bare: set[str]
) -> Iterator[Diagnostic]:
    beside = {entry.name for entry in entries}
    for entry in entries:
        owner, _, scratch = entry.name.partition(".")
        if entry.inside is None and not entry.ring and (owner not in ops | uses if scratch else entry.name not in known):
            what = "is neither a tensor that this graph makes nor the id of a graph that it uses"
            yield Diagnostic("G340", f"share: '{entry.name}' {what}", entry.mark, hint=did_you_mean(entry.name, known))
        if entry.inside is not None and entry.name in known:
            yield Diagnostic("G340", f"share: the group '{entry.name}' is called like a tensor or used graph", entry.mark)
        if entry.name in bare:
            hint = "write a 'share' there, or leave it out here"
            yield Diagnostic("G340", f"share: the graph that '{entry.name}' uses shares nothing", entry.mark, hint=hint)
        for does, texts in (("replaces", entry.replaces), ("keeps apart from", entry.apart)):
            for text in texts:
                name = text.value.partition(".")[0] if does != "replaces" and text.value not in beside else text.value
                if name not in beside or name == entry.name:
                    hint = did_you_mean(name, beside - {entry.name}) or "both must stand in the same list"
                    hint = _ITSELF[does] if name == entry.name else hint
                    which = "itself" if name == entry.name else f"'{text}', which is not beside it"
                    message = f"share: '{entry.name}' {does} {which}"
                    yield Diagnostic("G340", message, text.mark, hint=hint)
        if EVERY in entry.copies and not loops and not (scratch and owner in uses):
            yield Diagnostic("G340", f"share: '{entry.name}' has copies, and this graph has no loop", entry.mark)
        for variable in set(entry.copies) - loops - {EVERY}:
            hint = did_you_mean(variable, loops)
            yield Diagnostic("G340", f"share: no loop of this graph counts '{variable}'", entry.mark, hint=hint, about=variable)
        if entry.inside is not None:
            yield from _problems(entry.inside, known, ops, uses, loops, bare)
