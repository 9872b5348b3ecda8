"""Where a name is made, where it is named, and what changes when it gets another one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.base.errors import Mark, RinggraphError
from runner.editor.reading import names
from runner.editor.reading.symbols import TENSORS, Key, Occurrence, Symbol
from runner.editor.reading.text import Place, Text
from runner.editor.workspace import Workspace
from runner.language.yaml_source import Node

RENAMED = TENSORS | {"param", "variable", "scope", "id", "group"}
_IDS = frozenset({"id", "scope", "variable"})
_ELSEWHERE = frozenset({"member", "shared", "scratch"})
"""The first of keys that other files name as well; the second is the file."""
_NEAR = 3
"""Lines that a declaration in Python takes, to its name."""
_RESERVED = frozenset({"and", "or", "not", "if", "else", "ceil", "floor", "min", "max", "log", "True", "False", "in", "is"})


@dataclass(frozen=True, slots=True)
class Edit:
    """The text from `start` up to `end` of a file becomes `text`."""

    start: int
    end: int
    text: str


def occurrence(workspace: Workspace, path: str, offset: int) -> Occurrence | None:
    """What is named at an offset of a graph; of an id that nobody wrote, the op or graph is meant."""
    index = workspace.index(path) if workspace.is_graph(os.path.realpath(path)) else None
    if index is None:
        return None
    found = [each for each in index.occurrences if each.start <= offset <= each.end]
    named = [each for each in found if each.form != "implied"]
    return min(named or found, key=lambda each: (each.end - each.start, offset == each.end), default=None)


def definition(workspace: Workspace, path: str, offset: int) -> list[Place]:
    """Where what is named at an offset is made."""
    found = occurrence(workspace, path, offset)
    if found is None:
        return []
    symbol = found.symbol
    match symbol.kind:
        case "op" | "operand" | "attr":
            given = workspace.registry(path).get(symbol.key[1])
            return [] if given is None else _at_line(given.place, symbol.name)
        case "value" | "dtype":
            config = workspace.config(path)
            mark = config.mark(symbol.name) if config is not None else None
            return [] if mark is None else _at_line(f"{mark.file}:{mark.line}", symbol.name)
        case "graph":
            index = workspace.index(symbol.key[1]) if os.path.isabs(symbol.key[1]) else None
            if index is None:
                return []
            made = [Place(symbol.key[1], each.start, each.end) for each in index.of(symbol.key) if each.is_definition]
            return made or [Place(symbol.key[1], 0, 0)]
    file = symbol.key[1] if symbol.key[0] in _ELSEWHERE else path
    index = workspace.index(file)
    return [Place(file, each.start, each.end) for each in index.of(symbol.key) if each.is_definition] if index is not None else []


def _at_line(place: str, name: str) -> list[Place]:
    """Where a name stands in a line `FILE:LINE` or shortly behind it; else the line."""
    file, _, line = place.rpartition(":")
    if not line.isdigit() or not Path(file).is_file():
        return []
    text = Text(file, Path(file).read_text(encoding="utf-8", errors="replace"))
    if int(line) > len(text.lines):
        return []
    start, content, real = text.offset(Mark(file, int(line))), text.lines[int(line) - 1], os.path.realpath(file)
    end = text.offset(Mark(file, int(line) + _NEAR))
    found = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)").search(text.value, start, end)
    if found is not None:
        return [Place(real, *found.span())]
    return [Place(real, start + len(content) - len(content.lstrip()), start + len(content))]


def references(workspace: Workspace, path: str, offset: int, with_definition: bool = True) -> list[Place]:
    """Everywhere that what is named at an offset is named, and every `use` that takes it by its name alone."""
    found = occurrence(workspace, path, offset)
    if found is None:
        return []
    key = found.symbol.key
    files = [os.path.realpath(path)] if key[0] == "local" else [*workspace.graph_files()]
    places = []
    for file in files:
        index = workspace.index(file)
        if index is None:
            continue
        places += [Place(file, each.start, each.end) for each in index.of(key) if with_definition or not each.is_definition]
        places += [_head(workspace, file, each.item) for each in index.implicit if key in (each.symbol.key, each.member)]
    return list(dict.fromkeys(places))


def _head(workspace: Workspace, file: str, item: Node) -> Place:
    """The name of the graph that an item uses."""
    text, head = workspace.text(file), item.get("use")
    assert text is not None and head is not None
    start = text.offset(head.mark)
    return Place(file, start, start + len(head.value))


# --- rename ---


def renamable(workspace: Workspace, path: str, offset: int) -> Place:
    """The name at an offset that can be another one; raises RinggraphError with the reason where it cannot."""
    found = occurrence(workspace, path, offset)
    if found is None:
        raise RinggraphError("there is no name here")
    symbol = found.symbol
    if symbol.kind in _ELSEWHERE:
        symbol = _made(workspace, symbol.key) or symbol
    if symbol.kind not in RENAMED or symbol.is_implied:
        what = {
            "value": "a value of the configuration",
            "dtype": "a dtype of the configuration",
            "graph": "called as its file is",
        }
        what |= dict.fromkeys(("op", "operand", "attr"), "declared with its op, in Python")
        raise RinggraphError(f"'{symbol.name}' cannot be renamed: it is {what.get(symbol.kind, 'no name of this graph')}")
    if symbol.section in ("weights", "state") and not _has_source(workspace, symbol):
        raise RinggraphError(f"'{symbol.name}' cannot be renamed: without 'from:' the checkpoint's name is the same")
    if found.form == "scale":
        return Place(path, found.start, found.end - len("_scale"))
    return Place(path, found.start, found.end)


def _made(workspace: Workspace, key: Key) -> Symbol | None:
    """What a key of a `with`, or a list of shared bytes, names in another graph."""
    index = workspace.index(key[1])
    return next((each.symbol for each in index.of(key) if each.is_definition), None) if index is not None else None


def _has_source(workspace: Workspace, symbol: Symbol) -> bool:
    tree = workspace.tree(symbol.key[1])
    section = tree[0].get(symbol.section) if tree is not None else None
    declared = section.get(symbol.name) if section is not None else None
    return declared is not None and declared.get("from") is not None


def rename(workspace: Workspace, path: str, offset: int, new: str) -> dict[str, list[Edit]]:
    """The edits, by real path, after which the name at an offset is `new`; raises RinggraphError where that changes a meaning."""
    renamable(workspace, path, offset)
    found = occurrence(workspace, path, offset)
    assert found is not None
    if found.form == "scale":
        new = new.removesuffix("_scale")
    if not names.is_name(new) or new in _RESERVED:
        raise RinggraphError(f"'{new}' is no name: a name has letters, digits and '_' and does not begin with a digit")
    if new in workspace.value_names(path):
        raise RinggraphError(f"'{new}' is taken: it is a value of the configuration")
    key = found.symbol.key
    index = workspace.index(path)
    ids = {each.symbol.name for each in index.occurrences if each.symbol.kind in _IDS} if index is not None else set()
    if found.symbol.kind in _IDS and new in ids:
        raise RinggraphError(f"'{new}' is taken: it is an id of this file")
    if _is_listed(workspace, key[1], key, new):
        raise RinggraphError(f"'{new}' is taken: `share` lists it, or could not tell them apart")
    files = [os.path.realpath(path)] if key[0] == "local" else list(dict.fromkeys((key[1], *workspace.graph_files())))
    edits: dict[str, list[Edit]] = {}
    for file in files:
        edits[file] = sorted(set(_renamed(workspace, file, key, new)), key=lambda each: (each.start, each.end))
    edits = {file: made for file, made in edits.items() if made}
    for file in edits:
        tree = workspace.tree(file)
        if tree is None or not tree[1]:
            raise RinggraphError(f"'{file}' has to be mended first: its YAML is not sound")
        if file not in workspace.open and not any(
            Path(file).is_relative_to(os.path.realpath(each)) for each in workspace.folders
        ):
            raise RinggraphError(f"'{file}' is named too, and is no file of this workspace")
    _check(workspace, edits, new)
    return edits


def _is_listed(workspace: Workspace, file: str, key: Key, new: str) -> bool:
    """Whether `share` of a file would take what has a key, called `new`, for something else, or that for it."""
    index = workspace.index(file) if key[0] in ("local", "shared") else None
    if index is None:
        return False
    made = index.made
    mine = any(symbol.key == key for symbol in made.all())
    others = [symbol for symbol in made.symbols(new) if symbol.key != key]
    return mine and any("shared" in (key[0], other.key[0]) for other in others)


def _renamed(workspace: Workspace, file: str, key: Key, new: str) -> Iterator[Edit]:
    """What changes in one file."""
    text, index = workspace.text(file), workspace.index(file)
    if text is None or index is None:
        return
    for each in index.of(key):
        if each.form == "operand":
            yield from _named(text, each, new)
        else:
            yield Edit(each.start, each.end, f"{new}_scale" if each.form == "scale" else new)
    for each in index.implicit:
        if key == each.member:
            yield _with_entry(text, each.item, new, each.symbol.name)
        elif key == each.symbol.key:
            yield _with_entry(text, each.item, each.name, new)


def _named(text: Text, found: Occurrence, new: str) -> Iterator[Edit]:
    """An output `y: f32[T]` that makes a tensor `y` becomes `y: "NEW: f32[T]"`."""
    behind = re.compile(r"\s*(['\"]?)\s*:\s*(['\"]?)").match(text.value, found.end)
    if behind is None:
        raise RinggraphError("the type behind the operand could not be found")
    at = behind.end()
    if behind[2]:
        yield Edit(at, at, f"{new}: ")
        return
    line_end = re.compile(r"[^\n\r#]*?\](?=\s*([,}#\n\r]|$))").match(text.value, at)
    if line_end is None:
        raise RinggraphError("the type behind the operand could not be found")
    yield Edit(at, line_end.end(), f'"{new}: {line_end[0].strip()}"')


def _with_entry(text: Text, item: Node, name: str, value: str) -> Edit:
    """`with: {NAME: VALUE}` of a `use` that gave nothing for NAME."""
    given, head = item.get("with"), item.get("use")
    assert head is not None
    if given is not None and given.kind == "map" and given.value:
        start = text.offset(given.mark)
        if text.value[start] == "{":
            return Edit(start + 1, start + 1, f"{name}: {value}, ")
        return Edit(start, start, f"{name}: {value}\n{' ' * (given.mark.column - 1)}")
    if given is not None:
        raise RinggraphError("a 'with:' without entries would have to be filled")
    return beside_head(text, item, head, f"with: {{{name}: {value}}}")


def beside_head(text: Text, item: Node, head: Node, entry: str) -> Edit:
    """A key more for an item, behind its first one."""
    start = text.offset(head.mark)
    end = start + len(head.value)
    end += text.value[end : end + 1] in ("'", '"')
    if text.value[text.offset(item.mark)] == "{":
        return Edit(end, end, f", {entry}")
    line_end = re.compile(r"[^\n\r]*").match(text.value, end)
    assert line_end is not None
    return Edit(line_end.end(), line_end.end(), f"\n{' ' * (item.mark.column - 1)}{entry}")


def applied(text: str, edits: list[Edit]) -> str:
    """A text after edits that do not overlap."""
    for edit in sorted(edits, key=lambda each: (each.start, each.end), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _check(workspace: Workspace, edits: Mapping[str, list[Edit]], new: str) -> None:
    """Raises RinggraphError where a name would stand for something else after `edits`: then `new` is taken."""
    after = replace(workspace, open={**workspace.open}, kinds={**workspace.kinds}, **_fresh())
    for file, made in edits.items():
        text = workspace.text(file)
        assert text is not None
        after.put(file, applied(text.value, made))
    for file in edits:
        before, now = workspace.index(file), after.index(file)
        if before is None or now is None or not _same(before, now, edits[file], new):
            raise RinggraphError(f"'{new}' is taken: in '{os.path.basename(file)}' a name would stand for something else")


def _fresh() -> dict[str, dict]:
    return {name: {} for name in ("_trees", "_findings", "_programs", "_configs", "_indices")}


def _same(before: names.Index, now: names.Index, edits: list[Edit], new: str) -> bool:
    """Whether names of one thing before `edits` still name one, those of others do not, and each `use` takes the same."""
    later = {(each.start, each.symbol.kind): each.symbol.key for each in now.occurrences}
    there: dict[Key, Key] = {}
    back: dict[Key, Key] = {}
    for each in before.occurrences:
        start = _moved(each.start, edits)
        if each.form == "operand" and all(edit.start != each.start for edit in edits):
            start = _new_name(each, now, start, edits, new)
        key = later.get((start, each.symbol.kind))
        if key is None or there.setdefault(each.symbol.key, key) != key:
            return False
        if back.setdefault(key, each.symbol.key) != each.symbol.key:
            return False
    taken = now.bound | {(each.number, each.name): each.symbol.key for each in now.implicit}
    had = {(each.number, each.name): there.get(each.symbol.key, ()) for each in before.implicit}
    if any(taken.get((number, name), taken.get((number, new))) != key for (number, name), key in had.items()):
        return False
    return all((each.number, each.name) in had for each in now.implicit)


def _new_name(each: Occurrence, now: names.Index, start: int, edits: list[Edit], new: str) -> int:
    """Where the name of a tensor stands that had its operand's, and has one of its own now."""
    if not any(0 <= edit.start - each.end < 8 and edit.text.lstrip('"').startswith(f"{new}: ") for edit in edits):
        return start
    made = (other.start for other in now.occurrences if other.is_definition and other.start > start and not other.form)
    return next(made, start)


def _moved(offset: int, edits: list[Edit]) -> int:
    """Where an offset is after edits."""
    return offset + sum(len(edit.text) - (edit.end - edit.start) for edit in edits if edit.end <= offset and edit.start < offset)
