"""This module writes `share:` lists into the text of a graph file, as splices: all other bytes stay as they are.

A list that is there is replaced as a whole, with the comments of the entries that stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.language.graph import EVERY, Shared
from runner.language.graph import Text as Value
from runner.writeback.splices import Splice
from runner.writeback.text import BOM, Part, Text, read_or_none

WIDTH = 120
"""Columns after which a list of names goes on in the next line."""

NOTE = "one block for these; each takes the bytes of those behind its colon when they are done"

_AMBIGUOUS = ("on", "off", "yes", "no", "true", "false", "null", "y", "n")


def plain(entries: Sequence[Shared]) -> list[Any]:
    """What entries say, without places."""
    return [
        (
            entry.name,
            tuple(text.value for text in entry.replaces),
            tuple(entry.copies.items()),
            tuple(text.value for text in entry.apart),
            entry.ring,
            None if entry.inside is None else plain(entry.inside),
        )
        for entry in entries
    ]


def share_splices(data: bytes, entries: Sequence[Shared]) -> list[Splice]:
    """The changes to a graph file's bytes that give it this list, or take the one that it has away if this is empty."""
    head = BOM if data.startswith(BOM) else b""
    text = read_or_none(data.removeprefix(head).decode("utf-8"))
    assert text is not None, "the graph was loaded from it"
    start, end, said = _change(text, entries)
    before, removed = (text.text[low:high].encode("utf-8") for low, high in ((0, start), (start, end)))
    return [Splice(len(head) + len(before), removed, said.encode("utf-8"))]


def _change(text: Text, entries: Sequence[Shared]) -> tuple[int, int, str]:
    """Characters from and to, and what comes in their place."""
    found, body = text.root.value_of("share"), text.root.value_of("body")
    assert body is not None, "the schema requires it"
    if not entries:
        return _taken_out(text, found)
    if text.root.is_flow:
        inline = f"share: [{', '.join(map(_inline, entries))}]"
        return (found[0].start, found[1].end, inline) if found else (body[0].start, body[0].start, f"{inline}, ")
    newline = found_break[0] if (found_break := re.search("\r\n|\n|\r", text.text)) else "\n"
    pad = " " * text.column(body[0].start)
    comments = _comments(text, found[1]) if found else {}
    first = text.line_of(found[0].start) if found else text.line_of(body[0].start)
    note = ""
    if found:
        behind = text.comments_in(found[0].start, text.end_of_line(first))
        note = text.text[behind[0][0] : behind[0][1]] if behind else ""
    else:
        note = f"# {NOTE}"
        while first and text.comment_alone(first - 1) == text.column(body[0].start):
            first -= 1
    lines = [f"{pad}share:{f'  {note}' if note else ''}", *_lines(entries, pad + "  ", comments)]
    if not found:
        return text.starts[first], text.starts[first], newline.join([*lines, "", ""])
    last = text.last_line(found[1])
    return text.starts[first], text.end_of_line(last), newline.join(lines)


def _taken_out(text: Text, found: tuple[Part, Part] | None) -> tuple[int, int, str]:
    """The whole section, with the blank lines behind it."""
    assert found is not None, "there is a list to take out"
    if text.root.is_flow:
        behind = re.match(r"\s*,\s*", text.text[found[1].end :])
        return found[0].start, found[1].end + (len(behind[0]) if behind else 0), ""
    first, last = text.line_of(found[0].start), text.last_line(found[1])
    while last + 1 < len(text.starts) and not text.line(last + 1).strip() and last + 2 < len(text.starts):
        last += 1
    return text.starts[first], text.starts[last + 1] if last + 1 < len(text.starts) else len(text.text), ""


def _comments(text: Text, part: Part) -> dict[str, tuple[list[str], str]]:
    """Per entry the comments above it, and the one at the end of its first line."""
    found: dict[str, tuple[list[str], str]] = {}
    for name in _entries(part):
        line = text.line_of(name.start)
        above: list[str] = []
        while line - len(above) and text.comment_alone(line - len(above) - 1) is not None:
            above.append(text.line(line - len(above) - 1).strip())
        behind = text.comments_in(name.start, text.end_of_line(line))
        found[name.value] = above[::-1], text.text[behind[0][0] : behind[0][1]] if behind else ""
    return found


def _entries(part: Part) -> Iterator[Part]:
    """The names of the entries of a list, and of lists inside."""
    for entry in part.inside:
        if entry.kind == "scalar":
            yield entry
        for name, value in zip(entry.inside[::2], entry.inside[1::2], strict=False):
            yield name
            inside = value.value_of("share") if value.kind == "map" else None
            if inside is not None:
                yield from _entries(inside[1])


def _lines(entries: Sequence[Shared], pad: str, comments: Mapping[str, tuple[list[str], str]]) -> Iterator[str]:
    for entry in entries:
        above, behind = comments.get(entry.name, ([], ""))
        yield from (f"{pad}{one}" for one in above)
        lines = list(_entry(entry, pad, comments))
        yield f"{lines[0]}  {behind}" if behind else lines[0]
        yield from lines[1:]


def _entry(entry: Shared, pad: str, comments: Mapping[str, tuple[list[str], str]]) -> Iterator[str]:
    name = _quoted(entry.name)
    if entry.inside is None:
        inline = _inline(entry)
        if entry.replaces and not entry.copies and not entry.apart:
            yield from _wrapped(f"{pad}- {name}: ", [_quoted(text.value) for text in entry.replaces])
        elif len(pad) + len(inline) <= WIDTH:
            yield f"{pad}- {inline if not entry.copies and not entry.apart else f'{name}: {_mapping(entry)}'}"
        else:
            yield f"{pad}- {name}:"
            yield from _said(entry, pad)
        return
    yield f"{pad}- {name}:"
    yield from _said(entry, pad)
    yield f"{pad}    share:"
    yield from _lines(entry.inside, f"{pad}      ", comments)


def _said(entry: Shared, pad: str) -> Iterator[str]:
    """What an entry says of itself, a line each."""
    if entry.copies:
        yield f"{pad}    copies: {_copies(entry)}"
    if entry.ring:
        yield f"{pad}    ring: {entry.ring}"
    for key, texts in (("replaces", entry.replaces), ("apart", entry.apart)):
        if texts:
            yield from _wrapped(f"{pad}    {key}: ", [_quoted(text.value) for text in texts])


def _wrapped(head: str, names: Sequence[str]) -> Iterator[str]:
    """A list of names behind a key, in as many lines as it needs."""
    if len(names) == 1:
        yield head + names[0]
        return
    line = f"{head}["
    for place, name in enumerate(names):
        more = name + ("]" if place == len(names) - 1 else ",")
        if place and len(line) + len(more) + 1 > WIDTH:
            yield line
            line = " " * (len(head) + 1) + more
        else:
            line += f" {more}" if place else more
    yield line


def _inline(entry: Shared) -> str:
    name = _quoted(entry.name)
    if not entry.copies and not entry.apart and entry.inside is None:
        return f"{{{name}: {_names(entry.replaces)}}}" if entry.replaces else name
    return f"{{{name}: {_mapping(entry)}}}"


def _mapping(entry: Shared) -> str:
    parts = [f"copies: {_copies(entry)}"] if entry.copies else []
    if entry.ring:
        parts.append(f"ring: {entry.ring}")
    if entry.replaces:
        parts.append(f"replaces: {_names(entry.replaces)}")
    if entry.apart:
        parts.append(f"apart: {_names(entry.apart)}")
    if entry.inside is not None:
        parts.append(f"share: [{', '.join(map(_inline, entry.inside))}]")
    return f"{{{', '.join(parts)}}}"


def _names(texts: Sequence[Value]) -> str:
    names = [_quoted(text.value) for text in texts]
    return names[0] if len(names) == 1 else "[" + ", ".join(names) + "]"


def _copies(entry: Shared) -> str:
    if EVERY in entry.copies:
        return str(entry.copies[EVERY])
    return f"{{{', '.join(f'{_quoted(name)}: {number}' for name, number in entry.copies.items())}}}"


def _quoted(name: str) -> str:
    return f'"{name}"' if name.lower() in _AMBIGUOUS else name
