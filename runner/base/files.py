"""This module writes files whole or not at all, also where a signal ends the process."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_PREFIX = ".ringgraph-"
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process without an exception in it, so that nothing cleans up."""

_unfinished: dict[Path, int] = {}
"""Files and folders that are being written, each with the process that writes it: a fork has them too."""


@contextmanager
def removed_when_ended(path: Path) -> Iterator[None]:
    """While the body writes `path`, a file or a folder, a signal that ends the process removes it first.

    A process that does something else on such a signal keeps doing that. Python looks for signals in its main thread alone, so
    bodies in other threads are covered only while one in the main thread runs.
    """
    is_main = threading.current_thread() is threading.main_thread()
    taken = [number for number in _ENDING if is_main and signal.getsignal(number) is signal.SIG_DFL]
    _unfinished[path] = os.getpid()
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        _unfinished.pop(path, None)


def _end(number: int, _frame: FrameType | None) -> None:
    for path, writer in list(_unfinished.items()):
        if writer == os.getpid():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Errors of the system tell of `path`: a full disk names no file, and nobody knows a partial one.

    With `partial`, errors that name any other file pass as they are.
    """
    try:
        yield
    except OSError as error:
        if partial is not None and error.filename is not None and str(error.filename) != str(partial):
            raise
        code = errno.EIO if error.errno is None else error.errno
        raise OSError(code, error.strerror or str(error), str(path)) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the path of a partial file for the body to write; it becomes `path` when the body has ended well.

    When the body fails, `path` is what it was and the partial file is gone. The partial file lies beside `path`, has its suffix
    and a name that no other writer has. A link is followed, the mode of an older file stays, and what is no regular file, such as
    /dev/stdout, is written itself. Raises OSError that names `path`.
    """
    if _is_special(path):
        with naming(path, path):
            yield path
        return
    target, partial = _target(path), _partial(path)
    with naming(path, partial), removed_when_ended(partial):
        try:
            yield partial
            if target.exists():
                partial.chmod(target.stat().st_mode & 0o7777)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, whole or not at all; raises OSError that names `path`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Removes partial files of writers that were killed; only where nobody else writes in the folder."""
    for path in folder.glob(f"{_PREFIX}*.partial*"):
        path.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Makes the folder of `path`; raises OSError that names `path` where `whole_file` could not write it."""
    with naming(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_special(path):
            return
        probe = _partial(path)
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    """The file that a link leads to; raises OSError that names `path` for links that lead to each other."""
    try:
        return path.resolve()
    except RuntimeError as error:  # until Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _partial(path: Path) -> Path:
    """A name that no other writer has, beside the file itself; raises PermissionError for an older file that may not change."""
    target = _target(path)
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return target.with_name(f"{_PREFIX}{os.getpid()}-{os.urandom(8).hex()}.partial{target.suffix}")
