"""The text of a graph file: what stands where, with the places of dashes, comments and aliases, which no `Graph` keeps.

Places are offsets in characters from the begin of the text, without a byte order mark.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import yaml

from runner.base.errors import Mark

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_COMMENT = re.compile("#[^\n\r\x85\u2028\u2029]*")


@dataclass(eq=False, slots=True)
class Part:
    """A scalar, an alias, or a list or mapping with what it holds.

    kind      `scalar`, `alias`, `list` or `map`
    end       behind its last character; a block ends with the last of its parts
    value     of a scalar what it says, of an alias the name of its anchor
    style     of a scalar its quote, `|` or `>`, else empty
    is_flow   stands in brackets, braces or quotes, or on the line of what is around it
    inside    of a list its items, of a mapping its keys and values in turn
    """

    kind: str
    start: int
    end: int
    value: str = ""
    style: str = ""
    anchor: str = ""
    is_flow: bool = False
    inside: list[Part] = field(default_factory=list)

    def value_of(self, key: str) -> tuple[Part, Part] | None:
        """The key and the value of that key, of a mapping."""
        pairs = zip(self.inside[::2], self.inside[1::2], strict=True)
        return next(((one, other) for one, other in pairs if one.value == key), None)

    def says_what(self, other: Part) -> bool:
        """Whether two scalars or aliases are read alike."""
        return all(getattr(self, name) == getattr(other, name) for name in ("kind", "value", "style", "anchor"))


@dataclass(frozen=True, slots=True)
class Home:
    """Where a part stands, itself or (`part` is an alias) by another name: as number `index` of what is inside `around`."""

    around: Part
    index: int
    part: Part


class Text:
    """A graph file's text, read; raises yaml.YAMLError, of which the loader of graphs has told before.

    Two readers of YAML take different texts (one a tab before a comment): as there, the second reads what the first does not.
    """

    def __init__(self, text: str, loader: Any) -> None:
        self.text, self.loader = text, loader
        self.starts = [0, *(found.end() for found in _BREAK.finditer(text))]
        self.parts: list[Part] = []
        self.homes: dict[int, list[Home]] = {}
        self.anchors: dict[str, Part] = {}
        self.shared: set[int] = set()
        self.dashes: list[int] = []
        self.comments: dict[int, int] = {}  # start -> end
        self._read_tokens()
        self.root = self._read_parts()
        self.at = {part.start: part for part in reversed(self.parts) if part.kind != "alias"}

    # --- lines ---

    def line_of(self, place: int) -> int:
        return bisect_right(self.starts, place) - 1

    def line(self, number: int) -> str:
        """A line with its end."""
        return self.text[self.starts[number] : self.starts[number + 1] if number + 1 < len(self.starts) else len(self.text)]

    def end_of_line(self, number: int) -> int:
        """Behind the last character of a line, before its line break."""
        return self.starts[number] + len(_BREAK.sub("", self.line(number)))

    def column(self, place: int) -> int:
        return place - self.starts[self.line_of(place)]

    def place(self, mark: Mark) -> int:
        return self.starts[mark.line - 1] + mark.column - 1

    def comment_alone(self, number: int) -> int | None:
        """The column of the comment that is all a line holds, else None."""
        line = self.line(number)
        column = len(line) - len(line.lstrip(" \t"))
        return column if self.starts[number] + column in self.comments else None

    def comments_in(self, start: int, end: int) -> list[tuple[int, int]]:
        places = self._comment_places
        return [(at, self.comments[at]) for at in places[bisect_left(places, start) : bisect_left(places, end)]]

    @cached_property
    def _comment_places(self) -> list[int]:
        return sorted(self.comments)

    @cached_property
    def folded(self) -> set[int]:
        """Lines that begin inside a scalar or inside brackets, where columns mean nothing, block scalars apart."""
        found: set[int] = set()
        for part in self.parts:
            if (part.kind == "scalar" and part.style not in ("|", ">")) or part.is_flow:
                found.update(range(self.line_of(part.start) + 1, self.line_of(part.end) + 1))
        return found

    @cached_property
    def literal(self) -> set[int]:
        """Lines of block scalars, the first with its `|` or `>` apart."""
        found: set[int] = set()
        for part in self.parts:
            if part.style in ("|", ">"):
                head, last = self._head_line(part), self.line_of(part.end)
                found.update(range(head + 1, last + (self.column(part.end) > 0)))
        return found

    def _head_line(self, part: Part) -> int:
        """The line of a block scalar's `|` or `>`, which may follow its anchor on a line of its own."""
        return self.line_of(self.text.index(part.style, part.start + len(part.anchor)))

    # --- parts ---

    def dash_of(self, item: Part) -> int:
        """The dash of an item of a block list."""
        return self.dashes[bisect_left(self.dashes, item.start) - 1]

    def is_shared(self, part: Part) -> bool:
        """Whether an alias names the part."""
        return id(part) in self.shared

    def homes_of(self, part: Part) -> list[Home]:
        return self.homes.get(id(part), [])

    def last_line(self, part: Part) -> int:
        """The last line that belongs to a part."""
        while part.inside and not part.is_flow:
            part = part.inside[-1]
        if part.style in ("|", ">"):
            return self.line_of(part.end) - (self.column(part.end) == 0)
        return self.line_of(part.end)

    def _read_tokens(self) -> None:
        end = 0
        for token in yaml.scan(self.text, Loader=self.loader):
            start = token.start_mark.index
            if isinstance(token, yaml.BlockEntryToken):
                self.dashes.append(start)
            if start > end:
                self.comments.update({found.start(): found.end() for found in _COMMENT.finditer(self.text, end, start)})
            end = max(end, token.end_mark.index)

    def _read_parts(self) -> Part:
        events: Iterator[Any] = yaml.parse(self.text, Loader=self.loader)
        open_parts: list[Part] = []
        root = Part("scalar", 0, 0)
        for event in events:
            if isinstance(event, yaml.CollectionEndEvent):
                done = open_parts.pop()
                if done.is_flow:
                    done.end = event.end_mark.index
                elif done.inside:
                    done.end = done.inside[-1].end
            elif isinstance(event, yaml.NodeEvent):
                part = self._part(event)
                self.parts.append(part)
                if open_parts:
                    around = open_parts[-1]
                    around.inside.append(part)
                    self._note_home(part, Home(around, len(around.inside) - 1, part))
                else:
                    root = part
                if isinstance(event, yaml.CollectionStartEvent):
                    open_parts.append(part)
        return root

    def _part(self, event: Any) -> Part:
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, yaml.AliasEvent):
            return Part("alias", start, end, event.anchor)
        anchor = event.anchor or ""
        if isinstance(event, yaml.ScalarEvent):
            part = Part("scalar", start, end, event.value, event.style or "", anchor)
        else:
            kind = "list" if isinstance(event, yaml.SequenceStartEvent) else "map"
            part = Part(kind, start, end, anchor=anchor, is_flow=bool(event.flow_style))
        if anchor:
            self.anchors[anchor] = part
        return part

    def _note_home(self, part: Part, home: Home) -> None:
        if part.kind == "alias":
            target = self.anchors[part.value]
            self.shared.add(id(target))
            self.homes.setdefault(id(target), []).append(home)
        else:
            self.homes.setdefault(id(part), []).append(home)


def read_or_none(text: str) -> Text | None:
    """The text, read; None if it is no YAML."""
    for loader in (getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader):
        with suppress(yaml.YAMLError, KeyError):  # KeyError: an alias without an anchor
            return Text(text, loader)
    return None


BOM = b"\xef\xbb\xbf"


def offset_of(data: bytes, mark: Mark) -> int:
    """The offset of a mark in the bytes of its file."""
    lines = _lines(data)
    before = "".join(lines[: mark.line - 1]) + lines[mark.line - 1][: mark.column - 1]
    return len(before.encode("utf-8")) + (len(BOM) if data.startswith(BOM) else 0)


def place_in(data: bytes, offset: int, file: str) -> Mark:
    """The mark of an offset in the bytes of a file."""
    lines = _lines(data[:offset])
    return Mark(file, len(lines), len(lines[-1]) + 1)


def _lines(data: bytes) -> list[str]:
    """The lines of a text with their ends, of which the last has none."""
    text = data.removeprefix(BOM).decode("utf-8")
    starts = [0, *(found.end() for found in _BREAK.finditer(text)), len(text)]
    return [text[one:other] for one, other in pairwise(starts)]
