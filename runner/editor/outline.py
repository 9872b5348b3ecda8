"""A graph's parts as an editor lists them, and what it shows between the words: shapes, bytes, trips."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from runner.base.errors import Mark, RinggraphError
from runner.base.tensor_spec import TensorSpec
from runner.base.units import human_bytes
from runner.editor.hover import param_values, spec_of
from runner.editor.reading import names, nodes
from runner.editor.reading.sharing import Entry, entries
from runner.editor.reading.text import Place, Text
from runner.editor.workspace import Workspace
from runner.language.expressions import parse
from runner.language.yaml_source import Node


@dataclass(frozen=True, slots=True)
class Part:
    """One entry of an outline; `kind` is section, tensor, or an item's keyword. `place` is all of it, `name_at` its name."""

    name: str
    kind: str
    detail: str
    place: Place
    name_at: Place
    inside: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Hint:
    """Text that is shown at an offset."""

    offset: int
    text: str


def outline(workspace: Workspace, path: str) -> list[Part]:
    """The sections of a graph with what they declare, and its items with what is inside."""
    text, tree = workspace.text(path), workspace.tree(path)
    if text is None or tree is None or not workspace.is_graph(os.path.realpath(path)):
        return []
    found = []
    for key, value in tree[0].value:
        if key.value in ("params", *names.SECTIONS) and value.kind == "map":
            inside = tuple(_declared(text, name, spec) for name, spec in value.value if name.kind == "text" and name.value)
            found.append(_part(text, key.value, "section", "", key, value, inside))
        elif key.value == "share" and value.kind == "list":
            found.append(_part(text, key.value, "section", "", key, value, tuple(_listed(text, entries(value)))))
        elif key.value == "body":
            found.append(_part(text, "body", "section", "", key, value, tuple(_items(text, value))))
    return found


def _declared(text: Text, key: Node, value: Node) -> Part:
    spec = value if value.kind == "text" else value.get("type")
    return _part(text, key.value, "tensor", spec.value if spec is not None and spec.kind == "text" else "", key, value)


def _listed(text: Text, found: tuple[Entry, ...]) -> Iterator[Part]:
    """Entries of a list of shared bytes."""
    for entry in found:
        olds = ", ".join(node.value for node in entry.said["replaces"])
        inside = tuple(_listed(text, entry.inside or ()))
        kind = "scope" if entry.inside is not None else "tensor"
        yield _part(text, entry.name, kind, f"replaces {olds}" if olds else "", entry.node, entry.node, inside)


def _items(text: Text, body: Node) -> Iterator[Part]:
    for item in nodes.items(body):
        keyword = nodes.keyword_of(item)
        head = item.get(keyword) if keyword is not None else None
        if keyword is None or head is None:
            continue
        given = item.get("id")
        name = head.value if head.kind == "text" else ", ".join(key.value for key, _ in head.value if key.kind == "text")
        name = given.value if given is not None and given.kind == "text" else name
        inside = tuple(part for inner in nodes.bodies(item) for part in _items(text, inner))
        yield _part(text, name or keyword, keyword, keyword, head, item, inside)


def _part(text: Text, name: str, kind: str, detail: str, key: Node, node: Node, inside: tuple[Part, ...] = ()) -> Part:
    key_start, start = text.offset(key.mark), text.offset(node.mark)
    key_end = key_start + (len(key.value) if key.kind == "text" else 0)
    end = max(key_end, _end(text, node), *(part.place.end for part in inside))
    place = Place(text.file, min(key_start, start), end)
    return Part(name or kind, kind, detail, place, Place(text.file, key_start, key_end), inside)


def _end(text: Text, node: Node) -> int:
    """Where the last text of a node ends."""
    if node.kind == "text":
        return min(text.offset(node.mark) + len(node.value), len(text.value))
    inner = [child for pair in node.value for child in pair] if node.kind == "map" else node.value
    return max([_end(text, child) for child in inner], default=text.offset(node.mark))


def hints(workspace: Workspace, path: str, start: int, end: int) -> list[Hint]:
    """Shapes and bytes of the tensors that are declared from `start` to `end`, and trips of loops, under the configuration."""
    text, tree, index = workspace.text(path), workspace.tree(path), workspace.index(path)
    if text is None or tree is None or index is None or not workspace.is_graph(os.path.realpath(path)):
        return []
    values, known, found = param_values(workspace, path), None, []
    for mark, written in _types(tree[0]):
        offset = text.offset(mark)
        if not start <= offset <= end:
            continue
        spec = spec_of(workspace, path, written.value.rpartition(": ")[2], values)
        if spec is None:  # it depends on loops: the program, which takes longer, has it
            known = specs(workspace, path) if known is None else known
            spec = known.get((mark.line, mark.column))
        if spec is not None:
            found.append(Hint(_behind(text, written), f"{spec}, {human_bytes(spec.size_bytes)}"))
    for item in nodes.all_items(tree[0].get("body")):
        trips = item.get("range")
        if trips is not None and trips.kind == "text" and start <= text.offset(trips.mark) <= end and not trips.value.isdigit():
            try:
                found.append(Hint(_behind(text, trips), f"= {parse(trips.value).integer(values.__getitem__)}"))
            except RinggraphError:
                continue
    return sorted(set(found), key=lambda hint: hint.offset)


def _behind(text: Text, node: Node) -> int:
    """The end of a scalar, behind its quote."""
    end = text.offset(node.mark) + len(node.value)
    return end + (text.value[end : end + 1] in ("'", '"'))


def _types(root: Node) -> Iterator[tuple[Mark, Node]]:
    """The types that a graph declares, each with the place that its tensor has in the program."""
    for section in names.SECTIONS:
        given = root.get(section)
        for key, value in given.value if given is not None and given.kind == "map" else ():
            spec = value if value.kind == "text" else value.get("type")
            if spec is not None and spec.kind == "text":
                yield key.mark, spec
    for item in nodes.all_items(root.get("body")):
        for name in ("alloc", "out"):
            given = item.get(name)
            for key, value in given.value if given is not None and given.kind == "map" else ():
                if value.kind == "text" and (name == "alloc" or names.creates(value.value)):
                    yield (key if name == "alloc" else value).mark, value
        if item.get("view") is not None and (spec := item.get("type")) is not None and spec.kind == "text":
            yield spec.mark, spec


def specs(workspace: Workspace, path: str) -> dict[tuple[int, int], TensorSpec]:
    """The types of the tensors of a graph's program that its own file declares, by line and column; the first of each place."""
    program, real = workspace.program(path), os.path.realpath(path)
    found: dict[tuple[int, int], TensorSpec] = {}
    files: dict[str, bool] = {}
    for tensor in program.tensors if not isinstance(program, RinggraphError) else ():
        mark = tensor.mark
        if mark is not None:
            if mark.file not in files:
                files[mark.file] = os.path.realpath(mark.file) == real
            if files[mark.file]:
                found.setdefault((mark.line, mark.column), tensor.spec)
    return found


def scratch(workspace: Workspace, path: str) -> list[tuple[Mark, str, TensorSpec]]:
    """The scratch memory of the ops of a graph's own file: where the op stands, name and type; the first of each."""
    program, real = workspace.program(path), os.path.realpath(path)
    found: dict[tuple[Mark, str], TensorSpec] = {}
    if isinstance(program, RinggraphError):
        return []
    for task in program.tasks:
        if task.op is None or task.mark is None or os.path.realpath(task.mark.file) != real:
            continue
        shown = {region.tensor for region in task.operands.values()}
        for tensor in (program.tensors[each] for each in task.creates if each not in shown):
            found.setdefault((task.mark, tensor.name), tensor.spec)
    return [(mark, name, spec) for (mark, name), spec in found.items()]
