"""A reader of YAML as graphs have it that never fails: in mid-word, with brackets or quotes open, it says what is there.

It gives the same nodes as `runner.language.yaml_source` for graph files that are right, and the likeliest ones for others.
What is wrong with a text is not its business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from runner.base.errors import Mark
from runner.language.yaml_source import MAX_DEPTH, Node

_KEY = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s#&*!|>'"%@`{}\[\],](?:[^:#]|:(?=\S)|(?<=\S)#)*?|)\s*:(?=\s|$)""")
"""A key at the place where a line's text begins."""
_FLOW_KEY = re.compile(
    r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\n]|'')*'|[^\s#'"{}\[\],:][^{}\[\],:\n]*?|)\s*:(?=[\s,\[\]{}]|$)""", re.MULTILINE
)
_FLOW_PLAIN = re.compile(r"(?:[^{}\[\],#\n:]|:(?=\S)|(?<=\S)#)+")
_TAGGED = re.compile(r"([&!][^\s,\[\]{}]*\s*)+")
_COMMENT = re.compile(r"(^|\s)#.*")
_BLOCK_SCALAR = re.compile(r"[|>][-+0-9]*\s*(#.*)?$")
_QUOTED = {'"': re.compile(r'"((?:[^"\\]|\\.)*)("|$)', re.DOTALL), "'": re.compile(r"'((?:[^']|'')*)('|$)", re.DOTALL)}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def read(lines: list[str], file: str) -> Node:
    """The root of a text that is given by its lines, a map."""
    reader = _Reader(lines, file)
    reader.skip()
    pairs = list[tuple[Node, Node]]()
    while not reader.is_done:
        at = reader.line, reader.column
        pairs += reader.mapping(0).value
        if (reader.line, reader.column) == at:
            reader.line, reader.column = reader.line + 1, 0
            reader.skip()
    return _map(pairs[0][0].mark if pairs else Mark(file, 1, 1), pairs)


@dataclass
class _Reader:
    """Stands at a line and column from 0."""

    source: list[str]
    file: str
    line: int = 0
    column: int = 0
    anchors: dict[str, Node] = field(default_factory=dict)

    @property
    def rest(self) -> str:
        return self.source[self.line][self.column :] if self.line < len(self.source) else ""

    @property
    def is_done(self) -> bool:
        return self.line >= len(self.source)

    def mark(self, shift: int = 0) -> Mark:
        return Mark(self.file, self.line + 1, self.column + 1 + shift)

    def empty(self) -> Node:
        return Node("text", "", self.mark(), "null")

    def skip(self) -> None:
        """Goes on to the next text, over blanks, comments and line breaks."""
        while not self.is_done:
            blank = len(self.rest) - len(self.rest.lstrip())
            self.column += blank
            is_directive = self.column == 0 and re.match(r"(---|\.\.\.)(\s|$)|%", self.rest)
            is_comment = self.rest.startswith("#") and (self.column == 0 or self.source[self.line][self.column - 1].isspace())
            if self.rest and not is_comment and not is_directive:
                return
            self.line, self.column = self.line + 1, 0

    # --- block style ---

    def block(self, around: int, depth: int) -> Node:
        """The node that begins here, in lines that are further to the right than `around`; the reader stands at its text."""
        if self.is_done or self.column <= around or depth > MAX_DEPTH:
            return self.empty()
        if re.match(r"-(\s|$)", self.rest):
            return self.sequence(depth)
        tag = _TAGGED.match(self.rest)
        if not _KEY.match(self.rest) and not (tag and _KEY.match(self.rest[tag.end() :])):
            return self.value(around, depth)
        return self.mapping(depth)

    def sequence(self, depth: int) -> Node:
        start, indent, items = self.mark(), self.column, []
        while not self.is_done and self.column == indent and re.match(r"-(\s|$)", self.rest):
            line = self.line
            self.column += 1
            self.skip()
            items.append(self.block(indent, depth + 1) if self.line == line or self.column > indent else self.empty())
            self.skip()
            while not self.is_done and self.column > indent:  # what does not belong to anything
                self.line, self.column = self.line + 1, 0
                self.skip()
        return Node("list", tuple(items), start, "list", 1 + sum(item.size for item in items))

    def mapping(self, depth: int) -> Node:
        start, indent, pairs = self.mark(), self.column, list[tuple[Node, Node]]()
        while not self.is_done and self.column == indent and not re.match(r"-(\s|$)", self.rest):
            before = self.line, self.column
            tag = _TAGGED.match(self.rest)
            self.column += tag.end() if tag is not None and _KEY.match(self.rest[tag.end() :]) else 0
            found = _KEY.match(self.rest)
            if found is None:
                pairs.append(self.lone_key())
            else:
                key = self.key(found[1])
                self.column += found.end()
                line = self.line
                self.skip()
                pairs.append((key, self.entry(indent, line, depth)))
            self.skip()
            while not self.is_done and self.column > indent and (self.line, self.column) != before:
                before = self.line, self.column  # deeper than its neighbours: still theirs
                pairs += self.deeper(depth)
                self.skip()
        return _map(start, pairs)

    def deeper(self, depth: int) -> list[tuple[Node, Node]]:
        """Keys that stand too far to the right."""
        if depth < MAX_DEPTH and _KEY.match(self.rest):
            return list(self.mapping(depth + 1).value)
        self.line, self.column = self.line + 1, 0
        return []

    def entry(self, indent: int, line: int, depth: int) -> Node:
        """What follows a key's colon in `line`; a list may stand as far to the left as its key."""
        if self.line == line and not self.is_done:
            return self.value(indent, depth + 1)
        if not self.is_done and self.column == indent and re.match(r"-(\s|$)", self.rest) and depth < MAX_DEPTH:
            return self.sequence(depth + 1)
        if self.is_done or self.column <= indent:
            return Node("text", "", Mark(self.file, line + 1, len(self.source[line]) + 1), "null")
        return self.block(indent, depth + 1)

    def key(self, text: str) -> Node:
        quoted = text[:1] in ("'", '"') and len(text) > 1
        return Node("text", text[1:-1] if quoted else text, self.mark(1 if quoted else 0))

    def lone_key(self) -> tuple[Node, Node]:
        """A line without a colon."""
        text = _COMMENT.sub("", self.rest).strip()
        key = Node("text", text, self.mark())
        end = Node("text", "", self.mark(len(text)), "null")
        self.line, self.column = self.line + 1, 0
        return key, end

    # --- values ---

    def value(self, around: int, depth: int) -> Node:
        """A scalar or a flow collection that begins here, in a block whose lines are further to the right than `around`."""
        if tag := _TAGGED.match(self.rest):
            return self.tagged(tag[0], around, depth)
        first = self.rest[:1]
        if first in ("{", "["):
            return self.flow(around, depth)
        if first in ("'", '"'):
            return self.quoted(around)
        if first == "*":
            return self.alias()
        if _BLOCK_SCALAR.match(self.rest):
            return self.block_scalar(around)
        start, lines = self.mark(), []
        while not self.is_done:
            text = _COMMENT.sub("", self.rest).rstrip()
            lines.append(text.strip())
            self.line, self.column = self.line + 1, 0
            if text != self.source[self.line - 1][-len(text) :]:
                break
            self.skip()
            if self.column <= around or _KEY.match(self.rest) or re.match(r"-(\s|$)", self.rest):
                break
        return Node("text", " ".join(lines), start)

    def tagged(self, tag: str, around: int, depth: int) -> Node:
        """What stands behind an anchor or a tag."""
        start, line = self.mark(), self.line
        self.column += len(tag)
        self.skip()
        found = self.value(around, depth) if self.line == line else self.block(around, depth)
        found = found if found.kind == "text" else replace(found, mark=start)
        for name in re.findall(r"&(\S+)", tag):
            self.anchors[name] = found
        return found

    def alias(self) -> Node:
        found = re.match(r"\*([^\s,\[\]{}]*)", self.rest)
        assert found is not None
        start = self.mark()
        self.column += found.end()
        return self.anchors.get(found[1], Node("text", found[0], start))

    def quoted(self, around: int) -> Node:
        """A quoted text; one that nothing closes ends with its line."""
        first, start = self.rest[0], self.mark(1)
        found = _QUOTED[first].match(self.rest)
        assert found is not None
        if found[2] == first:
            self.column += found.end()
            return Node("text", _unescaped(found[1], first), start)
        text, line = self.rest, self.line
        for number in range(self.line + 1, min(self.line + 50, len(self.source))):
            more = self.source[number]
            if more.strip() and (len(more) - len(more.lstrip()) <= around or _KEY.match(more.strip())):
                break
            text += f"\n{more}"
            found = _QUOTED[first].match(text)
            if found is not None and found[2] == first:
                self.line, self.column = number, len(more) - (len(text) - found.end())
                return Node("text", re.sub(r"\s*\n\s*", " ", _unescaped(found[1], first)), start)
        self.line, self.column = line + 1, 0
        return Node("text", self.source[line][start.column - 1 :].rstrip(), start)

    def block_scalar(self, around: int) -> Node:
        start, lines, fold = self.mark(), list[str](), self.rest[0] == ">"
        self.line, self.column = self.line + 1, 0
        while not self.is_done:
            text = self.source[self.line]
            if text.strip() and len(text) - len(text.lstrip()) <= around:
                break
            lines.append(text.strip())
            self.line += 1
        return Node("text", (" " if fold else "\n").join(lines).strip(), start)

    # --- flow style ---

    def flow(self, around: int, depth: int) -> Node:
        """A list or map in brackets; one that nothing closes ends where a line is no further to the right than `around`."""
        start, begin, is_map = self.mark(), self.line, self.rest[0] == "{"
        items, pairs = list[Node](), list[tuple[Node, Node]]()
        self.column += 1
        while not self.is_end(around, begin):
            first = self.rest[0]
            if first in "]}":
                self.column += 1
                break
            if first == ",":
                self.column += 1
                continue
            at = self.line, self.column
            if is_map:
                pairs.append(self.flow_pair(around, begin, depth))
            else:
                items.append(self.flow_value(around, depth))
            if (self.line, self.column) == at:
                self.column += 1
        size = 1 + sum(item.size for item in items)
        return _map(start, pairs) if is_map else Node("list", tuple(items), start, "list", size)

    def is_end(self, around: int, begin: int) -> bool:
        """Goes on to the next text in brackets that began in line `begin`; whether there is none."""
        self.skip()
        return self.is_done or (self.line > begin and self.column <= around and self.rest[0] not in "]}")

    def flow_pair(self, around: int, begin: int, depth: int) -> tuple[Node, Node]:
        found = _FLOW_KEY.match(self.rest)
        if found is None:
            key = self.flow_value(around, depth)
            return key, Node("text", "", self.mark(), "null")
        key = self.key(found[1])
        self.column += found.end()
        behind = self.mark()
        if self.is_end(around, begin) or self.rest[0] in ",]}":
            return key, Node("text", "", behind, "null")
        return key, self.flow_value(around, depth)

    def flow_value(self, around: int, depth: int) -> Node:
        if tag := _TAGGED.match(self.rest):
            self.column += tag.end()
        first = self.rest[:1]
        if first in ("{", "[") and depth < MAX_DEPTH:
            return self.flow(around, depth + 1)
        if first in ("'", '"'):
            return self.quoted(around)
        if first == "*":
            return self.alias()
        found = _FLOW_PLAIN.match(self.rest)
        start, text = self.mark(), found[0] if found else ""
        text = _COMMENT.sub("", text)
        self.column += len(text)
        return Node("text", text.strip(), start)


def _map(start: Mark, pairs: list[tuple[Node, Node]]) -> Node:
    return Node("map", tuple(pairs), start, "map", 1 + sum(key.size + value.size for key, value in pairs))


def _unescaped(text: str, quote: str) -> str:
    if quote == "'":
        return text.replace("''", "'")
    return _ESCAPE.sub(lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text)
