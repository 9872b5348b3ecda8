"""This module reads JSON and numbers that somebody else wrote; whatever a parser raises becomes one error that says where.

Python's parsers raise more than their own errors: a number of over 4,300 digits is a ValueError, deep nesting a RecursionError,
and `1e400` is no error but infinity, which fails far from its file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from runner.base.errors import RinggraphError

MAX_DEPTH = 256
"""Levels that lists and objects may nest: what walks a value, or shows it, recurses."""
MAX_DIGITS = 20
"""Characters that hold every integer of 64 bits; Python refuses to convert thousands of digits."""
MAX_INTEGER = 2**63 - 1
"""The largest integer that a file may hold; a larger one overflows wherever a float is made of it."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN|-?\d[\d.eE+-]*)')
_BETWEEN = re.compile(r"[ \t\r\n:,]*")
"""What stands between the parts of an object."""
_SHOWN = 24


_texts: ContextVar[Mapping[str, bytes]] = ContextVar("_texts", default={})  # noqa: B039  (nobody changes it)


@contextmanager
def overlaid(texts: Mapping[str, bytes]) -> Iterator[None]:
    """Inside, files have these contents, whatever lies on disk: `texts` are by real path (`os.path.realpath`)."""
    token = _texts.set(texts)
    try:
        yield
    finally:
        _texts.reset(token)


def file_bytes(path: Path, most: int = -1) -> bytes:
    """What a file holds, or its first `most` bytes; raises OSError."""
    texts = _texts.get()
    held = texts.get(os.path.realpath(path)) if texts else None
    if held is not None:
        return held
    with open(path, "rb") as file:
        return file.read(most)


def is_file(path: Path) -> bool:
    """Whether `file_bytes` would find a file."""
    texts = _texts.get()
    return path.is_file() or bool(texts and os.path.realpath(path) in texts)


class NotJsonError(ValueError):
    """Text that is not JSON, or has numbers that nothing can hold; `line` and `column` count from 1."""

    def __init__(self, reason: str, line: int = 1, column: int = 1):
        self.reason, self.line, self.column = reason, line, column
        super().__init__(f"{line}:{column}: {reason}")


def parse_json(text: str, any_number: bool = False) -> Any:
    """The value of a JSON text; raises NotJsonError.

    Numbers are finite and integers fit 64 bits, unless `any_number`: then `Infinity` and `NaN` are allowed as well.
    """
    try:
        value = (_ANY if any_number else _FINITE).decode(text)
    except json.JSONDecodeError as error:
        raise NotJsonError(f"not JSON: {error.msg}", error.lineno, error.colno) from None
    except _NumberError as error:
        raise NotJsonError(f"not JSON: {error}", *_place(text, error.token)) from None
    except RecursionError:
        raise NotJsonError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise NotJsonError(_TOO_DEEP)
    return value


def key_places(text: str) -> dict[str, tuple[int, int]]:
    """Line and column of each key of the outermost object of a JSON text that `parse_json` has read; of like keys, the last."""
    places: dict[str, tuple[int, int]] = {}
    at = _next(text, text.index("{") + 1)
    line, line_start = text.count("\n", 0, at) + 1, text.rfind("\n", 0, at) + 1
    while text[at] == '"':
        key, end = _ANY.raw_decode(text, at)
        places[key] = line, at - line_start + 1
        _, end = _ANY.raw_decode(text, _next(text, end))
        end = _next(text, end)
        if num_lines := text.count("\n", at, end):
            line, line_start = line + num_lines, text.rindex("\n", at, end) + 1
        at = end
    return places


def read_json(path: Path, kind: type[RinggraphError] = RinggraphError, label: str | None = None) -> Any:
    """The value of a JSON file; raises `kind` that names the file (as `label`, if there is one), line and column."""
    where = str(path) if label is None else label
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except NotJsonError as error:
        raise kind(f"{where}:{error.line}:{error.column}: {error.reason}") from None
    except UnicodeDecodeError as error:
        raise kind(f"{where}: not a JSON file: not UTF-8 (byte {error.start})") from None
    except OSError as error:
        unread = f"'{path}'" if label is None else label
        raise kind(f"cannot read {unread}: {(error.strerror or str(error)).lower()}") from None


def parse_json_line(where: str, line: str, kind: type[RinggraphError] = RinggraphError, any_number: bool = False) -> Any:
    """The value of one line of a file of JSON lines; raises `kind` that begins with `where`, the file and the line's number."""
    try:
        return parse_json(line, any_number)
    except NotJsonError as error:
        raise kind(f"{where}: {error.reason}") from None


def number_problem(value: float) -> str | None:
    """What is wrong with a number of a file that was not written as infinity; None when it can be held."""
    if isinstance(value, int):
        return None if -MAX_INTEGER <= value <= MAX_INTEGER else "an integer of more than 64 bits"
    return "a number that is too large" if value in (float("inf"), float("-inf")) else None


def shortened(text: str) -> str:
    """A number's text for a message: thousands of digits tell nobody anything."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


_TOO_DEEP = f"not JSON: nested too deeply (more than {MAX_DEPTH} levels)"


class _NumberError(ValueError):
    def __init__(self, token: str, problem: str):
        self.token = token
        super().__init__(f"{shortened(token)} is {problem}")


def _integer(token: str) -> int:
    value = int(token) if len(token) <= MAX_DIGITS else MAX_INTEGER + 1
    if problem := number_problem(value):
        raise _NumberError(token, problem)
    return value


def _float(token: str) -> float:
    value = float(token)
    if problem := number_problem(value):
        raise _NumberError(token, problem)
    return value


def _no_constant(token: str) -> NoReturn:
    raise _NumberError(token, "no finite number")


_FINITE = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_no_constant)
_ANY = json.JSONDecoder(parse_int=_integer, parse_float=_float)


def _place(text: str, token: str) -> tuple[int, int]:
    """Line and column of the first such number outside of strings."""
    at = next((found.start() for found in _TOKEN.finditer(text) if found[1] == token), 0)
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _next(text: str, at: int) -> int:
    """Where the next part of an object begins."""
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level if isinstance(item, list | dict) for child in _children(item)]
        if not level:
            return False
    return True


def _children(item: list[Any] | dict[str, Any]) -> Any:
    return item.values() if isinstance(item, dict) else item
