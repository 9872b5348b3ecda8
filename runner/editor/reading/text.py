"""A text as an editor holds it, with places as YAML counts them (from 1) and as the protocol does (from 0, in units)."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from runner.base.errors import Mark

_YAML_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_BREAK = re.compile("\r\n|[\n\r]")
_WORD = re.compile(r"[A-Za-z_0-9]+")


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a file by offsets into its text: from `start` up to `end`."""

    file: str
    start: int
    end: int


@dataclass(frozen=True)
class Text:
    """`value` is the whole text, `encoding` in what the client counts columns: utf-8, utf-16 or utf-32."""

    file: str
    value: str
    encoding: str = "utf-16"

    @cached_property
    def _yaml_starts(self) -> list[int]:
        return _starts(self.value, _YAML_BREAK)

    @cached_property
    def _starts(self) -> list[int]:
        return _starts(self.value, _BREAK)

    @cached_property
    def lines(self) -> list[str]:
        """The lines of YAML, without what ends them."""
        return _YAML_BREAK.split(self.value)

    def offset(self, mark: Mark) -> int:
        """Where a mark is; behind the end of its line, the end; behind the last line, the end of the text."""
        if mark.line > len(self._yaml_starts):
            return len(self.value)
        start = self._yaml_starts[mark.line - 1]
        return start + min(max(mark.column - 1, 0), len(self.lines[mark.line - 1]))

    def mark(self, offset: int) -> Mark:
        """The place of an offset as YAML counts."""
        line = bisect_right(self._yaml_starts, offset) - 1
        return Mark(self.file, line + 1, offset - self._yaml_starts[line] + 1)

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset as the protocol counts."""
        offset = min(max(offset, 0), len(self.value))
        line = bisect_right(self._starts, offset) - 1
        return line, self._units(self.value[self._starts[line] : offset])

    def offset_at(self, line: int, column: int) -> int:
        """The offset of a place of the protocol; what lies outside of the text is moved into it."""
        if line < 0:
            return 0
        if line >= len(self._starts):
            return len(self.value)
        at = self._starts[line]
        found = _BREAK.search(self.value, at)
        end = found.start() if found else len(self.value)
        while column > 0 and at < end:
            column -= self._units(self.value[at])
            at += column >= 0
        return at

    def _units(self, text: str) -> int:
        if text.isascii() or self.encoding == "utf-32":
            return len(text)
        if self.encoding == "utf-8":
            return len(text.encode(errors="surrogatepass"))
        return len(text) + sum(ord(char) > 0xFFFF for char in text)

    def word(self, offset: int) -> tuple[int, int]:
        """Where the word begins and ends that an offset lies in, or behind which it lies; empty where there is none."""
        line = self.mark(offset).line
        start = self._yaml_starts[line - 1]
        for found in _WORD.finditer(self.lines[line - 1]):
            if start + found.start() <= offset <= start + found.end():
                return start + found.start(), start + found.end()
        return offset, offset

    def around(self, offset: int) -> str:
        """The line that an offset lies in, up to the offset."""
        line = bisect_right(self._yaml_starts, offset) - 1
        return self.value[self._yaml_starts[line] : offset]


def _starts(value: str, line_break: re.Pattern[str]) -> list[int]:
    return [0, *(found.end() for found in line_break.finditer(value))]
