"""Python files that a user names: read and run as modules without being installed, with every problem told by its place.

A file is compiled from its text, so that nothing is written beside it, and run once for each text that it has: the same file,
unchanged, is the same module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType, TracebackType

from runner.base.errors import ConfigError, Diagnostic, Mark, RinggraphError

PREFIX = "ringgraph_file_"
"""What names of such modules begin with."""
_MAX_BYTES = 1 << 20


def module_of_file(path: Path) -> ModuleType:
    """The module of a Python file; raises ConfigError, with file and line, for whatever keeps it from being run.

    Its folder is where it finds modules beside it, after all installed ones.
    """
    data, shown = _read(path), str(path)
    name = f"{PREFIX}{path.stem}_{sha256(str(path.resolve()).encode() + b' ' + data).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    try:
        code = compile(data, shown, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ConfigError(_syntax_problem(error, shown)) from None
    except ValueError as error:  # null bytes, which some versions of Python tell so
        raise ConfigError(Diagnostic("C107", f"not Python: {error}", Mark(shown, 1))) from None
    module = ModuleType(name)
    module.__file__ = shown
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as error:  # whatever somebody's file does, `sys.exit` included
        del sys.modules[name]
        raise ConfigError(_problem(error, shown, data)) from error
    return module


def module_beside(path: Path, name: str) -> ModuleType | None:
    """The module that a file calls `name` if it is a file beside it; None if there is no such file. Raises ConfigError."""
    beside = path.parent.joinpath(*name.split(".")).with_suffix(".py")
    return module_of_file(beside) if beside.is_file() else None


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ConfigError(f"'{path}' is a folder, expected a Python file", hint="give the file that declares the ops")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"'{path}' has more than {_MAX_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        near = path.with_suffix(".py")
        hint = f"did you mean '{near}'?" if near != path and near.is_file() else None
        raise ConfigError(f"'{path}' cannot be read: {(error.strerror or str(error)).lower()}", hint=hint) from error


def _syntax_problem(error: SyntaxError, shown: str) -> Diagnostic:
    file = error.filename or shown
    mark = Mark(file, error.lineno or 1, max(1, error.offset or 1))
    return Diagnostic("C107", f"not Python: {error.msg}", mark, source_line=(error.text or "").rstrip("\n") or None)


def _problem(error: BaseException, shown: str, data: bytes) -> Diagnostic:
    """What a file did when it was run, at the line of it that led there."""
    line = next((number for file, number in _places(error.__traceback__) if file == shown), 1)
    lines = data.decode("utf-8", errors="replace").splitlines()
    source_line = lines[line - 1] if line <= len(lines) else None
    if isinstance(error, RinggraphError):
        message = error.message.removeprefix(f"{shown}:{line}: ")
        return Diagnostic("C107", message, Mark(shown, line), hint=error.hint, source_line=source_line)
    if isinstance(error, SyntaxError):  # of a file that this one imports
        where = f"{error.filename}:{error.lineno}: " if error.filename else ""
        return Diagnostic(
            "C107", f"what it imports is not Python: {where}{error.msg}", Mark(shown, line), source_line=source_line
        )
    hint = None
    if isinstance(error, ModuleNotFoundError):
        hint = f"install '{error.name}', or put '{error.name}.py' beside the file"
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Diagnostic("C107", f"the file cannot be run: {message}", Mark(shown, line), hint=hint, source_line=source_line)


def _places(traceback: TracebackType | None) -> Iterator[tuple[str, int]]:
    """File and line of every call that led to an error, the last first."""
    found = []
    while traceback is not None:
        found.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    yield from reversed(found)
