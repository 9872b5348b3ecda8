"""Lint stage 1 reads a YAML text into a tree of nodes with places, or says what is wrong with the YAML itself.

Built from parser events, so that depth, aliases and duplicate keys are under control before anything is constructed, and every
scalar keeps the text that the user wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from runner.base.errors import Diagnostic, Hint, Mark, Rewrite
from runner.base.reading import MAX_DIGITS, number_problem, shortened

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_COMPOSED = 256
MAX_AGAIN = 1 << 16
MAX_EVENTS = 100_000
"""Keys, values and both ends of lists and maps; checking a file takes about 40 microseconds for each."""

_FAST_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+")
_resolve = yaml.resolver.Resolver().resolve
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What ends a line in YAML, by which its marks count; other characters end one for Python as well."""
_BRACKETS = re.compile(r"(\w+: *)?((\{[^{}\[\]\"']*\}|\w+)\[[^\[\]\"']*\]|\w[\w.]*(\{[^{}\"']*\}[\w.]*)+)")
"""A tensor's type or region, perhaps behind the name of the tensor; or a name outside, with params."""
_MAX_BRACKETS = 200
"""Characters before and behind a place in which they are looked for: the time grows with the square."""
_MAX_WRITTEN = 128
"""Characters of an integer in any base that YAML has, with underscores; more are no integer of 64 bits."""
YAML_ERRORS = (yaml.YAMLError, RecursionError, ValueError, OverflowError)
"""What `yaml` raises for text: the last two for characters and versions with impossible numbers."""


@dataclass(frozen=True, slots=True)
class Node:
    """`value` is a str for a `text`, a tuple of Nodes for a `list`, a tuple of (key, value) pairs for a `map`.

    `type` is what a plain scalar is in YAML 1.1 (`str`, `int`, `bool`, `null`, ...); a mark of a quoted text is behind its quote.
    `size` counts nodes with aliases written out.
    """

    kind: str
    value: Any
    mark: Mark
    type: str = "str"
    size: int = 1

    def get(self, key: str) -> Node | None:
        """The value of a key of a map."""
        if self.kind != "map":
            return None
        return next((value for name, value in self.value if name.value == key), None)


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was read: its root node (None when unusable), its lines, its comments with their places, its problems."""

    root: Node | None
    lines: tuple[str, ...]
    comments: tuple[tuple[Mark, str], ...]
    problems: list[Diagnostic]


@dataclass(slots=True)
class _Open:
    """A list or map under construction."""

    kind: str
    mark: Mark
    anchor: str | None
    items: list[Node]


class _Builder:
    """Turns parser events into Nodes, noting problems."""

    def __init__(self, file: str, most: int):
        self.file = file
        self.most = most
        self.problems: list[Diagnostic] = []
        self.stack: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.root: Node | None = None
        self.documents = 0
        self.copied = 0  # nodes that aliases stand for
        self.texts: list[tuple[int, int, int, int]] = []  # where scalars stand: first line and column, end, all from 0
        self.num_events = 0

    def problem(self, code: str, message: str, mark: Mark, hint: str | None = None) -> None:
        """Notes a problem; a hint may hold what to write, as data."""
        self.problems.append(Diagnostic(code, message, mark, hint=hint))

    def mark(self, event: yaml.Event, shift: int = 0) -> Mark:
        return Mark(self.file, event.start_mark.line + 1, event.start_mark.column + 1 + shift)

    def feed(self, event: yaml.Event) -> bool:
        """Takes one event; False stops, for files that must not be read further."""
        self.num_events += 1
        if self.num_events > MAX_EVENTS:
            self.problem("G105", f"more than {MAX_EVENTS:,} keys, values and brackets", self.mark(event))
        if self.num_events > MAX_EVENTS or len(self.problems) > self.most:
            return False
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.problem("G101", "a graph file holds one document, here begins another", self.mark(event))
                return False
        elif isinstance(event, yaml.ScalarEvent):
            self.scalar(event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            return self.open(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            return self.close()
        elif isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        return True

    def scalar(self, event: yaml.ScalarEvent) -> None:
        quoted = event.style not in (None, "")
        self.texts.append(_span(event))
        mark = self.mark(event, 1 if event.style in ("'", '"') else 0)
        self.tag(event, mark)
        kind = "str" if quoted else _resolve(yaml.ScalarNode, event.value, (True, False)).rpartition(":")[2]
        if not quoted:
            self.trap(event.value, kind, mark)
        self.add(Node("text", event.value, mark, kind), event.anchor)

    def tag(self, event: Any, mark: Mark) -> None:
        if event.tag is not None:
            self.problem("G106", f"tag '{event.tag}' is not allowed", mark, "remove it; quote the value to make it text")

    def trap(self, value: str, kind: str, mark: Mark) -> None:
        """YAML 1.1 and 1.2, or YAML and the reader, disagree about what this plain scalar is."""
        found = _trap(value, kind)
        if found is not None:
            self.problem("G104", found[0], mark, found[1])

    def open(self, event: Any) -> bool:
        mark = self.mark(event)
        self.tag(event, mark)
        if len(self.stack) >= MAX_DEPTH:
            self.problem("G105", f"nesting is deeper than {MAX_DEPTH} levels", mark)
            return False
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "list"
        self.stack.append(_Open(kind, mark, event.anchor, []))
        return True

    def close(self) -> bool:
        done = self.stack.pop()
        size = 1 + sum(item.size for item in done.items)
        if size > MAX_NODES:
            self.problem("G105", f"aliases expand to more than {MAX_NODES:,} nodes", done.mark)
            return False
        value: tuple[Any, ...] = tuple(done.items)
        if done.kind == "map":
            value = tuple(zip(done.items[::2], done.items[1::2], strict=True))
            self.keys(value)
        self.add(Node(done.kind, value, done.mark, done.kind, size), done.anchor)
        return True

    def keys(self, pairs: tuple[tuple[Node, Node], ...]) -> None:
        seen: dict[str, Mark] = {}
        for key, _ in pairs:
            if key.kind != "text":
                self.problem("G106", f"a key must be text, got a {key.kind}", key.mark)
            elif key.type == "merge":
                self.problem("G106", "merge keys '<<' are not allowed", key.mark, "write the keys out")
            elif key.value in seen:
                first = seen[key.value]
                message = f"key '{key.value}' is given twice, first in line {first.line}"
                self.problems.append(Diagnostic("G102", message, key.mark, related=(first,)))
            else:
                seen[key.value] = key.mark

    def alias(self, event: yaml.AliasEvent) -> bool:
        name = str(event.anchor)
        node = self.anchors.get(name)
        if node is None:
            self.problem("G101", f"alias '*{name}' has no anchor before it", self.mark(event))
            node = Node("text", "", self.mark(event))
        else:
            self.copied += node.size
            if self.copied > MAX_NODES:
                self.problem("G105", f"aliases expand to more than {MAX_NODES:,} nodes", self.mark(event))
                return False
            node = _seen_from(node, self.mark(event))
        self.add(node, None)
        return True

    def add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if self.stack:
            self.stack[-1].items.append(node)
        else:
            self.root = node


def _trap(value: str, kind: str) -> tuple[str, Hint] | None:
    """Why a plain scalar, `kind` in YAML 1.1, is not the same everywhere, and what to write."""
    as_text = f'write "{value}" for the text'
    if kind == "bool" and value.lower() not in ("true", "false"):
        return f"'{value}' is a boolean in YAML 1.1", _written(f"{as_text}, true or false for the boolean", value)
    if kind == "int" and not _PLAIN_INT.fullmatch(value):
        as_int = _as_integer(value)
        if as_int is None:
            return f"'{shortened(value)}' looks like an integer, but is none", _quoted(value)
        hint = _written(f'write {as_int}, or "{value}" for the text', value, str(as_int))
        return f"'{value}' is the integer {as_int} in YAML 1.1", hint
    if kind == "int" and len(value) > MAX_DIGITS:
        return f"{shortened(value)} is an integer of more than 64 bits", _quoted(value)
    if kind == "float" and ":" in value:
        return f"'{value}' is a number to the base 60 in YAML 1.1", _written(as_text, value)
    if kind == "timestamp":
        return f"'{value}' is a date in YAML 1.1", _written(as_text, value)
    if kind != "str" or not _NUMBER.fullmatch(value):
        return None
    number = _as_integer(value) if value.startswith("0o") else float(value)
    if number is None or number_problem(number):
        return f"'{shortened(value)}' is a number that is too large", _quoted(value)
    plain = f"{number:.17g}" if number == int(number) else _with_point(value)
    hint = _written(f'write {plain}, or "{value}" for the text', value, plain)
    return f"'{value}' is text in YAML 1.1, though it looks like a number", hint


def _quoted(value: str) -> Hint:
    return _written("quote it for the text", value)


def _written(text: str, value: str, *others: str) -> Hint:
    """A hint to write a plain value as quoted text, or in one of other ways."""
    return Hint(text, *(Rewrite(value, new) for new in (*others, f'"{value}"')))


_CONSTRUCTOR = yaml.SafeLoader("")


def _as_integer(value: str) -> int | None:
    """What YAML 1.1, or 1.2 for `0o17`, takes for an integer; None for digits that are none, and beyond 64 bits."""
    try:
        if len(value) > _MAX_WRITTEN:
            return None
        octal = value.startswith("0o")
        found = int(value, 8) if octal else yaml.SafeLoader.construct_yaml_int(_CONSTRUCTOR, yaml.ScalarNode("", value))
    except ValueError:
        return None
    return None if number_problem(found) else found


def _with_point(value: str) -> str:
    """`1e-6` as `1.0e-6`, which is a number in every YAML."""
    mantissa, letter, exponent = re.split(r"([eE])", value)
    exponent = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}{letter}{exponent}"


def read_source(data: bytes, file: str, most: int) -> Source:
    """A file's nodes, lines and comments, and the problems of the YAML itself: reading ends after `most` and one."""
    start = Mark(file, 1, 1)
    if len(data) > MAX_BYTES:
        message = f"the file has {len(data):,} bytes, at most {MAX_BYTES:,} are allowed"
        return Source(None, (), (), [Diagnostic("G105", message, start)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Source(None, (), (), [Diagnostic("G101", f"not UTF-8: byte 0x{data[error.start]:02x}", Mark(file, line, 1))])
    lines = tuple(_LINE_BREAK.split(text))
    lines = lines if lines[-1] else lines[:-1]
    builder = _build(text, file, _FAST_LOADER, most)
    problems = [_inside(problem, lines) for problem in builder.problems]
    if builder.root is None and not problems:
        problems = [Diagnostic("G101", "the file is empty", start)]
    return Source(builder.root, lines, tuple(_comments(file, lines, builder.texts)), problems)


def _span(event: yaml.ScalarEvent) -> tuple[int, int, int, int]:
    """Where a scalar's text stands; the line of a block scalar's `|` is not of it, for a comment may end that line."""
    first, end = event.start_mark, event.end_mark
    if event.style in ("|", ">"):
        return first.line + 1, 0, end.line, end.column
    return first.line, first.column, end.line, end.column


def _comments(file: str, lines: tuple[str, ...], texts: list[tuple[int, int, int, int]]) -> Iterator[tuple[Mark, str]]:
    """Every comment: what follows the first `#` of a line that lies in no scalar and has no text directly before it."""
    at = 0
    for number, line in enumerate(lines):
        column = line.find("#")
        while column >= 0:
            while at < len(texts) and texts[at][2:] <= (number, column):
                at += 1
            inside = at < len(texts) and texts[at][:2] <= (number, column)
            if not inside and (column == 0 or line[column - 1] in " \t,[]{}"):
                yield Mark(file, number + 1, column + 1), line[column:]
                break
            column = line.find("#", column + 1)


def _seen_from(node: Node, alias: Mark) -> Node:
    """What an anchor holds, with places that know the alias through which it is used."""
    value = node.value
    if node.kind == "list":
        value = tuple([_seen_from(item, alias) for item in value])
    elif node.kind == "map":
        value = tuple([(_seen_from(key, alias), _seen_from(item, alias)) for key, item in value])
    return replace(node, value=value, mark=replace(node.mark, via=alias))


def _inside(problem: Diagnostic, lines: tuple[str, ...]) -> Diagnostic:
    """The problem with a place behind the last line moved to that line's end."""
    mark = problem.mark
    if mark is None or not lines or mark.line <= len(lines):
        return problem
    return replace(problem, mark=Mark(mark.file, len(lines), len(lines[-1]) + 1))


def _build(text: str, file: str, loader: Any, most: int) -> _Builder:
    """The builder with what it could read: `root` is None where the file must not be read further."""
    builder = _Builder(file, most)
    try:
        for event in _events(text, loader):
            if not builder.feed(event):
                builder.root = None
                return builder
    except YAML_ERRORS as error:
        if loader is not yaml.SafeLoader and _is_short(text, error):
            return _build(text, file, yaml.SafeLoader, most)  # its messages are the same wherever libyaml is or is not installed
        builder.problems.append(_syntax_error(error, text, file))
        builder.root = None
    return builder


def compose(text: str) -> yaml.Node | None:
    """The root of a YAML text, None of an empty one, with aliases as the nodes that they stand for; raises YAML_ERRORS.

    libyaml composes many times faster, but recurses without looking at its depth.
    """
    depth = 0
    try:
        for event in _events(text, _FAST_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_COMPOSED:
                raise RecursionError
        return yaml.compose(text, Loader=_FAST_LOADER)
    except YAML_ERRORS as error:
        if isinstance(error, RecursionError) or not _is_short(text, error):
            raise
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _is_short(text: str, error: Exception) -> bool:
    """Does it take little time to read the text again without libyaml, whose messages differ in a few words?"""
    return len(text) <= MAX_AGAIN or isinstance(error, yaml.reader.ReaderError)


def _events(text: str, loader: Any) -> Iterator[yaml.Event]:
    return yaml.parse(text, Loader=loader)


def yaml_reason(error: Exception) -> str:
    """Why a text is not YAML, of one of `YAML_ERRORS`."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, yaml.YAMLError):
        return "a character or a version has an impossible number"
    return getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n")[0]


def _syntax_error(error: Exception, text: str, file: str) -> Diagnostic:
    if isinstance(error, yaml.reader.ReaderError):
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        return Diagnostic("G101", f"character {text[error.position]!r} is not allowed", Mark(file, line, column))
    at = getattr(error, "problem_mark", None)
    mark = Mark(file, at.line + 1, at.column + 1) if at else Mark(file, 1, 1)
    problem = yaml_reason(error)
    context = getattr(error, "context", None)
    message = f"{problem} ({context})" if context else problem
    lines = _LINE_BREAK.split(text)
    unquoted = _unquoted(lines[mark.line - 1], mark.column - 1) if mark.line <= len(lines) else None
    if unquoted is None:
        is_tab = mark.line <= len(lines) and lines[mark.line - 1][: mark.column].strip(" ") == "\t"
        return Diagnostic("G101", message, mark, hint="indent with spaces: YAML takes no tabs" if is_tab else None)
    column, given = unquoted
    message = f"'{given}' is not quoted, so that YAML reads its brackets: {problem}"
    return Diagnostic(
        "G101", message, replace(mark, column=column), hint=Hint(f'quote it: "{given}"', Rewrite(given, f'"{given}"'))
    )


def _unquoted(line: str, column: int) -> tuple[int, str] | None:
    """A tensor's type or region without quotes at a column from 0, and the column from 1 where it begins."""
    begin = max(0, column - _MAX_BRACKETS)
    for found in _BRACKETS.finditer(line, begin, column + _MAX_BRACKETS):
        is_whole = found.start() > begin or begin == 0
        if is_whole and found.start() <= column <= found.end() and line[found.start() - 1 : found.start()] not in ("'", '"'):
            start = found.start() if column < found.start(2) else found.start(2)  # YAML stumbled over the name's colon, or later
            return start + 1, line[start : found.end()]
    return None
