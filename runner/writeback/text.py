"""This module puts scopes into the text of a graph file and takes them out; comments, order and spelling stay as they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from runner.base.errors import Mark, ScheduleError
from runner.language.graph import Text
from runner.language.notation import split_output

INDENT = 4
"""Columns that the items of a scope stand further right than the scope."""

WIDTH = 120
"""An alloc that would end further right gets a line for each tensor."""

AMBIGUOUS = ("on", "off", "yes", "no", "true", "false", "null")
"""Names that YAML takes for something else unless they are quoted."""


@dataclass(frozen=True, slots=True)
class Edit:
    """`wrap` puts the items from `first` to `last` into a scope `name`; `remove` takes the scope at `first` away; `mode auto` and
    `mode manual` change it. Marks are those of items, of one file. `hoisted` are the marks of outputs that create a tensor: an
    alloc before the scope does so instead.
    """

    what: str
    first: Mark
    last: Mark
    name: str = ""
    hoisted: tuple[Mark, ...] = ()


Splice = tuple[int, int, int, str, int]
"""Line, column and order of a text that is put in, and how many characters go out behind it."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Where an item stands: lines and columns from 0, the end behind its last character. `in_flow`: inside `[]` or `{}`."""

    line: int
    column: int
    end_line: int
    end_column: int
    node: yaml.MappingNode
    in_flow: bool
    in_list: bool


@dataclass(frozen=True, slots=True)
class _Output:
    """An output that creates a tensor: its name and type, and where its text stands."""

    name: str
    spec: str
    node: yaml.ScalarNode


def edited(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The text with the edits made; raises ScheduleError for a spelling that cannot be edited line by line."""
    text = data.decode("utf-8")
    items, outputs = _items(yaml.compose(text.removeprefix("\ufeff"), Loader=yaml.SafeLoader))
    lines = text.splitlines(keepends=True)
    shift = [0] * len(lines)
    dropped: set[int] = set()
    splices: list[Splice] = []
    headers: dict[int, list[str]] = {}
    newline = "\r\n" if "\r\n" in text else "\n"
    placed = [
        (items[edit.first.line - 1, edit.first.column - 1], items[edit.last.line - 1, edit.last.column - 1], edit)
        for edit in edits
    ]
    for depth, (first, last, edit) in enumerate(sorted(placed, key=_outer_first)):
        if edit.what != "wrap":
            _change_scope(first, edit, lines, shift, dropped, headers, newline)
        elif first.in_flow or not first.in_list:
            _wrap_inline(first, last, edit, splices, depth, len(edits), outputs)
        else:
            start = _with_comments(first, lines)
            pad = " " * (first.column - 2 + shift[first.line])
            head = [*_alloc(edit, outputs, pad), f"{pad}- scope: {edit.name}", f"{pad}  body:"]
            headers.setdefault(start, []).append("".join(f"{line}{newline}" for line in head))
            for line in range(start, last.end_line + 1):
                shift[line] += INDENT
        splices += [_reference(outputs, mark) for mark in edit.hoisted]
    for line, column, _, inserted, gone in sorted(set(splices), key=lambda splice: splice[:3], reverse=True):
        lines[line] = lines[line][:column] + inserted + lines[line][column + gone :]
    made = []
    for number, line in enumerate(lines):
        made += headers.get(number, [])
        if number not in dropped:
            made.append(_shifted(line, shift[number]))
    return "".join(made).encode("utf-8")


def _outer_first(placed: tuple[_Span, _Span, Edit]) -> tuple[int, int, int, int]:
    """Outer before inner; of edits that begin at the same item, the longer, and a loop or branch body before a use."""
    first, last, edit = placed
    return (first.line, first.column, -last.end_line, 0 if edit.name.endswith(("_trip", "_branch")) else 1)


def _shifted(line: str, columns: int) -> str:
    if not line.strip():
        return line
    return " " * columns + line if columns >= 0 else line[-columns:]


def _with_comments(item: _Span, lines: Sequence[str]) -> int:
    """The first of the comment lines right above an item that stand in its column, else its own line."""
    line = item.line
    while line and lines[line - 1].startswith(" " * (item.column - 2) + "#"):
        line -= 1
    return line


def _output(outputs: dict[tuple[int, int], _Output], mark: Mark) -> _Output:
    found = outputs.get((mark.line - 1, mark.column - 1))
    if found is None or found.node.start_mark.line != found.node.end_mark.line or found.node.style in ("|", ">"):
        raise ScheduleError(
            f"{mark}: the tensor is written in a way that cannot be moved to an alloc", hint="write its name and type on one line"
        )
    return found


def _reference(outputs: dict[tuple[int, int], _Output], mark: Mark) -> Splice:
    """Turns `NAME: TYPE`, or a type alone, into the name of a tensor that is there already."""
    found = _output(outputs, mark)
    start, end = found.node.start_mark, found.node.end_mark
    name = f'"{found.name}"' if found.name.lower() in AMBIGUOUS else found.name
    return start.line, start.column, 0, name, end.column - start.column


def _alloc(edit: Edit, outputs: dict[tuple[int, int], _Output], pad: str, width: int = WIDTH) -> list[str]:
    """Lines of the alloc before a scope, none if nothing is hoisted."""
    if not edit.hoisted:
        return []
    made = [f'{found.name}: "{found.spec}"' for found in (_output(outputs, mark) for mark in edit.hoisted)]
    line = f"{pad}- alloc: {{{', '.join(made)}}}"
    return [line] if len(line) <= width else [f"{pad}- alloc:", *(f"{pad}    {one}" for one in made)]


def _wrap_inline(
    first: _Span,
    last: _Span,
    edit: Edit,
    splices: list[Splice],
    depth: int,
    most: int,
    outputs: dict[tuple[int, int], _Output],
) -> None:
    if not first.node.flow_style or not last.node.flow_style or (edit.hoisted and not first.in_list):
        raise ScheduleError(
            f"{edit.first}: the item stands where no scope can be put around it", hint="write the branch as a list"
        )
    alloc = "".join(f"{{{line.removeprefix('- ')}}}, " for line in _alloc(edit, outputs, "", sys.maxsize))
    splices.append((first.line, first.column, depth - most, f"{alloc}{{scope: {edit.name}, body: [", 0))
    splices.append((last.end_line, last.end_column, 2 * most - depth, "]}", 0))


def _change_scope(
    scope: _Span,
    edit: Edit,
    lines: Sequence[str],
    shift: list[int],
    dropped: set[int],
    headers: dict[int, list[str]],
    newline: str,
) -> None:
    keys = {key.value: (key, value) for key, value in scope.node.value}
    body_key, body = keys["body"]
    if scope.in_flow or not scope.in_list or scope.node.flow_style or body.flow_style or body_key is not scope.node.value[-1][0]:
        raise ScheduleError(
            f"{edit.first}: the scope is written in a way that cannot be changed", hint="write it as a block, body last"
        )
    pad = " " * (scope.column - 2 + shift[scope.line])
    if edit.what == "remove":
        head = range(scope.line, body_key.start_mark.line + 1)
        kept = [_comment(lines[line]) for line in head]
        headers.setdefault(scope.line, []).extend(f"{pad}{comment}{newline}" for comment in kept if comment)
        dropped.update(head)
        for line in range(body_key.start_mark.line + 1, scope.end_line + 1):
            shift[line] -= body.start_mark.column - (scope.column - 2)
        return
    if "mode" in keys and keys["mode"][0].start_mark.line != scope.line:
        dropped.add(keys["mode"][0].start_mark.line)
    if edit.what == "mode manual":
        headers.setdefault(body_key.start_mark.line, []).append(f"{pad}  mode: manual{newline}")


def _comment(line: str) -> str:
    """The comment at the end of a line of a scope's head, whose values hold no `#`."""
    _, hash_mark, text = line.partition(" #")
    return f"#{text.rstrip()}" if hash_mark else line.strip() if line.lstrip().startswith("#") else ""


def _items(root: yaml.Node | None) -> tuple[dict[tuple[int, int], _Span], dict[tuple[int, int], _Output]]:
    """Every mapping of the file, and every output that creates a tensor, by the place where it begins."""
    found: dict[tuple[int, int], _Span] = {}
    outputs: dict[tuple[int, int], _Output] = {}

    def walk(node: yaml.Node, in_flow: bool, in_list: bool) -> None:
        flow = in_flow or bool(getattr(node, "flow_style", False))
        if isinstance(node, yaml.MappingNode):
            start = node.start_mark
            found[start.line, start.column] = _Span(start.line, start.column, *_end(node), node, in_flow, in_list)
            for key, value in node.value:
                walk(value, flow, False)
                if isinstance(value, yaml.ScalarNode):
                    note(key.value, value)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                walk(item, flow, True)

    def note(operand: str, node: yaml.ScalarNode) -> None:
        start = node.start_mark
        created = split_output(operand, Text(node.value, Mark("", start.line + 1, start.column + 1)))
        if created is not None:
            inside_quotes = start.column + (node.style is not None)  # where the text's mark is
            outputs[start.line, inside_quotes] = _Output(created[0], created[1].value, node)

    if root is not None:
        walk(root, False, False)
    return found, outputs


def _end(node: yaml.Node) -> tuple[int, int]:
    """Where the text of a node ends, without the blank lines and comments that follow a block."""
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        before = node.end_mark.buffer[: node.end_mark.pointer] if node.end_mark.buffer is not None else ""
        blank = before[len(before.rstrip()) :].count("\n")
        return node.end_mark.line - blank, 0
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.line, node.end_mark.column
